//! Whether a job that was told to start did, or never will.
//!
//! Before a backend is told, `try.N` is made in the job's folder; the job's first act is to make `began.N`, and it ends at
//! once where that file is there. So whoever asks later makes the file himself: it is either too late for him or for the
//! job, and never for neither. Making a file that must not be there is atomic on network file systems, too. Ours appears
//! with a mark in it, so that also a later life of the executor tells it from the job's, which is empty.

use super::Failure;
use std::fs::OpenOptions;
use std::io::ErrorKind;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// What stands in a file that we made so that the job does not begin.
const MARK: &str = "never\n";

/// The last try to start a job in this folder, where there was one.
///
/// # Errors
/// [`Failure::Unanswered`] where the file system does not say: that is no "no".
pub fn last(folder: &Path) -> Result<Option<u32>, Failure> {
    let mut last = None;
    for number in 0.. {
        match std::fs::symlink_metadata(folder.join(format!("try.{number}"))) {
            Ok(_) => last = Some(number),
            Err(error) if error.kind() == ErrorKind::NotFound => break,
            Err(error) => {
                let what = format!("the folder of the job ({})", folder.display());
                return Err(Failure::Unanswered { what, reason: error.to_string() });
            }
        }
    }
    Ok(last)
}

/// Notes the next try; gives its number.
///
/// # Errors
/// Those of the file system.
pub fn next(folder: &Path) -> Result<u32, Failure> {
    let next = last(folder)?.map_or(0, |n| n + 1);
    let path = folder.join(format!("try.{next}"));
    let made = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path);
    made.map_err(Failure::io("cannot write in the folder of the job", path))?;
    Ok(next)
}

/// Settles whether the last try began: false where there was none, or where it did not begin and now never will.
///
/// # Errors
/// Those of the file system.
pub fn began(folder: &Path) -> Result<bool, Failure> {
    match last(folder)? {
        Some(n) => forestall(folder, &folder.join(format!("began.{n}"))),
        None => Ok(false),
    }
}

/// Makes the file that the job would make, whole at once; true where the job was faster.
fn forestall(folder: &Path, began: &Path) -> Result<bool, Failure> {
    let mark = folder.join("never");
    let failed = || Failure::io("cannot write in the folder of the job", &mark);
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&mark).map_err(failed())?;
    file.write_all(MARK.as_bytes()).map_err(failed())?;
    match std::fs::hard_link(&mark, began) {
        Ok(()) => Ok(false),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => is_the_jobs(began),
        Err(_) => without_links(began),
    }
}

/// The same on a file system without hard links. An executor that dies between the two lines takes its own file for the
/// job's, which is then looked for in vain.
fn without_links(began: &Path) -> Result<bool, Failure> {
    let failed = || Failure::io("cannot write in the folder of the job", began);
    match OpenOptions::new().write(true).create_new(true).mode(0o600).open(began) {
        Ok(mut file) => file.write_all(MARK.as_bytes()).map(|()| false).map_err(failed()),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => is_the_jobs(began),
        Err(error) => Err(failed()(error)),
    }
}

/// Whether a file that stands there was made by the job, not by an earlier life of ours.
fn is_the_jobs(began: &Path) -> Result<bool, Failure> {
    let text = std::fs::read(began).map_err(Failure::io("cannot read in the folder of the job", began))?;
    Ok(text != MARK.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As the job does it.
    fn claimed(path: &Path) -> bool {
        let script = "( set -C; : > \"$1\" ) 2>/dev/null";
        std::process::Command::new("/bin/sh").args(["-c", script, "sh"]).arg(path).status().unwrap().success()
    }

    #[test]
    fn either_the_job_began_or_it_never_will() {
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path();
        assert!(!began(dir).unwrap(), "nothing was tried");
        assert_eq!(next(dir).unwrap(), 0);
        assert!(!began(dir).unwrap(), "we were faster");
        assert!(!claimed(&dir.join("began.0")), "the job ends at once");
        assert!(!began(dir).unwrap(), "a later life knows that it was us");
        assert_eq!(next(dir).unwrap(), 1);
        assert!(claimed(&dir.join("began.1")));
        assert!(began(dir).unwrap(), "the job was faster");
    }

    #[test]
    fn without_hard_links_too() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("began.0");
        assert!(!without_links(&path).unwrap());
        assert!(!without_links(&path).unwrap(), "it was us");
        let other = folder.path().join("began.1");
        assert!(claimed(&other));
        assert!(without_links(&other).unwrap());
    }

    #[test]
    fn a_folder_that_cannot_be_asked_is_no_no() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        std::fs::write(&file, "").unwrap();
        assert!(last(&file).unwrap_err().is_temporary(), "not a directory");
        assert_eq!(last(&folder.path().join("gone")).unwrap(), None);
    }
}
