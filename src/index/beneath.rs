//! Folders and files below a folder, reached step by step: no symbolic link leads elsewhere, also not one that somebody puts on
//! the way while it is walked.
//!
//! A look at a path and the use of the same path are two moments, and whoever may write in the tree may swap a folder for a
//! link between them. So folders are opened one in the other, and what is to be done is done in the one that is open.

use super::RelPath;
use std::ffi::CString;
use std::ffi::OsStr;
use std::fs::File;
use std::fs::Metadata;
use std::io;
use std::io::ErrorKind;
use std::os::fd::AsRawFd;
use std::os::fd::FromRawFd;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Component;
use std::path::Path;
use std::path::PathBuf;

/// Permission bits of a folder that nobody said more of; the user's mask takes from them.
const FOLDER_MODE: u32 = 0o777;

/// An open folder. What is done by way of [`Folder::at`] is done in it, wherever its name leads by now.
#[derive(Debug)]
pub struct Folder {
    fd: OwnedFd,
    /// As it was called when it was opened.
    name: PathBuf,
}

impl Folder {
    /// Opens a folder by a path that holds no symbolic link, as a canonical path does.
    ///
    /// # Errors
    /// Those of the system; [`ErrorKind::NotADirectory`] for a link or a file on the way.
    pub fn open(path: &Path) -> io::Result<Folder> {
        Folder::reach(path, |folder, name| folder.enter(name))
    }

    /// As [`Folder::open`], with what is missing made.
    ///
    /// # Errors
    /// As of [`Folder::open`].
    pub fn make(path: &Path) -> io::Result<Folder> {
        Folder::reach(path, |folder, name| folder.enter_or_make(name, FOLDER_MODE))
    }

    fn reach(path: &Path, step: impl Fn(&Folder, &OsStr) -> io::Result<Folder>) -> io::Result<Folder> {
        let path = std::path::absolute(path)?;
        let root = Path::new("/");
        let mut folder = Folder { fd: open_at(libc::AT_FDCWD, root.as_os_str(), FOLDER)?, name: root.to_owned() };
        for part in path.components() {
            match part {
                Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
                Component::Normal(name) => folder = step(&folder, name)?,
                Component::ParentDir => folder = folder.enter(OsStr::new(".."))?,
            }
        }
        Ok(folder)
    }

    /// Opens a folder in it.
    ///
    /// # Errors
    /// As of [`Folder::open`].
    pub fn enter(&self, name: &OsStr) -> io::Result<Folder> {
        let full = self.name.join(name);
        match open_at(self.fd.as_raw_fd(), name, FOLDER) {
            Ok(fd) => Ok(Folder { fd, name: full }),
            Err(error) if is_obstacle(&error) => {
                let what = format!("{} is not a folder (a symbolic link is not followed)", full.display());
                Err(io::Error::new(ErrorKind::NotADirectory, what))
            }
            Err(error) => Err(error),
        }
    }

    /// Opens a folder in it, and makes it where it is missing.
    ///
    /// # Errors
    /// As of [`Folder::open`].
    pub fn enter_or_make(&self, name: &OsStr, mode: u32) -> io::Result<Folder> {
        match self.enter(name) {
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            other => return other,
        }
        let text = CString::new(name.as_bytes())?;
        // SAFETY: a descriptor and a C string that live during the call.
        if unsafe { libc::mkdirat(self.fd.as_raw_fd(), text.as_ptr(), mode as libc::mode_t) } != 0 {
            let error = io::Error::last_os_error();
            if error.kind() != ErrorKind::AlreadyExists {
                return Err(error);
            }
        }
        self.enter(name)
    }

    /// Opens a regular file below it for reading, without following links.
    ///
    /// # Errors
    /// Those of the system; "is not a file" for anything but a regular file.
    pub fn file(&self, path: &RelPath) -> io::Result<(File, Metadata)> {
        let mut within = None;
        let (folders, name) = path.as_str().rsplit_once('/').unwrap_or(("", path.as_str()));
        for part in folders.split('/').filter(|part| !part.is_empty()) {
            within = Some(within.as_ref().unwrap_or(self).enter(OsStr::new(part))?);
        }
        let fd = within.as_ref().unwrap_or(self).fd.as_raw_fd();
        let flags = libc::O_RDONLY | libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_NOCTTY;
        let file = File::from(open_at(fd, OsStr::new(name), flags)?);
        let metadata = file.metadata()?;
        if !metadata.is_file() {
            return Err(io::Error::other("is not a file any more"));
        }
        Ok((file, metadata))
    }

    /// A path that leads to a name in this very folder, as long as it is open.
    pub fn at(&self, name: &OsStr) -> PathBuf {
        self.here().join(name)
    }

    /// A path that leads to this very folder, as long as it is open.
    pub fn here(&self) -> PathBuf {
        let anchor = PathBuf::from(format!("/proc/self/fd/{}", self.fd.as_raw_fd()));
        // Where the system has no such paths, its name has to do.
        if anchor.symlink_metadata().is_ok() { anchor } else { self.name.clone() }
    }

    /// As it was called when it was opened.
    pub fn name(&self) -> &Path {
        &self.name
    }
}

/// Opens a file of a tree for reading. A symbolic link is followed as long as it leads to a file in the tree; `root` is
/// canonical. What became a pipe since it was looked at is refused instead of waited for.
///
/// # Errors
/// Those of the system; "is not a file" for anything but a regular file.
pub fn open_in_tree(root: &Path, path: &RelPath) -> io::Result<(File, Metadata)> {
    open_in(&Folder::open(root)?, root, path)
}

/// As [`open_in_tree`], of a root that is open.
pub(super) fn open_in(folder: &Folder, root: &Path, path: &RelPath) -> io::Result<(File, Metadata)> {
    match folder.file(path) {
        Err(error) if is_obstacle(&error) => {}
        other => return other,
    }
    let target = path.under(root).canonicalize()?;
    let inside = target.strip_prefix(root).ok().and_then(Path::to_str).and_then(|text| RelPath::parse(text).ok());
    folder.file(&inside.ok_or_else(|| io::Error::other("leads out of the tree"))?)
}

/// The canonical path of what may be missing: what is there of it, and the rest as it is written.
pub fn canonical_name(path: &Path) -> PathBuf {
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    for there in path.ancestors() {
        if let (Ok(real), Ok(rest)) = (there.canonicalize(), path.strip_prefix(there)) {
            return if rest.as_os_str().is_empty() { real } else { real.join(rest) };
        }
    }
    path
}

/// A folder to go on from: it need not be readable.
#[cfg(target_os = "linux")]
const FOLDER: libc::c_int = libc::O_PATH | libc::O_DIRECTORY | libc::O_NOFOLLOW;
#[cfg(not(target_os = "linux"))]
const FOLDER: libc::c_int = libc::O_RDONLY | libc::O_DIRECTORY | libc::O_NOFOLLOW;

fn open_at(folder: libc::c_int, name: &OsStr, flags: libc::c_int) -> io::Result<OwnedFd> {
    let text = CString::new(name.as_bytes())?;
    loop {
        // SAFETY: a C string that lives during the call; no mode is needed, for nothing is created.
        let fd = unsafe { libc::openat(folder, text.as_ptr(), flags | libc::O_CLOEXEC) };
        if fd >= 0 {
            // SAFETY: just opened, and nobody else's.
            return Ok(unsafe { OwnedFd::from_raw_fd(fd) });
        }
        let error = io::Error::last_os_error();
        if error.kind() != ErrorKind::Interrupted {
            return Err(error);
        }
    }
}

/// A link, or a file where a folder was expected.
fn is_obstacle(error: &io::Error) -> bool {
    error.kind() == ErrorKind::NotADirectory || error.raw_os_error() == Some(libc::ELOOP)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    fn path(text: &str) -> RelPath {
        RelPath::parse(text).unwrap()
    }

    #[test]
    fn links_inside_the_tree_are_followed_and_others_are_not() {
        let (tree, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let root = tree.path().canonicalize().unwrap();
        std::fs::create_dir_all(root.join("a/b")).unwrap();
        std::fs::write(root.join("a/b/file"), "inside").unwrap();
        std::fs::write(elsewhere.path().join("file"), "outside").unwrap();
        symlink("b/file", root.join("a/near")).unwrap();
        symlink(root.join("a/b/file"), root.join("far")).unwrap();
        symlink(elsewhere.path().join("file"), root.join("out")).unwrap();
        symlink(elsewhere.path(), root.join("door")).unwrap();
        for fine in ["a/b/file", "a/near", "far"] {
            let (mut file, _) = open_in_tree(&root, &path(fine)).unwrap();
            assert_eq!(io::read_to_string(&mut file).unwrap(), "inside", "{fine}");
        }
        for bad in ["out", "door/file", "a/b", "a/b/file/x", "none"] {
            assert!(open_in_tree(&root, &path(bad)).is_err(), "{bad}");
        }
    }

    #[test]
    fn what_is_missing_has_a_canonical_name_too() {
        let tree = tempfile::tempdir().unwrap();
        let root = tree.path().canonicalize().unwrap();
        std::fs::create_dir(root.join("real")).unwrap();
        symlink(root.join("real"), root.join("link")).unwrap();
        for (name, real) in [("link", "real"), ("link/a/b", "real/a/b"), ("none/x", "none/x")] {
            assert_eq!(canonical_name(&root.join(name)), root.join(real));
        }
    }

    #[test]
    fn what_is_done_in_an_open_folder_is_done_there() {
        let (tree, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let root = tree.path().canonicalize().unwrap();
        let folder = Folder::make(&root.join("x/y")).unwrap();
        std::fs::rename(root.join("x/y"), root.join("moved")).unwrap();
        symlink(elsewhere.path(), root.join("x/y")).unwrap();
        std::fs::write(folder.at(OsStr::new("f")), "1").unwrap();
        assert!(root.join("moved/f").exists() && !elsewhere.path().join("f").exists());
        assert_eq!(Folder::make(&root.join("x/y/z")).unwrap_err().kind(), ErrorKind::NotADirectory);
        assert_eq!(Folder::open(&root.join("x/y")).unwrap_err().kind(), ErrorKind::NotADirectory);
        assert_eq!(std::fs::read_dir(elsewhere.path()).unwrap().count(), 0);
    }
}
