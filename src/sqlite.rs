//! How every SQLite database of ours is opened: durability, journal mode by file system, versioned migrations.

use rusqlite::Connection;
use std::path::Path;
use std::path::PathBuf;
use std::time::Duration;
use std::time::Instant;

/// How long others may keep a database busy.
const BUSY: Duration = Duration::from_secs(20);
/// How long to wait before a busy database is asked again where SQLite itself does not wait.
const BUSY_STEP: Duration = Duration::from_millis(5);

/// How much a database may lose when the machine loses power.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// Nothing that was committed (`synchronous=FULL`): the truth about runs.
    Full,
    /// The last transactions, never its consistency (`synchronous=NORMAL`): caches.
    Cache,
}

/// Why a database cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// SQLite failed.
    #[error("database {}: {source}", path.display())]
    Sqlite {
        /// The file.
        path: PathBuf,
        /// What SQLite said.
        source: rusqlite::Error,
    },
    /// Its folder cannot be made or written.
    #[error("cannot create the folder of the database {}: {source}", path.display())]
    Folder {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// It was written by a newer version.
    #[error(
        "the database {} was written by a newer pollinator (schema {found}, this one knows {known}): install that version",
        path.display()
    )]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its schema version.
        found: usize,
        /// Ours.
        known: usize,
    },
}

impl Error {
    /// Whether the file is damaged: a cache may then be set aside and rebuilt.
    pub fn is_corrupt(&self) -> bool {
        use rusqlite::ErrorCode::DatabaseCorrupt;
        use rusqlite::ErrorCode::NotADatabase;
        matches!(self, Error::Sqlite { source: rusqlite::Error::SqliteFailure(e, _), .. }
            if matches!(e.code, DatabaseCorrupt | NotADatabase))
    }
}

/// Opens (or makes) a database, 0600 in a folder made 0700, and brings its schema up to date.
///
/// `migrations[i]` leads from schema version `i` to `i + 1`; the version is kept in `PRAGMA user_version`.
/// On file systems where several machines may write (NFS, Lustre, GPFS…), write-ahead logging is not safe and is not used.
pub fn open(path: &Path, durability: Durability, migrations: &[&str]) -> Result<Connection, Error> {
    if let Some(folder) = path.parent() {
        private_folder(folder).map_err(|source| Error::Folder { path: path.into(), source })?;
    }
    let sqlite = |source| Error::Sqlite { path: path.into(), source };
    let mut db = Connection::open(path).map_err(sqlite)?;
    restrict(path).map_err(|source| Error::Folder { path: path.into(), source })?;
    configure(&db, path, durability).map_err(sqlite)?;
    let found: usize = db.query_row("PRAGMA user_version", [], |r| r.get::<_, i64>(0)).map_err(sqlite)? as usize;
    if found > migrations.len() {
        return Err(Error::Newer { path: path.into(), found, known: migrations.len() });
    }
    if found < migrations.len() {
        migrate(&mut db, migrations).map_err(sqlite)?;
    }
    Ok(db)
}

fn configure(db: &Connection, path: &Path, durability: Durability) -> rusqlite::Result<()> {
    db.busy_timeout(BUSY)?;
    let mode = if on_shared_file_system(path) { "TRUNCATE" } else { "WAL" };
    let end = Instant::now() + BUSY;
    // Two that open a new database at once both want to change its mode. SQLite refuses one of them at once, whatever the
    // timeout says.
    while let Err(error) = db.query_row(&format!("PRAGMA journal_mode={mode}"), [], |_| Ok(())) {
        if error.sqlite_error_code() != Some(rusqlite::ErrorCode::DatabaseBusy) || Instant::now() >= end {
            return Err(error);
        }
        std::thread::sleep(BUSY_STEP);
    }
    let level = match durability {
        Durability::Full => "FULL",
        Durability::Cache => "NORMAL",
    };
    db.execute_batch(&format!("PRAGMA synchronous={level}; PRAGMA foreign_keys=ON;"))
}

/// All missing migrations in one transaction; another process may have been faster, so the version is read inside it.
fn migrate(db: &mut Connection, migrations: &[&str]) -> rusqlite::Result<()> {
    let change = db.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
    let found: i64 = change.query_row("PRAGMA user_version", [], |r| r.get(0))?;
    for step in migrations.iter().skip(found as usize) {
        change.execute_batch(step)?;
    }
    change.execute_batch(&format!("PRAGMA user_version={}", migrations.len()))?;
    change.commit()
}

/// Makes a folder (and those above it) that only its owner may enter.
///
/// # Errors
/// Those of the file system.
pub fn private_folder(folder: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)
}

fn restrict(path: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))
}

/// Whether other machines may have the same file open: asked of the folder that it is in, since it need not be there.
pub fn on_shared_file_system(path: &Path) -> bool {
    is_on_shared_file_system(path.parent().unwrap_or(path))
}

/// Whether a folder is on a file system that other machines may write (statfs magic numbers of Linux).
#[cfg(target_os = "linux")]
pub fn is_on_shared_file_system(folder: &Path) -> bool {
    use std::os::unix::ffi::OsStrExt;
    const SHARED: [i64; 9] = [
        0x6969,      // NFS
        0x0BD0_0BD0, // Lustre
        0x4750_4653, // GPFS
        0xFF53_4D42, // CIFS
        0xFE53_4D42, // SMB2
        0x1983_0326, // BeeGFS
        0x00C3_6400, // Ceph
        0x6573_5546, // FUSE (sshfs and the like)
        0xAAD7_AAEA, // PanFS
    ];
    let Ok(text) = std::ffi::CString::new(folder.as_os_str().as_bytes()) else { return false };
    let mut stat = std::mem::MaybeUninit::<libc::statfs>::zeroed();
    // SAFETY: `text` is a C string and `stat` a buffer of the right type, both alive during the call.
    if unsafe { libc::statfs(text.as_ptr(), stat.as_mut_ptr()) } != 0 {
        return false;
    }
    // SAFETY: statfs filled it in, and all zeroes are valid for it besides.
    let kind = unsafe { stat.assume_init() }.f_type;
    SHARED.contains(&kind)
}

/// Whether a folder is on a file system that other machines may write: this system does not tell.
#[cfg(not(target_os = "linux"))]
pub fn is_on_shared_file_system(_: &Path) -> bool {
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn migrates_and_refuses_a_newer_schema() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a/b.db");
        let one = ["CREATE TABLE t(x)"];
        let two = ["CREATE TABLE t(x)", "ALTER TABLE t ADD COLUMN y"];
        drop(open(&path, Durability::Full, &one).unwrap());
        let db = open(&path, Durability::Full, &two).unwrap();
        db.execute("INSERT INTO t(x, y) VALUES (1, 2)", []).unwrap();
        drop(db);
        let refused = open(&path, Durability::Full, &one).unwrap_err();
        assert!(matches!(refused, Error::Newer { found: 2, known: 1, .. }), "{refused}");
    }

    #[test]
    fn many_may_make_a_database_at_once() {
        let folder = tempfile::tempdir().unwrap();
        for round in 0..40 {
            let path = folder.path().join(format!("{round}.db"));
            std::thread::scope(|scope| {
                let open = || open(&path, Durability::Cache, &["CREATE TABLE t(x)"]).map(drop);
                let all: Vec<_> = (0..8).map(|_| scope.spawn(open)).collect();
                all.into_iter().for_each(|one| one.join().unwrap().unwrap());
            });
        }
    }

    #[test]
    fn garbage_is_called_corrupt() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("b.db");
        std::fs::write(&path, vec![7u8; 8192]).unwrap();
        assert!(open(&path, Durability::Cache, &["CREATE TABLE t(x)"]).unwrap_err().is_corrupt());
    }
}
