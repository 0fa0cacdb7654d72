//! A place of one for a later assignment of a process whose job is still alive.

use crate::colonies::Process;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use tokio::sync::Notify;

/// Holds the latest assignment until somebody takes it.
#[derive(Debug, Default)]
pub struct Inbox {
    slot: Mutex<Option<Process>>,
    changed: Notify,
}

impl Inbox {
    fn lock(&self) -> MutexGuard<'_, Option<Process>> {
        self.slot.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts an assignment in; an earlier one that nobody took is out of date.
    pub fn put(&self, process: Process) {
        *self.lock() = Some(process);
        self.changed.notify_waiters();
    }

    /// Waits until something is in it.
    pub async fn filled(&self) {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            // Registered before looking, so that nothing is missed.
            changed.as_mut().enable();
            if self.lock().is_some() {
                return;
            }
            changed.await;
        }
    }

    /// Takes what is in it, where the test holds; leaves it otherwise.
    pub fn take_if(&self, test: impl FnOnce(&Process) -> bool) -> Option<Process> {
        self.lock().take_if(|process| test(process))
    }
}
