//! What snapshots hold, as far as this executor has asked before.
//!
//! A snapshot never changes, and asking what it holds costs a request for each file. The second run of a project of a hundred
//! thousand files would ask as much as the first, to learn that everything is here. So the answer is kept: one file for each
//! snapshot, written as a whole. It is a cache and no more: what cannot be read is asked again.

use crate::cfs::RemoteFile;
use crate::index::RelPath;
use crate::sqlite;
use sha2::Digest;
use sha2::Sha256;
use std::io::Write;
use std::path::Path;
use std::path::PathBuf;
use std::time::Duration;
use std::time::SystemTime;

/// A listing that nobody asked for in this time goes.
const KEPT: Duration = Duration::from_secs(14 * 24 * 3600);

/// A file as it is kept: path, size, SHA-256, object.
type Line = (String, u64, String, String);

/// The folder of listings.
#[derive(Clone, Debug)]
pub(super) struct Listings {
    folder: PathBuf,
}

impl Listings {
    /// Below the executor's state folder. What is old goes.
    pub(super) fn open(state_dir: &Path) -> std::io::Result<Listings> {
        let folder = state_dir.join("snapshots");
        sqlite::private_folder(&folder)?;
        let now = SystemTime::now();
        for entry in std::fs::read_dir(&folder)?.flatten() {
            let age = entry.metadata().and_then(|m| m.modified()).map(|at| now.duration_since(at).unwrap_or_default());
            if age.is_ok_and(|age| age > KEPT) {
                std::fs::remove_file(entry.path())?;
            }
        }
        Ok(Listings { folder })
    }

    /// Ids and labels come from outside: their digest is a file name, whatever they hold.
    fn path(&self, id: &str, label: &str) -> PathBuf {
        self.folder.join(hex::encode(Sha256::new().chain_update(id).chain_update([0]).chain_update(label).finalize()))
    }

    /// The files of a snapshot, where they are known.
    pub(super) fn find(&self, id: &str, label: &str) -> Option<Vec<RemoteFile>> {
        let path = self.path(id, label);
        let lines: Vec<Line> = serde_json::from_slice(&std::fs::read(&path).ok()?).ok()?;
        let file =
            |(path, size, sha256, object): Line| Some(RemoteFile { path: RelPath::parse(&path).ok()?, size, sha256, object });
        let files = lines.into_iter().map(file).collect::<Option<_>>()?;
        // It is of use: it stays another while.
        if let Err(error) = std::fs::File::open(&path).and_then(|f| f.set_modified(SystemTime::now())) {
            tracing::debug!(path = %path.display(), %error, "the age of a listing is not renewed");
        }
        Some(files)
    }

    /// Keeps the files of a snapshot.
    pub(super) fn keep(&self, id: &str, label: &str, files: &[RemoteFile]) -> std::io::Result<()> {
        let line = |f: &RemoteFile| (f.path.to_string(), f.size, f.sha256.clone(), f.object.clone());
        let lines: Vec<Line> = files.iter().map(line).collect();
        let mut file = tempfile::NamedTempFile::new_in(&self.folder)?;
        file.write_all(&serde_json::to_vec(&lines)?)?;
        file.as_file().sync_data()?;
        file.persist(self.path(id, label))?;
        Ok(())
    }

    /// Forgets a snapshot.
    pub(super) fn forget(&self, id: &str, label: &str) -> std::io::Result<()> {
        match std::fs::remove_file(self.path(id, label)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_is_found_and_what_is_damaged_is_not() {
        let state = tempfile::tempdir().unwrap();
        let listings = Listings::open(state.path()).unwrap();
        let file =
            |path: &str| RemoteFile { path: RelPath::parse(path).unwrap(), size: 3, sha256: "ab".into(), object: "o".into() };
        assert_eq!(listings.find("id", "/l"), None);
        let files = vec![file("a"), file("b/c d")];
        listings.keep("id", "/l", &files).unwrap();
        assert_eq!(listings.find("id", "/l"), Some(files.clone()));
        assert_eq!(listings.find("id", "/other"), None);
        std::fs::write(listings.path("id", "/l"), serde_json::to_vec(&[("../x", 1, "", "")]).unwrap()).unwrap();
        assert_eq!(listings.find("id", "/l"), None, "a path that leaves the folder");
        std::fs::write(listings.path("id", "/l"), "[[\"a\"").unwrap();
        assert_eq!(listings.find("id", "/l"), None);
        listings.keep("../../id", "/l", &files).unwrap();
        listings.forget("../../id", "/l").unwrap();
        listings.forget("../../id", "/l").unwrap();
        assert_eq!(listings.find("../../id", "/l"), None);
    }

    #[test]
    fn what_is_old_goes() {
        let state = tempfile::tempdir().unwrap();
        let listings = Listings::open(state.path()).unwrap();
        listings.keep("old", "", &[]).unwrap();
        listings.keep("new", "", &[]).unwrap();
        let long_ago = SystemTime::now() - KEPT - Duration::from_secs(60);
        std::fs::File::open(listings.path("old", "")).unwrap().set_modified(long_ago).unwrap();
        let listings = Listings::open(state.path()).unwrap();
        assert_eq!(listings.find("old", ""), None);
        assert_eq!(listings.find("new", ""), Some(Vec::new()));
    }
}
