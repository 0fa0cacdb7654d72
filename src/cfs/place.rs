//! Files of the local tree: putting a whole file in place of another, removing one, keeping one aside. What was looked at may
//! have been written to since, so whatever is taken away is looked at once more after it was taken, and kept if it is not what
//! was planned for.

use super::Error;
use super::upload::Failed;
use crate::index::Folder;
use crate::index::RelPath;
use crate::index::Stat;
use crate::index::TEMPORARY;
use std::ffi::CString;
use std::ffi::OsStr;
use std::ffi::OsString;
use std::io;
use std::io::ErrorKind;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;

/// Permission bits of a folder; the user's mask takes from them.
const FOLDER_MODE: u32 = 0o777;

/// What is known of the place where a file is put.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Expected {
    /// Nothing that may be replaced: whatever is there is kept aside.
    Nothing,
    /// This was there, and may be replaced as long as it is still this.
    Seen(Stat),
    /// Whatever is there is replaced: the folder is ours alone.
    Anything,
}

/// A local failure on `path`: no space befalls every file, the rest is this file's matter.
pub(super) fn local(path: &Path, error: &io::Error) -> Failed {
    match error.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge => {
            Failed::All(Error::NoSpace { path: path.to_owned() })
        }
        _ => Failed::File(format!("cannot be written: {error}")),
    }
}

/// Where a file is put: the folder that it stands in is open, so that nobody can lead us to another one.
#[derive(Clone, Debug)]
pub(super) struct Way {
    folder: Arc<Folder>,
    name: OsString,
}

impl Way {
    /// Its path, as long as this lives: by way of the open folder.
    pub(super) fn target(&self) -> PathBuf {
        self.folder.at(&self.name)
    }

    /// Its path as people know it.
    pub(super) fn full(&self) -> PathBuf {
        self.folder.name().join(&self.name)
    }
}

/// Makes the folders that lead to a file. A folder that is a symbolic link, or a file, is refused: what is written must stay below
/// the tree. `root` holds no link.
pub(super) fn make_way(root: &Path, path: &RelPath) -> Result<Way, Failed> {
    let mut folder = Folder::make(root).map_err(|e| local(root, &e))?;
    let mut ancestors: Vec<RelPath> = path.ancestors().collect();
    ancestors.reverse();
    for ancestor in ancestors {
        folder = folder.enter_or_make(OsStr::new(ancestor.name()), FOLDER_MODE).map_err(|error| match error.kind() {
            ErrorKind::NotADirectory => in_the_way(root, &ancestor),
            _ => local(&ancestor.under(root), &error),
        })?;
    }
    let way = Way { folder: Arc::new(folder), name: path.name().into() };
    match way.target().symlink_metadata() {
        Ok(metadata) if metadata.is_dir() && !path.is_folder_marker() => {
            Err(Failed::File("cannot be written: a folder of that name is here".into()))
        }
        _ => Ok(way),
    }
}

fn in_the_way(root: &Path, folder: &RelPath) -> Failed {
    let is_link = folder.under(root).symlink_metadata().is_ok_and(|found| found.is_symlink());
    Failed::File(match is_link {
        true => format!("is not written: {folder} is a symbolic link here"),
        false => format!("cannot be written: {folder} is a file here"),
    })
}

/// Removes a file that is still what was looked at (or the folder that a marker stands for), and the folders above it that are
/// empty then. A folder that is a link by now is left alone, with all that it leads to.
pub(super) fn remove_below(root: &Path, path: &RelPath, seen: &Stat) -> io::Result<()> {
    let mut ancestors: Vec<RelPath> = path.ancestors().collect();
    ancestors.reverse();
    let mut folders = vec![Folder::open(root)?];
    for ancestor in &ancestors {
        let Some(within) = folders.last() else { break };
        match within.enter(OsStr::new(ancestor.name())) {
            Ok(folder) => folders.push(folder),
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(error),
        }
    }
    if let (Some(folder), false) = (folders.last(), path.is_folder_marker()) {
        remove_unwritten(&folder.at(OsStr::new(path.name())), seen)?;
    }
    for (within, name) in folders.iter().zip(&ancestors).rev() {
        // A folder that holds something stays.
        if std::fs::remove_dir(within.at(OsStr::new(name.name()))).is_err() {
            break;
        }
    }
    Ok(())
}

/// `.<name>.pollinator-<random>` in the same folder, so that renaming it is one step.
pub(super) fn temporary_beside(target: &Path) -> io::Result<PathBuf> {
    beside(target, "")
}

/// A name for what a user may have written, while it is looked at once more. It is not a download's, which are swept away when
/// they are old: after a crash at this very moment the file stays.
fn swap_name(target: &Path) -> io::Result<PathBuf> {
    beside(target, "swap-")
}

fn beside(target: &Path, kind: &str) -> io::Result<PathBuf> {
    let mut bytes = [0u8; 8];
    getrandom::fill(&mut bytes).map_err(|e| io::Error::other(format!("no randomness from the system: {e}")))?;
    Ok(named_beside(target, &format!("{kind}{}", hex::encode(bytes))))
}

/// `.<name>.pollinator-<suffix>` in the same folder.
pub(super) fn named_beside(target: &Path, suffix: &str) -> PathBuf {
    let name = target.file_name().unwrap_or_default().to_string_lossy();
    // A name may have 255 bytes; a long one is cut at a character's edge.
    let cut = (0..=name.len().min(200)).rev().find(|at| name.is_char_boundary(*at)).unwrap_or(0);
    target.with_file_name(format!(".{}{TEMPORARY}{suffix}", &name[..cut]))
}

/// Gives a whole, synced temporary file its name. What stands there and is not what was expected is kept aside: its new name
/// (of the file alone) is given back.
pub(super) fn put_in_place(temporary: &Path, target: &Path, mode: u32, expected: Expected) -> Result<Option<String>, Failed> {
    let failed = |e: io::Error| local(target, &e);
    std::fs::set_permissions(temporary, std::fs::Permissions::from_mode(mode)).map_err(failed)?;
    let kept = match expected {
        Expected::Anything => std::fs::rename(temporary, target).map(|()| None),
        Expected::Seen(seen) => replace(temporary, target, &seen),
        Expected::Nothing => insert(temporary, target),
    };
    let kept = kept.map_err(failed)?;
    let folder = target.parent().unwrap_or(Path::new("."));
    std::fs::File::open(folder).and_then(|f| f.sync_all()).map_err(|e| local(folder, &e))?;
    Ok(kept)
}

/// Puts a file where nothing is; what appeared there meanwhile is kept aside.
fn insert(temporary: &Path, target: &Path) -> io::Result<Option<String>> {
    let mut kept = None;
    loop {
        match rename(temporary, target, Flag::NoReplace) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => kept = Some(keep_aside(target)?),
            other => return other.map(|()| kept),
        }
    }
}

/// Swaps both, and then looks at what came out.
fn replace(temporary: &Path, target: &Path, seen: &Stat) -> io::Result<Option<String>> {
    let swapped = swap_name(target)?;
    std::fs::rename(temporary, &swapped)?;
    let outcome = exchange(&swapped, target, seen);
    if outcome.is_err() {
        // Back under the name that is cleaned up. Where even that fails, the first error tells more.
        let _ = rename(&swapped, temporary, Flag::NoReplace);
    }
    outcome
}

fn exchange(temporary: &Path, target: &Path, seen: &Stat) -> io::Result<Option<String>> {
    match rename(temporary, target, Flag::Exchange) {
        Ok(()) => {}
        // Gone meanwhile.
        Err(error) if error.kind() == ErrorKind::NotFound => return insert(temporary, target),
        Err(error) if is_unsupported(&error) => {
            let kept = if is_still(target, seen)? { None } else { Some(keep_aside(target)?) };
            return std::fs::rename(temporary, target).map(|()| kept);
        }
        Err(error) => return Err(error),
    }
    if is_still(temporary, seen)? {
        return std::fs::remove_file(temporary).map(|()| None);
    }
    move_aside(temporary, target).map(Some)
}

/// Removes a file that is still what was looked at; what was written to meanwhile stays.
fn remove_unwritten(target: &Path, seen: &Stat) -> io::Result<()> {
    let temporary = swap_name(target)?;
    match rename(target, &temporary, Flag::NoReplace) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        other => other?,
    }
    if is_still(&temporary, seen)? {
        return std::fs::remove_file(&temporary);
    }
    match rename(&temporary, target, Flag::NoReplace) {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => drop(move_aside(&temporary, target)?),
        other => other?,
    }
    Err(io::Error::other("it was changed meanwhile"))
}

fn is_still(path: &Path, seen: &Stat) -> io::Result<bool> {
    match std::fs::metadata(path) {
        Ok(metadata) => Ok(seen.is_unwritten(&Stat::of(&metadata))),
        // A link whose target is gone.
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// Renames a file to `name.local-<time>`; gives that name.
fn keep_aside(target: &Path) -> io::Result<String> {
    move_aside(target, target)
}

/// Renames `from` to the first free name that a kept copy of `target` may have.
fn move_aside(from: &Path, target: &Path) -> io::Result<String> {
    let name = target.file_name().unwrap_or_default().to_string_lossy();
    let stamp = jiff::Timestamp::now().strftime("%Y%m%dT%H%M%SZ");
    for number in 1.. {
        let kept = if number == 1 { format!("{name}.local-{stamp}") } else { format!("{name}.local-{stamp}-{number}") };
        match rename(from, &target.with_file_name(&kept), Flag::NoReplace) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            other => return other.map(|()| kept),
        }
    }
    unreachable!("the numbers do not end")
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Flag {
    NoReplace,
    Exchange,
}

/// Renames in one step, without replacing or with both names exchanged. File systems that can do neither report so for an
/// exchange; there, not replacing is a look and a rename.
fn rename(from: &Path, to: &Path, flag: Flag) -> io::Result<()> {
    match rename_at_once(from, to, flag) {
        Err(error) if is_unsupported(&error) && flag == Flag::NoReplace => match to.symlink_metadata() {
            Ok(_) => Err(ErrorKind::AlreadyExists.into()),
            Err(error) if error.kind() == ErrorKind::NotFound => std::fs::rename(from, to),
            Err(error) => Err(error),
        },
        other => other,
    }
}

fn is_unsupported(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EINVAL | libc::ENOSYS | libc::ENOTSUP))
}

#[cfg(target_os = "linux")]
fn rename_at_once(from: &Path, to: &Path, flag: Flag) -> io::Result<()> {
    // <linux/fs.h>; part of the kernel's interface, so they do not change.
    const RENAME_NOREPLACE: libc::c_uint = 1;
    const RENAME_EXCHANGE: libc::c_uint = 2;
    let (from, to) = (CString::new(from.as_os_str().as_bytes())?, CString::new(to.as_os_str().as_bytes())?);
    let flags = if flag == Flag::Exchange { RENAME_EXCHANGE } else { RENAME_NOREPLACE };
    // SAFETY: both are C strings that live during the call.
    let done = unsafe { libc::syscall(libc::SYS_renameat2, libc::AT_FDCWD, from.as_ptr(), libc::AT_FDCWD, to.as_ptr(), flags) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(not(target_os = "linux"))]
fn rename_at_once(_: &Path, _: &Path, _: Flag) -> io::Result<()> {
    Err(io::Error::from_raw_os_error(libc::ENOSYS))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    struct Place {
        folder: tempfile::TempDir,
    }

    impl Place {
        fn new() -> Place {
            Place { folder: tempfile::tempdir().unwrap() }
        }

        fn path(&self, name: &str) -> PathBuf {
            self.folder.path().join(name)
        }

        fn write(&self, name: &str, text: &str) -> Stat {
            fs::write(self.path(name), text).unwrap();
            Stat::of(&fs::metadata(self.path(name)).unwrap())
        }

        fn put(&self, text: &str, expected: Expected) -> Option<String> {
            self.write("temporary", text);
            let kept = put_in_place(&self.path("temporary"), &self.path("f"), 0o755, expected).unwrap();
            assert_eq!(fs::read_to_string(self.path("f")).unwrap(), text);
            assert_eq!(fs::metadata(self.path("f")).unwrap().permissions().mode() & 0o777, 0o755);
            assert!(!self.path("temporary").exists());
            kept
        }

        fn names(&self) -> Vec<String> {
            let mut names: Vec<_> =
                fs::read_dir(self.folder.path()).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
            names.sort();
            names
        }
    }

    #[test]
    fn what_was_expected_is_replaced_and_anything_else_is_kept() {
        let place = Place::new();
        assert_eq!(place.put("1", Expected::Nothing), None);
        let seen = Stat::of(&fs::metadata(place.path("f")).unwrap());
        assert_eq!(place.put("2", Expected::Seen(seen)), None);
        assert_eq!(place.names(), ["f"]);
        place.write("f", "mine");
        let kept = place.put("3", Expected::Seen(seen)).unwrap();
        assert_eq!(fs::read_to_string(place.path(&kept)).unwrap(), "mine");
        // Twice within a second: both are kept.
        place.write("f", "mine too");
        let second = place.put("4", Expected::Nothing).unwrap();
        assert_eq!(fs::read_to_string(place.path(&second)).unwrap(), "mine too");
        assert_eq!(fs::read_to_string(place.path(&kept)).unwrap(), "mine");
        assert!(kept.starts_with("f.local-20") && kept.ends_with('Z'), "{kept}");
        place.write("f", "whatever");
        assert_eq!(place.put("5", Expected::Anything), None);
        assert_eq!(place.names().len(), 3);
    }

    #[test]
    fn a_file_that_vanished_is_no_obstacle() {
        let place = Place::new();
        let seen = place.write("f", "1");
        fs::remove_file(place.path("f")).unwrap();
        assert_eq!(place.put("2", Expected::Seen(seen)), None);
        fs::remove_file(place.path("f")).unwrap();
        remove_unwritten(&place.path("f"), &seen).unwrap();
    }

    #[test]
    fn only_what_was_looked_at_is_removed() {
        let place = Place::new();
        let seen = place.write("f", "1");
        place.write("f", "2");
        assert!(remove_unwritten(&place.path("f"), &seen).unwrap_err().to_string().contains("changed meanwhile"));
        assert_eq!(fs::read_to_string(place.path("f")).unwrap(), "2");
        let seen = Stat::of(&fs::metadata(place.path("f")).unwrap());
        remove_unwritten(&place.path("f"), &seen).unwrap();
        assert!(place.names().is_empty());
    }

    #[test]
    fn nothing_is_written_through_a_link_or_a_file() {
        let (place, other) = (Place::new(), tempfile::tempdir().unwrap());
        let root = place.folder.path().canonicalize().unwrap();
        std::os::unix::fs::symlink(other.path(), place.path("link")).unwrap();
        place.write("file", "");
        fs::create_dir(place.path("folder")).unwrap();
        for bad in ["link/x", "link/deep/x", "file/x", "folder"] {
            let refused = make_way(&root, &RelPath::parse(bad).unwrap());
            assert!(matches!(refused, Err(Failed::File(_))), "{bad}");
        }
        assert_eq!(fs::read_dir(other.path()).unwrap().count(), 0);
        let fine = make_way(&root, &RelPath::parse("a/b/c").unwrap()).unwrap();
        assert!(root.join("a/b").is_dir() && !fine.target().exists());
        // What a link leads to is not removed either, nor the folder that it took the place of.
        let seen = place.write("kept", "");
        for bad in ["link/kept", "file/x"] {
            assert!(remove_below(&root, &RelPath::parse(bad).unwrap(), &seen).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_temporary_name_fits_whatever_the_name_is() {
        let long = "ü".repeat(127);
        let beside = temporary_beside(&Path::new("/x").join(&long)).unwrap();
        assert!(beside.file_name().unwrap().len() <= 255);
    }
}
