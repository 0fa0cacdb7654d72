//! Whether a process is still ours: cancelled, taken away, or given to us anew.

use super::Host;
use super::inbox::Inbox;
use super::room::Lent;
use crate::colonies::Process;
use crate::colonies::ProcessState;
use crate::colonies::subscribe;
use crate::colonies::subscribe::Change;
use crate::executor::error::Error;
use crate::executor::journal;
use crate::executor::journal::Entry;
use crate::executor::spec::Job;
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
    orphaned: Option<Orphaned>,
}

/// The process went back to waiting.
struct Orphaned {
    until: Instant,
    /// A full executor would never get it back.
    _lent: Lent,
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
        Guard { host, job_id: entry.job_id, process: entry.process.clone(), attempt: entry.attempt, watch, inbox, orphaned: None }
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
        let lost = self.keep_watch(false).await;
        self.orphaned = None;
        lost.map(|lost| lost.unwrap_or(Lost::TakenAway))
    }

    /// Waits until the process is ours again, or surely is not; tells why.
    ///
    /// # Errors
    /// Those of the journal.
    pub async fn regained(&mut self) -> Result<Option<Lost>, Error> {
        self.look_again();
        let lost = self.keep_watch(true).await;
        self.orphaned = None;
        lost
    }

    fn orphan(&mut self) {
        if self.orphaned.is_none() {
            let job = Job::read(&self.process, self.host.engine.needs_image()).ok();
            let _lent = self.host.room.lend(job.as_ref());
            self.orphaned = Some(Orphaned { until: Instant::now() + PATIENCE, _lent });
        }
    }

    /// Until the process is not ours; or, `until_ours`, until it is: then there is no loss.
    async fn keep_watch(&mut self, until_ours: bool) -> Result<Option<Lost>, Error> {
        loop {
            let patience = self.orphaned.as_ref().map(|orphaned| orphaned.until);
            tokio::select! {
                change = self.watch.recv() => match change {
                    Some(Ok(Change::Process(now))) => match self.judge(&now) {
                        News::Ours if until_ours => return Ok(None),
                        News::Ours => self.orphaned = None,
                        News::Orphan => self.orphan(),
                        News::Lost(lost) => return Ok(Some(lost)),
                    },
                    Some(Ok(Change::Offline(_) | Change::Online)) => {}
                    Some(Err(e)) if e.is_not_found() => return Ok(Some(Lost::TakenAway)),
                    Some(Err(e)) => {
                        if e.is_not_member() {
                            // What we ran waits again. Either we are soon a member and get it back, or never.
                            self.orphan();
                        }
                        tracing::debug!(process = self.process.processid, error = %e, "the watch of a process broke");
                        self.rest().await;
                    }
                    None => self.rest().await,
                },
                () = self.inbox.filled() => match self.take_up()? {
                    Some(lost) => return Ok(Some(lost)),
                    None if until_ours => return Ok(None),
                    None => {}
                },
                () = until(patience) => return Ok(Some(Lost::TakenAway)),
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
            self.orphaned = None;
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
