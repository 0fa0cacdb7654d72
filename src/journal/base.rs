//! The trees as they were at the last synchronization: the third tree of the comparison.

use super::Error;
use super::Journal;
use rusqlite::OptionalExtension;
use rusqlite::params;
use std::collections::BTreeMap;
use std::path::Path;

/// Tables of schema version 1.
pub(super) const SCHEMA_1: &str = "
CREATE TABLE base_tree (
    tree_id INTEGER PRIMARY KEY,
    place TEXT NOT NULL,            -- remote place: server, colony and root label
    folder TEXT NOT NULL,           -- canonical local folder
    device INTEGER NOT NULL,        -- st_dev of the folder when it was last in step
    last_removal INTEGER NOT NULL,  -- when rows were last removed from the label, ns since 1970; 0: never
    UNIQUE (place, folder)
);
CREATE TABLE base_file (
    tree_id INTEGER NOT NULL REFERENCES base_tree(tree_id) ON DELETE CASCADE,
    path TEXT NOT NULL,             -- below the folder, with /
    sha256 TEXT NOT NULL,
    mode INTEGER NOT NULL,
    fetched INTEGER NOT NULL,       -- 1: it came from the colony, nobody wrote it here
    PRIMARY KEY (tree_id, path)
) WITHOUT ROWID;
";

/// A file as it was when both sides agreed on it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BaseFile {
    /// SHA-256, hex.
    pub sha256: String,
    /// Permission bits here.
    pub mode: u32,
    /// It came from the colony; nobody wrote it here.
    pub fetched: bool,
}

/// A tree as it was at the last synchronization.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Base {
    /// File system of the local folder.
    pub device: u64,
    /// When rows were last removed from the label (ns since 1970): snapshots made before may list dead files.
    pub last_removal: i64,
    /// Files by their path below the tree.
    pub files: BTreeMap<String, BaseFile>,
}

/// What a synchronization learned.
#[derive(Clone, Debug, Default)]
pub struct BaseChange {
    /// File system of the local folder.
    pub device: u64,
    /// When rows were removed, if any were.
    pub removal: Option<i64>,
    /// Files on which both sides now agree.
    pub agreed: Vec<(String, BaseFile)>,
    /// Files that are gone on both sides.
    pub gone: Vec<String>,
}

/// Path, checksum, mode and origin of a file.
fn file_row(row: &rusqlite::Row<'_>) -> rusqlite::Result<(String, BaseFile)> {
    Ok((row.get(0)?, BaseFile { sha256: row.get(1)?, mode: row.get(2)?, fetched: row.get(3)? }))
}

impl Journal {
    /// The base of a tree; none where it was never brought in step.
    pub fn base(&self, place: &str, folder: &Path) -> Result<Option<Base>, Error> {
        let db = self.lock();
        let read = || -> rusqlite::Result<Option<Base>> {
            let sql = "SELECT tree_id, device, last_removal FROM base_tree WHERE place = ?1 AND folder = ?2";
            let tree = db
                .query_row(sql, params![place, folder.to_string_lossy()], |r| {
                    Ok((r.get::<_, i64>(0)?, r.get::<_, i64>(1)?, r.get::<_, i64>(2)?))
                })
                .optional()?;
            let Some((id, device, last_removal)) = tree else { return Ok(None) };
            let mut rows = db.prepare_cached("SELECT path, sha256, mode, fetched FROM base_file WHERE tree_id = ?1")?;
            let files = rows.query_map([id], file_row)?.collect::<Result<_, _>>()?;
            Ok(Some(Base { device: device as u64, last_removal, files }))
        };
        read().map_err(|e| self.failed(e))
    }

    /// As [`Journal::base`], but only with the files at some paths and below them; and how many files the whole has.
    pub fn base_below(&self, place: &str, folder: &Path, paths: &[&str]) -> Result<Option<(Base, usize)>, Error> {
        let db = self.lock();
        let read = || -> rusqlite::Result<Option<(Base, usize)>> {
            let sql = "SELECT tree_id, device, last_removal, (SELECT count(*) FROM base_file f WHERE f.tree_id = t.tree_id)
                       FROM base_tree t WHERE place = ?1 AND folder = ?2";
            let tree = db
                .query_row(sql, params![place, folder.to_string_lossy()], |r| {
                    Ok((r.get::<_, i64>(0)?, r.get::<_, i64>(1)?, r.get::<_, i64>(2)?, r.get::<_, i64>(3)?))
                })
                .optional()?;
            let Some((id, device, last_removal, total)) = tree else { return Ok(None) };
            // `0` is the character behind `/`.
            let sql = "SELECT path, sha256, mode, fetched FROM base_file
                       WHERE tree_id = ?1 AND (path = ?2 OR (path > ?2 || '/' AND path < ?2 || '0'))";
            let mut rows = db.prepare_cached(sql)?;
            let mut files = BTreeMap::new();
            for path in paths {
                for row in rows.query_map(params![id, path], file_row)? {
                    let (path, file) = row?;
                    files.insert(path, file);
                }
            }
            Ok(Some((Base { device: device as u64, last_removal, files }, total as usize)))
        };
        read().map_err(|e| self.failed(e))
    }

    /// Forgets a tree, with its files.
    pub fn forget_base(&self, place: &str, folder: &Path) -> Result<(), Error> {
        let sql = "DELETE FROM base_tree WHERE place = ?1 AND folder = ?2";
        self.lock().execute(sql, params![place, folder.to_string_lossy()]).map(|_| ()).map_err(|e| self.failed(e))
    }

    /// Takes over what a synchronization learned, in one transaction.
    pub fn change_base(&self, place: &str, folder: &Path, change: &BaseChange) -> Result<(), Error> {
        let mut db = self.lock();
        let mut write = || -> rusqlite::Result<()> {
            let transaction = db.transaction()?;
            transaction.execute(
                "INSERT INTO base_tree(place, folder, device, last_removal) VALUES (?1, ?2, ?3, ?4)
                 ON CONFLICT(place, folder) DO UPDATE SET device = ?3, last_removal = max(last_removal, ?4)",
                params![place, folder.to_string_lossy(), change.device as i64, change.removal.unwrap_or(0)],
            )?;
            let id: i64 = transaction.query_row(
                "SELECT tree_id FROM base_tree WHERE place = ?1 AND folder = ?2",
                params![place, folder.to_string_lossy()],
                |r| r.get(0),
            )?;
            {
                let mut put = transaction.prepare_cached("INSERT OR REPLACE INTO base_file VALUES (?1, ?2, ?3, ?4, ?5)")?;
                for (path, file) in &change.agreed {
                    put.execute(params![id, path, file.sha256, file.mode, file.fetched])?;
                }
                let mut drop = transaction.prepare_cached("DELETE FROM base_file WHERE tree_id = ?1 AND path = ?2")?;
                for path in &change.gone {
                    drop.execute(params![id, path])?;
                }
            }
            transaction.commit()
        };
        write().map_err(|e| self.failed(e))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_base_is_kept_for_each_place_and_folder() {
        let state = tempfile::tempdir().unwrap();
        let journal = Journal::open(state.path()).unwrap();
        let folder = Path::new("/p/cfs/src");
        assert_eq!(journal.base("a", folder).unwrap(), None);
        let file = |sha: &str| BaseFile { sha256: sha.into(), mode: 0o644, fetched: false };
        let first = BaseChange {
            device: 7,
            removal: Some(5),
            agreed: vec![("x".into(), file("1")), ("y".into(), file("2"))],
            gone: vec![],
        };
        journal.change_base("a", folder, &first).unwrap();
        let second = BaseChange { device: 8, removal: None, agreed: vec![("x".into(), file("3"))], gone: vec!["y".into()] };
        journal.change_base("a", folder, &second).unwrap();
        let base = journal.base("a", folder).unwrap().unwrap();
        assert_eq!((base.device, base.last_removal), (8, 5));
        assert_eq!(base.files, BTreeMap::from([("x".to_owned(), file("3"))]));
        assert_eq!(journal.base("b", folder).unwrap(), None);
        let third = BaseChange {
            device: 8,
            agreed: ["a/1", "a/b/2", "a-c", "a0"].map(|path| (path.to_owned(), file("4"))).into(),
            ..BaseChange::default()
        };
        journal.change_base("a", folder, &third).unwrap();
        let (some, total) = journal.base_below("a", folder, &["a", "x", "none"]).unwrap().unwrap();
        assert_eq!((some.files.keys().map(String::as_str).collect::<Vec<_>>(), total), (vec!["a/1", "a/b/2", "x"], 5));
        journal.forget_base("b", folder).unwrap();
        assert!(journal.base("a", folder).unwrap().is_some());
        journal.forget_base("a", folder).unwrap();
        assert_eq!(journal.base("a", folder).unwrap(), None);
        let left: i64 = journal.lock().query_row("SELECT count(*) FROM base_file", [], |row| row.get(0)).unwrap();
        assert_eq!(left, 0);
    }
}
