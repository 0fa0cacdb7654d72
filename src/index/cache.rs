//! `index.db`: which bytes a file held when it was last read, by its stat. A cache: deleting it costs time only.

use super::Error;
use super::RelPath;
use super::scan::Stat;
use crate::content::Content;
use crate::content::Digest;
use crate::sqlite;
use crate::sqlite::Durability;
use rusqlite::Connection;
use rusqlite::params;
use std::collections::HashMap;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;

const MIGRATIONS: &[&str] = &[
    "
CREATE TABLE digest (root TEXT NOT NULL, path TEXT NOT NULL, PRIMARY KEY (root, path)) WITHOUT ROWID;
",
    "
DROP TABLE digest;
CREATE TABLE tree (
    tree_id INTEGER PRIMARY KEY,
    root TEXT NOT NULL UNIQUE       -- canonical folder
);
CREATE TABLE file (
    tree_id INTEGER NOT NULL REFERENCES tree(tree_id) ON DELETE CASCADE,
    path TEXT NOT NULL,             -- below the tree
    size INTEGER NOT NULL,
    mtime INTEGER NOT NULL,         -- ns since 1970
    ctime INTEGER NOT NULL,         -- ns since 1970
    inode INTEGER NOT NULL,
    device INTEGER NOT NULL,
    hashed INTEGER NOT NULL,        -- when its reading began, ns since 1970
    sha256 BLOB NOT NULL,
    blake3 BLOB NOT NULL,
    PRIMARY KEY (tree_id, path)
) WITHOUT ROWID;
",
    super::objects::SCHEMA,
];

/// A file changed so shortly before it was read may have changed again within the same tick of the file system's clock
/// (the "racily clean" rule of git and jj; two seconds is FAT's and some network file systems' grain).
const GRAIN: i64 = 2_000_000_000;

/// What is known of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Known {
    /// What it was when it was read.
    pub stat: Stat,
    /// When its reading began, ns since 1970.
    pub hashed: i64,
    /// SHA-256 of its bytes, hex.
    pub sha256: String,
    /// BLAKE3 of its bytes.
    pub blake3: Digest,
}

impl Known {
    /// Whether it still holds for a file with this stat.
    pub(super) fn holds(&self, stat: &Stat) -> bool {
        self.stat == *stat && stat.mtime.max(stat.ctime) + GRAIN < self.hashed
    }
}

/// The cache; cheap to clone.
#[derive(Clone)]
pub struct Index {
    db: Arc<Mutex<Connection>>,
    path: PathBuf,
}

impl std::fmt::Debug for Index {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Index").field("path", &self.path).finish_non_exhaustive()
    }
}

impl Index {
    /// Opens `index.db` in the state folder. A damaged one is set aside as `index.db.broken-<n>` and a new one begun; so is one
    /// of a newer version.
    ///
    /// # Errors
    /// Those of the folder and of the database.
    pub fn open(state_folder: &Path) -> Result<Index, Error> {
        let path = state_folder.join("index.db");
        let db = match sqlite::open(&path, Durability::Cache, MIGRATIONS) {
            Ok(db) => db,
            Err(error) if error.is_corrupt() || matches!(error, sqlite::Error::Newer { .. }) => begin_anew(&path, &error)?,
            Err(error) => return Err(error.into()),
        };
        Ok(Index { db: Arc::new(Mutex::new(db)), path })
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Connection> {
        self.db.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// All that is known below a root. A cache that cannot be read knows nothing; a damaged one is begun anew.
    pub fn known(&self, root: &Path) -> HashMap<String, Known> {
        self.known_where(|db| read(db, root))
    }

    /// As [`Index::known`], of some paths and all that is below them.
    pub fn known_below(&self, root: &Path, paths: &[RelPath]) -> HashMap<String, Known> {
        self.known_where(|db| read_below(db, root, paths))
    }

    fn known_where(&self, read: impl Fn(&Connection) -> rusqlite::Result<HashMap<String, Known>>) -> HashMap<String, Known> {
        let mut db = self.lock();
        let error = match read(&db) {
            Ok(known) => return known,
            Err(error) => error,
        };
        tracing::warn!(%error, "the index cannot be read; files are read instead");
        let damage = sqlite::Error::Sqlite { path: self.path.clone(), source: error };
        if damage.is_corrupt()
            && let Err(error) = self.renew(&mut db, &damage)
        {
            tracing::warn!(%error, "the damaged index stays");
        }
        HashMap::new()
    }

    fn renew(&self, db: &mut Connection, damage: &sqlite::Error) -> Result<(), Error> {
        let none = Connection::open_in_memory().map_err(|source| sqlite::Error::Sqlite { path: self.path.clone(), source })?;
        // Closed first: closing removes the write-ahead log by its name, which must not be the new one's.
        drop(std::mem::replace(db, none));
        *db = begin_anew(&self.path, damage)?;
        Ok(())
    }

    /// Takes over what was learned, and forgets what is gone, in one transaction. A cache that cannot be written costs time.
    pub fn learn(&self, root: &Path, learned: &Learned) {
        if learned.files.is_empty() && learned.contents.is_empty() && learned.gone.is_empty() {
            return;
        }
        self.change("files", |db| write(db, root, learned));
    }

    /// One transaction on the cache. What cannot be written is only logged: it costs time.
    pub(super) fn change(&self, what: &str, work: impl FnOnce(&Connection) -> rusqlite::Result<()>) {
        let mut db = self.lock();
        let done = db.transaction().and_then(|change| {
            work(&change)?;
            change.commit()
        });
        if let Err(error) = done {
            tracing::warn!(%error, what, "the index cannot be written; it will be found out again");
        }
    }
}

/// What a look at a tree taught.
#[derive(Debug, Default)]
pub struct Learned {
    /// Files that were read, by their paths below the tree.
    pub files: Vec<(String, Known)>,
    /// Their contents, of those that have chunks.
    pub contents: Vec<Content>,
    /// Paths that are gone.
    pub gone: Vec<String>,
}

const KNOWN: &str = "SELECT path, size, mtime, ctime, inode, device, hashed, sha256, blake3 FROM file
                     WHERE tree_id = (SELECT tree_id FROM tree WHERE root = ?1)";

fn read(db: &Connection, root: &Path) -> rusqlite::Result<HashMap<String, Known>> {
    let mut rows = db.prepare_cached(KNOWN)?;
    rows.query_map([root.to_string_lossy()], known_row)?.collect()
}

fn read_below(db: &Connection, root: &Path, paths: &[RelPath]) -> rusqlite::Result<HashMap<String, Known>> {
    // `0` is the character behind `/`.
    let mut rows = db.prepare_cached(&format!("{KNOWN} AND (path = ?2 OR (path > ?2 || '/' AND path < ?2 || '0'))"))?;
    let mut known = HashMap::new();
    for path in paths {
        for row in rows.query_map(params![root.to_string_lossy(), path.as_str()], known_row)? {
            let (path, entry) = row?;
            known.insert(path, entry);
        }
    }
    Ok(known)
}

fn known_row(row: &rusqlite::Row<'_>) -> rusqlite::Result<(String, Known)> {
    let stat = Stat {
        size: row.get::<_, i64>(1)? as u64,
        mtime: row.get(2)?,
        ctime: row.get(3)?,
        inode: row.get::<_, i64>(4)? as u64,
        device: row.get::<_, i64>(5)? as u64,
    };
    let sha256 = hex::encode(row.get::<_, [u8; 32]>(7)?);
    Ok((row.get(0)?, Known { stat, hashed: row.get(6)?, sha256, blake3: Digest(row.get(8)?) }))
}

fn write(db: &Connection, root: &Path, learned: &Learned) -> rusqlite::Result<()> {
    let root = root.to_string_lossy();
    db.execute("INSERT INTO tree(root) VALUES (?1) ON CONFLICT DO NOTHING", [&root])?;
    let id: i64 = db.query_row("SELECT tree_id FROM tree WHERE root = ?1", [&root], |row| row.get(0))?;
    let mut put = db.prepare_cached("INSERT OR REPLACE INTO file VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)")?;
    for (path, known) in &learned.files {
        let Stat { size, mtime, ctime, inode, device } = known.stat;
        let (size, inode, device) = (size as i64, inode as i64, device as i64);
        let sha256 = super::objects::sha256_bytes(&known.sha256);
        put.execute(params![id, path, size, mtime, ctime, inode, device, known.hashed, sha256, known.blake3.0])?;
    }
    let mut drop = db.prepare_cached("DELETE FROM file WHERE tree_id = ?1 AND path = ?2")?;
    for path in &learned.gone {
        drop.execute(params![id, path])?;
    }
    learned.contents.iter().try_for_each(|content| super::objects::put_content(db, content))
}

/// Sets the file aside under the first free name and opens a new one.
fn begin_anew(path: &Path, why: &sqlite::Error) -> Result<Connection, Error> {
    let names = (1u32..).map(|n| path.with_extension(format!("db.broken-{n}")));
    let Some(aside) = names.into_iter().find(|name| name.symlink_metadata().is_err()) else {
        return Err(Error::Unreadable { path: path.into(), source: std::io::Error::other("no free name to set it aside") });
    };
    tracing::warn!(error = %why, aside = %aside.display(), "the index is set aside and made anew");
    set_aside(path, &aside).map_err(|source| Error::Unreadable { path: path.into(), source })?;
    Ok(sqlite::open(path, Durability::Cache, MIGRATIONS)?)
}

/// Moves a database out of the way, with its write-ahead log: a log of another database must never be replayed into a new one.
fn set_aside(path: &Path, aside: &Path) -> std::io::Result<()> {
    std::fs::rename(path, aside)?;
    for suffix in ["-wal", "-shm"] {
        let beside = path.with_file_name(format!("{}{suffix}", path.file_name().unwrap_or_default().to_string_lossy()));
        match std::fs::remove_file(&beside) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_damaged_index_is_set_aside_and_made_anew() {
        let state = tempfile::tempdir().unwrap();
        std::fs::write(state.path().join("index.db"), vec![1u8; 10_000]).unwrap();
        let index = Index::open(state.path()).unwrap();
        let stat = Stat { size: 1, mtime: 1, ctime: 1, inode: 1, device: 1 };
        let known = Known { stat, hashed: 5 * GRAIN, sha256: "ab".repeat(32), blake3: Digest::of(b"x") };
        index.learn(Path::new("/t"), &Learned { files: vec![("a".into(), known.clone())], ..Learned::default() });
        drop(index);
        let index = Index::open(state.path()).unwrap();
        assert_eq!(index.known(Path::new("/t")).get("a"), Some(&known));
        assert!(state.path().join("index.db.broken-1").is_file());
    }

    #[test]
    fn damage_that_shows_later_costs_one_look_only() {
        let state = tempfile::tempdir().unwrap();
        let path = state.path().join("index.db");
        let stat = Stat { size: 1, mtime: 1, ctime: 1, inode: 1, device: 1 };
        let known = Known { stat, hashed: 5 * GRAIN, sha256: "ab".repeat(32), blake3: Digest::of(b"x") };
        let learned = |files| Learned { files, ..Learned::default() };
        let many: Vec<_> = (0..5000).map(|n| (format!("file-{n}"), known.clone())).collect();
        let index = Index::open(state.path()).unwrap();
        index.learn(Path::new("/t"), &learned(many.clone()));
        drop(index);
        // The header and the schema stay whole; the rows are garbage.
        let mut bytes = std::fs::read(&path).unwrap();
        let half = bytes.len() / 4;
        bytes[half..].fill(0xa5);
        std::fs::write(&path, bytes).unwrap();
        let index = Index::open(state.path()).unwrap();
        assert!(index.known(Path::new("/t")).is_empty());
        index.learn(Path::new("/t"), &learned(many[..1].to_vec()));
        assert_eq!(index.known(Path::new("/t")).len(), 1);
        assert!(state.path().join("index.db.broken-1").is_file());
    }

    #[test]
    fn a_file_read_within_the_clocks_grain_is_read_again() {
        let stat = Stat { size: 1, mtime: 10 * GRAIN, ctime: 10 * GRAIN, inode: 1, device: 1 };
        let known = |hashed| Known { stat, hashed, sha256: "x".into(), blake3: Digest::of(b"x") };
        assert!(!known(10 * GRAIN + 1).holds(&stat));
        assert!(known(12 * GRAIN).holds(&stat));
        assert!(!known(12 * GRAIN).holds(&Stat { inode: 2, ..stat }));
    }
}
