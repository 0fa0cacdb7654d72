//! Large files on their way here: which of their ranges have come is in the journal, so that a kill or a lost network costs the
//! ranges that were under way and no more. Nobody has to trust these books: the whole is hashed before it gets its name.

use super::list::RemoteFile;
use super::place;
use super::place::Way;
use super::place::local;
use super::upload::Failed;
use crate::journal;
use crate::journal::Journal;
use crate::journal::downloads::Download;
use crate::journal::downloads::Ranges;
use sha2::Digest;
use sha2::Sha256;
use std::collections::BTreeSet;
use std::fs::File;
use std::fs::OpenOptions;
use std::io;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::path::PathBuf;
use tempfile::TempPath;

/// A large file that is not whole yet. Only one holder at a time has it: it is locked.
#[derive(Debug)]
pub(super) struct Unfinished {
    /// By way of its open folder.
    at: PathBuf,
    /// Locked as long as it is open.
    file: File,
    book: Book,
    /// What had come when it was opened.
    done: Ranges,
    /// Last, so that whatever removes the file still finds its folder open.
    #[allow(dead_code)]
    way: Way,
}

/// Where it is written down what has come.
#[derive(Debug)]
enum Book {
    Journal(Journal, Download),
    /// Nowhere: the file goes when this does.
    None(#[allow(dead_code)] TempPath),
}

/// `.<name>.pollinator-<16 hex digits>` beside the target: always the same for the same object with the same content.
pub(super) fn name_beside(target: &Path, file: &RemoteFile) -> PathBuf {
    let digest = Sha256::digest(format!("{}\n{}", file.object, file.sha256));
    place::named_beside(target, &hex::encode(&digest[..8]))
}

impl Unfinished {
    /// Opens what there is of a file, or begins it. Without a journal, or where somebody else is at the same file at this
    /// moment, it is begun under a name of its own and not kept.
    ///
    /// Blocks.
    pub(super) fn open(
        journal: Option<&Journal>,
        root: &Path,
        way: &Way,
        file: &RemoteFile,
        etag: &str,
    ) -> Result<Unfinished, Failed> {
        if let Some(journal) = journal {
            let at = name_beside(&way.target(), file);
            let download = Download {
                file: name_beside(&way.full(), file),
                root: root.to_owned(),
                object: file.object.clone(),
                etag: etag.to_owned(),
                sha256: file.sha256.clone(),
                size: file.size,
            };
            if let Some(done) = known(journal, &download)?
                && let Some(file) = open_known(&at).map_err(|e| local(&at, &e))?
            {
                // A range that was written down and is not in the file was lost by the machine.
                let size = file.metadata().map_err(|e| local(&at, &e))?.len();
                let done = done.into_iter().filter(|(_, past)| *past <= size).collect();
                return Ok(Unfinished { at, file, book: Book::Journal(journal.clone(), download), done, way: way.clone() });
            }
            if !is_held(&at) {
                remove(&at).map_err(|e| local(&at, &e))?;
                journal.begin_download(&download).map_err(of_journal)?;
                let file = create(&at).map_err(|e| local(&at, &e))?;
                let book = Book::Journal(journal.clone(), download);
                return Ok(Unfinished { at, file, book, done: Ranges::new(), way: way.clone() });
            }
            tracing::debug!(path = %way.full().display(), "somebody else is fetching it, too");
        }
        let at = place::temporary_beside(&way.target()).map_err(|e| local(&way.full(), &e))?;
        let guard = TempPath::try_from_path(&at).map_err(|e| local(&at, &e))?;
        let file = create(&at).map_err(|e| local(&at, &e))?;
        Ok(Unfinished { at, file, book: Book::None(guard), done: Ranges::new(), way: way.clone() })
    }

    /// Where it is, as long as this lives: by way of its open folder.
    pub(super) fn at(&self) -> &Path {
        &self.at
    }

    /// The opened file.
    pub(super) fn file(&self) -> &File {
        &self.file
    }

    /// Whether something of it had come when it was opened.
    pub(super) fn is_resumed(&self) -> bool {
        !self.done.is_empty()
    }

    /// Whether a range is there.
    pub(super) fn has(&self, first: u64, past: u64) -> bool {
        self.done.contains(&(first, past))
    }

    /// Notes that a range is written.
    pub(super) fn note(&self, first: u64, past: u64) -> Result<(), Failed> {
        match &self.book {
            Book::Journal(journal, download) => journal.range_done(&download.file, first, past).map_err(of_journal),
            Book::None(_) => Ok(()),
        }
    }

    /// Begins from nothing.
    pub(super) fn begin_anew(&mut self) -> Result<(), Failed> {
        self.file.set_len(0).map_err(|e| local(&self.at, &e))?;
        self.done.clear();
        match &self.book {
            Book::Journal(journal, download) => journal.begin_download(download).map_err(of_journal),
            Book::None(_) => Ok(()),
        }
    }

    /// Forgets it: it has its name, or is removed here because nothing can come of it.
    pub(super) fn forget(self) -> Result<(), Failed> {
        remove(&self.at).map_err(|e| local(&self.at, &e))?;
        match &self.book {
            Book::Journal(journal, download) => journal.forget_download(&download.file).map_err(of_journal),
            Book::None(_) => Ok(()),
        }
    }
}

/// What the journal says has come of this very download.
fn known(journal: &Journal, download: &Download) -> Result<Option<Ranges>, Failed> {
    let known = journal.download(&download.file).map_err(of_journal)?;
    Ok(known.and_then(|(known, ranges)| (known == *download).then_some(ranges)))
}

fn of_journal(error: journal::Error) -> Failed {
    Failed::All(error.into())
}

/// Opens and locks a file that was begun before; none where it is gone, somebody else's at this moment, or not a file that only
/// this name leads to: written through another name it would be another file that changes.
fn open_known(path: &Path) -> io::Result<Option<File>> {
    let mut options = OpenOptions::new();
    let file = match options.read(true).write(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound || error.raw_os_error() == Some(libc::ELOOP) => return Ok(None),
        Err(error) => return Err(error),
    };
    let opened = file.metadata()?;
    if !opened.is_file() || opened.nlink() != 1 || !lock(&file)? {
        return Ok(None);
    }
    // Whoever held it until now may have given it its name.
    match std::fs::symlink_metadata(path) {
        Ok(now) if (now.dev(), now.ino()) == (opened.dev(), opened.ino()) => Ok(Some(file)),
        Ok(_) => Ok(None),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn create(path: &Path) -> io::Result<File> {
    let file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(path)?;
    lock(&file)?;
    Ok(file)
}

/// Takes the lock; false where somebody else has it. A file system that knows no locks is taken to have one user.
fn lock(file: &File) -> io::Result<bool> {
    match file.try_lock() {
        Ok(()) => Ok(true),
        Err(std::fs::TryLockError::WouldBlock) => Ok(false),
        Err(std::fs::TryLockError::Error(error)) if error.kind() == ErrorKind::Unsupported => Ok(true),
        Err(std::fs::TryLockError::Error(error)) => Err(error),
    }
}

/// Whether somebody is writing to it at this moment.
fn is_held(path: &Path) -> bool {
    let opened = OpenOptions::new().write(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(path);
    opened.is_ok_and(|file| lock(&file).is_ok_and(|free| !free))
}

fn remove(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Tidies the books: what is gone is forgotten, and what was begun in the tree at `root` and is none of the files in `wanted` is
/// removed.
///
/// Blocks.
pub(super) fn tidy(journal: &Journal, root: &Path, wanted: &BTreeSet<PathBuf>) -> Result<(), journal::Error> {
    for Download { file, root: of, .. } in journal.downloads()? {
        let gone = std::fs::symlink_metadata(&file).is_err_and(|e| e.kind() == ErrorKind::NotFound);
        let unwanted = of == root && !wanted.contains(&file) && !is_held(&file);
        if unwanted && let Err(error) = remove(&file) {
            tracing::warn!(%error, path = %file.display(), "an unfinished download stays behind");
        } else if gone || unwanted {
            journal.forget_download(&file)?;
        }
    }
    Ok(())
}

/// Removes temporary files of a synchronization that was cut off; those that are in the journal will be taken up again.
///
/// Blocks.
pub(super) fn sweep(leftovers: &[PathBuf], journal: &Journal) {
    if leftovers.is_empty() {
        return;
    }
    let listed: BTreeSet<PathBuf> = match journal.downloads() {
        Ok(all) => all.into_iter().map(|download| download.file).collect(),
        Err(error) => return tracing::warn!(%error, "unfinished downloads stay behind"),
    };
    for path in leftovers.iter().filter(|path| !listed.contains(*path)) {
        if let Err(error) = std::fs::remove_file(path) {
            tracing::warn!(%error, path = %path.display(), "an unfinished download stays behind");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::index::RelPath;
    use crate::index::TEMPORARY;
    use std::os::unix::fs::FileExt;

    struct Place {
        folder: tempfile::TempDir,
        journal: Journal,
    }

    impl Place {
        fn new() -> Place {
            let folder = tempfile::tempdir_in(std::env::temp_dir().canonicalize().unwrap()).unwrap();
            let journal = Journal::open(&folder.path().join("state")).unwrap();
            Place { folder, journal }
        }

        fn open(&self, name: &str, etag: &str) -> Unfinished {
            let root = self.folder.path();
            Unfinished::open(Some(&self.journal), root, &way(root, name), &remote(name), etag).unwrap()
        }

        fn path(&self, name: &str) -> PathBuf {
            name_beside(&self.folder.path().join(name), &remote(name))
        }

        fn wanted(&self, names: &[&str]) -> BTreeSet<PathBuf> {
            names.iter().map(|name| name_beside(&self.folder.path().join(name), &remote(name))).collect()
        }
    }

    fn way(root: &Path, name: &str) -> Way {
        place::make_way(root, &RelPath::parse(name).unwrap()).unwrap()
    }

    fn remote(name: &str) -> RemoteFile {
        RemoteFile { path: RelPath::parse(name).unwrap(), size: 100, sha256: "ab".repeat(32), object: format!("key of {name}") }
    }

    #[test]
    fn what_had_come_is_there_again_for_the_same_object_only() {
        let place = Place::new();
        let first = place.open("f", "1");
        assert!(!first.is_resumed());
        first.file().write_all_at(&[1; 60], 0).unwrap();
        for (from, past) in [(0, 50), (50, 100)] {
            first.note(from, past).unwrap();
        }
        let path = place.path("f");
        assert!(path.exists());
        drop(first);
        // The second range is not in the file: it is too short.
        let again = place.open("f", "1");
        assert!(again.is_resumed() && again.has(0, 50) && !again.has(50, 100));
        assert!(path.exists());
        drop(again);
        let replaced = place.open("f", "2");
        assert!(!replaced.is_resumed() && replaced.file().metadata().unwrap().len() == 0);
        replaced.forget().unwrap();
        assert!(!path.exists() && place.journal.downloads().unwrap().is_empty());
    }

    #[test]
    fn two_at_the_same_file_do_not_write_to_the_same_one() {
        let place = Place::new();
        let first = place.open("f", "1");
        let second = place.open("f", "1");
        let names = || std::fs::read_dir(place.folder.path()).unwrap().count();
        let before = names();
        drop(second);
        assert!(names() == before - 1 && first.at().exists());
        tidy(&place.journal, place.folder.path(), &BTreeSet::new()).unwrap();
        assert!(first.at().exists(), "it was removed under the one who fetches it");
    }

    #[test]
    fn what_leads_to_another_file_is_not_written_to() {
        let place = Place::new();
        place.open("f", "1");
        let path = place.path("f");
        let theirs = place.folder.path().join("theirs");
        for link in [|a: &Path, b: &Path| std::os::unix::fs::symlink(a, b), |a: &Path, b: &Path| std::fs::hard_link(a, b)] {
            std::fs::write(&theirs, "theirs").unwrap();
            std::fs::remove_file(&path).unwrap();
            link(&theirs, &path).unwrap();
            let opened = place.open("f", "1");
            opened.file().write_all_at(b"ours", 0).unwrap();
            assert_eq!(std::fs::read_to_string(&theirs).unwrap(), "theirs");
        }
    }

    #[test]
    fn only_what_is_gone_or_unwanted_is_forgotten_and_what_is_listed_is_not_swept() {
        let place = Place::new();
        let root = place.folder.path();
        for name in ["kept", "gone", "unwanted"] {
            place.open(name, "1");
        }
        let elsewhere = tempfile::tempdir().unwrap();
        let other = elsewhere.path().canonicalize().unwrap();
        let target = other.join("f");
        Unfinished::open(Some(&place.journal), &other, &way(&other, "f"), &remote("f"), "1").unwrap();
        let path = |name: &str| name_beside(&root.join(name), &remote(name));
        std::fs::remove_file(path("gone")).unwrap();
        tidy(&place.journal, root, &place.wanted(&["kept", "gone"])).unwrap();
        let left: BTreeSet<PathBuf> = place.journal.downloads().unwrap().into_iter().map(|d| d.file).collect();
        assert_eq!(left, BTreeSet::from([path("kept"), name_beside(&target, &remote("f"))]));
        assert!(!path("unwanted").exists());
        let stray = root.join(format!(".x{TEMPORARY}0123456789abcdef"));
        std::fs::write(&stray, "").unwrap();
        sweep(&[stray.clone(), path("kept")], &place.journal);
        assert!(path("kept").exists() && !stray.exists());
    }
}
