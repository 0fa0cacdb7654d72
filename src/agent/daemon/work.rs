//! Work on its way: begun, heard, answered.

use super::Message;
use crate::agent::control::model::Answer;
use crate::agent::control::model::Job;
use crate::agent::control::model::Line;
use crate::agent::engine::Action;
use crate::agent::engine::AskId;
use crate::agent::links::Links;
use crate::agent::member::Member;
use crate::agent::memory;
use crate::agent::notify::Desktop;
use crate::agent::notify::Note;
use crate::agent::operations;
use crate::agent::operations::Order;
use crate::agent::operations::Report;
use crate::event::Event;
use crate::event::Events;
use crate::journal::runs::RunState;
use crate::panics;
use crate::run::Connection;
use crate::watch::ProjectId;
use std::path::Path;
use std::sync::PoisonError;
use tokio::sync::mpsc;

pub(super) fn begin(member: &mut Member, id: ProjectId, action: Action, links: &Links, inbox: &mpsc::UnboundedSender<Message>) {
    let by = match &action {
        Action::Sync { by, .. } | Action::Run { by, .. } | Action::Fetch { by, .. } => *by,
        Action::Answer(..) => None,
    };
    member.by = by;
    let job = by.and_then(|ask| member.asks.get(&ask)).map(|asked| asked.job.clone());
    let (listeners, tell, root) = (member.listeners.clone(), inbox.clone(), member.entry.root.clone());
    let events = Events::new(move |event| {
        if matches!(event, Event::TransferStarted { .. } | Event::TransferFinished { .. } | Event::Note { .. }) {
            let _ = tell.send(Message::Progress(id, event.clone()));
        }
        write_down(&root, &event);
        for listener in listeners.lock().unwrap_or_else(PoisonError::into_inner).values() {
            let _ = listener.send(Line::Event(crate::agent::control::model::EventLine { what: event.clone() }));
        }
    });
    let order = Order {
        links: links.clone(),
        profile: member.entry.profile.clone(),
        root: member.entry.root.clone(),
        action,
        job,
        frozen: member.fresh(),
        events,
    };
    let inbox = inbox.clone();
    member.task = Some(tokio::spawn(async move {
        // A panic in an operation must not leave the project waiting for its end for ever.
        // No task of its own: that would go on when this one is aborted, for a project that was taken out.
        let report = panics::caught(operations::perform(order)).await.unwrap_or_else(|said| Report::broken(&said));
        let _ = inbox.send(Message::Ended(id, Box::new(report)));
        // After the end was told: nobody waits for this.
        tokio::task::spawn_blocking(memory::give_back);
    }));
}

/// What travels, in the log: one line a transfer, and one a file for those who look closely.
pub(super) fn write_down(root: &Path, event: &Event) {
    let project = root.display();
    match event {
        Event::TransferFinished { tree, direction, files, bytes, problems, .. } if *files + *problems > 0 => {
            tracing::info!(%project, %tree, ?direction, files, bytes, problems, "transferred");
        }
        Event::FileDone { tree, direction, path, size, .. } => {
            tracing::debug!(%project, %tree, ?direction, path, size, "transferred");
        }
        Event::FileRemoved { tree, path, local, .. } => tracing::debug!(%project, %tree, path, local, "removed"),
        _ => {}
    }
}

pub(super) fn answer_ask(member: &mut Member, ask: AskId, answer: Result<(), crate::agent::engine::Failure>) {
    member.listeners.lock().unwrap_or_else(PoisonError::into_inner).remove(&ask);
    let Some(asked) = member.asks.remove(&ask) else { return };
    let line = match answer {
        Ok(()) => {
            if let Job::Run { follow: true, .. } = asked.job {
                member.claims.insert(ask, (asked.runs.clone(), asked.tell.clone()));
            }
            Line::Done(Answer { runs: asked.runs })
        }
        Err(failure) => Line::Failed(failure),
    };
    // One who has hung up needs no answer.
    let _ = asked.tell.send(line);
}

/// Tells the desktop how a run ended, where that is wished.
pub(super) fn tell_desktop(member: &Member, run: &str) {
    let (Ok(project), Some(connection)) = (&member.project, &member.connection) else { return };
    if !project.settings.agent.notify {
        return;
    }
    let found = match connection.journal.run(run) {
        Ok(found) => found,
        Err(error) => return tracing::warn!(%error, run, "the run cannot be read"),
    };
    let Some(found) = found else { return };
    let (id, fate) = match &found.sweep {
        Some(sweep) => match fate_of_sweep(connection, sweep) {
            Some(fate) => (sweep.as_str(), fate),
            None => return,
        },
        None => match found.state {
            RunState::Success => (run, "succeeded".to_owned()),
            RunState::Failed => (run, "failed".to_owned()),
            RunState::Cancelled => (run, "was cancelled".to_owned()),
            _ => return,
        },
    };
    let note = Note::of_run(&project.settings.projectname, &id[..id.len().min(12)], &fate);
    tokio::spawn(async move { Desktop::of_process().tell(&note).await });
}

/// How a sweep ended; none as long as it goes on. One note for all of it: it may have a thousand runs.
fn fate_of_sweep(connection: &Connection, sweep: &str) -> Option<String> {
    let runs = match connection.journal.sweep(sweep) {
        Ok(runs) => runs,
        Err(error) => {
            tracing::warn!(%error, sweep, "the sweep cannot be read");
            return None;
        }
    };
    let good = runs.iter().filter(|run| run.state == RunState::Success).count();
    let has_ended = runs.iter().all(|run| !run.state.is_open());
    has_ended.then(|| format!("(a sweep) has ended: {good} of {} succeeded", runs.len()))
}
