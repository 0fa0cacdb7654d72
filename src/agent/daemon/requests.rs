//! Whoever asks over the socket: what is done with it.

use super::Daemon;
use super::Message;
use super::way_of;
use crate::agent::control::model::Job;
use crate::agent::control::model::Line;
use crate::agent::control::model::Refusal;
use crate::agent::control::model::RefusalKind;
use crate::agent::control::model::Work;
use crate::agent::control::server::Request;
use crate::agent::engine::Ask;
use crate::agent::engine::AskId;
use crate::agent::engine::Input;
use crate::agent::member::Asked;
use crate::agent::roster::Entry;
use crate::event::Tree;
use crate::watch::ProjectId;
use jiff::SignedDuration;
use jiff::Timestamp;
use std::path::Path;
use std::sync::PoisonError;
use std::time::Duration;
use tokio::sync::mpsc;

/// A barrier that does not come within this is not waited for: everything is looked at instead.
const BARRIER: Duration = Duration::from_secs(5);

impl Daemon {
    pub(super) fn request(&mut self, request: Request) {
        match request {
            Request::Status { root, tell } => {
                self.forget_fetched();
                let reply = self.status(root.as_deref());
                let _ = tell.send(reply);
            }
            Request::Watch { tell } => {
                self.last_told = None;
                self.watchers.push(tell);
            }
            Request::Add { add, tell } => {
                let _ = tell.send(self.add(&add.root, add.profile));
            }
            Request::Remove { root, tell } => {
                let _ = tell.send(self.remove(&root));
            }
            Request::Pause { pause, tell } => {
                let seconds = pause.seconds;
                let _ = tell.send(self.pause(pause.root.as_deref(), true, seconds));
            }
            Request::Resume { which, tell } => {
                let _ = tell.send(self.pause(which.root.as_deref(), false, None));
            }
            Request::Work { work, lines, tell } => {
                let begun = self.work(work, lines);
                let _ = tell.send(begun);
            }
            Request::Gone { project, ask } => self.gone(project, ask),
            Request::Reload { tell } => {
                self.reload();
                let _ = tell.send(Ok(()));
            }
            Request::Stop { tell } => {
                self.stopping = true;
                let _ = tell.send(Ok(()));
            }
        }
        self.changed = true;
    }

    pub(super) fn pause(&mut self, root: Option<&Path>, paused: bool, seconds: Option<u64>) -> Result<(), Refusal> {
        let ids = match root {
            None => self.members.keys().copied().collect(),
            Some(root) => vec![self.find_above(root).ok_or_else(|| unknown(root))?],
        };
        let until = seconds.map(|seconds| Timestamp::now() + SignedDuration::from_secs(seconds as i64));
        for id in ids {
            let now = self.now();
            let Some(member) = self.members.get_mut(&id) else { continue };
            let paused_until = until.and_then(|until| i64::try_from(until.as_nanosecond()).ok());
            member.entry = Entry { paused, paused_until, ..member.entry.clone() };
            let entry = member.entry.clone();
            self.roster.put(entry).map_err(Refusal::from)?;
            let input = if paused { Input::Pause(seconds.map(|seconds| now + seconds * 1000)) } else { Input::Resume };
            self.step(id, input);
        }
        Ok(())
    }

    /// Begins work that somebody hands over: first the barrier, so that it sees all that was saved before.
    pub(super) fn work(&mut self, work: Work, lines: mpsc::UnboundedSender<Line>) -> Result<(ProjectId, AskId), Refusal> {
        let id = self.find_above(&work.root).ok_or_else(|| unknown(&work.root))?;
        let Some(member) = self.members.get(&id) else { return Err(unknown(&work.root)) };
        let mut connection = member.connection.clone();
        if connection.is_none() {
            connection = self.links.opened(&member.entry.profile);
        }
        let Some(own) = connection.as_ref().map(way_of) else {
            if work.way.is_some() {
                return Err(Refusal {
                    kind: RefusalKind::NotConnected,
                    message: "the agent has not reached the project's colony yet".into(),
                    code: 4,
                    ..Refusal::default()
                });
            }
            return Ok(self.begin_work(id, work, lines));
        };
        if work.way.as_ref().is_some_and(|way| *way != own) {
            return Err(Refusal {
                kind: RefusalKind::OtherColony,
                message: "the agent brings this project to another colony or store, by its settings".into(),
                hint: Some("`pollinatord add --profile NAME` changes that".into()),
                code: 2,
            });
        }
        Ok(self.begin_work(id, work, lines))
    }

    /// Takes work on, behind a barrier.
    pub(super) fn begin_work(&mut self, id: ProjectId, work: Work, lines: mpsc::UnboundedSender<Line>) -> (ProjectId, AskId) {
        let (ask, number) = (self.new_number(), self.new_number());
        let kind = match &work.job {
            Job::Flush => Ask::Flush,
            Job::Sync { trees, .. } if trees.is_empty() || [Tree::Src, Tree::Data].iter().all(|t| trees.contains(t)) => Ask::Sync,
            Job::Sync { .. } => Ask::Fetch,
            Job::Run { commit: Some(_), .. } => Ask::RunOther,
            Job::Run { .. } => Ask::Run,
        };
        if let Some(member) = self.members.get_mut(&id) {
            member.listeners.lock().unwrap_or_else(PoisonError::into_inner).insert(ask, lines.clone());
            member.asks.insert(ask, Asked { job: work.job, tell: lines, runs: Vec::new() });
        }
        self.barriers.insert(number, (id, ask, kind));
        let (watcher, inbox) = (self.watcher.clone(), self.inbox.clone());
        tokio::spawn(async move {
            let asked = tokio::time::timeout(BARRIER, watcher.barrier(number)).await;
            if asked == Ok(true) {
                tokio::time::sleep(BARRIER).await;
            }
            // Where it came meanwhile, nobody waits for this any more. The agent's end is the only reason to fail.
            let _ = inbox.send(Message::NoBarrier(number));
        });
        (id, ask)
    }

    pub(super) fn pass_barrier(&mut self, number: u64, told_all: bool) {
        let Some((project, ask, kind)) = self.barriers.remove(&number) else { return };
        if !told_all {
            self.step(project, Input::Rescan);
        }
        self.step(project, Input::Ask(ask, kind));
    }

    /// Who asked has hung up.
    pub(super) fn gone(&mut self, project: ProjectId, ask: AskId) {
        if let Some(member) = self.members.get_mut(&project) {
            member.asks.remove(&ask);
            member.listeners.lock().unwrap_or_else(PoisonError::into_inner).remove(&ask);
            let claim = member.claims.remove(&ask);
            self.step(project, Input::Forget(ask));
            if let Some((runs, _)) = claim {
                self.unclaimed(project, runs);
            }
        }
    }
}

pub(super) fn unknown(root: &Path) -> Refusal {
    Refusal {
        kind: RefusalKind::UnknownProject,
        message: format!("the agent does not know {}", root.display()),
        hint: Some(format!("`pollinatord add {}` has it watched", root.display())),
        code: 2,
    }
}
