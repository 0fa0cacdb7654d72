//! An executor: takes processes of a colony, brings their files to where they run, runs them, streams what they print,
//! brings results back and closes them.
//!
//! [`spec`] reads a process into a job, [`backend`] is where jobs run, [`journal`] remembers every step, and the life-cycle
//! ties them together: see [`run`]. The contract with jobs (what a specification may ask for, what a job sees) is
//! described in [`spec`] and in the backends.

pub mod backend;
pub mod control;
pub mod error;
pub mod files;
pub mod growth;
pub mod image;
pub mod journal;
mod lifecycle;
pub mod logs;
pub mod machine;
pub mod mount;
pub mod options;
pub mod passing;
pub mod place;
pub mod quantity;
pub mod settings;
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
    live(options, places, shutdown, None).await
}

/// The executor's life, and beside it the care of its old files.
async fn live(
    options: Options,
    places: Arc<files::Places>,
    shutdown: CancellationToken,
    service: Option<&dyn Manager>,
) -> Result<(), Error> {
    let files = Arc::new(CfsFiles::new(&options, places.clone())?);
    let tidying = tokio::spawn(CfsFiles::keep_tidy((*files).clone(), shutdown.clone()));
    let ended = lifecycle::run(options, files, places, shutdown, service).await;
    tidying.abort();
    ended
}

/// Whoever keeps a service running, and wants to know how it stands.
pub trait Manager: Send + Sync {
    /// It serves: it can be asked and stopped, and goes on with jobs. The colony may still be out of reach.
    fn ready(&self);
    /// How it stands, in a line.
    fn status(&self, text: &str);
    /// How often it wants to hear that the executor lives; none: not at all.
    fn beat_every(&self) -> Option<std::time::Duration>;
    /// It lives.
    fn beat(&self);
}

/// As [`run`], as a service of its own: it can be asked and told (see [`control`]), and reports to the colony what is allocated.
///
/// # Errors
/// As [`run`].
pub async fn serve(options: Options, shutdown: CancellationToken, manager: &dyn Manager) -> Result<(), Error> {
    let places = Arc::new(files::Places::default());
    live(options, places, shutdown, Some(manager)).await
}
