//! What can stop an executor as a whole. What happens to one process fails that process only.

use crate::colonies;
use crate::sqlite;
use std::path::PathBuf;

/// Errors of an executor.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A folder cannot be used.
    #[error("the executor's folder {}: {source}", path.display())]
    Folder {
        /// The folder.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The journal cannot be opened.
    #[error(transparent)]
    Database(#[from] sqlite::Error),
    /// The journal cannot be read or written.
    #[error("the executor's journal {}: {source}", path.display())]
    Journal {
        /// The file.
        path: PathBuf,
        /// What SQLite said.
        source: rusqlite::Error,
    },
    /// The Colonies server refused something without which nothing works.
    #[error("executor {name}: {source}")]
    Colony {
        /// The executor.
        name: String,
        /// The refusal.
        source: colonies::Error,
    },
    /// The executor is no member, and there is no owner's key to make it one.
    #[error("the executor {name} is not a member of the colony {colony}, and the colony owner's key is not given")]
    NotMember {
        /// The executor.
        name: String,
        /// The colony.
        colony: String,
    },
    /// Another key holds the name.
    #[error("the name {name} belongs to another executor of the colony (another key)")]
    NameTaken {
        /// The executor.
        name: String,
    },
    /// The object store or the file area cannot be set up.
    #[error("executor {name}: files cannot be brought in or sent back: {reason}")]
    Files {
        /// The executor.
        name: String,
        /// Why.
        reason: String,
    },
    /// The backend cannot work with its settings.
    #[error("executor {name}: the {backend} backend: {reason}")]
    Backend {
        /// The executor.
        name: String,
        /// The backend.
        backend: &'static str,
        /// Why not.
        reason: String,
    },
    /// Another executor runs on the same state.
    #[error("another executor uses the folder {}", path.display())]
    InUse {
        /// The state folder.
        path: PathBuf,
    },
    /// Something that cannot happen did.
    #[error("internal error of the executor: {reason}")]
    Internal {
        /// What.
        reason: String,
    },
}

impl Error {
    /// Whether starting the executor again later can help.
    pub fn is_temporary(&self) -> bool {
        matches!(self, Error::Colony { source, .. } if source.is_temporary())
    }

    /// What a person can do.
    pub fn hint(&self) -> Option<String> {
        match self {
            Error::Colony { source, .. } => source.hint(),
            Error::NotMember { .. } => Some("add and approve it by hand, or give the colony owner's key".into()),
            Error::NameTaken { .. } => Some("choose another name, or have the colony's owner remove the other executor".into()),
            Error::InUse { .. } => Some("stop it, or give this one a state folder of its own".into()),
            Error::Folder { .. } => Some("it must be a folder that the executor can write".into()),
            _ => None,
        }
    }
}
