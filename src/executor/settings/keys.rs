//! The executor's own key: made once, kept in its state folder, the same at every start.
//!
//! A new key at each start would be a new executor to the colony, and what the old one runs could not be closed.

use super::Error;
use crate::colonies::Identity;
use crate::config;
use crate::config::Secret;
use crate::durable;
use std::path::Path;
use std::path::PathBuf;

/// Where it is.
pub(super) fn path(state_dir: &Path) -> PathBuf {
    state_dir.join("executor.key")
}

/// The key that was made at an earlier start.
pub(super) fn find(state_dir: &Path) -> Result<Option<Secret>, Error> {
    let path = path(state_dir);
    if !path.exists() {
        return Ok(None);
    }
    let text = config::key_file(&path)?;
    let key = Secret::new(text.trim());
    Identity::from_key(&key).map_err(|e| Error::Key { path, reason: e.to_string() })?;
    Ok(Some(key))
}

/// The key of an earlier start, or a new one.
pub(super) fn find_or_make(state_dir: &Path) -> Result<Secret, Error> {
    if let Some(key) = find(state_dir)? {
        return Ok(key);
    }
    let path = path(state_dir);
    let failed = |reason: String| Error::Key { path: path.clone(), reason };
    let (_, key) = Identity::generate().map_err(|e| failed(e.to_string()))?;
    crate::sqlite::private_folder(state_dir).map_err(|e| failed(e.to_string()))?;
    match write(&path, &key) {
        Ok(()) => Ok(key),
        // Another start was faster.
        Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {
            find(state_dir)?.ok_or_else(|| failed("it was removed while it was read".into()))
        }
        Err(e) => Err(failed(e.to_string())),
    }
}

/// Whole or not at all, and never over another one.
fn write(path: &Path, key: &Secret) -> std::io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("."));
    durable::written(folder, key.expose().as_bytes())?.persist_noclobber(path).map(drop).map_err(|e| e.error)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_key_is_made_once_by_any_number_of_starts() {
        let folder = tempfile::tempdir().unwrap();
        let state = folder.path().join("new");
        assert!(find(&state).unwrap().is_none());
        let keys: Vec<Secret> = std::thread::scope(|scope| {
            let all: Vec<_> = (0..4).map(|_| scope.spawn(|| find_or_make(&state).unwrap())).collect();
            all.into_iter().map(|one| one.join().unwrap()).collect()
        });
        let mode = std::fs::metadata(path(&state)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let kept = find(&state).unwrap().unwrap();
        assert!(keys.iter().all(|key| *key == kept));
        assert_eq!(std::fs::read_dir(&state).unwrap().count(), 1);
    }

    #[test]
    fn a_damaged_or_readable_key_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        find_or_make(folder.path()).unwrap();
        let file = path(folder.path());
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o644)).unwrap();
        assert!(find(folder.path()).unwrap_err().hint().unwrap().contains("chmod 600"));
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
        std::fs::write(&file, "5ecre7").unwrap();
        let error = find(folder.path()).unwrap_err();
        assert!(error.hint().is_some() && !error.to_string().contains("5ecre7"), "{error}");
    }
}
