//! Paths that a specification names, as places strictly below the executor's file area.

use std::fmt;
use std::path::Path;
use std::path::PathBuf;

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

    /// The folder below `root`, made where it is missing.
    ///
    /// # Errors
    /// Those of the file system; also where a component is a symbolic link or no folder, since a job could have put it
    /// there to lead the executor elsewhere.
    pub fn make_below(&self, root: &Path) -> std::io::Result<PathBuf> {
        use std::os::unix::fs::DirBuilderExt;
        let mut folder = root.to_path_buf();
        for part in self.0.split('/') {
            folder.push(part);
            match std::fs::symlink_metadata(&folder) {
                Ok(found) if found.is_dir() => {}
                Ok(_) => {
                    let what = format!("{} is not a folder (a symbolic link is not followed)", folder.display());
                    return Err(std::io::Error::new(std::io::ErrorKind::NotADirectory, what));
                }
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                    match std::fs::DirBuilder::new().mode(0o700).create(&folder) {
                        Err(e) if e.kind() != std::io::ErrorKind::AlreadyExists => return Err(e),
                        _ => {}
                    }
                }
                Err(e) => return Err(e),
            }
        }
        Ok(folder)
    }

    /// Removes the folder below `root` with all that is in it. A missing one is fine; symbolic links on the way are not
    /// followed but refused.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn remove_below(&self, root: &Path) -> std::io::Result<()> {
        let mut folder = root.to_path_buf();
        for part in self.0.split('/') {
            folder.push(part);
            match std::fs::symlink_metadata(&folder) {
                Ok(found) if found.is_dir() => {}
                Ok(_) => {
                    let what = format!("{} is not a folder (a symbolic link is not followed)", folder.display());
                    return Err(std::io::Error::new(std::io::ErrorKind::NotADirectory, what));
                }
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
                Err(e) => return Err(e),
            }
        }
        std::fs::remove_dir_all(&folder)
    }
}

impl fmt::Display for Inside {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
        deep.remove_below(root.path()).unwrap();
        deep.remove_below(root.path()).unwrap();
        assert!(root.path().join("x/y").is_dir());
    }
}
