//! Why trees cannot be brought in step. What is wrong with one file is a problem of that file, not an error.

use crate::colonies;
use crate::event::Tree;
use crate::index;
use crate::journal;
use crate::store;
use std::path::PathBuf;

/// Errors of CFS.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The Colonies server.
    #[error(transparent)]
    Colony(#[from] colonies::Error),
    /// The object store.
    #[error(transparent)]
    Store(#[from] store::Error),
    /// The local tree.
    #[error(transparent)]
    Index(#[from] index::Error),
    /// The journal.
    #[error(transparent)]
    Journal(#[from] journal::Error),
    /// The tree's folder is gone, though it was there.
    #[error("{} is missing, though it held {files} files at the last synchronization", folder.display())]
    TreeMissing {
        /// The folder.
        folder: PathBuf,
        /// Files at the last synchronization.
        files: usize,
    },
    /// The tree is empty, though it was not.
    #[error("{} is empty, though it held {files} files at the last synchronization", folder.display())]
    TreeEmptied {
        /// The folder.
        folder: PathBuf,
        /// Files at the last synchronization.
        files: usize,
    },
    /// The tree lies on another file system than before, and files are missing.
    #[error("{} lies on another file system than at the last synchronization, and lacks {missing} files", folder.display())]
    OtherFileSystem {
        /// The folder.
        folder: PathBuf,
        /// Files that would be deleted.
        missing: usize,
    },
    /// More than half of a large tree would be deleted.
    #[error("{deletions} of {files} files of {tree} would be deleted {side}; nothing was done")]
    ManyDeletions {
        /// The tree.
        tree: Tree,
        /// How many would be deleted.
        deletions: usize,
        /// Of how many.
        files: usize,
        /// "here" or "in the colony".
        side: &'static str,
    },
    /// No room left on this machine.
    #[error("no space left for {}", path.display())]
    NoSpace {
        /// The file that did not fit.
        path: PathBuf,
    },
    /// A folder or file of ours cannot be made.
    #[error("{}: {source}", path.display())]
    Local {
        /// Where.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The colony knows no file of a project whose objects are to be removed.
    #[error("the colony has no file of {root}, but the store holds {objects} objects of it; nothing was removed")]
    NothingRegistered {
        /// Root of the project's labels.
        root: String,
        /// How many would go.
        objects: usize,
    },
    /// A snapshot that holds something else than the tree.
    #[error("the snapshot of {label} holds {found} files instead of {expected}: somebody else changes it at the same time")]
    WrongSnapshot {
        /// The label.
        label: String,
        /// Files of the tree.
        expected: usize,
        /// Files of the snapshot.
        found: usize,
    },
}

impl Error {
    /// Whether the same may succeed later without anything being changed.
    pub fn is_temporary(&self) -> bool {
        match self {
            Error::Colony(e) => e.is_temporary(),
            Error::Store(e) => e.is_temporary(),
            Error::WrongSnapshot { .. } => true,
            _ => false,
        }
    }

    /// Whether nobody answered.
    pub fn is_unreachable(&self) -> bool {
        match self {
            Error::Colony(e) => e.is_unreachable(),
            Error::Store(e) => e.is_unreachable(),
            _ => false,
        }
    }

    /// What to do about it, for a person.
    pub fn hint(&self) -> Option<String> {
        match self {
            Error::Colony(e) => e.hint(),
            Error::Store(e) => e.hint(),
            Error::TreeMissing { folder, .. } => Some(format!(
                "is a disk not mounted? If it was removed on purpose: mkdir -p {} and give --allow-deletes",
                folder.display()
            )),
            Error::TreeEmptied { .. } | Error::OtherFileSystem { .. } => {
                Some("is a disk not mounted? If it is on purpose, give --allow-deletes".into())
            }
            Error::ManyDeletions { .. } => Some("`pollinator diff` shows them; --allow-deletes carries them out".into()),
            Error::NothingRegistered { .. } => Some(
                "was the colony's database lost or restored? If the project was removed on purpose, give --allow-deletes".into(),
            ),
            Error::NoSpace { .. } => Some("make room and try again; what was fetched stays".into()),
            _ => None,
        }
    }
}
