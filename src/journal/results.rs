//! Result files of runs: what came home, and with which content.

use super::Error;
use super::Journal;
use rusqlite::params;
use serde::Serialize;

/// Tables of schema version 6.
pub(super) const SCHEMA_1: &str = "
CREATE TABLE run_result (
    run_id TEXT NOT NULL REFERENCES run(run_id) ON DELETE CASCADE,
    path TEXT NOT NULL,             -- below cfs/result, with /
    size INTEGER NOT NULL,
    sha256 TEXT NOT NULL,
    fetched INTEGER NOT NULL,       -- ns since 1970
    PRIMARY KEY (run_id, path)
) WITHOUT ROWID;
";

/// A file that a run brought.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ResultFile {
    /// Path below `cfs/result`.
    pub path: String,
    /// Bytes.
    pub size: u64,
    /// SHA-256, hex, of what came.
    pub sha256: String,
    /// When it was last fetched, ns since 1970.
    pub fetched: i64,
}

impl Journal {
    /// Notes files that came home for a run, in one transaction. One that came before is noted anew; others stay.
    pub fn add_results(&self, run_id: &str, files: &[ResultFile]) -> Result<(), Error> {
        if files.is_empty() {
            return Ok(());
        }
        let mut db = self.lock();
        let mut write = || -> rusqlite::Result<()> {
            let transaction = db.transaction()?;
            {
                let mut put = transaction.prepare_cached("INSERT OR REPLACE INTO run_result VALUES (?1, ?2, ?3, ?4, ?5)")?;
                for file in files {
                    put.execute(params![run_id, file.path, file.size as i64, file.sha256, file.fetched])?;
                }
            }
            transaction.commit()
        };
        write().map_err(|e| self.failed(e))
    }

    /// The files that came home for a run, by their paths.
    pub fn results(&self, run_id: &str) -> Result<Vec<ResultFile>, Error> {
        let db = self.lock();
        let read = || -> rusqlite::Result<Vec<ResultFile>> {
            let sql = "SELECT path, size, sha256, fetched FROM run_result WHERE run_id = ?1 ORDER BY path";
            let mut query = db.prepare_cached(sql)?;
            let file = |row: &rusqlite::Row<'_>| {
                let size: i64 = row.get(1)?;
                Ok(ResultFile { path: row.get(0)?, size: size as u64, sha256: row.get(2)?, fetched: row.get(3)? })
            };
            query.query_map([run_id], file)?.collect()
        };
        read().map_err(|e| self.failed(e))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::runs::tests::intent;

    #[test]
    fn what_came_is_noted_anew_when_it_comes_again_and_is_kept() {
        let folder = tempfile::tempdir().unwrap();
        let journal = Journal::open(folder.path()).unwrap();
        for id in ["aa", "bb"] {
            journal.add_run(&intent(id, 1)).unwrap();
        }
        let file = |path: &str, sha256: &str, fetched| ResultFile { path: path.into(), size: 3, sha256: sha256.into(), fetched };
        journal.add_results("aa", &[file("y", "1", 5), file("x", "1", 5)]).unwrap();
        journal.add_results("aa", &[file("y", "2", 6)]).unwrap();
        journal.add_results("bb", &[]).unwrap();
        drop(journal);
        let journal = Journal::open(folder.path()).unwrap();
        assert_eq!(journal.results("aa").unwrap(), [file("x", "1", 5), file("y", "2", 6)]);
        assert!(journal.results("bb").unwrap().is_empty());
        assert!(journal.add_results("unknown", &[file("x", "1", 5)]).is_err());
    }
}
