//! One process for each state folder: a lock that lasts as long as the process, with a word on who holds it.
//!
//! The lock is the truth, a socket is not: a socket that a dead process left behind is removed by the next one that has the lock.

use serde::Deserialize;
use serde::Serialize;
use std::fs::File;
use std::fs::TryLockError;
use std::io::Read;
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::path::PathBuf;
use std::time::Duration;
use std::time::Instant;

/// How often a lock that is waited for is tried: nothing tells of its end.
const LOOK: Duration = Duration::from_millis(10);

/// Why the lock cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Somebody has it.
    #[error("it is held by {}", holder.as_ref().map_or("somebody".into(), Holder::to_string))]
    Held {
        /// Who, where that can be read.
        holder: Option<Holder>,
    },
    /// The file cannot be made or locked.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
}

/// Who holds the lock.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    /// Its process id.
    pub pid: u32,
    /// The machine that it runs on: state folders may be shared by several.
    pub host: String,
    /// The boot of that machine.
    pub boot: String,
    /// Its version.
    pub version: String,
}

impl Holder {
    /// This process.
    pub fn here() -> Holder {
        let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        Holder {
            pid: std::process::id(),
            host: host(),
            boot: boot.trim().to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
        }
    }

    /// Whether it is on this machine, as this machine was booted last.
    pub fn is_here(&self) -> bool {
        let here = Holder::here();
        self.host == here.host && self.boot == here.boot
    }

    /// Whether its process lives, as far as can be seen from here: one on another machine does.
    pub fn is_alive(&self) -> bool {
        let here = Holder::here();
        if self.host != here.host {
            return true;
        }
        if self.boot != here.boot {
            return false;
        }
        match std::fs::read_to_string(format!("/proc/{}/stat", self.pid)) {
            // The state stands behind the name, which may hold anything.
            Ok(stat) => !stat.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with(['Z', 'X'])),
            Err(_) if Path::new("/proc/self/stat").exists() => false,
            // SAFETY: signal 0 only asks whether the process is there.
            Err(_) => i32::try_from(self.pid).is_ok_and(|pid| unsafe { libc::kill(pid, 0) } == 0),
        }
    }
}

impl std::fmt::Display for Holder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "process {} on {}, version {}", self.pid, self.host, self.version)
    }
}

/// The machine's name.
pub fn host() -> String {
    let mut name = [0u8; 256];
    // SAFETY: a buffer and its length.
    let failed = unsafe { libc::gethostname(name.as_mut_ptr().cast(), name.len()) } != 0;
    let end = name.iter().position(|b| *b == 0).unwrap_or(name.len());
    if failed { "this machine".into() } else { String::from_utf8_lossy(&name[..end]).into_owned() }
}

/// Held while its owner lives.
#[derive(Debug)]
pub struct Lock {
    file: File,
    path: PathBuf,
}

impl Lock {
    /// Whether it still keeps others out: false where the state folder was deleted, replaced or cannot be seen, so that what is
    /// written there is written into files without a name, or beside another process.
    pub fn holds(&self) -> bool {
        let id = |metadata: std::fs::Metadata| (metadata.dev(), metadata.ino());
        match (self.file.metadata(), std::fs::metadata(&self.path)) {
            (Ok(held), Ok(there)) => id(held) == id(there),
            _ => false,
        }
    }
}

/// Takes the lock that is this file; its folder is made where it is missing. `patience` says how long to wait for whoever has it:
/// a child that a dead process had just begun holds it until it is a program of its own, and somebody who asks who has it holds
/// it for a moment.
///
/// # Errors
/// [`Error::Held`] with who has it.
pub fn take(path: &Path, patience: impl Fn(Option<&Holder>) -> Duration) -> Result<Lock, Error> {
    let failed = |source| Error::Io { path: path.into(), source };
    crate::sqlite::private_folder(path.parent().unwrap_or(Path::new("."))).map_err(failed)?;
    let mut file = File::options().create(true).truncate(false).read(true).write(true).mode(0o600).open(path).map_err(failed)?;
    let begun = Instant::now();
    loop {
        match file.try_lock() {
            Ok(()) => break,
            Err(TryLockError::WouldBlock) => {
                let holder = read(path);
                if begun.elapsed() >= patience(holder.as_ref()) {
                    return Err(Error::Held { holder });
                }
                std::thread::sleep(LOOK);
            }
            Err(TryLockError::Error(error)) => return Err(failed(error)),
        }
    }
    let text = serde_json::to_string(&Holder::here()).unwrap_or_default();
    file.set_len(0).and_then(|()| file.write_all(text.as_bytes())).map_err(failed)?;
    Ok(Lock { file, path: path.into() })
}

/// Who holds the lock; none: nobody.
pub fn holder(path: &Path) -> Option<Result<Holder, String>> {
    let file = File::options().read(true).open(path).ok()?;
    match file.try_lock_shared() {
        Ok(()) => None,
        Err(_) => Some(read(path).ok_or_else(|| "somebody".to_owned())),
    }
}

fn read(path: &Path) -> Option<Holder> {
    let mut text = String::new();
    File::open(path).ok()?.read_to_string(&mut text).ok()?;
    serde_json::from_str(&text).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(60);

    #[test]
    fn a_lock_that_outlives_its_holder_for_a_moment_is_waited_for() {
        let state = tempfile::tempdir().unwrap();
        let path = state.path().join("a.lock");
        let lock = take(&path, |_| Duration::ZERO).unwrap();
        // As if another process had written it, and had died since: no process has this number.
        let dead = Holder { pid: u32::MAX, ..Holder::here() };
        std::fs::write(&path, serde_json::to_string(&dead).unwrap()).unwrap();
        let ends = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(100));
            drop(lock);
        });
        take(&path, |holder| if holder.is_some_and(Holder::is_alive) { Duration::ZERO } else { PATIENCE }).unwrap();
        ends.join().unwrap();
    }

    #[test]
    fn the_second_is_told_who_is_first() {
        let state = tempfile::tempdir().unwrap();
        let path = state.path().join("new/a.lock");
        assert!(holder(&path).is_none());
        let lock = take(&path, |_| Duration::ZERO).unwrap();
        assert_eq!(holder(&path), Some(Ok(Holder::here())));
        assert!(Holder::here().is_here());
        let refused = take(&path, |_| Duration::ZERO).unwrap_err();
        assert!(refused.to_string().contains(&format!("process {}", std::process::id())), "{refused}");
        assert!(lock.holds());
        std::fs::remove_file(&path).unwrap();
        assert!(!lock.holds());
        drop(lock);
        assert!(holder(&path).is_none());
        take(&path, |_| Duration::ZERO).unwrap();
    }
}
