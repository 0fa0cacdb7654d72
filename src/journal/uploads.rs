//! Uploads that are not finished: written down before the first byte is sent, forgotten when a row names the object. What is
//! found here at the next start is taken up again, or cleaned away.

use super::Error;
use super::Journal;
use rusqlite::Connection;
use rusqlite::params;
use std::collections::BTreeMap;
use std::path::Path;
use std::path::PathBuf;

/// Tables of schema version 3.
pub(super) const SCHEMA_1: &str = "
CREATE TABLE upload (
    place TEXT NOT NULL,            -- store, server, colony and root label
    key TEXT NOT NULL,              -- of the object, which nobody else uses
    folder TEXT NOT NULL,           -- canonical local folder
    path TEXT NOT NULL,             -- of the file below it
    part_of TEXT,                   -- a scratch object: key of the object that is made with it
    sha256 TEXT NOT NULL,           -- of the bytes that are sent; empty where they are not known before
    size INTEGER NOT NULL,
    upload_id TEXT,                 -- NULL: no multipart upload is known to be begun
    plan TEXT,                      -- JSON, of a multipart upload
    begun INTEGER NOT NULL,         -- ns since 1970
    PRIMARY KEY (place, key)
) WITHOUT ROWID;
CREATE TABLE upload_part (
    place TEXT NOT NULL,
    key TEXT NOT NULL,
    number INTEGER NOT NULL,
    etag TEXT NOT NULL,
    PRIMARY KEY (place, key, number),
    FOREIGN KEY (place, key) REFERENCES upload(place, key) ON DELETE CASCADE
) WITHOUT ROWID;
";

/// An upload that was begun, or is about to be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OpenUpload {
    /// Of the object.
    pub key: String,
    /// Path of the file below the tree.
    pub path: String,
    /// A scratch object: key of the object that is made with it.
    pub part_of: Option<String>,
    /// SHA-256 of the bytes, hex; empty where it is not known before they are sent.
    pub sha256: String,
    /// Bytes.
    pub size: u64,
    /// Of the multipart upload, once it is begun.
    pub upload_id: Option<String>,
    /// The parts of a multipart upload, JSON.
    pub plan: Option<String>,
    /// ETags of finished parts by their numbers.
    pub parts: BTreeMap<u32, String>,
}

impl Journal {
    /// The unfinished uploads of a tree.
    pub fn open_uploads(&self, place: &str, folder: &Path) -> Result<Vec<OpenUpload>, Error> {
        let db = self.lock();
        let read = || -> rusqlite::Result<Vec<OpenUpload>> {
            let sql = "SELECT key, path, part_of, sha256, size, upload_id, plan FROM upload WHERE place = ?1 AND folder = ?2";
            let mut query = db.prepare_cached(sql)?;
            let found = query.query_map(params![place, folder.to_string_lossy()], |r| {
                Ok(OpenUpload {
                    key: r.get(0)?,
                    path: r.get(1)?,
                    part_of: r.get(2)?,
                    sha256: r.get(3)?,
                    size: r.get::<_, i64>(4)? as u64,
                    upload_id: r.get(5)?,
                    plan: r.get(6)?,
                    parts: BTreeMap::new(),
                })
            })?;
            let mut parts = db.prepare_cached("SELECT number, etag FROM upload_part WHERE place = ?1 AND key = ?2")?;
            found
                .map(|upload| {
                    let mut upload = upload?;
                    let done = parts.query_map(params![place, upload.key], |r| Ok((r.get(0)?, r.get(1)?)))?;
                    upload.parts = done.collect::<Result<_, _>>()?;
                    Ok(upload)
                })
                .collect()
        };
        read().map_err(|e| self.failed(e))
    }

    /// Keys of all unfinished uploads to places that begin with `prefix`, with the folders they are made from.
    pub fn keys_under_way(&self, prefix: &str) -> Result<Vec<(String, PathBuf)>, Error> {
        let db = self.lock();
        let read = || -> rusqlite::Result<Vec<(String, PathBuf)>> {
            let mut query = db.prepare_cached("SELECT key, folder FROM upload WHERE substr(place, 1, length(?1)) = ?1")?;
            query.query_map([prefix], |r| Ok((r.get(0)?, PathBuf::from(r.get::<_, String>(1)?))))?.collect()
        };
        read().map_err(|e| self.failed(e))
    }

    /// Writes uploads down before anything of them is sent.
    pub fn begin_uploads(&self, place: &str, folder: &Path, uploads: &[OpenUpload], now: i64) -> Result<(), Error> {
        self.change_uploads(|db| {
            let mut put = db.prepare_cached("INSERT OR REPLACE INTO upload VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)")?;
            uploads.iter().try_for_each(|u| {
                let folder = folder.to_string_lossy();
                let size = u.size as i64;
                put.execute(params![place, u.key, folder, u.path, u.part_of, u.sha256, size, u.upload_id, u.plan, now])
                    .map(|_| ())
            })
        })
    }

    /// Writes a multipart upload down that was begun: its id and parts. What was known of an earlier one to the same key is
    /// forgotten.
    pub fn note_upload(&self, place: &str, upload: &OpenUpload) -> Result<(), Error> {
        self.change_uploads(|db| {
            db.prepare_cached("DELETE FROM upload_part WHERE place = ?1 AND key = ?2")?.execute(params![place, upload.key])?;
            db.prepare_cached(
                "UPDATE upload SET sha256 = ?3, size = ?4, upload_id = ?5, plan = ?6 WHERE place = ?1 AND key = ?2",
            )?
            .execute(params![place, upload.key, upload.sha256, upload.size as i64, upload.upload_id, upload.plan])
            .map(|_| ())
        })
    }

    /// Writes a finished part down.
    pub fn note_part(&self, place: &str, key: &str, number: u32, etag: &str) -> Result<(), Error> {
        self.change_uploads(|db| {
            let mut put = db.prepare_cached("INSERT OR REPLACE INTO upload_part VALUES (?1, ?2, ?3, ?4)")?;
            put.execute(params![place, key, number, etag]).map(|_| ())
        })
    }

    /// Forgets uploads: a row names the object, or it is cleaned away.
    pub fn end_uploads(&self, place: &str, keys: &[String]) -> Result<(), Error> {
        if keys.is_empty() {
            return Ok(());
        }
        self.change_uploads(|db| {
            let mut drop = db.prepare_cached("DELETE FROM upload WHERE place = ?1 AND key = ?2")?;
            keys.iter().try_for_each(|key| drop.execute(params![place, key]).map(|_| ()))
        })
    }

    fn change_uploads(&self, work: impl FnOnce(&Connection) -> rusqlite::Result<()>) -> Result<(), Error> {
        let mut db = self.lock();
        let done = db.transaction().and_then(|change| {
            work(&change)?;
            change.commit()
        });
        done.map_err(|e| self.failed(e))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_upload_is_there_until_it_is_ended() {
        let state = tempfile::tempdir().unwrap();
        let (folder, other) = (Path::new("/p/cfs/data"), Path::new("/q"));
        let journal = Journal::open(state.path()).unwrap();
        let mut big = OpenUpload { key: "k1".into(), path: "big".into(), size: 7, ..OpenUpload::default() };
        let small = OpenUpload { key: "k2".into(), path: "small".into(), ..OpenUpload::default() };
        journal.begin_uploads("place", folder, &[big.clone(), small.clone()], 1).unwrap();
        big.upload_id = Some("id".into());
        big.plan = Some("[]".into());
        big.sha256 = "abc".into();
        journal.note_upload("place", &big).unwrap();
        journal.note_part("place", "k1", 2, "e2").unwrap();
        drop(journal);
        let journal = Journal::open(state.path()).unwrap();
        big.parts.insert(2, "e2".into());
        assert_eq!(journal.open_uploads("place", folder).unwrap(), [big.clone(), small]);
        assert_eq!(journal.open_uploads("place", other).unwrap(), []);
        assert_eq!(journal.keys_under_way("pla").unwrap().len(), 2);
        assert_eq!(journal.keys_under_way("x").unwrap().len(), 0);
        // A new upload to the key: parts of the old one are none of it.
        big.parts.clear();
        journal.note_upload("place", &big).unwrap();
        journal.end_uploads("place", &["k2".into()]).unwrap();
        assert_eq!(journal.open_uploads("place", folder).unwrap(), [big]);
        journal.end_uploads("place", &["k1".into()]).unwrap();
        assert_eq!(journal.open_uploads("place", folder).unwrap(), []);
    }
}
