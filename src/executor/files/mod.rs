//! A job's files: brought to where it runs, and sent back. Behind a trait, so that the life-cycle knows nothing of how.

pub mod cfs;
mod listing;
mod places;
mod reclaim;
mod share;
mod shelf;
mod snapshots;

pub use places::Alone;
pub use places::Places;
pub use places::Using;
pub use reclaim::Keep;
pub use share::ShareSnapshots;

use super::spec::Job;
use async_trait::async_trait;

/// Why files could not be moved.
#[derive(Debug, thiserror::Error)]
#[error("{what}: {reason}")]
pub struct FilesError {
    /// What was to be moved.
    pub what: String,
    /// Why it was not.
    pub reason: String,
    /// Whether trying again can help.
    pub temporary: bool,
    /// Whether the disk is full.
    pub full: bool,
}

/// Moves the files of jobs.
#[async_trait]
pub trait Files: Send + Sync {
    /// Brings snapshots and labels to the file area. May be repeated: what is there is not fetched again. Gives lines for
    /// the reader of the process log.
    async fn bring_in(&self, job: &Job) -> Result<Vec<String>, FilesError>;

    /// Sends labels back. May be repeated. Gives what could not be sent: one bad file blocks no other.
    async fn send_back(&self, job: &Job) -> Result<Vec<String>, FilesError>;

    /// After the process is closed: removes what the specification does not want kept, except what other jobs use.
    async fn clean_up(&self, job: &Job) -> Result<(), FilesError>;
}

/// Our clock, ms since 1970.
fn now_ms() -> i64 {
    jiff::Timestamp::now().as_millisecond()
}
