//! Files in a place where a job can put anything: only what is a plain file is looked at or read.
//!
//! A link that a job in a container puts there would lead to a file of this machine that the container does not see; a pipe would
//! keep its reader waiting.

use std::fs::File;
use std::fs::OpenOptions;
use std::io;
use std::io::ErrorKind;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// Opens a file to read it; none where there is nothing, or something else.
///
/// # Errors
/// Those of the file system.
pub fn open(path: &Path) -> io::Result<Option<File>> {
    let careful = libc::O_NOFOLLOW | libc::O_NONBLOCK;
    let file = match OpenOptions::new().read(true).custom_flags(careful).open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
        // A link; a socket.
        Err(e) if matches!(e.raw_os_error(), Some(libc::ELOOP | libc::ENXIO)) => return Ok(None),
        Err(e) => return Err(e),
    };
    Ok(file.metadata()?.is_file().then_some(file))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    #[test]
    fn only_plain_files_are_opened() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        std::fs::write(path("file"), "text").unwrap();
        std::os::unix::fs::symlink(path("file"), path("link")).unwrap();
        assert!(std::process::Command::new("mkfifo").arg(path("pipe")).status().unwrap().success());
        let _socket = std::os::unix::net::UnixListener::bind(path("socket")).unwrap();
        let mut text = String::new();
        open(&path("file")).unwrap().unwrap().read_to_string(&mut text).unwrap();
        assert_eq!(text, "text");
        for other in ["link", "pipe", "socket", "nothing", "."] {
            assert!(open(&path(other)).unwrap().is_none(), "{other}");
        }
        assert!(open(&path("file/below")).is_err());
    }
}
