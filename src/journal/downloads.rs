//! Downloads that are not finished: which parts of a large file have come, so that they are not fetched again after a kill or
//! a lost network.
//!
//! Nothing rests on the truth of these rows: the file is hashed when it is whole. A lost row costs time only.

use super::Error;
use super::Journal;
use rusqlite::Connection;
use rusqlite::OptionalExtension;
use rusqlite::Row;
use rusqlite::params;
use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::path::PathBuf;

/// Tables of schema version 1.
pub(super) const SCHEMA_1: &str = "
CREATE TABLE download (
    file BLOB PRIMARY KEY,          -- the unfinished file: a path, any bytes
    root BLOB NOT NULL,             -- canonical folder of its tree
    object TEXT NOT NULL,           -- key in the store
    etag TEXT NOT NULL,             -- what the object was when it was begun
    sha256 TEXT NOT NULL,           -- as registered
    size INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE download_range (
    file BLOB NOT NULL REFERENCES download(file) ON DELETE CASCADE,
    first INTEGER NOT NULL,         -- first byte of a range that is written
    past INTEGER NOT NULL,          -- the byte after its last one
    PRIMARY KEY (file, first)
) WITHOUT ROWID;
";

const COLUMNS: &str = "file, root, object, etag, sha256, size";

/// A download that was begun.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Download {
    /// The unfinished file.
    pub file: PathBuf,
    /// Canonical folder of its tree.
    pub root: PathBuf,
    /// Object key.
    pub object: String,
    /// ETag of the object when it was begun.
    pub etag: String,
    /// SHA-256 that the whole is to have, hex.
    pub sha256: String,
    /// Bytes of the whole.
    pub size: u64,
}

/// Ranges that are written: first byte, and the byte after the last one.
pub type Ranges = BTreeSet<(u64, u64)>;

impl Journal {
    /// Notes that a download begins; what was known of the same file is forgotten.
    pub fn begin_download(&self, download: &Download) -> Result<(), Error> {
        let mut db = self.lock();
        let mut write = || -> rusqlite::Result<()> {
            let change = db.transaction()?;
            forget(&change, &download.file)?;
            change.execute(
                &format!("INSERT INTO download({COLUMNS}) VALUES (?1, ?2, ?3, ?4, ?5, ?6)"),
                params![
                    bytes(&download.file),
                    bytes(&download.root),
                    download.object,
                    download.etag,
                    download.sha256,
                    download.size as i64
                ],
            )?;
            change.commit()
        };
        write().map_err(|e| self.failed(e))
    }

    /// What is known of an unfinished file.
    pub fn download(&self, file: &Path) -> Result<Option<(Download, Ranges)>, Error> {
        let db = self.lock();
        let read = || -> rusqlite::Result<Option<(Download, Ranges)>> {
            let sql = format!("SELECT {COLUMNS} FROM download WHERE file = ?1");
            let Some(download) = db.query_row(&sql, [bytes(file)], of_row).optional()? else { return Ok(None) };
            let mut ranges = db.prepare_cached("SELECT first, past FROM download_range WHERE file = ?1")?;
            let ranges = ranges.query_map([bytes(file)], |r| Ok((r.get::<_, i64>(0)? as u64, r.get::<_, i64>(1)? as u64)))?;
            Ok(Some((download, ranges.collect::<Result<_, _>>()?)))
        };
        read().map_err(|e| self.failed(e))
    }

    /// All unfinished downloads, of all trees.
    pub fn downloads(&self) -> Result<Vec<Download>, Error> {
        let db = self.lock();
        let read = || -> rusqlite::Result<Vec<Download>> {
            let mut rows = db.prepare_cached(&format!("SELECT {COLUMNS} FROM download"))?;
            let rows = rows.query_map([], of_row)?;
            rows.collect()
        };
        read().map_err(|e| self.failed(e))
    }

    /// Notes that a range is written. Of a download that was forgotten nothing is noted.
    pub fn range_done(&self, file: &Path, first: u64, past: u64) -> Result<(), Error> {
        let sql = "INSERT OR REPLACE INTO download_range SELECT file, ?2, ?3 FROM download WHERE file = ?1";
        let done = self.lock().execute(sql, params![bytes(file), first as i64, past as i64]);
        done.map(|_| ()).map_err(|e| self.failed(e))
    }

    /// Forgets a download: it is finished, or given up.
    pub fn forget_download(&self, file: &Path) -> Result<(), Error> {
        forget(&self.lock(), file).map_err(|e| self.failed(e))
    }
}

fn forget(db: &Connection, file: &Path) -> rusqlite::Result<()> {
    db.execute("DELETE FROM download WHERE file = ?1", [bytes(file)]).map(|_| ())
}

fn bytes(path: &Path) -> &[u8] {
    path.as_os_str().as_bytes()
}

fn of_row(row: &Row<'_>) -> rusqlite::Result<Download> {
    let path = |column| Ok::<_, rusqlite::Error>(PathBuf::from(OsStr::from_bytes(row.get_ref(column)?.as_blob()?)));
    Ok(Download {
        file: path(0)?,
        root: path(1)?,
        object: row.get(2)?,
        etag: row.get(3)?,
        sha256: row.get(4)?,
        size: row.get::<_, i64>(5)? as u64,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_kept_until_the_download_is_begun_anew_or_forgotten() {
        let state = tempfile::tempdir().unwrap();
        let journal = Journal::open(state.path()).unwrap();
        let file = PathBuf::from(OsStr::from_bytes(b"/t/.\xffx.pollinator-0123456789abcdef"));
        let begun = Download {
            file: file.clone(),
            root: "/t".into(),
            object: "k".into(),
            etag: "e".into(),
            sha256: "s".into(),
            size: 1 << 40,
        };
        journal.range_done(&file, 0, 16).unwrap();
        assert_eq!(journal.download(&file).unwrap(), None);
        journal.begin_download(&begun).unwrap();
        for (first, past) in [(16, 32), (0, 16), (0, 16)] {
            journal.range_done(&file, first, past).unwrap();
        }
        drop(journal);
        let journal = Journal::open(state.path()).unwrap();
        assert_eq!(journal.download(&file).unwrap(), Some((begun.clone(), Ranges::from([(0, 16), (16, 32)]))));
        assert_eq!(journal.downloads().unwrap(), vec![begun.clone()]);
        let anew = Download { etag: "f".into(), ..begun };
        journal.begin_download(&anew).unwrap();
        assert_eq!(journal.download(&file).unwrap(), Some((anew, Ranges::new())));
        journal.forget_download(&file).unwrap();
        assert!(journal.downloads().unwrap().is_empty());
    }
}
