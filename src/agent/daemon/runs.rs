//! Runs: followed to their end, and their results brought home.

use super::Daemon;
use super::work::tell_desktop;
use crate::agent::engine::Input;
use crate::agent::follow;
use crate::run::submission;
use crate::watch::ProjectId;
use tokio_util::task::AbortOnDropHandle;

/// For so long (ns) results that nobody fetched are brought home when the agent starts: a week.
const OLD: i64 = 7 * 24 * 3600 * 1_000_000_000;

impl Daemon {
    /// Results that somebody else brought home wait no more.
    pub(super) fn forget_fetched(&mut self) {
        let mut fetched = Vec::new();
        for (id, member) in &self.members {
            let Some(connection) = &member.connection else { continue };
            let is_home = |run: &String| {
                let found = connection.journal.run(run);
                if let Err(error) = &found {
                    tracing::warn!(run, %error, "it is not known whether the results of a run are home: they are fetched again");
                }
                found.is_ok_and(|run| run.is_some_and(|run| run.results_fetched.is_some()))
            };
            fetched.extend(member.engine.status().results_waiting.into_iter().filter(is_home).map(|run| (*id, run)));
        }
        fetched.into_iter().for_each(|(id, run)| self.step(id, Input::Fetched(run)));
    }

    /// Has a look, where the books have runs of which nobody knows whether they came to the server. What comes of it is seen in the
    /// next round.
    pub(super) fn settle(&mut self, id: ProjectId) {
        let Some(member) = self.members.get_mut(&id) else { return };
        let (Ok(project), Some(connection)) = (&member.project, &member.connection) else { return };
        let is_free = member.task.is_none() && member.settling.as_ref().is_none_or(AbortOnDropHandle::is_finished);
        let (name, client) = (project.settings.projectname.clone(), connection.client());
        match connection.journal.intents(&name, &client.server(), client.colony()) {
            Ok(intents) if is_free && !intents.is_empty() => {
                let settled = follow::settle(connection.clone(), name, member.runs_saves());
                member.settling = Some(AbortOnDropHandle::new(tokio::spawn(async move {
                    if let Err(error) = settled.await {
                        tracing::info!(%error, "it is not known yet whether a run was submitted");
                    }
                })));
            }
            Ok(_) => {}
            Err(error) => tracing::warn!(%error, "runs cannot be read"),
        }
    }

    /// Follows runs that are open, and has the results brought home of those that ended unseen.
    pub(super) fn adopt_runs(&mut self, id: ProjectId) {
        let Some(member) = self.members.get_mut(&id) else { return };
        let Some(connection) = member.connection.clone() else { return };
        let client = connection.client();
        let since = submission::now() - OLD;
        let runs = match connection.journal.unfinished_runs(&member.entry.root, &client.server(), client.colony(), since) {
            Ok(runs) => runs,
            Err(error) => return tracing::warn!(%error, "runs cannot be read"),
        };
        let (mut opened, mut closed) = (Vec::new(), Vec::new());
        for run in runs {
            let run_id = run.run_id.clone();
            if run.state.is_open() && !member.followed.contains_key(&run_id) {
                let task = follow::follow(connection.clone(), id, run, self.inbox.clone());
                member.followed.insert(run_id.clone(), task);
                opened.push(run_id);
            } else if !run.state.is_open() && member.ended.insert(run_id.clone()) && !member.followed.contains_key(&run_id) {
                closed.push(run_id);
            }
        }
        opened.into_iter().for_each(|run| self.step(id, Input::Opened(run)));
        closed.into_iter().for_each(|run| self.step(id, Input::Closed { run, fetch: true }));
    }

    pub(super) fn closed(&mut self, id: ProjectId, run: String) {
        let Some(member) = self.members.get_mut(&id) else { return };
        member.followed.remove(&run);
        member.ended.insert(run.clone());
        let fetch = !member.claims.values().any(|(runs, _)| runs.contains(&run));
        // Who follows sees for himself.
        if fetch {
            tell_desktop(member, &run);
        }
        self.step(id, Input::Closed { run, fetch });
    }

    /// Whoever followed is gone: what he left is brought home here.
    pub(super) fn unclaimed(&mut self, id: ProjectId, runs: Vec<String>) {
        let Some(member) = self.members.get_mut(&id) else { return };
        let Some(connection) = member.connection.clone() else { return };
        for run in runs {
            let is_left = |run: &crate::journal::runs::Run| !run.state.is_open() && run.results_fetched.is_none();
            match connection.journal.run(&run) {
                Ok(Some(found)) if is_left(&found) => self.step(id, Input::Closed { run, fetch: true }),
                Ok(_) => {}
                Err(error) => tracing::warn!(%error, run, "the run cannot be read"),
            }
        }
    }
}
