//! Whether a job that was told to start did, or never will.
//!
//! Before a backend is told, `try.N` is made in the job's folder; the job's first act is to make `began.N`, and it ends at
//! once where that file is there. So whoever asks later makes the file himself: it is either too late for him or for the
//! job, and never for neither. Making a file that must not be there is atomic on network file systems, too.

use super::Failure;
use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// The last try to start a job in this folder, where there was one.
pub fn last(folder: &Path) -> Option<u32> {
    (0..).take_while(|n| folder.join(format!("try.{n}")).exists()).last()
}

/// Notes the next try; gives its number.
///
/// # Errors
/// Those of the file system.
pub fn next(folder: &Path) -> Result<u32, Failure> {
    let next = last(folder).map_or(0, |n| n + 1);
    claim(&folder.join(format!("try.{next}")))?;
    Ok(next)
}

/// Settles whether the last try began: false where there was none, or where it did not begin and now never will.
///
/// # Errors
/// Those of the file system.
pub fn began(folder: &Path) -> Result<bool, Failure> {
    match last(folder) {
        Some(n) => Ok(!claim(&folder.join(format!("began.{n}")))?),
        None => Ok(false),
    }
}

/// Makes a file that must not be there yet; false where it is.
fn claim(path: &Path) -> Result<bool, Failure> {
    match OpenOptions::new().write(true).create_new(true).mode(0o600).open(path) {
        Ok(_) => Ok(true),
        Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => Ok(false),
        Err(e) => Err(Failure::io("cannot write in the folder of the job", path)(e)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn either_the_job_began_or_it_never_will() {
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path();
        assert!(!began(dir).unwrap(), "nothing was tried");
        assert_eq!(next(dir).unwrap(), 0);
        assert!(!began(dir).unwrap(), "we were faster");
        assert!(!claim(&dir.join("began.0")).unwrap(), "the job ends at once");
        assert_eq!(next(dir).unwrap(), 1);
        assert!(claim(&dir.join("began.1")).unwrap());
        assert!(began(dir).unwrap(), "the job was faster");
    }
}
