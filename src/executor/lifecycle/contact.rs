//! When the server was heard last, and what is wrong where it is not heard.

use super::now_ms;
use std::fmt::Display;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use tokio::sync::watch;

/// What is known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Known {
    /// When it answered last, ms since 1970.
    pub(super) heard: Option<i64>,
    /// Why it does not answer, or does not take us.
    pub(super) problem: Option<String>,
    /// When asking for work went another round, ms since 1970: the sign of life of the whole executor.
    pub(super) turned: i64,
}

/// Remembers it.
#[derive(Debug, Default)]
pub(super) struct Contact {
    known: Mutex<Known>,
    news: watch::Sender<()>,
}

impl Contact {
    fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn known(&self) -> Known {
        self.lock().clone()
    }

    /// Hears when a problem comes or goes.
    pub(super) fn news(&self) -> watch::Receiver<()> {
        self.news.subscribe()
    }

    pub(super) fn turned(&self) {
        self.lock().turned = now_ms();
    }

    pub(super) fn heard(&self) {
        let mut known = self.lock();
        let first = known.heard.is_none();
        known.heard = Some(now_ms());
        let mended = known.problem.take().is_some();
        drop(known);
        if first || mended {
            self.news.send_replace(());
        }
    }

    pub(super) fn failed(&self, why: &dyn Display) {
        let problem = Some(why.to_string());
        let mut known = self.lock();
        let changed = known.problem != problem;
        known.problem = problem;
        drop(known);
        if changed {
            self.news.send_replace(());
        }
    }
}
