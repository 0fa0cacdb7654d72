//! How long what does not work now is tried again, and how often.

use super::attempt::BACKEND_PAUSE;
use crate::executor::files::FilesError;
use std::time::Duration;
use tokio::time::Instant;

/// Pause between two tries of moving files, which grows.
const FILE_PAUSE: Duration = Duration::from_secs(5);
const LONGEST_FILE_PAUSE: Duration = Duration::from_secs(60);
/// Longest pause before a start is tried again, how often there is one before it is told, and how long it is tried at all.
const LONGEST_DELAY: Duration = Duration::from_secs(300);
pub(super) const TELL_DELAY: u32 = 3;
const START_PATIENCE: Duration = Duration::from_secs(24 * 3600);

/// How a start is held up by a backend that does not take the job now.
#[derive(Debug, Default)]
pub(super) struct Delay {
    since: Option<Instant>,
    times: u32,
    /// The last refusal, in the backend's words.
    pub(super) reason: String,
}

impl Delay {
    /// The next pause, and how often there was one.
    pub(super) fn next(&mut self) -> (Duration, u32) {
        self.since.get_or_insert_with(Instant::now);
        self.times += 1;
        ((BACKEND_PAUSE * 2u32.saturating_pow(self.times.saturating_sub(1).min(10))).min(LONGEST_DELAY), self.times)
    }

    /// Whether it has taken so long.
    pub(super) fn is_longer_than(&self, patience: Duration) -> bool {
        self.since.map_or(Duration::ZERO, |since| since.elapsed()) >= patience
    }

    /// Why, where it has taken too long.
    pub(super) fn over(&self) -> Option<String> {
        self.since.is_some_and(|since| since.elapsed() > START_PATIENCE).then(|| self.reason.clone())
    }
}

/// Repeats moving files while that can help, and tells of each failure that is passing.
pub(super) async fn repeated<T, F, R>(patience: Duration, failed: impl Fn(u32, &FilesError), work: F) -> Result<T, FilesError>
where
    F: Fn() -> R,
    R: Future<Output = Result<T, FilesError>>,
{
    let mut tries = 1;
    let began = tokio::time::Instant::now();
    loop {
        match work().await {
            Err(e) if e.temporary && began.elapsed() < patience => {
                tracing::warn!(error = %e, "files are tried again");
                failed(tries, &e);
                tokio::time::sleep((FILE_PAUSE * tries).min(LONGEST_FILE_PAUSE)).await;
                tries += 1;
            }
            other => return other,
        }
    }
}
