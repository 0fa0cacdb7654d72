//! `files.db`: which folders of the file area this executor made, for what, when they were last of use; and what the files of
//! snapshots are known to hold, by what the disk says of them.
//!
//! Losing it costs time and leaves folders behind; nothing is removed that does not stand in it.

use crate::executor::place::Inside;
use crate::index::Stat;
use crate::sqlite;
use crate::sqlite::Durability;
use rusqlite::Connection;
use rusqlite::OptionalExtension;
use rusqlite::Row;
use rusqlite::params;
use std::path::Path;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;

const MIGRATIONS: &[&str] = &["
CREATE TABLE folder (
    dir TEXT PRIMARY KEY,           -- below the file area
    label TEXT NOT NULL,            -- whose files it holds
    snapshot TEXT NOT NULL,         -- of which snapshot they are; empty: of the label itself
    made INTEGER NOT NULL,          -- whether it was made by us, or empty when we came
    kept INTEGER NOT NULL,          -- whether the last job wanted it kept
    unsent INTEGER NOT NULL,        -- whether something in it could not be sent back
    used INTEGER NOT NULL           -- ms since 1970
) WITHOUT ROWID;
CREATE TABLE seal (
    device INTEGER NOT NULL,
    inode INTEGER NOT NULL,
    size INTEGER NOT NULL,
    mtime INTEGER NOT NULL,         -- ns since 1970
    ctime INTEGER NOT NULL,         -- ns since 1970
    mode INTEGER NOT NULL,
    sha256 TEXT NOT NULL,
    PRIMARY KEY (device, inode)
) WITHOUT ROWID;
"];

/// A folder of the file area.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Folder {
    pub(super) dir: Inside,
    pub(super) label: String,
    /// Empty: it holds the label's files, not a snapshot's.
    pub(super) snapshot: String,
    pub(super) made: bool,
    pub(super) kept: bool,
    pub(super) unsent: bool,
    /// When it was last of use, ms since 1970.
    pub(super) used: i64,
}

/// What a file held when it was last read or made, and what the disk said of it then.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Seal {
    pub(super) stat: Stat,
    /// Permission bits.
    pub(super) mode: u32,
    pub(super) sha256: String,
}

/// The database. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Shelf {
    db: Arc<Mutex<Connection>>,
}

impl Shelf {
    /// Opens it in the state folder.
    pub(super) fn open(state_dir: &Path) -> Result<Shelf, sqlite::Error> {
        let db = sqlite::open(&state_dir.join("files.db"), Durability::Cache, MIGRATIONS)?;
        Ok(Shelf { db: Arc::new(Mutex::new(db)) })
    }

    fn lock(&self) -> MutexGuard<'_, Connection> {
        self.db.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is known of a folder.
    pub(super) fn folder(&self, dir: &Inside) -> rusqlite::Result<Option<Folder>> {
        let db = self.lock();
        let mut found = db.prepare_cached(&format!("{FOLDERS} WHERE dir = ?1"))?;
        found.query_row([dir.as_str()], folder_of).optional()
    }

    /// All folders, those that were of use last first.
    pub(super) fn folders(&self) -> rusqlite::Result<Vec<Folder>> {
        let db = self.lock();
        let mut found = db.prepare_cached(&format!("{FOLDERS} ORDER BY used DESC"))?;
        found.query_map([], folder_of)?.collect()
    }

    /// Writes a folder down.
    pub(super) fn keep(&self, folder: &Folder) -> rusqlite::Result<()> {
        let Folder { dir, label, snapshot, made, kept, unsent, used } = folder;
        let db = self.lock();
        let mut kept_row = db.prepare_cached("INSERT OR REPLACE INTO folder VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)")?;
        kept_row.execute(params![dir.as_str(), label, snapshot, made, kept, unsent, used]).map(drop)
    }

    /// Notes whether something in a folder could not be sent back.
    pub(super) fn note_unsent(&self, dir: &Inside, unsent: bool) -> rusqlite::Result<()> {
        self.lock().execute("UPDATE folder SET unsent = ?2 WHERE dir = ?1", params![dir.as_str(), unsent]).map(drop)
    }

    /// Notes that folders are of use now.
    pub(super) fn touch(&self, dirs: &[&Inside], now: i64) -> rusqlite::Result<()> {
        let mut db = self.lock();
        let change = db.transaction()?;
        for dir in dirs {
            change.execute("UPDATE folder SET used = ?2 WHERE dir = ?1", params![dir.as_str(), now])?;
        }
        change.commit()
    }

    /// Forgets a folder, and those in it.
    pub(super) fn forget(&self, dir: &Inside) -> rusqlite::Result<()> {
        let inside = format!("{dir}/");
        let sql = "DELETE FROM folder WHERE dir = ?1 OR substr(dir, 1, length(?2)) = ?2";
        self.lock().execute(sql, params![dir.as_str(), inside]).map(drop)
    }

    /// What a file, by device and inode, is known to have held.
    pub(super) fn seal_of(&self, (device, inode): (u64, u64)) -> rusqlite::Result<Option<Seal>> {
        let db = self.lock();
        let sql = "SELECT size, mtime, ctime, mode, sha256 FROM seal WHERE device = ?1 AND inode = ?2";
        let mut found = db.prepare_cached(sql)?;
        let seal = |row: &Row<'_>| {
            let size: i64 = row.get(0)?;
            let stat = Stat { size: size as u64, mtime: row.get(1)?, ctime: row.get(2)?, inode, device };
            Ok(Seal { stat, mode: row.get(3)?, sha256: row.get(4)? })
        };
        found.query_row(params![device as i64, inode as i64], seal).optional()
    }

    /// Notes what files hold.
    pub(super) fn seal(&self, seals: &[Seal]) -> rusqlite::Result<()> {
        let mut db = self.lock();
        let change = db.transaction()?;
        {
            let mut row = change.prepare_cached("INSERT OR REPLACE INTO seal VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)")?;
            for Seal { stat: Stat { size, mtime, ctime, inode, device }, mode, sha256 } in seals {
                row.execute(params![*device as i64, *inode as i64, *size as i64, mtime, ctime, mode, sha256])?;
            }
        }
        change.commit()
    }

    /// Forgets what these files held.
    pub(super) fn unseal(&self, inodes: &[(u64, u64)]) -> rusqlite::Result<()> {
        let mut db = self.lock();
        let change = db.transaction()?;
        {
            let mut row = change.prepare_cached("DELETE FROM seal WHERE device = ?1 AND inode = ?2")?;
            for (device, inode) in inodes {
                row.execute(params![*device as i64, *inode as i64])?;
            }
        }
        change.commit()
    }
}

const FOLDERS: &str = "SELECT dir, label, snapshot, made, kept, unsent, used FROM folder";

fn folder_of(row: &Row<'_>) -> rusqlite::Result<Folder> {
    let dir: String = row.get(0)?;
    let dir =
        Inside::read(&dir).map_err(|e| rusqlite::Error::FromSqlConversionFailure(0, rusqlite::types::Type::Text, e.into()))?;
    Ok(Folder {
        dir,
        label: row.get(1)?,
        snapshot: row.get(2)?,
        made: row.get(3)?,
        kept: row.get(4)?,
        unsent: row.get(5)?,
        used: row.get(6)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_down_is_found_again() {
        let state = tempfile::tempdir().unwrap();
        let shelf = Shelf::open(state.path()).unwrap();
        let folder = |dir: &str, used| Folder {
            dir: Inside::read(dir).unwrap(),
            label: "/p/src".into(),
            snapshot: "s".into(),
            made: true,
            kept: true,
            unsent: false,
            used,
        };
        for (dir, used) in [("p/a", 1), ("p/a/b", 3), ("p/a_b", 2), ("p/aa", 0)] {
            shelf.keep(&folder(dir, used)).unwrap();
        }
        let names = || shelf.folders().unwrap().into_iter().map(|f| f.dir.to_string()).collect::<Vec<_>>();
        assert_eq!(names(), ["p/a/b", "p/a_b", "p/a", "p/aa"]);
        shelf.note_unsent(&Inside::read("p/a").unwrap(), true).unwrap();
        assert!(shelf.folder(&Inside::read("p/a").unwrap()).unwrap().unwrap().unsent);
        shelf.touch(&[&Inside::read("p/aa").unwrap(), &Inside::read("p/none").unwrap()], 4).unwrap();
        assert_eq!(names(), ["p/aa", "p/a/b", "p/a_b", "p/a"]);
        shelf.forget(&Inside::read("p/a").unwrap()).unwrap();
        assert_eq!(names(), ["p/aa", "p/a_b"]);
        let stat = Stat { size: 1, mtime: 2, ctime: 3, inode: u64::MAX, device: 4 };
        shelf.seal(&[Seal { stat, mode: 0o444, sha256: "ab".into() }]).unwrap();
        let found = shelf.seal_of((4, u64::MAX)).unwrap().unwrap();
        assert_eq!((found.stat, found.mode, found.sha256.as_str()), (stat, 0o444, "ab"));
        shelf.unseal(&[(4, u64::MAX)]).unwrap();
        assert_eq!(shelf.seal_of((4, u64::MAX)).unwrap(), None);
    }
}
