//! What lies in a local tree: its files with their digests, its ignore rules, and a cache so that unchanged files are not
//! read again; and what is known of objects in stores, so that nothing is sent that is there.

mod beneath;
mod cache;
mod holders;
pub mod ignore;
pub mod objects;
mod path;
mod read;
mod scan;
mod some;
pub mod survey;

pub use beneath::Folder;
pub use beneath::canonical_name;
pub use beneath::open_in_tree;
pub use cache::Index;
pub use cache::Known;
pub use cache::Learned;
pub use objects::KnownObject;
pub use path::BadPath;
pub use path::RelPath;
pub use read::content_of;
pub use read::open_regular;
pub use scan::LocalFile;
pub use scan::LocalTree;
pub use scan::Stat;
pub use scan::scan;
pub use some::Extent;
pub use some::is_being_written;
pub use some::root_has_files;
pub use some::scan_some;

use std::path::PathBuf;

/// Name of the row that stands for a folder without files of its own. Never a file on disk.
pub const FOLDER_MARKER: &str = ".pollinator-folder";
/// SHA-256 of nothing, hex.
pub fn empty_sha256() -> &'static str {
    scan::EMPTY_SHA256
}

/// Part of the name of a download under way.
pub const TEMPORARY: &str = ".pollinator-";

/// Why a tree cannot be looked at.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The cache cannot be opened or written.
    #[error(transparent)]
    Database(#[from] crate::sqlite::Error),
    /// The folder of the tree cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Unreadable {
        /// The folder.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A rule of an ignore file is not understood.
    #[error("{reason}")]
    BadRule {
        /// What is wrong, with file and line.
        reason: String,
    },
}
