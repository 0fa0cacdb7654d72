//! Work comes in: the long poll, what an earlier poll may have brought without our hearing it, and what to do with it.

use super::Host;
use super::inbox::Inbox;
use super::now_ms;
use crate::colonies::Error as ColonyError;
use crate::colonies::Process;
use crate::colonies::ProcessState;
use crate::executor::error::Error;
use crate::executor::journal;
use crate::executor::journal::Entry;
use crate::executor::journal::Stage;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::time::Duration;

/// Pause after a poll that failed.
const PAUSE: Duration = Duration::from_secs(2);
/// Seconds: longer than a process runs. The list of all running processes ends with the hundredth; that of an executor, by
/// time, has no end (`FindProcessesByExecutorID` of colonies, which counts from the submission).
const EVER: i64 = 10 * 365 * 24 * 3600;

impl Host {
    /// Polls until the shutdown. The poll never pauses for being busy: it is the executor's only sign of life.
    ///
    /// # Errors
    /// What makes going on pointless: no member any more and no way to become one; the journal cannot be written.
    pub(super) async fn poll_for_work(self: &Arc<Host>) -> Result<(), Error> {
        // An earlier life may have been assigned processes without hearing of it.
        let mut reconcile = true;
        loop {
            if !reconcile {
                self.room.settle();
            }
            let released = self.room.released();
            let offer = self.room.offer();
            self.contact.turned();
            let poll = async {
                if reconcile {
                    self.reconcile().await?;
                }
                self.client.assign(self.poll_seconds, &offer.cpu, &offer.mem).await
            };
            let answer = tokio::select! {
                answer = poll => answer,
                () = self.shutdown.cancelled() => return Ok(()),
                // Nothing can have been assigned to a poll that offered nothing: it is safe to hang up.
                () = released, if offer.full => continue,
            };
            match answer {
                Ok(found) => {
                    reconcile = false;
                    self.contact.heard();
                    if let Some(process) = found {
                        self.take(process)?;
                    }
                }
                Err(error) => {
                    // The answer that was lost may have held a process.
                    reconcile = true;
                    self.contact.failed(&error);
                    tokio::select! { done = self.recover(&error) => done?, () = self.shutdown.cancelled() => return Ok(()) }
                }
            }
        }
    }

    /// After a failed poll: registers again where the server does not know us any more.
    async fn recover(&self, error: &ColonyError) -> Result<(), Error> {
        let unknown = error.is_not_member() || error.to_string().contains("executor not found");
        if unknown {
            tracing::warn!(executor = self.name, %error, "no member any more");
            match self.join().await {
                // By hand it came, by hand it may come again: jobs go on meanwhile.
                Err(Error::NotMember { .. }) => {}
                other => return other,
            }
        } else {
            tracing::warn!(executor = self.name, %error, "asking for work failed");
        }
        tokio::time::sleep(PAUSE).await;
        Ok(())
    }

    /// Takes up processes that the server says are ours, and of which we know nothing.
    async fn reconcile(self: &Arc<Host>) -> Result<(), ColonyError> {
        let running = self.client.process_history(ProcessState::Running, EVER, self.client.id()).await?;
        for process in running.into_iter().filter(|p| p.assignedexecutorid == self.client.id()) {
            if let Err(error) = self.take(process) {
                tracing::error!(%error, "a process of ours cannot be taken up");
            }
        }
        Ok(())
    }

    pub(super) fn live(&self) -> MutexGuard<'_, HashMap<String, Arc<Inbox>>> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An assignment: to the task that has the process already, or to a new one.
    pub(super) fn take(self: &Arc<Host>, process: Process) -> Result<(), Error> {
        // Held until it has a task: nobody else gives it one meanwhile.
        let mut live = self.live();
        if let Some(inbox) = live.get(&process.processid) {
            inbox.put(process);
            return Ok(());
        }
        let known = self.journal.find(&process.processid, journal::attempt_of(&process))?;
        if known.is_some_and(|entry| entry.stage == Stage::Closed) {
            return Ok(());
        }
        tracing::info!(process = process.processid, "assigned");
        let entry = self.journal.assigned(&process, now_ms())?;
        self.give_task(&mut live, entry);
        Ok(())
    }

    /// Goes on with an attempt of an earlier life.
    pub(super) fn adopt(self: &Arc<Host>, entry: Entry) {
        self.give_task(&mut self.live(), entry);
    }

    /// Gives an attempt a task of its own.
    fn give_task(self: &Arc<Host>, live: &mut HashMap<String, Arc<Inbox>>, entry: Entry) {
        let id = entry.process.processid.clone();
        let inbox = Arc::new(Inbox::default());
        live.insert(id.clone(), inbox.clone());
        let host = self.clone();
        // Before the next poll can offer it again.
        let ticket = self.reserve(&entry);
        self.tasks.spawn(async move {
            host.supervise(entry, inbox.clone(), ticket).await;
            let mut live = host.live();
            live.remove(&id);
            // Put in under the same lock, so nothing can come after this look.
            let later = inbox.take_if(|_| true);
            drop(live);
            if let Some(process) = later
                && !host.shutdown.is_cancelled()
                && let Err(error) = host.take(process)
            {
                tracing::error!(%error, process = id, "a later attempt cannot be taken up");
            }
        });
    }
}
