//! The settings of an executor that is a program of its own: command line, environment, its file, and what holds where nothing is
//! said, in this order.

pub mod environment;
mod file;
mod keys;
mod put_together;
mod shown;

pub use put_together::Asked;
pub use put_together::Loaded;
pub use put_together::load;
pub use put_together::place;
pub use shown::Shown;

use crate::config;
use std::path::PathBuf;

/// Why an executor cannot be set up.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The colony or the object store.
    #[error(transparent)]
    Access(#[from] config::Error),
    /// The file cannot be read.
    #[error("cannot read the executor's file {}: {source}", path.display())]
    Unreadable {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file is not understood.
    #[error("{}: {reason}", path.display())]
    BadFile {
        /// Which.
        path: PathBuf,
        /// What is wrong, and where.
        reason: String,
    },
    /// A value cannot be used.
    #[error("{what}: must be {wanted}, found {found:?}")]
    Invalid {
        /// Which, with where it stands.
        what: String,
        /// What was expected.
        wanted: String,
        /// What stands there.
        found: String,
    },
    /// Nobody says where jobs run.
    #[error("it is not said where jobs run")]
    NoBackend,
    /// The executor's own key cannot be made or read.
    #[error("the executor's key {}: {reason}", path.display())]
    Key {
        /// Its file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
}

impl Error {
    /// What to do about it, for a person.
    pub fn hint(&self) -> Option<String> {
        match self {
            Error::Access(error) => error.hint(),
            Error::NoBackend => {
                Some("give --backend process, container, slurm or kubernetes, or write `backend = \"…\"` into its file".into())
            }
            Error::BadFile { .. } => Some("`examples/executor/` has a file for each backend".into()),
            Error::Key { path, .. } => {
                Some(format!("it must be a file of mode 600 with 64 hex digits; without {} a new key is made", path.display()))
            }
            _ => None,
        }
    }
}
