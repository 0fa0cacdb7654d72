//! One agent for each state folder: a lock that lasts as long as the process, with a word on who holds it.
//!
//! The lock is the truth, the socket is not: a socket that a dead agent left behind is removed by the next one that has the lock.

use super::Error;
use serde::Deserialize;
use serde::Serialize;
use std::fs::File;
use std::io::Read;
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::path::PathBuf;
use std::time::Duration;
use std::time::Instant;

/// For so long a lock is waited for whose holder is dead.
const GHOST: Duration = Duration::from_secs(5);
/// How often it is looked.
const GHOST_LOOK: Duration = Duration::from_millis(10);

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

    /// Whether its process lives, as far as can be seen from here: one on another machine does.
    fn is_alive(&self) -> bool {
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

/// Held by the agent while it lives.
#[derive(Debug)]
pub struct AgentLock {
    file: File,
    path: PathBuf,
}

impl AgentLock {
    /// Whether it still keeps others out: false where the state folder was deleted, replaced or cannot be seen, so that what is
    /// written there is written into files without a name, or beside another agent.
    pub fn holds(&self) -> bool {
        let id = |metadata: std::fs::Metadata| (metadata.dev(), metadata.ino());
        match (self.file.metadata(), std::fs::metadata(&self.path)) {
            (Ok(held), Ok(there)) => id(held) == id(there),
            _ => false,
        }
    }
}

/// Where the lock is.
pub fn path(state: &Path) -> PathBuf {
    state.join("agent.lock")
}

/// Takes the lock.
///
/// # Errors
/// [`Error::Running`] with who has it.
pub fn take(state: &Path) -> Result<AgentLock, Error> {
    let path = path(state);
    let failed = |source| Error::Folder { what: "the agent's lock", path: path.clone(), source };
    crate::sqlite::private_folder(state).map_err(failed)?;
    let mut file = File::options().create(true).truncate(false).read(true).write(true).mode(0o600).open(&path).map_err(failed)?;
    let end = Instant::now() + GHOST;
    loop {
        match file.try_lock() {
            Ok(()) => break,
            // A child that a dead agent had just begun holds it until it is a program of its own; and somebody who asks who has it
            // holds it for a moment. Nothing tells of the end of either.
            Err(std::fs::TryLockError::WouldBlock) if Instant::now() < end && !read(&path).is_some_and(|h| h.is_alive()) => {
                std::thread::sleep(GHOST_LOOK);
            }
            Err(std::fs::TryLockError::WouldBlock) => return Err(Error::Running { holder: describe(&path) }),
            Err(std::fs::TryLockError::Error(error)) => return Err(failed(error)),
        }
    }
    let text = serde_json::to_string(&Holder::here()).unwrap_or_default();
    file.set_len(0).and_then(|()| file.write_all(text.as_bytes())).map_err(failed)?;
    Ok(AgentLock { file, path })
}

/// Who holds the lock; none: nobody.
pub fn holder(state: &Path) -> Option<Result<Holder, String>> {
    let path = path(state);
    let file = File::options().read(true).open(&path).ok()?;
    match file.try_lock_shared() {
        Ok(()) => None,
        Err(_) => Some(read(&path).ok_or_else(|| "somebody".to_owned())),
    }
}

fn read(path: &Path) -> Option<Holder> {
    let mut text = String::new();
    File::open(path).ok()?.read_to_string(&mut text).ok()?;
    serde_json::from_str(&text).ok()
}

fn describe(path: &Path) -> String {
    read(path).map_or("somebody".into(), |holder| holder.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_that_outlives_its_holder_for_a_moment_is_waited_for() {
        let state = tempfile::tempdir().unwrap();
        let lock = take(state.path()).unwrap();
        // As if another process had written it, and had died since: no process has this number.
        let dead = Holder { pid: u32::MAX, ..Holder::here() };
        std::fs::write(path(state.path()), serde_json::to_string(&dead).unwrap()).unwrap();
        let ends = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(100));
            drop(lock);
        });
        take(state.path()).unwrap();
        ends.join().unwrap();
    }

    #[test]
    fn the_second_is_told_who_is_first() {
        let state = tempfile::tempdir().unwrap();
        assert!(holder(state.path()).is_none());
        let lock = take(state.path()).unwrap();
        assert_eq!(holder(state.path()), Some(Ok(Holder::here())));
        let refused = take(state.path()).unwrap_err();
        assert!(refused.to_string().contains(&format!("process {}", std::process::id())), "{refused}");
        assert!(lock.holds());
        std::fs::remove_file(path(state.path())).unwrap();
        assert!(!lock.holds());
        drop(lock);
        assert!(holder(state.path()).is_none());
        take(state.path()).unwrap();
    }
}
