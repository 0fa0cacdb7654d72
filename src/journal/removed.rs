//! Rows of files that we removed from the colony. Snapshots of earlier runs list them by id only; with what is written here
//! their files can still be fetched, as long as `gc` has not removed the objects.

use super::Error;
use super::Journal;
use rusqlite::OptionalExtension;
use rusqlite::params;
use std::collections::BTreeMap;

/// Tables of schema version 7.
pub(super) const SCHEMA_1: &str = "
CREATE TABLE removed_file (
    file_id TEXT PRIMARY KEY,       -- of the row, unique in the world
    label TEXT NOT NULL,
    name TEXT NOT NULL,
    size INTEGER NOT NULL,
    sha256 TEXT NOT NULL,
    object TEXT NOT NULL            -- key of its bytes; empty for an empty file
) WITHOUT ROWID;
";

/// A row that was removed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct RemovedFile {
    pub file_id: String,
    pub label: String,
    pub name: String,
    pub size: i64,
    pub sha256: String,
    pub object: String,
}

impl Journal {
    /// Writes rows down that are about to be removed, in one transaction.
    pub fn note_removed(&self, rows: &[RemovedFile]) -> Result<(), Error> {
        let mut db = self.lock();
        let mut write = || -> rusqlite::Result<()> {
            let transaction = db.transaction()?;
            {
                let mut put =
                    transaction.prepare_cached("INSERT OR REPLACE INTO removed_file VALUES (?1, ?2, ?3, ?4, ?5, ?6)")?;
                for row in rows {
                    put.execute(params![row.file_id, row.label, row.name, row.size, row.sha256, row.object])?;
                }
            }
            transaction.commit()
        };
        write().map_err(|e| self.failed(e))
    }

    /// The objects of all rows that we removed, by the rows' ids. Without those of empty files, which have none.
    pub fn removed_objects(&self) -> Result<BTreeMap<String, String>, Error> {
        let db = self.lock();
        let read = || -> rusqlite::Result<BTreeMap<String, String>> {
            let mut query = db.prepare_cached("SELECT file_id, object FROM removed_file WHERE object <> ''")?;
            query.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?.collect()
        };
        read().map_err(|e| self.failed(e))
    }

    /// Forgets rows whose objects are gone.
    pub fn forget_removed<'k>(&self, objects: impl Iterator<Item = &'k str>) -> Result<(), Error> {
        let mut db = self.lock();
        let write = || -> rusqlite::Result<()> {
            let transaction = db.transaction()?;
            {
                let mut forget = transaction.prepare_cached("DELETE FROM removed_file WHERE object = ?1")?;
                for object in objects {
                    forget.execute([object])?;
                }
            }
            transaction.commit()
        };
        write().map_err(|e| self.failed(e))
    }

    /// A row that we removed; none where it was not us.
    pub fn removed_file(&self, file_id: &str) -> Result<Option<RemovedFile>, Error> {
        let db = self.lock();
        let sql = "SELECT file_id, label, name, size, sha256, object FROM removed_file WHERE file_id = ?1";
        let read = |row: &rusqlite::Row<'_>| {
            Ok(RemovedFile {
                file_id: row.get(0)?,
                label: row.get(1)?,
                name: row.get(2)?,
                size: row.get(3)?,
                sha256: row.get(4)?,
                object: row.get(5)?,
            })
        };
        db.query_row(sql, [file_id], read).optional().map_err(|e| self.failed(e))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_removed_row_is_found_by_its_id() {
        let folder = tempfile::tempdir().unwrap();
        let journal = Journal::open(folder.path()).unwrap();
        let row = |id: &str, size| RemovedFile { file_id: id.into(), name: "x".into(), size, ..RemovedFile::default() };
        journal.note_removed(&[row("a", 1), row("b", 2)]).unwrap();
        journal.note_removed(&[row("b", 3)]).unwrap();
        assert_eq!(journal.removed_file("a").unwrap(), Some(row("a", 1)));
        assert_eq!(journal.removed_file("b").unwrap(), Some(row("b", 3)));
        assert_eq!(journal.removed_file("c").unwrap(), None);
        journal.note_removed(&[RemovedFile { object: "key".into(), ..row("d", 4) }]).unwrap();
        assert_eq!(journal.removed_objects().unwrap(), BTreeMap::from([("d".to_owned(), "key".to_owned())]));
        journal.forget_removed(["key", "other"].into_iter()).unwrap();
        assert_eq!(journal.removed_file("d").unwrap(), None);
        assert!(journal.removed_file("a").unwrap().is_some());
    }
}
