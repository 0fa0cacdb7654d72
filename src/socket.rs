//! HTTP over a Unix socket that only its owner can open: how the command line talks to what runs in the background.

use axum::Router;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::path::PathBuf;
use tokio::net::UnixListener;
use tokio::net::UnixStream;

/// Where the socket of a folder is. The path of a socket may have some hundred bytes at most: a folder with a longer one gets a
/// socket in the runtime folder, named by it.
pub fn path(folder: &Path, name: &str) -> PathBuf {
    const LONGEST: usize = 100;
    let usual = folder.join(name);
    if usual.as_os_str().len() <= LONGEST {
        return usual;
    }
    let name = blake3::hash(folder.as_os_str().as_encoded_bytes()).to_hex();
    let folder = std::env::var_os("XDG_RUNTIME_DIR").map_or_else(std::env::temp_dir, PathBuf::from);
    // SAFETY: no arguments, always succeeds.
    let user = unsafe { libc::getuid() };
    folder.join(format!("pollinator-{user}")).join(format!("{}.sock", &name[..16]))
}

/// The open socket; removed when this is dropped.
pub struct Socket {
    path: PathBuf,
    /// Device and inode: a later one's socket may stand in its place.
    id: Option<(u64, u64)>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Socket {
    fn drop(&mut self) {
        self.task.abort();
        if self.id.is_none() || self.id != id_of(&self.path) {
            return;
        }
        if let Err(error) = std::fs::remove_file(&self.path) {
            tracing::debug!(%error, path = %self.path.display(), "the socket is not removed");
        }
    }
}

/// Device and inode of what stands there.
fn id_of(path: &Path) -> Option<(u64, u64)> {
    std::fs::symlink_metadata(path).ok().map(|metadata| (metadata.dev(), metadata.ino()))
}

/// Opens a socket and answers there. Whoever calls holds the folder's lock: a socket that stands there is a dead one's.
///
/// # Errors
/// Those of the file system.
pub fn serve(path: &Path, router: Router) -> io::Result<Socket> {
    if let Some(folder) = path.parent() {
        crate::sqlite::private_folder(folder)?;
    }
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    let task = tokio::spawn(async move {
        if let Err(error) = axum::serve(OwnersOnly(listener), router).await {
            tracing::error!(%error, "the control socket is closed");
        }
    });
    Ok(Socket { id: id_of(path), path: path.into(), task })
}

/// A client of the socket.
///
/// # Errors
/// Says in words why there can be none.
pub fn client(path: &Path) -> Result<reqwest::Client, String> {
    let built = reqwest::Client::builder().unix_socket(PathBuf::from(path)).no_proxy().build();
    built.map_err(|e| e.to_string())
}

/// Takes connections of the same user only (and of root), whatever the permissions of the file say.
struct OwnersOnly(UnixListener);

impl axum::serve::Listener for OwnersOnly {
    type Io = UnixStream;
    type Addr = tokio::net::unix::SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        // SAFETY: no arguments, always succeeds.
        let own = unsafe { libc::getuid() };
        loop {
            match self.0.accept().await {
                Ok((stream, address)) => match stream.peer_cred() {
                    Ok(peer) if peer.uid() == own || peer.uid() == 0 => return (stream, address),
                    Ok(peer) => tracing::warn!(user = peer.uid(), "another user is refused"),
                    Err(error) => tracing::warn!(%error, "it cannot be seen who calls"),
                },
                Err(error) => {
                    // Too many open files: others may be closed meanwhile.
                    tracing::warn!(%error, "no connection can be taken");
                    tokio::time::sleep(std::time::Duration::from_millis(200)).await;
                }
            }
        }
    }

    fn local_addr(&self) -> io::Result<Self::Addr> {
        self.0.local_addr()
    }
}
