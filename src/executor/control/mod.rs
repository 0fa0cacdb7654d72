//! What can be asked of an executor from outside: how it stands, to drain, to stop.
//!
//! Wishes are files in its state folder, so that they are heard from another machine that shares the folder, and one to drain is
//! heard after a restart, too. The socket only makes it quick, and tells what the journal does not know.

pub mod client;
pub mod model;
pub mod server;

use crate::lock::Holder;
use model::StopMode;
use serde::Deserialize;
use serde::Serialize;
use std::io;
use std::io::Write;
use std::path::Path;
use std::path::PathBuf;

/// There while the executor is to take no new work.
const DRAIN: &str = "drain";
/// A wish to stop.
const STOP: &str = "stop.json";
/// How the executor stood when it started: for who asks while it does not answer.
const CARD: &str = "executor.json";

/// Where the socket is.
pub fn socket_path(state_dir: &Path) -> PathBuf {
    crate::socket::path(state_dir, "executor.sock")
}

/// A wish to stop, to one process: a later one must not obey it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Stop {
    mode: StopMode,
    whom: Holder,
}

/// Whether it is to take no new work.
pub fn is_draining(state_dir: &Path) -> bool {
    state_dir.join(DRAIN).exists()
}

/// Has it take no new work, or take work again. Gives whether that is a change.
///
/// # Errors
/// Those of the file system.
pub fn set_draining(state_dir: &Path, draining: bool) -> io::Result<bool> {
    let path = state_dir.join(DRAIN);
    if path.exists() == draining {
        return Ok(false);
    }
    if draining {
        write(&path, b"")?;
    } else {
        std::fs::remove_file(&path)?;
    }
    Ok(true)
}

/// Has the process that holds the state folder stop.
///
/// # Errors
/// Those of the file system.
pub fn ask_to_stop(state_dir: &Path, mode: StopMode, whom: &Holder) -> io::Result<()> {
    let stop = Stop { mode, whom: whom.clone() };
    write(&state_dir.join(STOP), &serde_json::to_vec(&stop)?)
}

/// Takes a wish to stop that is meant for this process, or was for an earlier one.
pub(super) fn take_stop(state_dir: &Path) -> Option<StopMode> {
    let path = state_dir.join(STOP);
    let text = std::fs::read(&path).ok()?;
    if let Err(error) = std::fs::remove_file(&path) {
        tracing::warn!(%error, path = %path.display(), "the wish to stop stays");
    }
    let stop: Stop =
        serde_json::from_slice(&text).inspect_err(|error| tracing::warn!(%error, "a wish to stop is not understood")).ok()?;
    (stop.whom == Holder::here()).then_some(stop.mode)
}

pub(super) fn write_card(state_dir: &Path, card: &model::Status) -> io::Result<()> {
    write(&state_dir.join(CARD), &serde_json::to_vec_pretty(card)?)
}

/// How the executor stood when it started last; none: it never did.
fn read_card(state_dir: &Path) -> Result<Option<model::Status>, String> {
    match std::fs::read(state_dir.join(CARD)) {
        Ok(text) => serde_json::from_slice(&text).map(Some).map_err(|e| e.to_string()),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e.to_string()),
    }
}

/// Whole or not at all, 0600.
fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = tempfile::NamedTempFile::new_in(path.parent().unwrap_or(Path::new(".")))?;
    file.write_all(bytes)?;
    file.persist(path).map(drop).map_err(|e| e.error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wish_to_stop_is_obeyed_by_the_process_it_is_meant_for() {
        let folder = tempfile::tempdir().unwrap();
        let state = folder.path();
        assert_eq!(take_stop(state), None);
        ask_to_stop(state, StopMode::WhenDrained, &Holder::here()).unwrap();
        assert_eq!(take_stop(state), Some(StopMode::WhenDrained));
        assert_eq!(take_stop(state), None, "once");
        let earlier = Holder { pid: 1, ..Holder::here() };
        ask_to_stop(state, StopMode::Now, &earlier).unwrap();
        assert_eq!(take_stop(state), None);
        assert!(!state.join(STOP).exists());
    }

    #[test]
    fn draining_is_a_switch() {
        let folder = tempfile::tempdir().unwrap();
        let state = folder.path();
        assert!(!is_draining(state));
        assert!(!set_draining(state, false).unwrap());
        assert!(set_draining(state, true).unwrap() && is_draining(state));
        assert!(!set_draining(state, true).unwrap());
        assert!(set_draining(state, false).unwrap() && !is_draining(state));
    }
}
