//! A snapshot's files that an earlier snapshot holds already: one copy on the disk serves both.
//!
//! Where the file system can, the new file shares the blocks of the old one and is a file of its own (reflink). Else both names
//! are one file (hard link), which nobody may write: jobs get no write bits on it, and before it is used again what the disk
//! says of it (size, times, inode, mode) is compared with what it said when its bytes were last known, or it is read. Linked are
//! files of snapshots of one label only, so that no project can reach another one's.

use super::shelf::Seal;
use super::shelf::Shelf;
use crate::cfs::RemoteFile;
use crate::executor::passing::is_full;
use crate::index::Folder;
use crate::index::RelPath;
use crate::index::Stat;
use serde::Deserialize;
use sha2::Digest;
use sha2::Sha256;
use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::ffi::CString;
use std::ffi::OsStr;
use std::fs::DirEntry;
use std::fs::File;
use std::fs::Permissions;
use std::io;
use std::io::ErrorKind;
use std::io::Read;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::path::PathBuf;

/// Write bits of everybody.
const WRITE: u32 = 0o222;
/// Permission bits of folders in snapshots.
const FOLDER_MODE: u32 = 0o700;

/// How snapshots share what is the same in them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ShareSnapshots {
    /// By reflink where the file system can, else by hard link.
    #[default]
    Auto,
    /// By reflink, or not at all.
    Reflink,
    /// By hard link.
    Hardlink,
    /// Not at all: each snapshot is a copy, which its jobs may write.
    Never,
}

impl ShareSnapshots {
    /// The permission bits that a file of a snapshot gets.
    fn mode(self, mode: u32) -> u32 {
        if self == ShareSnapshots::Never { mode } else { mode & !WRITE }
    }
}

/// An earlier snapshot.
pub(super) struct Source {
    pub(super) folder: Folder,
    pub(super) files: Vec<RemoteFile>,
    /// Of the same label: its files may be linked.
    pub(super) is_kin: bool,
}

/// What was found and shared.
#[derive(Debug, Default)]
pub(super) struct Arranged {
    /// What has to be brought.
    pub(super) missing: Vec<RemoteFile>,
    /// Where contents of it stand, to be copied: SHA-256 and paths.
    pub(super) elsewhere: BTreeMap<String, Vec<PathBuf>>,
    /// Files that share an earlier snapshot's bytes now.
    pub(super) shared: u64,
    /// Whether something that an earlier snapshot brought to this folder may still be in it.
    pub(super) is_left: bool,
}

/// Works in one snapshot's folder. Blocks.
pub(super) struct Arranger<'a> {
    root: &'a Folder,
    shelf: &'a Shelf,
    share: ShareSnapshots,
    /// Folders in it that stand for themselves, as paths below it: nothing is taken away from them.
    spared: BTreeSet<String>,
    /// The folder that was worked in last: files come sorted.
    within: Option<(RelPath, Folder)>,
    seals: BTreeMap<(u64, u64), Seal>,
    can_reflink: bool,
    cloned: bool,
}

impl<'a> Arranger<'a> {
    pub(super) fn new(root: &'a Folder, shelf: &'a Shelf, share: ShareSnapshots) -> Arranger<'a> {
        let can_reflink = matches!(share, ShareSnapshots::Auto | ShareSnapshots::Reflink);
        let spared = BTreeSet::new();
        Arranger { root, shelf, share, spared, within: None, seals: BTreeMap::new(), can_reflink, cloned: false }
    }

    /// As it is, with folders in it that stand for themselves.
    pub(super) fn sparing(self, spared: BTreeSet<String>) -> Arranger<'a> {
        Arranger { spared, ..self }
    }

    /// Removes what an earlier snapshot brought to this folder and this one does not hold.
    pub(super) fn clear(&mut self, before: &[RemoteFile], wanted: &[RemoteFile]) -> io::Result<()> {
        let names: BTreeSet<&RelPath> = wanted.iter().map(|file| &file.path).collect();
        for RemoteFile { path, .. } in before.iter().filter(|file| !names.contains(&file.path)) {
            if !path.is_folder_marker()
                && let Some(folder) = self.enter(path)?
            {
                match std::fs::remove_file(folder.at(OsStr::new(path.name()))) {
                    // A job has put a folder there, or removed it.
                    Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::IsADirectory) => {}
                    other => other?,
                }
            }
            self.within = None;
            for empty in path.ancestors() {
                let Some(above) = self.enter(&empty)? else { continue };
                // A folder that holds something stays.
                if std::fs::remove_dir(above.at(OsStr::new(empty.name()))).is_err() {
                    break;
                }
                self.within = None;
            }
        }
        Ok(())
    }

    /// Removes everything that this snapshot does not hold: where nobody knows what an earlier one brought to this folder.
    pub(super) fn clear_all(&mut self, wanted: &[RemoteFile]) -> io::Result<()> {
        self.within = None;
        let files = wanted.iter().map(|file| &file.path).filter(|path| !path.is_folder_marker()).map(RelPath::as_str).collect();
        let above = wanted.iter().flat_map(|file| file.path.ancestors()).map(|folder| folder.to_string());
        let above_spared =
            self.spared.iter().flat_map(|path| path.match_indices('/').map(move |(end, _)| path[..end].to_owned()));
        let folders = above.chain(above_spared).collect();
        clear_folder(self.root, "", &Stays { files, folders, spared: &self.spared })
    }

    /// Finds what is here already, and shares what earlier snapshots hold. What is known of files is written down.
    pub(super) fn arrange(&mut self, wanted: &[RemoteFile], sources: &[Source]) -> io::Result<Arranged> {
        let mut arranged = Arranged::default();
        let mut missing = Vec::new();
        for file in wanted {
            if !self.is_here(file)? {
                missing.push(file.clone());
            }
        }
        let mut same: BTreeMap<(&str, &str), Vec<(&Source, &RelPath)>> = BTreeMap::new();
        let contents: BTreeSet<&str> = missing.iter().filter(|f| f.size > 0).map(|f| f.sha256.as_str()).collect();
        for source in sources {
            for file in source.files.iter().filter(|file| contents.contains(file.sha256.as_str())) {
                same.entry((&file.sha256, &file.object)).or_default().push((source, &file.path));
                let places = arranged.elsewhere.entry(file.sha256.clone()).or_default();
                places.push(file.path.under(source.folder.name()));
            }
        }
        for file in missing {
            self.make_way(&file.path)?;
            let places = same.get(&(file.sha256.as_str(), file.object.as_str()));
            let places = places.filter(|_| self.share != ShareSnapshots::Never && file.size > 0);
            match self.share_one(&file, places.map(Vec::as_slice).unwrap_or_default())? {
                true => arranged.shared += 1,
                false => arranged.missing.push(file),
            }
        }
        if self.cloned {
            // All at once: one by one it would take a moment of the disk for each file.
            sync_file_system(&File::open(self.root.here())?)?;
        }
        self.write_down()?;
        Ok(arranged)
    }

    /// Takes files that were brought for what they are: nobody may write them from now on, and they are known.
    pub(super) fn take(&mut self, came: &[&RemoteFile]) -> io::Result<()> {
        for file in came.iter().filter(|file| !file.path.is_folder_marker()) {
            let Some(folder) = self.enter(&file.path)? else { continue };
            let (opened, found) = open(folder, file.path.name())?;
            let mode = self.share.mode(found.mode() & 0o777);
            opened.set_permissions(Permissions::from_mode(mode))?;
            self.know(&opened, &file.sha256)?;
        }
        self.write_down()
    }

    fn write_down(&mut self) -> io::Result<()> {
        let seals: Vec<Seal> = std::mem::take(&mut self.seals).into_values().collect();
        self.shelf.seal(&seals).map_err(io::Error::other)
    }

    /// The folder that a file is in; none where it is missing, or something else is in the way.
    fn enter(&mut self, path: &RelPath) -> io::Result<Option<&Folder>> {
        self.reach(path, false)
    }

    fn reach(&mut self, path: &RelPath, make: bool) -> io::Result<Option<&Folder>> {
        let Some(parent) = path.parent() else { return Ok(Some(self.root)) };
        if self.within.as_ref().is_none_or(|(at, _)| *at != parent) {
            let mut folder: Option<Folder> = None;
            for part in parent.as_str().split('/').map(OsStr::new) {
                let above = folder.as_ref().unwrap_or(self.root);
                let entered = match make {
                    false => above.enter(part),
                    true => above.enter_or_make(part, FOLDER_MODE).or_else(|error| match error.kind() {
                        // A job put a file or a link in the way: the folder of a snapshot holds what the snapshot holds.
                        ErrorKind::NotADirectory => {
                            std::fs::remove_file(above.at(part))?;
                            above.enter_or_make(part, FOLDER_MODE)
                        }
                        _ => Err(error),
                    }),
                };
                folder = match entered {
                    Ok(folder) => Some(folder),
                    Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => return Ok(None),
                    Err(e) => return Err(e),
                };
            }
            self.within = folder.map(|folder| (parent, folder));
        }
        Ok(self.within.as_ref().map(|(_, folder)| folder))
    }

    /// Makes the folder of a file, and takes away a folder that a job put in its place.
    fn make_way(&mut self, path: &RelPath) -> io::Result<()> {
        let Some(folder) = self.reach(path, true)? else { return Ok(()) };
        let target = folder.at(OsStr::new(path.name()));
        let is_folder = !path.is_folder_marker() && target.symlink_metadata().is_ok_and(|found| found.is_dir());
        // With results in it, it stays, and the file is told to have no place.
        if is_folder && !self.holds_spared(path.as_str()) { std::fs::remove_dir_all(target) } else { Ok(()) }
    }

    fn holds_spared(&self, path: &str) -> bool {
        let is_within = |rest: &str| rest.is_empty() || rest.starts_with('/');
        self.spared.iter().any(|spared| spared.strip_prefix(path).is_some_and(is_within))
    }

    /// Whether a file is here with the right content.
    fn is_here(&mut self, file: &RemoteFile) -> io::Result<bool> {
        if file.path.is_folder_marker() {
            return Ok(self.reach(&file.path, true)?.is_some());
        }
        let Some(folder) = self.enter(&file.path)? else { return Ok(false) };
        let Ok((mut opened, found)) = open(folder, file.path.name()) else { return Ok(false) };
        if found.len() != file.size {
            return Ok(false);
        }
        let (known, mode) = (self.seal_of(&found)?, found.mode() & 0o777);
        if let Some(seal) = known.as_ref().filter(|seal| seal.stat == Stat::of(&found) && seal.mode == mode) {
            return Ok(seal.sha256 == file.sha256);
        }
        if sha256_of(&mut opened)? != file.sha256 {
            return Ok(false);
        }
        let right = known.map_or_else(|| self.share.mode(mode), |seal| seal.mode);
        if right != mode {
            opened.set_permissions(Permissions::from_mode(right))?;
        }
        self.know(&opened, &file.sha256)?;
        Ok(true)
    }

    fn seal_of(&self, found: &std::fs::Metadata) -> io::Result<Option<Seal>> {
        let key = (found.dev(), found.ino());
        match self.seals.get(&key) {
            Some(seal) => Ok(Some(seal.clone())),
            None => self.shelf.seal_of(key).map_err(io::Error::other),
        }
    }

    /// Notes what an open file holds; its stat is taken now.
    fn know(&mut self, opened: &File, sha256: &str) -> io::Result<()> {
        let now = opened.metadata()?;
        let seal = Seal { stat: Stat::of(&now), mode: now.mode() & 0o777, sha256: sha256.to_owned() };
        self.seals.insert((now.dev(), now.ino()), seal);
        Ok(())
    }

    /// Makes a file share the bytes of one of these; false where none will do.
    fn share_one(&mut self, file: &RemoteFile, places: &[(&Source, &RelPath)]) -> io::Result<bool> {
        for (source, path) in places {
            // One that cannot be read is none.
            let Ok((mut opened, found)) = source.folder.file(path) else { continue };
            let (known, mode) = (self.seal_of(&found)?, found.mode() & 0o777);
            let is_known = known.as_ref().is_some_and(|seal| seal.stat == Stat::of(&found) && seal.sha256 == file.sha256);
            if known.as_ref().is_some_and(|seal| seal.mode != mode)
                || (!is_known && (found.len() != file.size || sha256_of(&mut opened)? != file.sha256))
            {
                continue;
            }
            let shared = self.clone_of(&opened, &found, file)?
                || (source.is_kin && mode & WRITE == 0 && self.link_to(&opened, &found, file)?);
            if shared {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// A file of its own with the same blocks.
    fn clone_of(&mut self, opened: &File, found: &std::fs::Metadata, file: &RemoteFile) -> io::Result<bool> {
        if !self.can_reflink {
            return Ok(false);
        }
        let mode = self.share.mode(found.mode() & 0o777);
        let Some(folder) = self.reach(&file.path, true)? else { return Ok(false) };
        let (temporary, target) = (folder.at(&temporary_name()?), folder.at(OsStr::new(file.path.name())));
        let made = File::options().write(true).create_new(true).mode(0o600).open(&temporary)?;
        let cloned = reflink(opened, &made).and_then(|()| {
            made.set_permissions(Permissions::from_mode(mode))?;
            // Written to meanwhile: its bytes are not those that were known.
            if Stat::of(&opened.metadata()?) != Stat::of(found) {
                return Err(io::Error::other("it was written to"));
            }
            std::fs::rename(&temporary, &target)
        });
        match cloned {
            Ok(()) => {
                self.cloned = true;
                self.know(&made, &file.sha256)?;
                Ok(true)
            }
            Err(error) => {
                remove(&temporary)?;
                self.can_reflink = !is_impossible(&error);
                if is_full(&error) { Err(error) } else { Ok(false) }
            }
        }
    }

    /// The same file under one more name.
    fn link_to(&mut self, opened: &File, found: &std::fs::Metadata, file: &RemoteFile) -> io::Result<bool> {
        if !matches!(self.share, ShareSnapshots::Auto | ShareSnapshots::Hardlink) {
            return Ok(false);
        }
        let Some(folder) = self.reach(&file.path, true)? else { return Ok(false) };
        let (temporary, target) = (folder.at(&temporary_name()?), folder.at(OsStr::new(file.path.name())));
        if let Err(error) = link(opened, &temporary) {
            tracing::debug!(%error, path = %file.path, "cannot be linked");
            return if is_full(&error) { Err(error) } else { Ok(false) };
        }
        // A link changes the time of the inode; whoever wrote to it, and hid that, would have had to do it at this very moment.
        if !Stat::of(found).is_unwritten(&Stat::of(&opened.metadata()?)) {
            remove(&temporary)?;
            return Ok(false);
        }
        if let Err(error) = std::fs::rename(&temporary, &target) {
            remove(&temporary)?;
            return if error.kind() == ErrorKind::IsADirectory { Ok(false) } else { Err(error) };
        }
        self.know(opened, &file.sha256)?;
        Ok(true)
    }
}

/// What stays in a folder that is cleared, as paths below it.
struct Stays<'a> {
    files: BTreeSet<&'a str>,
    /// Folders in which something stays.
    folders: BTreeSet<String>,
    /// Folders that stay with all that is in them.
    spared: &'a BTreeSet<String>,
}

/// Removes from an open folder what does not stay. `path` is where it is: empty at the root, else with a `/` at its end.
fn clear_folder(folder: &Folder, path: &str, stays: &Stays<'_>) -> io::Result<()> {
    unlock(folder)?;
    for entry in std::fs::read_dir(folder.here())? {
        let entry = entry?;
        // What is no text is in no snapshot, and no path that stays holds a NUL.
        let below = format!("{path}{}", entry.file_name().to_str().unwrap_or("\0"));
        clear_entry(folder, &entry, &below, stays)?;
    }
    Ok(())
}

fn clear_entry(folder: &Folder, entry: &DirEntry, below: &str, stays: &Stays<'_>) -> io::Result<()> {
    // One that is gone is as good as removed.
    let Ok(kind) = entry.file_type() else { return Ok(()) };
    if stays.spared.contains(below) || (kind.is_file() && stays.files.contains(below)) {
        return Ok(());
    }
    let name = entry.file_name();
    if !kind.is_dir() {
        // A link, too: it is removed, and not what it leads to.
        return remove(&folder.at(&name));
    }
    match folder.enter(&name) {
        Ok(within) => clear_folder(&within, &format!("{below}/"), stays)?,
        // Swapped meanwhile.
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => return Ok(()),
        Err(error) => return Err(error),
    }
    if stays.folders.contains(below) {
        return Ok(());
    }
    match std::fs::remove_dir(folder.at(&name)) {
        // What came into it meanwhile is of none of the snapshots.
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::DirectoryNotEmpty) => Ok(()),
        other => other,
    }
}

/// Jobs make folders that nobody may write, too.
fn unlock(folder: &Folder) -> io::Result<()> {
    let mode = std::fs::metadata(folder.here())?.mode() & 0o7777;
    if mode & FOLDER_MODE == FOLDER_MODE {
        return Ok(());
    }
    std::fs::set_permissions(folder.here(), Permissions::from_mode(mode | FOLDER_MODE))
}

fn open(folder: &Folder, name: &str) -> io::Result<(File, std::fs::Metadata)> {
    folder.file(&RelPath::parse(name).map_err(io::Error::other)?)
}

fn sha256_of(file: &mut File) -> io::Result<String> {
    let (mut hasher, mut buffer) = (Sha256::new(), vec![0; 256 * 1024]);
    loop {
        match file.read(&mut buffer) {
            Ok(0) => return Ok(hex::encode(hasher.finalize())),
            Ok(count) => hasher.update(&buffer[..count]),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// As downloads under way are called: what is left of it after a crash is swept with them.
fn temporary_name() -> io::Result<std::ffi::OsString> {
    let mut bytes = [0u8; 8];
    getrandom::fill(&mut bytes).map_err(|e| io::Error::other(format!("no randomness from the system: {e}")))?;
    Ok(format!(".shared{}{}", crate::index::TEMPORARY, hex::encode(bytes)).into())
}

fn remove(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Whether no file of this file system will do it.
fn is_impossible(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EOPNOTSUPP | libc::ENOTTY | libc::EINVAL | libc::EXDEV | libc::ENOSYS))
}

#[cfg(target_os = "linux")]
fn reflink(from: &File, to: &File) -> io::Result<()> {
    // SAFETY: two descriptors that are open during the call.
    if unsafe { libc::ioctl(to.as_raw_fd(), libc::FICLONE, from.as_raw_fd()) } == 0 {
        return Ok(());
    }
    Err(io::Error::last_os_error())
}

#[cfg(not(target_os = "linux"))]
fn reflink(_: &File, _: &File) -> io::Result<()> {
    Err(io::Error::from_raw_os_error(libc::ENOSYS))
}

/// Gives an open file one more name, whatever its other names lead to by now.
fn link(opened: &File, name: &Path) -> io::Result<()> {
    let from = CString::new(format!("/proc/self/fd/{}", opened.as_raw_fd()))?;
    let to = CString::new(name.as_os_str().as_bytes())?;
    // SAFETY: both are C strings that live during the call.
    let done = unsafe { libc::linkat(libc::AT_FDCWD, from.as_ptr(), libc::AT_FDCWD, to.as_ptr(), libc::AT_SYMLINK_FOLLOW) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(target_os = "linux")]
fn sync_file_system(folder: &File) -> io::Result<()> {
    // SAFETY: a descriptor that is open during the call.
    if unsafe { libc::syncfs(folder.as_raw_fd()) } == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(not(target_os = "linux"))]
fn sync_file_system(_: &File) -> io::Result<()> {
    Ok(())
}

#[cfg(test)]
#[path = "share_tests.rs"]
mod tests;
