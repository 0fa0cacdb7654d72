//! Looking at some paths of a tree only: those that a save is told of.

use super::Error;
use super::FOLDER_MARKER;
use super::Index;
use super::LocalFile;
use super::LocalTree;
use super::RelPath;
use super::ignore::Rules;
use super::scan::Walk;
use super::scan::canonical;
use super::scan::digest_found;
use std::path::Path;

/// Paths with all that is below them, and the markers of the folders that they lie in: whether one of these is empty depends on
/// them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Extent {
    paths: Vec<RelPath>,
}

impl Extent {
    /// Of paths, those below others left out.
    pub fn new(mut paths: Vec<RelPath>) -> Extent {
        paths.sort();
        paths.dedup();
        let whole: std::collections::BTreeSet<RelPath> = paths.iter().cloned().collect();
        paths.retain(|path| !path.ancestors().any(|above| whole.contains(&above)));
        Extent { paths }
    }

    /// The paths.
    pub fn paths(&self) -> &[RelPath] {
        &self.paths
    }

    /// The markers of the folders that the paths lie in; that of the root for those at the top.
    pub fn markers(&self) -> Vec<RelPath> {
        let mut markers: Vec<RelPath> =
            self.paths.iter().filter_map(|path| RelPath::parse(&path.beside(FOLDER_MARKER)).ok()).collect();
        markers.sort();
        markers.dedup();
        markers
    }

    /// Whether some path lies in the tree's root.
    pub fn touches_root(&self) -> bool {
        self.paths.iter().any(|path| path.parent().is_none())
    }
}

/// As [`super::scan()`], of the paths of an extent only. The device is that of the root. The marker of the root is not decided here.
///
/// Blocks: call it where blocking is allowed.
pub fn scan_some(root: &Path, rules: &mut Rules, index: &Index, jobs: usize, extent: &Extent) -> Result<LocalTree, Error> {
    let unreadable = |source| Error::Unreadable { path: root.to_owned(), source };
    let Some(root) = canonical(root)? else { return Ok(LocalTree::default()) };
    let mut walk = Walk::new(&root, rules).map_err(unreadable)?;
    for path in extent.paths() {
        walk.path(path)?;
    }
    for marker in extent.markers() {
        if let Some(folder) = marker.parent()
            && walk.is_empty(&folder)?
        {
            walk.insert(marker, LocalFile::marker());
        }
    }
    let known = index.known_below(&root, extent.paths());
    Ok(digest_found(walk, known, index, jobs))
}

/// Whether the root of a tree holds files of its own.
pub fn root_has_files(root: &Path, rules: &mut Rules) -> Result<bool, Error> {
    let unreadable = |source| Error::Unreadable { path: root.to_owned(), source };
    let within = rules.in_folder(root)?;
    for entry in std::fs::read_dir(root).map_err(unreadable)? {
        let entry = entry.map_err(unreadable)?;
        let is_folder = entry.file_type().is_ok_and(|kind| kind.is_dir());
        if !is_folder && !rules.check_in(&within, &entry.path(), false).ignored {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Whether somebody holds a file open for writing, where the system tells.
///
/// Linux refuses a read lease on such a file (`fcntl(2)`, `F_SETLEASE`). Where it cannot be asked (another's file, a file system
/// without leases), the answer is no.
#[cfg(target_os = "linux")]
pub fn is_being_written(path: &Path) -> bool {
    use std::os::fd::AsRawFd;
    use std::os::unix::fs::OpenOptionsExt;
    let flags = libc::O_NONBLOCK | libc::O_NOFOLLOW;
    let Ok(file) = std::fs::OpenOptions::new().read(true).custom_flags(flags).open(path) else { return false };
    // SAFETY: a descriptor that is open during the calls; the argument is an int, as the command wants.
    let taken = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETLEASE, libc::F_RDLCK) };
    if taken == 0 {
        // SAFETY: as above. Given back at once: a writer that opens the file waits for it.
        unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETLEASE, libc::F_UNLCK) };
        return false;
    }
    std::io::Error::last_os_error().raw_os_error() == Some(libc::EAGAIN)
}

/// Whether somebody holds a file open for writing: this system does not tell.
#[cfg(not(target_os = "linux"))]
pub fn is_being_written(_: &Path) -> bool {
    false
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn path(text: &str) -> RelPath {
        RelPath::parse(text).unwrap()
    }

    #[test]
    fn some_paths_are_seen_as_a_look_at_everything_sees_them() {
        let (home, state) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let root = home.path().canonicalize().unwrap();
        fs::create_dir_all(root.join("a/empty")).unwrap();
        fs::create_dir_all(root.join("b/c/d")).unwrap();
        fs::create_dir_all(root.join("gone")).unwrap();
        fs::write(root.join(".cfsignore"), "*.o\nbuild/\n").unwrap();
        for file in ["a/x", "b/y", "b/y.o", "b/c/d/z", "top"] {
            fs::write(root.join(file), file).unwrap();
        }
        fs::create_dir_all(root.join("build/deep")).unwrap();
        fs::write(root.join("build/deep/no"), "no").unwrap();
        let index = Index::open(state.path()).unwrap();
        let mut rules = Rules::new(&root, None).unwrap();
        let whole = super::super::scan(&root, &mut rules, &index, 2).unwrap();
        let mut seen = |paths: &[&str]| {
            let extent = Extent::new(paths.iter().map(|p| path(p)).collect());
            let tree = scan_some(&root, &mut rules, &index, 2, &extent).unwrap();
            for (path, file) in &tree.files {
                assert_eq!(whole.files.get(path), Some(file), "{path}");
            }
            tree.files.into_keys().map(|p| p.to_string()).collect::<Vec<_>>()
        };
        assert_eq!(seen(&["top", "b/y.o", "build/deep/no", "nowhere"]), ["top"]);
        assert_eq!(seen(&["b"]), ["b/c/d/z", "b/y"]);
        assert_eq!(seen(&["b/c/d/z", "b/c"]), ["b/c/d/z"]);
        assert_eq!(seen(&["a/empty/was-here"]), ["a/empty/.pollinator-folder"]);
        assert_eq!(seen(&["a/empty", "gone/x"]), ["a/empty/.pollinator-folder", "gone/.pollinator-folder"]);
        assert!(root_has_files(&root, &mut rules).unwrap());
    }

    #[test]
    fn what_is_known_below_a_path_is_all_that_is_forgotten_when_it_is_gone() {
        let (home, state) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let root = home.path().canonicalize().unwrap();
        fs::create_dir_all(root.join("a")).unwrap();
        for file in ["a/x", "a-b", "a0"] {
            fs::write(root.join(file), file).unwrap();
        }
        let index = Index::open(state.path()).unwrap();
        let mut rules = Rules::new(&root, None).unwrap();
        super::super::scan(&root, &mut rules, &index, 2).unwrap();
        fs::remove_dir_all(root.join("a")).unwrap();
        let tree = scan_some(&root, &mut rules, &index, 2, &Extent::new(vec![path("a")])).unwrap();
        assert!(tree.files.is_empty());
        let mut left: Vec<String> = index.known(&root).into_keys().collect();
        left.sort();
        assert_eq!(left, ["a-b", "a0"]);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_file_is_being_written_while_a_writer_holds_it() {
        let home = tempfile::tempdir().unwrap();
        let file = home.path().join("f");
        let writer = fs::File::create(&file).unwrap();
        assert!(is_being_written(&file));
        drop(writer);
        let reader = fs::File::open(&file).unwrap();
        assert!(!is_being_written(&file), "a reader harms nobody");
        drop(reader);
        assert!(!is_being_written(&home.path().join("none")));
    }
}
