//! Small files that are replaced whole, and are whole when the machine died as well.

use crate::executor::backend::Failure;
use crate::executor::backend::payload;
use std::fs::File;
use std::path::Path;
use std::path::PathBuf;

/// Puts a file that only its owner can read in the place of an earlier one: at any moment one of both is there, whole.
///
/// # Errors
/// Those of the file system.
pub fn replace(path: &Path, bytes: &[u8]) -> Result<(), Failure> {
    let failed = || Failure::io("cannot write in the folder of the job", path);
    let new = beside(path);
    payload::private_file(&new, bytes)?;
    // Else the name may be there before the content is.
    File::open(&new).and_then(|file| file.sync_all()).map_err(failed())?;
    std::fs::rename(&new, path).map_err(failed())
}

/// Waits until a file that was put in its place will be found there, whatever happens.
///
/// # Errors
/// Those of the file system.
pub fn settle(path: &Path) -> Result<(), Failure> {
    let folder = path.parent().unwrap_or(path);
    let synced = File::open(folder).and_then(|folder| folder.sync_all());
    synced.map_err(Failure::io("cannot write in the folder of the job", path))
}

/// Name of the new file until it is whole: its own for each, since several are replaced at once.
fn beside(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".new");
    name.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_replaced_and_do_not_get_in_each_others_way() {
        let folder = tempfile::tempdir().unwrap();
        let path = |n: u32| folder.path().join(format!("position.{n}"));
        assert_ne!(beside(&path(0)), beside(&path(1)));
        std::thread::scope(|scope| {
            for n in 0..4 {
                scope.spawn(move || {
                    for text in ["a", "longer", "b"] {
                        replace(&path(n), format!("{text} {n}").as_bytes()).unwrap();
                    }
                });
            }
        });
        for n in 0..4 {
            assert_eq!(std::fs::read_to_string(path(n)).unwrap(), format!("b {n}"));
        }
        settle(&path(0)).unwrap();
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 4);
    }
}
