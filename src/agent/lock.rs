//! One agent for each state folder.

use super::Error;
use crate::lock;
pub use crate::lock::Holder;
pub use crate::lock::Lock;
pub use crate::lock::host;
use std::path::Path;
use std::path::PathBuf;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// For so long a lock is waited for whose holder is dead.
const GHOST: Duration = Duration::from_secs(5);

/// Where the lock is.
pub fn path(state: &Path) -> PathBuf {
    state.join("agent.lock")
}

/// Takes the lock.
///
/// # Errors
/// [`Error::Running`] with who has it.
pub fn take(state: &Path, stop: &CancellationToken) -> Result<Lock, Error> {
    let patience = |holder: Option<&Holder>| if holder.is_some_and(Holder::is_alive) { Duration::ZERO } else { GHOST };
    lock::take(&path(state), patience, stop).map_err(|error| match error {
        lock::Error::Held { holder } => Error::Running { holder: holder.map_or("somebody".into(), |holder| holder.to_string()) },
        lock::Error::Stopped => Error::Life { reason: "told to stop before it began".into(), tail: Vec::new() },
        lock::Error::Io { path, source } => Error::Folder { what: "the agent's lock", path, source },
    })
}

/// Who holds the lock; none: nobody.
pub fn holder(state: &Path) -> Option<Result<Holder, String>> {
    lock::holder(&path(state))
}
