//! Looking at a tree: every file with its digest, read only where its stat says that it may have changed.

use super::Error;
use super::FOLDER_MARKER;
use super::Index;
use super::RelPath;
use super::beneath::Folder;
use super::beneath::open_in;
use super::cache::Known;
use super::cache::Learned;
use super::ignore::InFolder;
use super::ignore::Rules;
use super::read::content_of;
use crate::content::Content;
use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::collections::HashMap;
use std::fs::DirEntry;
use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::mpsc;
use std::time::Duration;
use std::time::Instant;

/// So many files that were read are written down together, or so long.
const BATCH: usize = 1000;
const BATCH_TIME: Duration = Duration::from_secs(2);
/// Most files that are read at once: more are no faster, and each may take some megabytes.
const READERS: usize = 8;

/// What tells a changed file from an unchanged one. Times in ns since 1970.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Stat {
    pub size: u64,
    pub mtime: i64,
    pub ctime: i64,
    pub inode: u64,
    pub device: u64,
}

impl Stat {
    /// Of a file's metadata.
    pub fn of(metadata: &Metadata) -> Stat {
        Stat {
            size: metadata.len(),
            mtime: metadata.mtime().saturating_mul(1_000_000_000).saturating_add(metadata.mtime_nsec()),
            ctime: metadata.ctime().saturating_mul(1_000_000_000).saturating_add(metadata.ctime_nsec()),
            inode: metadata.ino(),
            device: metadata.dev(),
        }
    }

    /// Whether it is the same file with nothing written to it since. Unlike equality it holds over renames, which change the
    /// time of the inode on most file systems.
    pub fn is_unwritten(&self, now: &Stat) -> bool {
        Stat { ctime: 0, ..*self } == Stat { ctime: 0, ..*now }
    }
}

/// A file as it is on disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalFile {
    /// Bytes.
    pub size: u64,
    /// SHA-256, hex.
    pub sha256: String,
    /// Permission bits.
    pub mode: u32,
    /// What it was when it was looked at; of a link, that of its target. All zero for a folder's marker.
    pub stat: Stat,
}

impl LocalFile {
    /// What stands for a folder without files of its own.
    pub fn marker() -> LocalFile {
        LocalFile { size: 0, sha256: EMPTY_SHA256.into(), mode: 0o644, stat: Stat::default() }
    }
}

/// A tree as it is on disk.
#[derive(Clone, Debug, Default)]
pub struct LocalTree {
    /// Whether its root folder is there.
    pub exists: bool,
    /// File system of the root folder.
    pub device: u64,
    /// Files; folders without files of their own as [`FOLDER_MARKER`]s of size 0.
    pub files: BTreeMap<RelPath, LocalFile>,
    /// Files that should travel and cannot be read: path and what is the matter.
    pub problems: Vec<(String, String)>,
    /// What is no file (pipes, dangling links, links out of the tree…) and stays behind.
    pub skipped: Vec<(String, String)>,
    /// Unfinished downloads of ours that nobody works on any more.
    pub leftovers: Vec<PathBuf>,
}

/// SHA-256 of nothing.
pub(crate) const EMPTY_SHA256: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

/// Looks at the tree at `root`, reading with `jobs` threads what the index does not know. A root that is missing is an empty
/// tree whose `exists` is false. One bad file is listed, and the others are looked at all the same.
///
/// Blocks: call it where blocking is allowed.
pub fn scan(root: &Path, rules: &mut Rules, index: &Index, jobs: usize) -> Result<LocalTree, Error> {
    let unreadable = |source| Error::Unreadable { path: root.to_owned(), source };
    let Some(root) = canonical(root)? else { return Ok(LocalTree::default()) };
    let mut walk = Walk::new(&root, rules).map_err(unreadable)?;
    walk.folder(&root, None)?;
    let known = index.known(&root);
    Ok(digest_found(walk, known, index, jobs))
}

/// A root as it is called really; none where it is missing.
pub(super) fn canonical(root: &Path) -> Result<Option<PathBuf>, Error> {
    match root.canonicalize() {
        Ok(root) => Ok(Some(root)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(Error::Unreadable { path: root.to_owned(), source }),
    }
}

/// Reads what was found and is not known; `known` is all that is known of what was looked at.
pub(super) fn digest_found(walk: Walk<'_>, known: HashMap<String, Known>, index: &Index, jobs: usize) -> LocalTree {
    let Walk { root, found, mut tree, .. } = walk;
    digest_all(root, found, known, index, jobs, &mut tree);
    tree.problems.sort();
    tree.skipped.sort();
    tree
}

fn is_gone(error: &std::io::Error) -> bool {
    matches!(error.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory)
}

/// A file that was found, not read yet.
pub(super) struct FoundFile {
    path: RelPath,
    stat: Stat,
    mode: u32,
}

pub(super) struct Walk<'a> {
    root: &'a Path,
    rules: &'a mut Rules,
    found: Vec<FoundFile>,
    tree: LocalTree,
    inodes: BTreeSet<(u64, u64)>,
}

impl<'a> Walk<'a> {
    /// Nothing found yet below a canonical root.
    pub(super) fn new(root: &'a Path, rules: &'a mut Rules) -> std::io::Result<Walk<'a>> {
        let tree = LocalTree { exists: true, device: std::fs::metadata(root)?.dev(), ..LocalTree::default() };
        Ok(Walk { root, rules, found: Vec::new(), tree, inodes: BTreeSet::new() })
    }

    /// Takes a file for found whatever is on the disk.
    pub(super) fn insert(&mut self, path: RelPath, file: LocalFile) {
        self.tree.files.insert(path, file);
    }

    /// Looks at one path and all that is below it.
    pub(super) fn path(&mut self, path: &RelPath) -> Result<(), Error> {
        let full = path.under(self.root);
        // Below something that is left out, or through a link: as if it were not there.
        for above in path.ancestors() {
            let folder = above.under(self.root);
            let is_folder = folder.symlink_metadata().is_ok_and(|metadata| metadata.is_dir());
            if !is_folder || self.rules.check(&folder, true)?.ignored {
                return Ok(());
            }
        }
        let metadata = match full.symlink_metadata() {
            Ok(metadata) => metadata,
            Err(error) if is_gone(&error) => return Ok(()),
            Err(error) => {
                self.tree.problems.push((path.to_string(), error.to_string()));
                return Ok(());
            }
        };
        let Some(folder) = full.parent() else { return Ok(()) };
        let rules = self.rules.in_folder(folder)?;
        self.found(&rules, &full, metadata, path.clone()).map(drop)
    }

    /// Whether a folder stands and holds nothing that travels.
    pub(super) fn is_empty(&mut self, folder: &RelPath) -> Result<bool, Error> {
        let full = folder.under(self.root);
        for above in std::iter::once(folder.clone()).chain(folder.ancestors()) {
            if self.rules.check(&above.under(self.root), true)?.ignored {
                return Ok(false);
            }
        }
        let Ok(entries) = std::fs::read_dir(&full) else { return Ok(false) };
        let rules = self.rules.in_folder(&full)?;
        let travels = |entry: DirEntry| {
            let is_folder = entry.file_type().is_ok_and(|kind| kind.is_dir());
            !self.rules.check_in(&rules, &entry.path(), is_folder).ignored
        };
        Ok(!entries.flatten().any(travels))
    }

    /// Walks one folder; a folder that cannot be read is a problem, the root an error.
    fn folder(&mut self, folder: &Path, below: Option<&RelPath>) -> Result<(), Error> {
        let entries = match std::fs::read_dir(folder).and_then(Iterator::collect::<Result<Vec<_>, _>>) {
            Ok(entries) => entries,
            Err(error) => match below {
                None => return Err(Error::Unreadable { path: folder.to_owned(), source: error }),
                Some(path) => {
                    self.tree.problems.push((path.to_string(), format!("the folder cannot be read: {error}")));
                    return Ok(());
                }
            },
        };
        let rules = self.rules.in_folder(folder)?;
        let mut is_empty = true;
        for entry in entries {
            let name = entry.file_name();
            let Some(name) = name.to_str() else {
                let shown = folder.strip_prefix(self.root).unwrap_or(folder).join(&name).to_string_lossy().into_owned();
                self.tree.problems.push((shown, "the name is not UTF-8".into()));
                is_empty = false;
                continue;
            };
            let path = match below {
                None => RelPath::parse(name),
                Some(below) => below.join(name),
            };
            let path = match path {
                Ok(path) => path,
                Err(error) => {
                    self.tree.problems.push((error.text, error.why.into()));
                    continue;
                }
            };
            if self.entry(&rules, &entry, path)? {
                is_empty = false;
            }
        }
        if let (true, Some(below)) = (is_empty, below)
            && let Ok(marker) = below.join(FOLDER_MARKER)
        {
            self.tree.files.insert(marker, LocalFile::marker());
        }
        Ok(())
    }

    /// Takes one entry; says whether it makes its folder more than an empty one.
    fn entry(&mut self, rules: &InFolder, entry: &DirEntry, path: RelPath) -> Result<bool, Error> {
        let full = &entry.path();
        // Looked up in the folder that is open: the way to it need not be walked for each file.
        let metadata = match entry.metadata() {
            Ok(metadata) => metadata,
            // Gone since the folder was read.
            Err(error) if is_gone(&error) => return Ok(false),
            Err(error) => {
                self.tree.problems.push((path.to_string(), error.to_string()));
                return Ok(true);
            }
        };
        self.found(rules, full, metadata, path)
    }

    /// Takes what stands there; says whether it makes its folder more than an empty one.
    fn found(&mut self, rules: &InFolder, full: &Path, metadata: Metadata, path: RelPath) -> Result<bool, Error> {
        if self.rules.check_in(rules, full, metadata.is_dir()).ignored {
            if is_temporary(path.name()) && metadata.is_file() && is_old(&metadata) {
                self.tree.leftovers.push(full.to_owned());
            }
            return Ok(false);
        }
        if metadata.is_dir() {
            // A bind mount of a folder into itself would never end.
            if self.inodes.insert((metadata.dev(), metadata.ino())) {
                self.folder(full, Some(&path))?;
            } else {
                self.tree.skipped.push((path.to_string(), "the folder is already in the tree at another place".into()));
            }
            return Ok(true);
        }
        let metadata = if metadata.is_symlink() {
            match self.link(full) {
                Ok(metadata) => metadata,
                Err(why) => {
                    self.tree.skipped.push((path.to_string(), why));
                    return Ok(true);
                }
            }
        } else {
            metadata
        };
        if metadata.is_file() {
            self.found.push(FoundFile { path, stat: Stat::of(&metadata), mode: metadata.mode() & 0o7777 });
        } else {
            self.tree.skipped.push((path.to_string(), "is neither a file nor a folder".into()));
        }
        Ok(true)
    }

    /// What a symbolic link inside the tree leads to travels as a file; other links stay behind.
    fn link(&self, full: &Path) -> Result<Metadata, String> {
        let target = full.canonicalize().map_err(|e| format!("is a symbolic link that leads nowhere ({e})"))?;
        if !target.starts_with(self.root) {
            return Err(format!("is a symbolic link out of the tree (to {})", target.display()));
        }
        let metadata = std::fs::metadata(&target).map_err(|e| e.to_string())?;
        if metadata.is_dir() { Err("is a symbolic link to a folder".into()) } else { Ok(metadata) }
    }
}

/// Reads what is not known, several files at once, and tells the index.
fn digest_all(
    root: &Path,
    found: Vec<FoundFile>,
    mut known: HashMap<String, Known>,
    index: &Index,
    jobs: usize,
    tree: &mut LocalTree,
) {
    let mut unread = Vec::new();
    for file in found {
        match known.remove(file.path.as_str()) {
            Some(entry) if entry.holds(&file.stat) => {
                let (size, stat) = (file.stat.size, file.stat);
                tree.files.insert(file.path, LocalFile { size, sha256: entry.sha256, mode: file.mode, stat });
            }
            _ => unread.push(file),
        }
    }
    // What was found has been taken out above.
    let mut learned = Learned { gone: known.into_keys().collect(), ..Learned::default() };
    let mut last_write = Instant::now();
    read_all(root, unread, jobs, |path, read| {
        match read {
            Ok((file, known, content)) => {
                learned.files.push((path.to_string(), known));
                if !content.chunks.is_empty() {
                    learned.contents.push(content);
                }
                tree.files.insert(path, file);
            }
            Err(why) => tree.problems.push((path.to_string(), why)),
        }
        // Whatever ends a long look early, what was read before is not read again.
        if learned.files.len() >= BATCH || last_write.elapsed() >= BATCH_TIME {
            index.learn(root, &std::mem::take(&mut learned));
            last_write = Instant::now();
        }
    });
    index.learn(root, &learned);
}

type ReadFile = Result<(LocalFile, Known, Content), String>;

/// Reads with `jobs` threads; hands over each file as it comes.
fn read_all(root: &Path, unread: Vec<FoundFile>, jobs: usize, mut each: impl FnMut(RelPath, ReadFile)) {
    if unread.is_empty() {
        return;
    }
    let jobs = jobs.min(READERS).clamp(1, unread.len());
    let folder = Folder::open(root);
    let queue = Mutex::new(unread);
    std::thread::scope(|scope| {
        let (send, read_files) = mpsc::sync_channel(BATCH);
        for _ in 0..jobs {
            let (send, queue, folder) = (send.clone(), &queue, &folder);
            scope.spawn(move || {
                loop {
                    let Some(file) = queue.lock().unwrap_or_else(PoisonError::into_inner).pop() else { return };
                    let read = match folder {
                        Ok(folder) => read(folder, root, &file.path, file.mode),
                        Err(error) => Err(format!("cannot be read: {error}")),
                    };
                    if send.send((file.path, read)).is_err() {
                        return;
                    }
                }
            });
        }
        drop(send);
        for (path, read) in read_files {
            each(path, read);
        }
    });
}

/// How long a download that was not finished is taken for one that is still under way, seconds.
const UNDER_WAY: i64 = 3600;

/// `.<name>.pollinator-<16 hex digits>`, as downloads are called until they are whole.
fn is_temporary(name: &str) -> bool {
    let random = name.strip_prefix('.').and_then(|rest| rest.rsplit_once(super::TEMPORARY)).map(|(_, random)| random);
    random.is_some_and(|r| r.len() == 16 && r.bytes().all(|b| b.is_ascii_hexdigit()))
}

fn is_old(metadata: &Metadata) -> bool {
    jiff::Timestamp::now().as_second() - metadata.mtime().max(metadata.ctime()) > UNDER_WAY
}

/// Reads one file. Its stat is taken from the opened file before reading: a change during or after shows in the next look.
fn read(folder: &Folder, root: &Path, path: &RelPath, mode: u32) -> ReadFile {
    let hashed = i64::try_from(jiff::Timestamp::now().as_nanosecond()).unwrap_or(i64::MAX);
    let unreadable = |error: std::io::Error| format!("cannot be read: {error}");
    let (mut file, metadata) = open_in(folder, root, path).map_err(unreadable)?;
    let content = content_of(&mut file, metadata.len()).map_err(unreadable)?;
    let (size, sha256) = (content.size, content.sha256.clone());
    let stat = Stat { size, ..Stat::of(&metadata) };
    let known = Known { stat, hashed, sha256: sha256.clone(), blake3: content.blake3 };
    Ok((LocalFile { size, sha256, mode, stat }, known, content))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::fs::File;
    use std::os::unix::fs::symlink;

    fn look(root: &Path, state: &Path) -> LocalTree {
        let index = Index::open(state).unwrap();
        let mut rules = Rules::new(&root.canonicalize().unwrap_or(root.into()), None).unwrap();
        scan(root, &mut rules, &index, 4).unwrap()
    }

    #[test]
    fn a_tree_is_seen_as_it_is_and_one_bad_file_hides_no_other() {
        let (home, state) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let root = home.path().join("tree");
        fs::create_dir_all(root.join("a/empty")).unwrap();
        fs::create_dir_all(root.join(".git/objects")).unwrap();
        fs::write(root.join(".git/objects/x"), "x").unwrap();
        fs::write(root.join("a/ünï cödé %_.txt"), "hello").unwrap();
        fs::write(root.join("zero"), "").unwrap();
        symlink("zero", root.join("link")).unwrap();
        symlink("/etc/passwd", root.join("out")).unwrap();
        symlink("nowhere", root.join("dangling")).unwrap();
        symlink(".", root.join("loop")).unwrap();
        std::os::unix::net::UnixListener::bind(root.join("socket")).unwrap();
        let tree = look(&root, state.path());
        let names: Vec<&str> = tree.files.keys().map(RelPath::as_str).collect();
        assert_eq!(names, ["a/empty/.pollinator-folder", "a/ünï cödé %_.txt", "link", "zero"]);
        assert_eq!(tree.files[&RelPath::parse("zero").unwrap()].sha256, EMPTY_SHA256);
        let skipped: Vec<&str> = tree.skipped.iter().map(|(path, _)| path.as_str()).collect();
        assert_eq!(skipped, ["dangling", "loop", "out", "socket"]);
        assert!(tree.problems.is_empty(), "{:?}", tree.problems);
    }

    #[test]
    fn a_change_that_keeps_size_and_mtime_is_seen() {
        let (root, state) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let path = root.path().join("f");
        fs::write(&path, "aaaa").unwrap();
        let before = look(root.path(), state.path());
        let mtime = fs::metadata(&path).unwrap().modified().unwrap();
        fs::write(&path, "bbbb").unwrap();
        File::options().write(true).open(&path).unwrap().set_modified(mtime).unwrap();
        let after = look(root.path(), state.path());
        assert_ne!(before.files.values().next().unwrap().sha256, after.files.values().next().unwrap().sha256);
    }

    #[test]
    fn names_differing_in_case_and_unreadable_names_hide_no_other() {
        use std::os::unix::ffi::OsStrExt;
        let (root, state) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        for name in ["Readme", "README", "a"] {
            fs::write(root.path().join(name), name).unwrap();
        }
        fs::write(root.path().join(std::ffi::OsStr::from_bytes(b"bad\xff")), "x").unwrap();
        let tree = look(root.path(), state.path());
        assert_eq!(tree.files.len(), 3);
        assert_eq!(tree.problems, [("bad\u{fffd}".to_owned(), "the name is not UTF-8".to_owned())]);
    }

    #[test]
    fn a_file_that_becomes_a_pipe_is_a_problem_and_no_wait() {
        let home = tempfile::tempdir().unwrap();
        let root = home.path().canonicalize().unwrap();
        let text = std::ffi::CString::new(root.join("pipe").to_str().unwrap()).unwrap();
        // SAFETY: a C string that lives during the call.
        assert_eq!(unsafe { libc::mkfifo(text.as_ptr(), 0o600) }, 0);
        let (folder, path) = (Folder::open(&root).unwrap(), RelPath::parse("pipe").unwrap());
        assert!(read(&folder, &root, &path, 0o644).unwrap_err().contains("not a file"));
    }

    #[test]
    fn only_old_downloads_of_ours_are_leftovers() {
        let (root, state) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        fs::write(root.path().join(".x.pollinator-0123456789abcdef"), "new").unwrap();
        assert!(look(root.path(), state.path()).leftovers.is_empty());
        assert!(is_temporary(".x.pollinator-0123456789abcdef") && is_temporary(".a.b.pollinator-0123456789abcdef"));
        for other in ["x.pollinator-0123456789abcdef", ".x.pollinator-0123", ".x.pollinator-0123456789abcdeg", ".pollinator"] {
            assert!(!is_temporary(other), "{other}");
        }
    }

    #[test]
    fn a_missing_root_is_an_empty_tree_that_does_not_exist() {
        let state = tempfile::tempdir().unwrap();
        let tree = look(&state.path().join("nope"), state.path());
        assert!(!tree.exists && tree.files.is_empty());
    }
}
