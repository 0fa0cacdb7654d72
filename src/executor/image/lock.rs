//! Locks that executors share, also over a network file system; who holds one stands in its file.

use std::fs::File;
use std::fs::OpenOptions;
use std::fs::TryLockError;
use std::io::Read;
use std::io::Seek;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// A lock that is held until this is dropped, or the process dies.
#[derive(Debug)]
pub struct Held(#[expect(dead_code, reason = "it is the open file that holds the lock")] File);

/// What came of trying to take a lock.
#[derive(Debug)]
pub enum Tried {
    /// It is ours.
    Held(Held),
    /// Another one holds it: its words about itself.
    Busy(String),
    /// The file system knows no locks.
    Unknown,
}

/// Takes a lock where it is free.
///
/// # Errors
/// Those of the file system.
pub fn attempt(path: &Path) -> std::io::Result<Tried> {
    let mut file = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)?;
    match file.try_lock() {
        Ok(()) => {
            file.set_len(0)?;
            file.rewind()?;
            file.write_all(here().as_bytes())?;
            Ok(Tried::Held(Held(file)))
        }
        Err(TryLockError::WouldBlock) => {
            let mut holder = String::new();
            file.take(300).read_to_string(&mut holder)?;
            let holder: String = holder.chars().filter(|c| !c.is_control()).collect();
            Ok(Tried::Busy(if holder.is_empty() { "another executor".into() } else { holder }))
        }
        Err(TryLockError::Error(error)) => match error.raw_os_error() {
            Some(libc::ENOLCK | libc::ENOSYS | libc::EOPNOTSUPP) => Ok(Tried::Unknown),
            _ => Err(error),
        },
    }
}

fn here() -> String {
    format!("process {} on {}", std::process::id(), crate::executor::backend::process::session::host_name())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_at_a_time_and_the_holder_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lock");
        let Tried::Held(held) = attempt(&path).unwrap() else { panic!() };
        match attempt(&path).unwrap() {
            Tried::Busy(holder) => assert!(holder.contains(&std::process::id().to_string()), "{holder}"),
            other => panic!("{other:?}"),
        }
        drop(held);
        assert!(matches!(attempt(&path).unwrap(), Tried::Held(_)));
    }
}
