//! Small files that are replaced whole, and are whole when the machine died as well.

use std::fs::File;
use std::io::Result;
use std::io::Write;
use std::path::Path;
use tempfile::NamedTempFile;

/// Name of a file that is not whole yet.
const PREFIX: &str = ".new-";

/// A file without its name yet, for its owner only: its bytes are on the disk, so that they are there when the name is.
///
/// `folder` is where it waits: on the file system that it is meant for.
///
/// # Errors
/// Those of the file system.
pub fn written(folder: &Path, bytes: &[u8]) -> Result<NamedTempFile> {
    // Made 0600.
    let mut file = tempfile::Builder::new().prefix(PREFIX).tempfile_in(folder)?;
    file.write_all(bytes)?;
    file.as_file().sync_all()?;
    Ok(file)
}

/// Puts a file that only its owner can read in the place of an earlier one: at any moment one of both is there, whole. After a
/// loss of power it may be the earlier one.
///
/// # Errors
/// Those of the file system.
pub fn replace(path: &Path, bytes: &[u8]) -> Result<()> {
    written(folder_of(path), bytes)?.persist(path)?;
    Ok(())
}

/// The same, and waits until the new one will be found whatever happens.
///
/// # Errors
/// Those of the file system.
pub fn replace_for_good(path: &Path, bytes: &[u8]) -> Result<()> {
    replace(path, bytes)?;
    File::open(folder_of(path))?.sync_all()
}

fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn files_are_replaced_and_do_not_get_in_each_others_way() {
        let folder = tempfile::tempdir().unwrap();
        let path = |n: u32| folder.path().join(format!("position.{n}"));
        std::thread::scope(|scope| {
            for n in 0..4 {
                scope.spawn(move || {
                    for text in ["a", "longer", "b"] {
                        replace_for_good(&path(n / 2), format!("{text} {}", n / 2).as_bytes()).unwrap();
                    }
                });
            }
        });
        for n in 0..2 {
            assert_eq!(std::fs::read_to_string(path(n)).unwrap(), format!("b {n}"));
            assert_eq!(std::fs::metadata(path(n)).unwrap().permissions().mode() & 0o777, 0o600);
        }
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 2);
    }

    #[test]
    fn what_cannot_be_put_there_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let taken = folder.path().join("taken");
        std::fs::create_dir(&taken).unwrap();
        assert!(replace(&taken, b"text").is_err());
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
        assert!(replace(&folder.path().join("gone/file"), b"text").is_err());
    }
}
