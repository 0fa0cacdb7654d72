//! What is known of contents and of the objects that hold them: chunk lists, which object of which store holds which content,
//! and what a store is able to do. All of it a cache: an object is only believed to be what it was when its ETag is still the
//! same.

use super::Index;
use crate::content::Content;
use crate::content::Digest;
use crate::content::chunk;
use rusqlite::Connection;
use rusqlite::OptionalExtension;
use rusqlite::Row;
use rusqlite::params;
use std::collections::BTreeMap;

/// Tables of schema version 3.
pub(super) const SCHEMA: &str = "
CREATE TABLE content (              -- contents that have chunks
    sha256 BLOB PRIMARY KEY,
    size INTEGER NOT NULL,
    blake3 BLOB NOT NULL,
    generation TEXT NOT NULL,       -- how it was cut
    chunks BLOB NOT NULL
) WITHOUT ROWID;
CREATE TABLE hook (                 -- some chunks of each content, to find those that have much in common
    hook INTEGER NOT NULL,
    sha256 BLOB NOT NULL REFERENCES content(sha256) ON DELETE CASCADE,
    PRIMARY KEY (hook, sha256)
) WITHOUT ROWID;
CREATE TABLE object (
    place TEXT NOT NULL,            -- server and bucket
    key TEXT NOT NULL,
    sha256 BLOB NOT NULL,
    size INTEGER NOT NULL,
    etag TEXT NOT NULL,
    mode INTEGER,                   -- permission bits that are stored with it; NULL: not known
    PRIMARY KEY (place, key)
) WITHOUT ROWID;
CREATE INDEX object_by_content ON object(sha256);
CREATE TABLE trait (                -- what a store is able to do, and how fast it is
    place TEXT NOT NULL,
    name TEXT NOT NULL,
    value TEXT NOT NULL,
    PRIMARY KEY (place, name)
) WITHOUT ROWID;
";

/// One chunk in so many is a hook, as its digest says (sparse indexing; Lillibridge et al., FAST 2009).
const HOOK_EVERY: u64 = 16;
/// Objects of one content that are told.
const SAME: u32 = 4;

/// An object whose content is known, because we stored it or read and verified it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KnownObject {
    /// Its key.
    pub key: String,
    /// SHA-256 of its bytes, hex.
    pub sha256: String,
    /// Bytes.
    pub size: u64,
    /// Its ETag when its content was known: another one is another content.
    pub etag: String,
    /// Permission bits that are stored with it, where they are known.
    pub mode: Option<u32>,
}

pub(super) fn sha256_bytes(hex_digits: &str) -> Vec<u8> {
    // Digests are ours or were checked; what is no digest is never found again, which a cache may do.
    hex::decode(hex_digits).unwrap_or_default()
}

/// Writes a content down, with its hooks.
pub(super) fn put_content(db: &Connection, content: &Content) -> rusqlite::Result<()> {
    let sha256 = sha256_bytes(&content.sha256);
    db.prepare_cached("INSERT OR REPLACE INTO content VALUES (?1, ?2, ?3, ?4, ?5)")?.execute(params![
        sha256,
        content.size as i64,
        content.blake3.0,
        chunk::GENERATION,
        chunk::encode(&content.chunks)
    ])?;
    let mut put = db.prepare_cached("INSERT OR IGNORE INTO hook VALUES (?1, ?2)")?;
    hooks(content).try_for_each(|hook| put.execute(params![hook, sha256]).map(|_| ()))
}

fn hooks(content: &Content) -> impl Iterator<Item = i64> {
    content.chunks.iter().filter_map(|chunk| {
        let mut begin = [0; 8];
        begin.copy_from_slice(&chunk.digest.0[..8]);
        let hook = u64::from_le_bytes(begin);
        (hook % HOOK_EVERY == 0).then_some(hook as i64)
    })
}

fn object(row: &Row<'_>) -> rusqlite::Result<KnownObject> {
    let sha256 = hex::encode(row.get::<_, Vec<u8>>(1)?);
    Ok(KnownObject { key: row.get(0)?, sha256, size: row.get::<_, i64>(2)? as u64, etag: row.get(3)?, mode: row.get(4)? })
}

impl Index {
    /// A query of the cache. What cannot be read is not known.
    fn ask<T: Default>(&self, what: &str, query: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> T {
        query(&self.lock()).unwrap_or_else(|error| {
            tracing::warn!(%error, what, "the index cannot be read; it is found out again");
            T::default()
        })
    }

    /// The chunk list of a content; none where it is not known, or was cut in another way.
    pub fn content(&self, sha256: &str) -> Option<Content> {
        self.ask("content", |db| {
            let sql = "SELECT size, blake3, chunks FROM content WHERE sha256 = ?1 AND generation = ?2";
            let mut query = db.prepare_cached(sql)?;
            let found = query.query_row(params![sha256_bytes(sha256), chunk::GENERATION], |row| {
                Ok((row.get::<_, i64>(0)? as u64, row.get(1)?, row.get::<_, Vec<u8>>(2)?))
            });
            let decoded = found.optional()?.and_then(|(size, blake3, chunks)| {
                let chunks = chunk::decode(&chunks, size)?;
                Some(Content { size, blake3: Digest(blake3), sha256: sha256.to_owned(), chunks })
            });
            Ok(decoded)
        })
    }

    /// Remembers a content that has chunks.
    pub fn note_content(&self, content: &Content) {
        self.change("content", |db| put_content(db, content));
    }

    /// Remembers what objects hold.
    pub fn note_objects(&self, place: &str, objects: &[KnownObject]) {
        if objects.is_empty() {
            return;
        }
        self.change("objects", |db| {
            let mut put = db.prepare_cached("INSERT OR REPLACE INTO object VALUES (?1, ?2, ?3, ?4, ?5, ?6)")?;
            objects.iter().try_for_each(|o| {
                put.execute(params![place, o.key, sha256_bytes(&o.sha256), o.size as i64, o.etag, o.mode]).map(|_| ())
            })
        });
    }

    /// Forgets an object that is gone or has become another one.
    pub fn forget_object(&self, place: &str, key: &str) {
        self.forget_objects(place, std::iter::once(key));
    }

    /// Forgets objects that are gone.
    pub fn forget_objects<'k>(&self, place: &str, mut keys: impl Iterator<Item = &'k str>) {
        self.change("objects", |db| {
            let mut drop = db.prepare_cached("DELETE FROM object WHERE place = ?1 AND key = ?2")?;
            keys.try_for_each(|key| drop.execute(params![place, key]).map(|_| ()))
        });
    }

    /// Objects that hold this content.
    pub fn objects_with(&self, place: &str, sha256: &str) -> Vec<KnownObject> {
        self.ask("objects", |db| {
            let sql = "SELECT key, sha256, size, etag, mode FROM object INDEXED BY object_by_content WHERE place = ?1 AND sha256 = ?2 LIMIT ?3";
            let mut query = db.prepare_cached(sql)?;
            query.query_map(params![place, sha256_bytes(sha256), SAME], object)?.collect()
        })
    }

    /// The object under this key, where it is known.
    pub fn object(&self, place: &str, key: &str) -> Option<KnownObject> {
        self.ask("object", |db| {
            let sql = "SELECT key, sha256, size, etag, mode FROM object WHERE place = ?1 AND key = ?2";
            db.prepare_cached(sql)?.query_row(params![place, key], object).optional()
        })
    }

    /// Objects that have much in common with a content, the most similar first, one for each content.
    pub fn similar(&self, place: &str, content: &Content, limit: usize) -> Vec<KnownObject> {
        self.ask("similar objects", |db| {
            let mut by_hook = db.prepare_cached(
                "SELECT DISTINCT h.sha256 FROM hook h WHERE h.hook = ?1
                 AND EXISTS (SELECT 1 FROM object o INDEXED BY object_by_content WHERE o.place = ?2 AND o.sha256 = h.sha256) LIMIT 64",
            )?;
            let mut hits: BTreeMap<Vec<u8>, usize> = BTreeMap::new();
            for hook in hooks(content) {
                for sha256 in by_hook.query_map(params![hook, place], |row| row.get::<_, Vec<u8>>(0))? {
                    *hits.entry(sha256?).or_default() += 1;
                }
            }
            let mut ranked: Vec<_> = hits.into_iter().collect();
            ranked.sort_by(|a, b| b.1.cmp(&a.1).then(a.0.cmp(&b.0)));
            let mut one =
                db.prepare_cached("SELECT key, sha256, size, etag, mode FROM object INDEXED BY object_by_content WHERE place = ?1 AND sha256 = ?2 LIMIT 1")?;
            let best = ranked.iter().take(limit);
            best.map(|(sha256, _)| one.query_row(params![place, sha256], object)).collect()
        })
    }

    /// What was noted of a store.
    pub fn store_trait(&self, place: &str, name: &str) -> Option<String> {
        self.ask("traits", |db| {
            let mut query = db.prepare_cached("SELECT value FROM trait WHERE place = ?1 AND name = ?2")?;
            query.query_row([place, name], |row| row.get(0)).optional()
        })
    }

    /// Notes something about a store.
    pub fn note_store_trait(&self, place: &str, name: &str, value: &str) {
        self.change("traits", |db| {
            db.execute("INSERT OR REPLACE INTO trait VALUES (?1, ?2, ?3)", [place, name, value]).map(|_| ())
        });
    }

    /// Forgets contents that no known file and no known object has.
    pub fn forget_unused_contents(&self) {
        self.change("contents", |db| {
            db.execute_batch(
                "CREATE TEMP TABLE used AS SELECT sha256 FROM object UNION SELECT sha256 FROM file WHERE size > 5242880;
                 DELETE FROM hook WHERE sha256 NOT IN (SELECT sha256 FROM used);
                 DELETE FROM content WHERE sha256 NOT IN (SELECT sha256 FROM used);
                 DROP TABLE used;",
            )
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn content(seed: u8, pieces: u64) -> Content {
        let chunks: Vec<_> = (0..pieces)
            .map(|n| chunk::Chunk { digest: Digest::of(&[&[seed][..], &n.to_le_bytes()].concat()), len: 100 })
            .collect();
        let (size, blake3) = (100 * pieces, Digest::of(&[seed]));
        Content { size, blake3, sha256: hex::encode([seed; 32]), chunks }
    }

    fn known(key: &str, content: &Content) -> KnownObject {
        KnownObject { key: key.into(), sha256: content.sha256.clone(), size: content.size, etag: "e".into(), mode: None }
    }

    #[test]
    fn contents_and_objects_are_found_again() {
        let state = tempfile::tempdir().unwrap();
        let index = Index::open(state.path()).unwrap();
        let (one, two) = (content(1, 400), content(2, 400));
        index.note_content(&one);
        index.note_content(&two);
        assert_eq!(index.content(&one.sha256), Some(one.clone()));
        assert_eq!(index.content(&"00".repeat(32)), None);
        index.note_objects("s3", &[known("a", &one), known("b", &one), known("c", &two)]);
        let keys = |found: Vec<KnownObject>| found.into_iter().map(|o| o.key).collect::<Vec<_>>();
        assert_eq!(keys(index.objects_with("s3", &one.sha256)), ["a", "b"]);
        assert_eq!(keys(index.objects_with("elsewhere", &one.sha256)), [""; 0]);
        // Half of the one, a quarter of the other.
        let mixed = Content { chunks: [&one.chunks[..200], &two.chunks[..100]].concat(), ..content(3, 0) };
        assert_eq!(keys(index.similar("s3", &mixed, 8)), ["a", "c"]);
        assert_eq!(keys(index.similar("s3", &mixed, 1)), ["a"]);
        index.forget_object("s3", "c");
        index.forget_unused_contents();
        assert_eq!((index.content(&two.sha256), index.content(&one.sha256).is_some()), (None, true));
        assert_eq!(index.object("s3", "c"), None);
        index.note_store_trait("s3", "part-copy", "no");
        assert_eq!(index.store_trait("s3", "part-copy").as_deref(), Some("no"));
    }
}
