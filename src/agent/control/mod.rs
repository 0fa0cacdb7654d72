//! The control socket: HTTP/1.1 and JSON over a Unix socket that only its owner can open. `docs/control.md` is its manual.

pub mod client;
pub mod model;
pub mod server;

use std::path::Path;
use std::path::PathBuf;

/// Where the socket is.
pub fn socket_path(state: &Path) -> PathBuf {
    crate::socket::path(state, "agent.sock")
}
