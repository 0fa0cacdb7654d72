//! What a system tells of its files, in our words.

use std::io;
use std::path::Path;
use std::path::PathBuf;

/// What happened to an entry of a watched folder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum What {
    /// It was made, or moved here.
    Came,
    /// It was removed, or moved away.
    Went,
    /// It was written; its writer may go on.
    Written,
    /// Its writer has closed it, or its attributes changed.
    Closed,
}

/// One event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Raw {
    /// About an entry of a watched folder.
    Entry {
        /// Its full path.
        path: PathBuf,
        /// Whether it is a folder, where the system says so.
        is_folder: Option<bool>,
        /// What happened.
        what: What,
    },
    /// A watched folder itself was removed, moved or unmounted.
    Gone(PathBuf),
    /// Events were lost.
    Overflow,
}

/// What a system can do for us.
pub(super) trait Backend {
    /// Watches a folder; twice is once.
    fn add(&mut self, folder: &Path) -> io::Result<()>;
    /// Watches a folder no more.
    fn remove(&mut self, folder: &Path);
    /// Watches a folder, and those below it, no more.
    fn remove_below(&mut self, folder: &Path);
    /// How many folders below one are watched, itself included.
    fn count_below(&self, folder: &Path) -> usize;
    /// Whether a folder is watched.
    fn is_watched(&self, folder: &Path) -> bool;
    /// One watch serves a whole tree.
    fn is_recursive(&self) -> bool;
    /// Whether events come in the order in which things happened, over all folders.
    fn is_ordered(&self) -> bool;
    /// The next events; never none.
    async fn next(&mut self) -> Vec<Raw>;
}

/// Whether adding a watch failed because there are too many.
pub(super) fn is_limit(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::ENOSPC)
}
