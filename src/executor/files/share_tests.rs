//! Sharing files between snapshots, on a real disk.

use super::*;
use crate::executor::place::Inside;
use std::os::unix::fs::symlink;

struct Disk {
    home: tempfile::TempDir,
    shelf: Shelf,
}

fn remote(path: &str, content: &str, object: &str) -> RemoteFile {
    let sha256 = hex::encode(Sha256::digest(content));
    RemoteFile { path: RelPath::parse(path).unwrap(), size: content.len() as u64, sha256, object: object.into() }
}

impl Disk {
    fn new() -> Disk {
        let home = tempfile::tempdir().unwrap();
        std::fs::create_dir(home.path().join("fs")).unwrap();
        let shelf = Shelf::open(&home.path().join("state")).unwrap();
        Disk { home, shelf }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.home.path().canonicalize().unwrap().join("fs").join(name)
    }

    fn folder(&self, name: &str) -> Folder {
        Inside::read(name).unwrap().enter_below(&self.path("")).unwrap()
    }

    /// As if a snapshot had been fetched to a folder.
    fn fetched(&self, name: &str, files: &[(&str, &str)]) -> Source {
        let folder = self.folder(name);
        let files: Vec<RemoteFile> = files
            .iter()
            .map(|(path, content)| {
                let full = self.path(name).join(path);
                std::fs::create_dir_all(full.parent().unwrap()).unwrap();
                std::fs::write(&full, content).unwrap();
                std::fs::set_permissions(&full, Permissions::from_mode(0o755)).unwrap();
                remote(path, content, &format!("object of {content}"))
            })
            .collect();
        let mut arranger = Arranger::new(&folder, &self.shelf, ShareSnapshots::Hardlink);
        arranger.take(&files.iter().collect::<Vec<_>>()).unwrap();
        Source { folder, files, is_kin: true }
    }

    fn arrange(&self, name: &str, wanted: &[RemoteFile], source: &Source) -> Arranged {
        let folder = self.folder(name);
        let source = Source { folder: Folder::open(source.folder.name()).unwrap(), files: source.files.clone(), ..*source };
        Arranger::new(&folder, &self.shelf, ShareSnapshots::Hardlink).arrange(wanted, &[source]).unwrap()
    }
}

fn inode(path: impl AsRef<Path>) -> u64 {
    std::fs::symlink_metadata(path).unwrap().ino()
}

#[test]
fn what_is_the_same_is_linked_and_stays_linked() {
    let disk = Disk::new();
    let old = disk.fetched("old", &[("a", "one"), ("d/b", "two"), ("gone", "three")]);
    let mut wanted = old.files[..2].to_vec();
    wanted.push(remote("new", "four", "object of four"));
    for (name, shared) in [("new", 2), ("new", 0), ("newer", 2), ("new", 0)] {
        let arranged = disk.arrange(name, &wanted, &old);
        assert_eq!(arranged.shared, shared);
        assert_eq!(arranged.missing.len(), 1, "{:?}", arranged.missing);
    }
    for path in ["a", "d/b"] {
        assert_eq!(inode(disk.path("old").join(path)), inode(disk.path("newer").join(path)));
        let mode = std::fs::metadata(disk.path("newer").join(path)).unwrap().mode() & 0o777;
        assert_eq!(mode, 0o555, "nobody writes, and what was a program still is");
    }
}

/// A job that is root, or lets itself write, changes a shared file: the next use of either snapshot sees it, and gets the right
/// bytes in a file of its own, while the changed one stays what it is for whoever has it.
#[test]
fn an_edited_file_is_seen_and_not_spread() {
    let disk = Disk::new();
    let old = disk.fetched("old", &[("a", "one")]);
    let wanted = old.files.clone();
    disk.arrange("new", &wanted, &old);
    let edited = disk.path("new").join("a");
    let before = std::fs::metadata(&edited).unwrap();
    std::fs::set_permissions(&edited, Permissions::from_mode(0o755)).unwrap();
    std::fs::write(&edited, "ONE").unwrap();
    // It even hides when it was written to, and lets nobody write again.
    let times = std::fs::FileTimes::new().set_modified(before.modified().unwrap());
    File::options().write(true).open(&edited).unwrap().set_times(times).unwrap();
    std::fs::set_permissions(&edited, before.permissions()).unwrap();
    assert_eq!(disk.arrange("new", &wanted, &old).missing, wanted);
    assert_eq!(disk.arrange("third", &wanted, &old).missing, wanted, "it is no source");
    assert_eq!(disk.arrange("old", &wanted, &old).missing, wanted);
}

#[test]
fn only_kin_are_linked_and_links_are_not_followed() {
    let disk = Disk::new();
    let mut old = disk.fetched("old", &[("a", "one"), ("d/b", "two")]);
    let wanted = old.files.clone();
    old.is_kin = false;
    let arranged = disk.arrange("other", &wanted, &old);
    assert_eq!((arranged.shared, arranged.missing.len()), (0, 2));
    assert_eq!(arranged.elsewhere[&wanted[0].sha256], [disk.path("old/a")]);
    old.is_kin = true;
    // A job moves its folder away and puts a link in its place.
    let elsewhere = tempfile::tempdir().unwrap();
    std::fs::write(elsewhere.path().join("b"), "two").unwrap();
    std::fs::remove_dir_all(disk.path("old/d")).unwrap();
    symlink(elsewhere.path(), disk.path("old/d")).unwrap();
    std::fs::create_dir(disk.path("new")).unwrap();
    symlink(elsewhere.path(), disk.path("new/d")).unwrap();
    let arranged = disk.arrange("new", &wanted, &old);
    assert_eq!((arranged.shared, arranged.missing), (1, vec![wanted[1].clone()]));
    assert!(!disk.path("new/d").is_symlink(), "it makes way");
    assert_eq!(std::fs::read_dir(elsewhere.path()).unwrap().count(), 1);
}

#[test]
fn what_an_earlier_snapshot_left_in_a_folder_goes() {
    let disk = Disk::new();
    let old = disk.fetched("s", &[("a", "one"), ("d/e/b", "two"), ("x", "three"), ("f/kept", "four")]);
    std::fs::write(disk.path("s/f/of-a-job"), "").unwrap();
    let wanted = vec![old.files[0].clone(), remote("x/y", "five", "object of five")];
    let folder = disk.folder("s");
    let mut arranger = Arranger::new(&folder, &disk.shelf, ShareSnapshots::Auto);
    arranger.clear(&old.files, &wanted).unwrap();
    assert_eq!(arranger.arrange(&wanted, &[]).unwrap().missing, wanted[1..]);
    assert!(disk.path("s/a").exists() && disk.path("s/f/of-a-job").exists());
    assert!(!disk.path("s/x").is_file(), "a folder is to come there");
    for gone in ["d", "f/kept"] {
        assert!(!disk.path("s").join(gone).exists(), "{gone}");
    }
}

#[test]
fn where_nothing_is_known_all_that_is_not_wanted_goes_and_no_link_is_followed() {
    let disk = Disk::new();
    let old = disk.fetched("s", &[("a", "one"), ("d/b", "two"), ("d/gone", "three"), ("x", "four"), ("d/out/result", "five")]);
    let elsewhere = tempfile::tempdir().unwrap();
    std::fs::write(elsewhere.path().join("secret"), "").unwrap();
    for link in ["s/link", "s/d/link", "s/wanted"] {
        symlink(elsewhere.path(), disk.path(link)).unwrap();
    }
    std::fs::create_dir_all(disk.path("s/locked/in")).unwrap();
    std::fs::write(disk.path("s/locked/in/file"), "").unwrap();
    std::fs::write(disk.path("s").join(OsStr::from_bytes(b"no text \xff")), "").unwrap();
    for locked in ["s/locked/in", "s/locked"] {
        std::fs::set_permissions(disk.path(locked), Permissions::from_mode(0o500)).unwrap();
    }
    let mut wanted = old.files[..2].to_vec();
    wanted.extend(["wanted/z", "x/y"].map(|path| remote(path, "six", "object of six")));
    let folder = disk.folder("s");
    let spared = BTreeSet::from(["d/out".to_owned()]);
    let mut arranger = Arranger::new(&folder, &disk.shelf, ShareSnapshots::Auto).sparing(spared);
    arranger.clear_all(&wanted).unwrap();
    let names = |folder: &Path| {
        let mut names: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        names
    };
    assert_eq!(names(&disk.path("s")), ["a", "d"]);
    assert_eq!(names(&disk.path("s/d")), ["b", "out"]);
    assert_eq!(names(&disk.path("s/d/out")), ["result"]);
    assert_eq!(names(elsewhere.path()), ["secret"]);
    assert_eq!(arranger.arrange(&wanted, &[]).unwrap().missing, wanted[2..]);
}
