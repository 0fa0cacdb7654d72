//! The control socket: HTTP/1.1 and JSON over a Unix socket that only its owner can open. `docs/control.md` is its manual.

pub mod client;
pub mod model;
pub mod server;

use std::path::Path;
use std::path::PathBuf;

/// Where the socket is. The path of a socket may have some hundred bytes at most: a state folder with a longer one gets a socket in
/// the runtime folder, named by it.
pub fn socket_path(state: &Path) -> PathBuf {
    const LONGEST: usize = 100;
    let usual = state.join("agent.sock");
    if usual.as_os_str().len() <= LONGEST {
        return usual;
    }
    let name = blake3::hash(state.as_os_str().as_encoded_bytes()).to_hex();
    let folder = std::env::var_os("XDG_RUNTIME_DIR").map_or_else(std::env::temp_dir, PathBuf::from);
    // SAFETY: no arguments, always succeeds.
    let user = unsafe { libc::getuid() };
    folder.join(format!("pollinator-{user}")).join(format!("{}.sock", &name[..16]))
}
