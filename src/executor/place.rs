//! Paths that a specification names, as places strictly below the executor's file area.

use crate::index;
use crate::index::Folder;
use std::ffi::OsStr;
use std::fmt;
use std::io;
use std::io::ErrorKind;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::path::PathBuf;

/// Permission bits of folders that executors make.
const PRIVATE: u32 = 0o700;

/// A relative path, `/`-separated, of at least one component, none of them empty, `.` or `..`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Inside(String);

impl Inside {
    /// Normalises a path as specifications write it: `/pollinator/p//src/` is `pollinator/p/src`.
    ///
    /// # Errors
    /// The reason, where the path is empty, or goes up, or cannot be a file name. `a/../b` is refused too: nobody needs
    /// it, and what it means depends on symbolic links.
    pub fn read(text: &str) -> Result<Inside, String> {
        if text.contains('\0') {
            return Err(format!("{text:?} holds a NUL character"));
        }
        let parts: Vec<&str> = text.split('/').filter(|p| !p.is_empty() && *p != ".").collect();
        if parts.contains(&"..") {
            return Err(format!("{text:?} leaves its place: `..` is not allowed"));
        }
        if parts.is_empty() {
            return Err(format!("{text:?} must name a place below the file area, not the area itself"));
        }
        if parts.iter().any(|p| p.len() > 255) {
            return Err("a part of the path is longer than 255 bytes".into());
        }
        Ok(Inside(parts.join("/")))
    }

    /// The path as text, without a leading `/`.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The folder below `root`, made where it is missing, and open: nobody can lead elsewhere what is done in it.
    ///
    /// # Errors
    /// Those of the file system; also where a component is a symbolic link or no folder, since a job could have put it
    /// there to lead the executor elsewhere.
    pub fn enter_below(&self, root: &Path) -> io::Result<Folder> {
        let mut folder = Folder::open(&index::canonical_name(root))?;
        for part in self.0.split('/') {
            folder = folder.enter_or_make(OsStr::new(part), PRIVATE)?;
        }
        Ok(folder)
    }

    /// As [`Inside::enter_below`], for whoever needs its path only.
    ///
    /// # Errors
    /// As of [`Inside::enter_below`].
    pub fn make_below(&self, root: &Path) -> io::Result<PathBuf> {
        self.enter_below(root).map(|folder| folder.name().to_owned())
    }

    /// The folder below `root`, open; none where it is missing.
    ///
    /// # Errors
    /// As of [`Inside::enter_below`].
    pub fn open_below(&self, root: &Path) -> io::Result<Option<Folder>> {
        let mut folder = Folder::open(&index::canonical_name(root))?;
        for part in self.0.split('/') {
            folder = match folder.enter(OsStr::new(part)) {
                Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
                other => other?,
            };
        }
        Ok(Some(folder))
    }

    /// Removes the folder below `root` with all that is in it. A missing one is fine; symbolic links on the way are not
    /// followed but refused, and those in it are removed, not what they lead to.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn remove_below(&self, root: &Path) -> io::Result<()> {
        let Some(folder) = self.open_below(root)? else { return Ok(()) };
        let (above, name) = match self.0.rsplit_once('/') {
            Some((above, name)) => (Inside(above.to_owned()).open_below(root)?, name),
            None => (Some(Folder::open(&index::canonical_name(root))?), self.0.as_str()),
        };
        let Some(above) = above else { return Ok(()) };
        let target = above.at(OsStr::new(name));
        match std::fs::remove_dir_all(&target) {
            // Jobs make folders that nobody may write, too.
            Err(error) if error.kind() == ErrorKind::PermissionDenied => {
                unlock(&folder)?;
                std::fs::remove_dir_all(&target)
            }
            other => other,
        }
    }

    /// Whether it is `other`, or a place in it.
    pub fn is_within(&self, other: &Inside) -> bool {
        self.0.strip_prefix(other.as_str()).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }

    /// Whether one of both is within the other.
    pub fn overlaps(&self, other: &Inside) -> bool {
        self.is_within(other) || other.is_within(self)
    }
}

/// Lets the owner write in a folder and all folders below it.
fn unlock(folder: &Folder) -> io::Result<()> {
    std::fs::set_permissions(folder.here(), std::fs::Permissions::from_mode(PRIVATE))?;
    for entry in std::fs::read_dir(folder.here())? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            unlock(&folder.enter(&entry.file_name())?)?;
        }
    }
    Ok(())
}

impl fmt::Display for Inside {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn normalises_and_refuses() {
        for (text, want) in [("/a/b", "a/b"), ("a//b/", "a/b"), ("./a/./b", "a/b"), ("/pollinator/p q/src", "pollinator/p q/src")]
        {
            assert_eq!(Inside::read(text).unwrap().as_str(), want);
        }
        for text in ["", "/", ".", "./.", "..", "/../x", "a/../b", "a/..", "a\0b"] {
            assert!(Inside::read(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn links_on_the_way_are_refused() {
        let root = tempfile::tempdir().unwrap();
        let elsewhere = tempfile::tempdir().unwrap();
        std::fs::write(elsewhere.path().join("keep"), "x").unwrap();
        std::os::unix::fs::symlink(elsewhere.path(), root.path().join("a")).unwrap();
        let inside = Inside::read("a").unwrap();
        assert!(inside.make_below(root.path()).is_err());
        assert!(inside.remove_below(root.path()).is_err());
        assert!(Inside::read("a/b").unwrap().make_below(root.path()).is_err());
        assert!(elsewhere.path().join("keep").exists());
        let deep = Inside::read("x/y/z").unwrap();
        assert!(deep.make_below(root.path()).unwrap().is_dir());
        // A job locks itself in, and leaves a link behind.
        std::os::unix::fs::symlink(elsewhere.path(), root.path().join("x/y/z/link")).unwrap();
        std::fs::create_dir(root.path().join("x/y/z/locked")).unwrap();
        std::fs::write(root.path().join("x/y/z/locked/file"), "").unwrap();
        std::fs::set_permissions(root.path().join("x/y/z/locked"), std::fs::Permissions::from_mode(0o500)).unwrap();
        deep.remove_below(root.path()).unwrap();
        deep.remove_below(root.path()).unwrap();
        assert!(root.path().join("x/y").is_dir() && !root.path().join("x/y/z").exists());
        assert!(elsewhere.path().join("keep").exists());
    }

    /// While somebody swaps a folder on the way for a link and back, all the time, nothing is made or removed where it leads.
    #[test]
    fn a_link_that_comes_and_goes_leads_nowhere() {
        use std::sync::atomic::AtomicBool;
        use std::sync::atomic::Ordering;
        let (root, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        std::fs::create_dir_all(elsewhere.path().join("b/c")).unwrap();
        std::fs::write(elsewhere.path().join("b/c/keep"), "x").unwrap();
        let (way, aside, link) = (root.path().join("a"), root.path().join("aside"), root.path().join("link"));
        std::os::unix::fs::symlink(elsewhere.path(), &link).unwrap();
        let over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    let _ = std::fs::rename(&way, &aside);
                    let _ = std::fs::rename(&link, &way);
                    let _ = std::fs::rename(&way, &link);
                    let _ = std::fs::rename(&aside, &way);
                }
            });
            let inside = Inside::read("a/b/c").unwrap();
            for _ in 0..2000 {
                // Whatever comes of it: it is the neighbour that counts.
                let _ = inside.enter_below(root.path()).map(|folder| std::fs::write(folder.at(OsStr::new("mine")), ""));
                let _ = inside.remove_below(root.path());
            }
            over.store(true, Ordering::Relaxed);
        });
        let there: Vec<_> = std::fs::read_dir(elsewhere.path().join("b/c")).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(there, ["keep"]);
    }

    proptest! {
        #[test]
        fn whatever_is_accepted_is_strictly_below(text in "[a-b./\\\n ]{0,12}") {
            if let Ok(inside) = Inside::read(&text) {
                let parts: Vec<&str> = inside.as_str().split('/').collect();
                prop_assert!(!parts.is_empty() && parts.iter().all(|p| !["", ".", ".."].contains(p)), "{inside:?}");
                prop_assert_eq!(Inside::read(inside.as_str()).unwrap(), inside);
            }
        }
    }
}
