//! An executor: takes processes of a colony, brings their files to where they run, runs them, streams what they print,
//! brings results back and closes them.
//!
//! [`spec`] reads a process into a job, [`backend`] is where jobs run, [`journal`] remembers every step, and the life-cycle
//! ties them together: see [`run`]. The contract with jobs (what a specification may ask for, what a job sees) is
//! described in [`spec`] and in the backends.

pub mod backend;
pub mod error;
pub mod files;
pub mod growth;
pub mod image;
pub mod journal;
mod lifecycle;
pub mod logs;
pub mod mount;
pub mod options;
pub mod place;
pub mod quantity;
pub mod spec;
pub mod text;

pub use error::Error;
pub use options::Backend;
pub use options::Capacity;
pub use options::Described;
pub use options::Options;

use files::cfs::CfsFiles;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

/// Runs an executor until `shutdown` is cancelled.
///
/// It registers where it is no member yet (with the owner's key, once), finds the jobs of an earlier life again, and takes
/// work. Jobs of the process backend go on when it stops, and also when it is killed: the next start adopts them and goes
/// on with their logs where they stopped. One executor at a time may use a state folder.
///
/// # Errors
/// What makes an executor as a whole pointless: [`Error`]. An unreachable colony is not among it: it waits for it.
pub async fn run(options: Options, shutdown: CancellationToken) -> Result<(), Error> {
    let places = Arc::new(files::Places::default());
    let files = Arc::new(CfsFiles::new(&options, places.clone())?);
    let tidying = tokio::spawn(CfsFiles::keep_tidy((*files).clone(), shutdown.clone()));
    let ended = lifecycle::run(options, files, places, shutdown).await;
    tidying.abort();
    ended
}
