//! What a project's state machine says of itself. Pure.

use super::Action;
use super::Engine;
use super::Failure;
use super::Millis;
use super::Watching;
use crate::project::OnSave;
use serde::Serialize;

/// Problems that are listed.
const MOST: usize = 20;

/// What a project is at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// Nothing is to be done.
    Idle,
    /// Changes wait until they are still.
    Settling,
    /// Files are looked at.
    Scanning,
    /// Results are on their way.
    Downloading,
    /// Nothing is done until told.
    Paused,
    /// A server does not answer.
    Offline,
    /// Something failed, or files could not be brought over.
    Error,
}

/// What a project's state machine says of itself.
#[derive(Clone, Debug, PartialEq)]
pub struct Status {
    /// What it is at.
    pub phase: Phase,
    /// What is stored is what is here, as far as anybody can know.
    pub in_sync: bool,
    /// Paths that wait; none: anything may have changed.
    pub pending: Option<usize>,
    /// Files that wait for their writer.
    pub held_open: Vec<String>,
    /// Files that could not be brought over, and why.
    pub problems: Vec<(String, String)>,
    /// What failed last, where nothing succeeded since.
    pub failure: Option<Failure>,
    /// When it is tried again.
    pub next_try: Option<Millis>,
    /// When trees were last brought over.
    pub synced: Option<Millis>,
    /// Until when it is paused; none: until told.
    pub paused_until: Option<Millis>,
    /// Runs whose processes have not ended.
    pub open_runs: Vec<String>,
    /// Runs whose results are not home.
    pub results_waiting: Vec<String>,
}

impl Engine {
    /// What it is at.
    pub fn status(&self) -> Status {
        let failure = self.failure();
        let waiting = self.closed.iter().chain(&self.offered).cloned().collect();
        let dirt = self.operation.as_ref().map(|operation| &operation.dirt);
        let whole = self.dirt.is_whole() || dirt.is_some_and(|d| d.is_whole());
        let paths = self.dirt.paths() + dirt.map_or(0, |d| d.paths());
        Status {
            phase: self.phase(),
            in_sync: self.is_in_sync(),
            pending: (!whole).then_some(paths),
            held_open: self.dirt.held_open(),
            problems: self
                .problems
                .iter()
                .take(MOST)
                .map(|((tree, path), why)| (format!("{tree}/{path}"), why.clone()))
                .collect(),
            failure: failure.map(|(failure, _)| failure.clone()),
            next_try: failure
                .map(|(_, next)| next)
                .or((!self.problems.is_empty()).then(|| self.problems_again.not_before()).flatten()),
            synced: self.synced,
            paused_until: self.paused.flatten(),
            open_runs: self.open.iter().cloned().collect(),
            results_waiting: waiting,
        }
    }

    /// What failed last: of bringing over, else of bringing home.
    fn failure(&self) -> Option<(&Failure, Millis)> {
        self.retry.failure().or_else(|| self.fetches.failure().filter(|_| !self.closed.is_empty()))
    }

    fn phase(&self) -> Phase {
        if let Some(operation) = &self.operation {
            return match &operation.action {
                Action::Fetch { .. } => Phase::Downloading,
                _ => Phase::Scanning,
            };
        }
        if self.paused.is_some() {
            return Phase::Paused;
        }
        match self.failure() {
            Some((failure, _)) if failure.offline => return Phase::Offline,
            Some(_) => return Phase::Error,
            None => {}
        }
        match self.watching {
            _ if !self.problems.is_empty() => Phase::Error,
            Watching::Installing => Phase::Scanning,
            Watching::Lost => Phase::Error,
            _ if self.manners.on_save == OnSave::Off => Phase::Idle,
            _ if self.dirt.is_clean() && !self.run_due_now() && self.closed.is_empty() => Phase::Idle,
            _ => Phase::Settling,
        }
    }
}
