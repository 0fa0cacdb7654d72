//! Contents that are on this machine already, under whatever name, in whatever tree: they are copied instead of fetched.
//!
//! Where a content lies is a guess: it is hashed in the copy, and fetched where it is not what it was.

use super::list::RemoteFile;
use super::place::local;
use super::plan::Entry;
use super::upload::Failed;
use crate::index;
use crate::index::Index;
use crate::index::LocalTree;
use crate::index::RelPath;
use sha2::Digest;
use sha2::Sha256;
use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::io::ErrorKind;
use std::io::Read;
use std::io::Seek;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;

/// So many places of one content are looked at before it is fetched.
const TRIED: usize = 4;
/// So many files are held open because their names are about to be taken by others.
const HELD: usize = 256;

/// Where contents lie on this machine. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(super) struct Sources {
    places: Arc<BTreeMap<String, Vec<PathBuf>>>,
    /// Files whose names are about to be taken: what they hold is reached through here all the same.
    held: Arc<BTreeMap<PathBuf, Mutex<File>>>,
}

impl Sources {
    /// Looks where these contents lie: below `root` as it was just seen, and in whatever trees the index knows. What stands
    /// under one of the names in `taken`, and only there, is opened, so that it can still be read when the name is another's.
    ///
    /// Blocks.
    pub(super) fn find(
        index: &Index,
        tree: &LocalTree,
        root: &Path,
        wanted: &BTreeSet<&str>,
        taken: &BTreeSet<RelPath>,
    ) -> Sources {
        if wanted.is_empty() {
            return Sources::default();
        }
        let mut places: BTreeMap<String, Vec<PathBuf>> = BTreeMap::new();
        let mut held = BTreeMap::new();
        let there = tree.files.iter().filter(|(_, file)| file.size > 0 && wanted.contains(file.sha256.as_str()));
        // What stays under its name is the better place.
        let (lost, kept): (Vec<_>, Vec<_>) = there.partition(|(path, _)| taken.contains(path));
        for (path, file) in kept {
            places.entry(file.sha256.clone()).or_default().push(path.under(root));
        }
        for (path, file) in lost {
            let full = path.under(root);
            if !places.contains_key(&file.sha256)
                && held.len() < HELD
                && let Ok((opened, _)) = index::open_regular(&full)
            {
                held.insert(full.clone(), Mutex::new(opened));
            }
            places.entry(file.sha256.clone()).or_default().push(full);
        }
        for (sha256, known_to_index) in index.holders(wanted) {
            let known = places.entry(sha256).or_default();
            for place in known_to_index {
                if !known.contains(&place) {
                    known.push(place);
                }
            }
        }
        Sources { places: Arc::new(places), held: Arc::new(held) }
    }

    /// Notes where a content lies now. It is the first place to be looked at.
    pub(super) fn add(&mut self, sha256: &str, path: PathBuf) {
        Arc::make_mut(&mut self.places).entry(sha256.to_owned()).or_default().insert(0, path);
    }

    fn of(&self, file: &RemoteFile) -> &[PathBuf] {
        let places = self.places.get(&file.sha256).map(Vec::as_slice).unwrap_or_default();
        &places[..places.len().min(TRIED)]
    }

    /// Whether it is worth looking.
    pub(super) fn may_have(&self, file: &RemoteFile) -> bool {
        !self.of(file).is_empty()
    }

    /// Copies the content of `file` to `temporary`, which is not there yet, from a place that still holds it, and syncs it. Gives
    /// the permission bits of the file it was copied from; none where no place holds it any more, and then there is no temporary
    /// file either.
    ///
    /// Blocks.
    pub(super) fn copy(&self, file: &RemoteFile, temporary: &Path) -> Result<Option<u32>, Failed> {
        for place in self.of(file) {
            match self.copy_from(place, file, temporary) {
                Ok(Some(mode)) => return Ok(Some(mode)),
                Ok(None) => tracing::debug!(place = %place.display(), path = %file.path, "does not hold that content any more"),
                // Fetching it needs the same room.
                Err(error) if is_full(&error) => return Err(local(temporary, &error)),
                Err(error) => tracing::debug!(%error, place = %place.display(), path = %file.path, "cannot be copied from"),
            }
            match std::fs::remove_file(temporary) {
                Err(error) if error.kind() != ErrorKind::NotFound => return Err(local(temporary, &error)),
                _ => {}
            }
        }
        Ok(None)
    }

    fn copy_from(&self, place: &Path, file: &RemoteFile, temporary: &Path) -> io::Result<Option<u32>> {
        match self.held.get(place) {
            Some(held) => {
                let mut held = held.lock().unwrap_or_else(PoisonError::into_inner);
                held.rewind()?;
                copy_opened(&mut held, file, temporary)
            }
            None => copy_opened(&mut index::open_regular(place)?.0, file, temporary),
        }
    }
}

fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge)
}

fn copy_opened(from: &mut File, file: &RemoteFile, temporary: &Path) -> io::Result<Option<u32>> {
    use std::os::unix::fs::PermissionsExt;
    let metadata = from.metadata()?;
    if metadata.len() != file.size {
        return Ok(None);
    }
    let mut to = File::options().read(true).write(true).create_new(true).mode(0o600).open(temporary)?;
    // The system clones the blocks where it can.
    io::copy(&mut from.take(file.size), &mut to)?;
    to.rewind()?;
    if digest_of(&mut to)? != (file.size, file.sha256.clone()) {
        return Ok(None);
    }
    to.sync_all()?;
    Ok(Some(metadata.permissions().mode() & 0o777))
}

/// Bytes of a file from where it stands to its end, and their SHA-256, hex.
pub(super) fn digest_of(file: &mut impl Read) -> io::Result<(u64, String)> {
    let (mut hasher, mut size, mut buffer) = (Sha256::new(), 0, vec![0; 256 * 1024]);
    loop {
        match file.read(&mut buffer) {
            Ok(0) => return Ok((size, hex::encode(hasher.finalize()))),
            Ok(n) => {
                size += n as u64;
                hasher.update(&buffer[..n]);
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// Files, each with more that is known of it.
pub(super) type Files<T> = Vec<(RemoteFile, T)>;

/// Files of which each content stands once, and those whose content comes with one of the first: they are copied from it.
pub(super) fn part_doubles<T>(files: Files<T>) -> (Files<T>, Files<T>) {
    let mut seen = BTreeSet::new();
    files.into_iter().partition(|(file, _)| file.size == 0 || seen.insert(file.sha256.clone()))
}

/// Parts removals into those that are done first, since they make room, and those that wait until the files are here whose
/// content they hold: a file that was renamed over there is one removal and one download.
pub(super) fn part_removals(
    removals: Vec<Entry>,
    downloads: &[Entry],
    tree: &LocalTree,
    wanted: &BTreeSet<&str>,
) -> (Vec<Entry>, Vec<Entry>) {
    let names: BTreeSet<&str> = downloads.iter().map(|entry| entry.path.as_str()).collect();
    let stands_in_the_way = |path: &RelPath| {
        let below = format!("{path}/");
        let leads_on = names.range(below.as_str()..).next().is_some_and(|name| name.starts_with(&below));
        leads_on || path.ancestors().any(|folder| names.contains(folder.as_str()))
    };
    let waits = |entry: &Entry| {
        let holds = tree.files.get(&entry.path).is_some_and(|file| file.size > 0 && wanted.contains(file.sha256.as_str()));
        holds && !stands_in_the_way(&entry.path)
    };
    let (later, first) = removals.into_iter().partition(waits);
    (first, later)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::index::LocalFile;

    fn path(text: &str) -> RelPath {
        RelPath::parse(text).unwrap()
    }

    fn remote(name: &str, content: &str) -> RemoteFile {
        let sha256 = hex::encode(Sha256::digest(content));
        RemoteFile { path: path(name), size: content.len() as u64, sha256, object: String::new() }
    }

    fn tree(files: &[(&str, &str)]) -> LocalTree {
        let file =
            |content: &str| LocalFile { size: content.len() as u64, sha256: remote("x", content).sha256, ..LocalFile::marker() };
        LocalTree { files: files.iter().map(|(name, content)| (path(name), file(content))).collect(), ..LocalTree::default() }
    }

    fn entry(name: &str) -> Entry {
        Entry { path: path(name), size: 1 }
    }

    #[test]
    fn a_content_is_copied_from_where_it_still_is() {
        let (folder, state) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let index = Index::open(state.path()).unwrap();
        let (root, temporary) = (folder.path(), folder.path().join("temporary"));
        for name in ["gone", "changed", "taken"] {
            std::fs::write(root.join(name), "content").unwrap();
        }
        let tree = tree(&[("changed", "content"), ("gone", "content"), ("taken", "other one")]);
        std::fs::write(root.join("taken"), "other one").unwrap();
        let (wanted, other) = (remote("new", "content"), remote("more", "other one"));
        let contents = BTreeSet::from([wanted.sha256.as_str(), other.sha256.as_str()]);
        let mut sources = Sources::find(&index, &tree, root, &contents, &BTreeSet::from([path("taken")]));
        std::fs::remove_file(root.join("gone")).unwrap();
        std::fs::write(root.join("changed"), "CONTENT").unwrap();
        assert_eq!(sources.copy(&wanted, &temporary).unwrap(), None);
        assert!(!temporary.exists());
        // Another file has the name; what stood there is still at hand, more than once.
        std::fs::write(root.join("next"), "next").unwrap();
        std::fs::rename(root.join("next"), root.join("taken")).unwrap();
        for _ in 0..2 {
            assert!(sources.copy(&other, &temporary).unwrap().is_some());
            assert_eq!(std::fs::read_to_string(&temporary).unwrap(), "other one");
            std::fs::remove_file(&temporary).unwrap();
        }
        std::fs::write(root.join("came"), "content").unwrap();
        sources.add(&wanted.sha256, root.join("came"));
        assert!(sources.copy(&wanted, &temporary).unwrap().is_some());
    }

    #[test]
    fn doubles_wait_for_the_first_of_them() {
        let files = [("a", "1"), ("b", "2"), ("c", "1"), ("d", ""), ("e", "")];
        let files = files.iter().map(|(name, content)| (remote(name, content), ())).collect();
        let (first, doubles) = part_doubles(files);
        let names = |files: &[(RemoteFile, ())]| files.iter().map(|(f, ())| f.path.to_string()).collect::<Vec<_>>();
        assert_eq!((names(&first), names(&doubles)), (vec!["a".into(), "b".into(), "d".into(), "e".into()], vec!["c".into()]));
    }

    #[test]
    fn only_a_removal_that_is_no_obstacle_waits() {
        let tree = tree(&[("old", "x"), ("useless", "y"), ("a", "x"), ("f/x", "x")]);
        let removals = ["old", "useless", "a", "f/x"].map(entry).to_vec();
        let downloads = ["new", "a/below", "f", "old-er"].map(entry);
        let wanted = remote("x", "x").sha256;
        let (first, later) = part_removals(removals, &downloads, &tree, &BTreeSet::from([wanted.as_str()]));
        let names = |entries: &[Entry]| entries.iter().map(|e| e.path.to_string()).collect::<Vec<_>>();
        assert_eq!((names(&first), names(&later)), (vec!["useless".into(), "a".into(), "f/x".into()], vec!["old".into()]));
    }
}
