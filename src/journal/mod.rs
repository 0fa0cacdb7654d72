//! `journal.db`: the truth about runs and about what was seen at the last synchronization.
//!
//! Unlike the index it is not a cache: it is written with full durability, and never rebuilt. One file a kind of row:
//! [`base`] keeps the trees as they were when they were last in step with the colony, [`uploads`] and [`downloads`] what is
//! on its way, [`runs`] the runs, [`results`] what they brought, [`removed`] files that
//! only their snapshots still know.

pub mod base;
pub mod downloads;
pub mod removed;
pub mod results;
pub mod runs;
mod sweeps;
pub mod uploads;
pub mod watched;

use crate::sqlite;
use crate::sqlite::Durability;
use rusqlite::Connection;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;

/// Steps from one schema version to the next; never changed, only added to.
const MIGRATIONS: &[&str] = &[
    base::SCHEMA_1,
    runs::SCHEMA_1,
    uploads::SCHEMA_1,
    downloads::SCHEMA_1,
    runs::SCHEMA_2,
    results::SCHEMA_1,
    removed::SCHEMA_1,
    watched::SCHEMA_1,
    runs::SCHEMA_3,
];

/// Why the journal cannot be read or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// It cannot be opened.
    #[error(transparent)]
    Open(#[from] sqlite::Error),
    /// A statement failed.
    #[error("journal {}: {source}", path.display())]
    Sqlite {
        /// The file.
        path: PathBuf,
        /// What SQLite said.
        source: rusqlite::Error,
    },
}

/// The opened journal; cheap to clone. Every method is one transaction, short enough to be called from async code.
#[derive(Clone)]
pub struct Journal {
    db: Arc<Mutex<Connection>>,
    path: PathBuf,
}

impl std::fmt::Debug for Journal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Journal").field("path", &self.path).finish_non_exhaustive()
    }
}

impl Journal {
    /// Opens `journal.db` in the state folder, or makes it.
    pub fn open(state_folder: &Path) -> Result<Journal, Error> {
        let path = state_folder.join("journal.db");
        let db = sqlite::open(&path, Durability::Full, MIGRATIONS)?;
        Ok(Journal { db: Arc::new(Mutex::new(db)), path })
    }

    /// The connection. A panic of another holder left no transaction open: rusqlite rolls back on drop.
    pub(crate) fn lock(&self) -> MutexGuard<'_, Connection> {
        self.db.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Names the file in an error.
    pub(crate) fn failed(&self, source: rusqlite::Error) -> Error {
        Error::Sqlite { path: self.path.clone(), source }
    }
}
