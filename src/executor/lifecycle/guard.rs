//! Whether a process is still ours: cancelled, taken away, or given to us anew.

use super::Host;
use super::inbox::Inbox;
use crate::colonies::Process;
use crate::colonies::ProcessState;
use crate::colonies::subscribe;
use crate::colonies::subscribe::Change;
use crate::executor::error::Error;
use crate::executor::journal;
use crate::executor::journal::Entry;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::Instant;

/// How long a job whose process went back to waiting without being retried (the executor had been silent for too long,
/// or registered again) is kept running for the case that the process comes back to us.
const PATIENCE: Duration = Duration::from_secs(60);
/// Pause before watching again after the watch broke.
const PAUSE: Duration = Duration::from_secs(3);

/// Why a process is not ours any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lost {
    /// It has ended on the server: cancelled, out of time, closed by somebody.
    Over,
    /// It waits, or another executor or attempt has it, or it is removed.
    TakenAway,
}

/// Watches one process.
pub struct Guard {
    host: Arc<Host>,
    job_id: i64,
    process: Process,
    attempt: i64,
    watch: mpsc::Receiver<Result<Change, crate::colonies::Error>>,
    inbox: Arc<Inbox>,
    orphan_until: Option<Instant>,
}

/// What one piece of news means.
enum News {
    Ours,
    Orphan,
    Lost(Lost),
}

impl Guard {
    /// Begins to watch. `inbox` brings assignments of the same process to us.
    pub fn new(host: Arc<Host>, entry: &Entry, inbox: Arc<Inbox>) -> Guard {
        let watch = subscribe::watch(&host.client, &entry.process.processid);
        Guard {
            host,
            job_id: entry.job_id,
            process: entry.process.clone(),
            attempt: entry.attempt,
            watch,
            inbox,
            orphan_until: None,
        }
    }

    /// Asks anew at once: something was refused that would not be refused if all were well.
    pub fn look_again(&mut self) {
        self.watch = subscribe::watch(&self.host.client, &self.process.processid);
    }

    /// Waits until the process is not ours any more. May be dropped and called again.
    ///
    /// # Errors
    /// Those of the journal.
    pub async fn lost(&mut self) -> Result<Lost, Error> {
        loop {
            let patience = self.orphan_until;
            tokio::select! {
                change = self.watch.recv() => match change {
                    Some(Ok(Change::Process(now))) => match self.judge(&now) {
                        News::Ours => self.orphan_until = None,
                        News::Orphan => { self.orphan_until.get_or_insert_with(|| Instant::now() + PATIENCE); }
                        News::Lost(lost) => return Ok(lost),
                    },
                    Some(Ok(Change::Offline(_) | Change::Online)) => {}
                    Some(Err(e)) if e.is_not_found() => return Ok(Lost::TakenAway),
                    Some(Err(e)) => {
                        if e.is_not_member() {
                            // What we ran waits again. Either we are soon a member and get it back, or never.
                            self.orphan_until.get_or_insert_with(|| Instant::now() + PATIENCE);
                        }
                        tracing::debug!(process = self.process.processid, error = %e, "the watch of a process broke");
                        self.rest().await;
                    }
                    None => self.rest().await,
                },
                () = self.inbox.filled() => if let Some(lost) = self.take_up()? {
                    return Ok(lost);
                },
                () = until(patience) => return Ok(Lost::TakenAway),
            }
        }
    }

    /// Goes on under a later assignment to us, unless it is another attempt: that one is left where it is and begins
    /// when this job has ended.
    fn take_up(&mut self) -> Result<Option<Lost>, Error> {
        let same = |again: &Process| again.retries == self.process.retries;
        let Some(again) = self.inbox.take_if(same) else { return Ok(Some(Lost::TakenAway)) };
        let attempt = journal::attempt_of(&again);
        if (attempt - self.attempt).abs() > 1 {
            self.host.journal.reassigned(self.job_id, &again, super::now_ms())?;
            tracing::info!(process = again.processid, "a running job's process came back: going on with it");
            self.attempt = attempt;
            self.process = again;
            self.orphan_until = None;
            self.look_again();
        }
        Ok(None)
    }

    async fn rest(&mut self) {
        tokio::time::sleep(PAUSE).await;
        self.look_again();
    }

    fn judge(&self, now: &Process) -> News {
        if now.state.is_final() {
            return News::Lost(Lost::Over);
        }
        if now.retries != self.process.retries {
            return News::Lost(Lost::TakenAway);
        }
        if now.state == ProcessState::Waiting {
            return News::Orphan;
        }
        if now.assignedexecutorid != self.host.client.id() {
            return News::Lost(Lost::TakenAway);
        }
        // Ours, but under a later assignment: the inbox is about to bring it.
        if (journal::attempt_of(now) - self.attempt).abs() > 1 { News::Orphan } else { News::Ours }
    }
}

/// Sleeps until then; for ever where there is no then.
async fn until(then: Option<Instant>) {
    match then {
        Some(then) => tokio::time::sleep_until(then).await,
        None => std::future::pending().await,
    }
}
