//! Bringing the very source of a run back: from its snapshot, or from git where the snapshot is gone.
//!
//! Everything is made beside the folder that was asked for, compared with the digest that the run's tree had, and renamed as a
//! whole.

use super::Connection;
use super::Error;
use super::commit;
use crate::blocking;
use crate::cfs;
use crate::colonies::Process;
use crate::event::Events;
use crate::event::Tree;
use crate::index::Index;
use crate::index::LocalTree;
use crate::index::RelPath;
use crate::journal::runs::Run;
use serde::Serialize;
use std::fs::Permissions;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::path::PathBuf;

/// What is known of the source of a run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// The run, as people call it.
    pub run: String,
    /// Snapshot of its src tree.
    pub snapshot_id: String,
    /// The colony that it was made in, and its server; empty where that is the one we are connected to.
    pub colony: String,
    /// Digest of the tree, where we have books about the run.
    pub digest: Option<String>,
    /// The commit, and whether the tree differed from it.
    pub commit: Option<(String, bool)>,
    /// Folders of the project: the repository is looked for there.
    pub folders: Vec<PathBuf>,
}

impl Wanted {
    /// By our books. `here`: the project's folder now, where that is known.
    pub fn of_run(run: &Run, here: Option<&Path>) -> Wanted {
        let mut folders = vec![run.project_folder.clone()];
        folders.extend(here.filter(|here| **here != run.project_folder).map(Path::to_owned));
        Wanted {
            run: run.process_id.clone().unwrap_or_else(|| run.run_id.clone()),
            snapshot_id: run.snapshot_id.clone(),
            colony: format!("{} at {}", run.colony, run.server),
            digest: Some(run.tree_digest.clone()),
            commit: run.git_commit.clone().map(|commit| (commit, run.git_dirty)),
            folders,
        }
    }

    /// By a process that we have no books about.
    pub fn of_process(process: &Process) -> Wanted {
        let mounts = process.spec.fs.snapshots.iter().flatten();
        let snapshot = mounts.map(|mount| mount.snapshotid.clone()).find(|id| !id.is_empty());
        Wanted { run: process.processid.clone(), snapshot_id: snapshot.unwrap_or_default(), ..Wanted::default() }
    }
}

/// Where a source was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Found {
    /// In the run's snapshot.
    Snapshot,
    /// In git: the snapshot is gone.
    Git,
}

/// What was brought.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CheckedOut {
    /// The run.
    pub run: String,
    /// Where its source now lies.
    pub folder: PathBuf,
    /// Where it was found.
    pub from: Found,
    /// Why it does not come from the snapshot, where it does not.
    pub because: Option<String>,
    /// The commit that the run was made of, as far as it is known.
    pub commit: Option<String>,
    /// Files.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Digest of what was brought.
    pub tree_digest: String,
    /// Digest of what was run; none where that is not known.
    pub expected_digest: Option<String>,
}

impl CheckedOut {
    /// Whether it is what was run; none where nothing is known to compare with.
    pub fn is_what_ran(&self) -> Option<bool> {
        self.expected_digest.as_ref().map(|expected| *expected == self.tree_digest)
    }
}

/// Brings the source of a run into `folder`, which must be new or empty.
///
/// # Errors
/// [`Error::BadTarget`]; [`Error::SourceGone`] where it is neither in the colony nor in git; nothing is made then.
pub async fn checkout(
    connection: &Connection,
    wanted: &Wanted,
    folder: &Path,
    jobs: usize,
    events: &Events,
) -> Result<CheckedOut, Error> {
    let target = Target::of(folder)?;
    let place = target.beside()?;
    let tree = place.path().join("tree");
    // What is looked at here does not stay here: the index is not to remember it.
    let index = Index::open(&place.path().join("state")).map_err(cfs::Error::from)?;
    let because = match from_snapshot(connection, wanted, &tree, jobs, events).await {
        Ok(()) => None,
        Err(failure) => {
            let reason = failure.reason()?;
            let git = from_git(&index, wanted, (place.path(), &tree), jobs).await;
            git.map_err(|why| gone(wanted, [reason.clone(), why].concat()))?;
            Some(reason.join("; "))
        }
    };
    let local = look(&index, wanted, &tree, jobs).await?;
    target.put(&tree)?;
    let files = local.files.iter().filter(|(path, _)| !path.is_folder_marker());
    Ok(CheckedOut {
        run: wanted.run.clone(),
        folder: target.path,
        from: if because.is_some() { Found::Git } else { Found::Snapshot },
        because,
        commit: wanted.commit.as_ref().map(|(commit, _)| commit.clone()),
        files: files.clone().count() as u64,
        bytes: files.map(|(_, file)| file.size).sum(),
        tree_digest: cfs::digest(&local.files),
        expected_digest: wanted.digest.clone(),
    })
}

/// Why a snapshot gives no tree.
enum NoTree {
    /// It is not there, or not whole: this is why.
    Gone(Vec<String>),
    /// Nothing can be had at all.
    Failed(Error),
}

impl NoTree {
    fn reason(self) -> Result<Vec<String>, Error> {
        match self {
            NoTree::Gone(reason) => Ok(reason),
            NoTree::Failed(error) => Err(error),
        }
    }
}

async fn from_snapshot(
    connection: &Connection,
    wanted: &Wanted,
    tree: &Path,
    jobs: usize,
    events: &Events,
) -> Result<(), NoTree> {
    make(tree).map_err(NoTree::Failed)?;
    let id = &wanted.snapshot_id;
    if id.is_empty() {
        return Err(NoTree::Gone(vec!["it has no snapshot".into()]));
    }
    let broken = |problems: &[(String, String)]| NoTree::Gone(vec![format!("snapshot {id}: {}", super::error::list(problems))]);
    let listed = match connection.cfs.snapshot_tree_as_it_was(id, &connection.journal).await {
        Ok(listed) => listed,
        Err(error @ cfs::Error::Colony(_)) if !error.is_unreachable() => {
            let client = connection.client();
            let here = format!("{} at {}", client.colony(), client.server());
            let mut reason = vec![format!("colony {here} has no snapshot {id} ({error})")];
            if !wanted.colony.is_empty() && wanted.colony != here {
                reason.push(format!("the run was made in colony {}", wanted.colony));
            }
            return Err(NoTree::Gone(reason));
        }
        Err(error) => return Err(NoTree::Failed(error.into())),
    };
    if !listed.problems.is_empty() {
        return Err(broken(&listed.problems));
    }
    let files: Vec<_> = listed.files.into_values().collect();
    let fetched = cfs::fetch(&connection.cfs, &connection.index, &files, tree, Tree::Src, jobs, events).await;
    let fetched = fetched.map_err(|error| NoTree::Failed(error.into()))?;
    if fetched.problems.is_empty() { Ok(()) } else { Err(broken(&fetched.problems)) }
}

/// Lays out what the commit of the run holds. A tree that differed from its commit is taken only where it turns out to be the
/// same after all: what differed may have been no part of it.
async fn from_git(index: &Index, wanted: &Wanted, (place, tree): (&Path, &Path), jobs: usize) -> Result<(), Vec<String>> {
    let Some((id, dirty)) = &wanted.commit else {
        return Err(vec!["no commit of it is known, since its project was in no git repository".into()]);
    };
    let mut reasons = Vec::new();
    for (number, folder) in wanted.folders.iter().enumerate() {
        let to = place.join(format!("git-{number}"));
        match from_repository(index, folder, id, (&to, tree), jobs).await {
            Ok(digest) if !dirty || wanted.digest.as_ref() == Some(&digest) => return Ok(()),
            Ok(_) => reasons.push(format!("it was commit {id} with changes that were not committed")),
            Err(error) => reasons.push(error.to_string()),
        }
    }
    reasons.dedup();
    Err(reasons)
}

/// Gives the digest of what was laid out.
async fn from_repository(
    index: &Index,
    folder: &Path,
    id: &str,
    (place, tree): (&Path, &Path),
    jobs: usize,
) -> Result<String, Error> {
    let commit = commit::resolve(folder, id).await?;
    std::fs::create_dir(place).map_err(|source| local(place, source))?;
    let extracted = commit.extract(place).await?;
    let found = cfs::look(index, &extracted.src, Some(&extracted.project), jobs).await?;
    let digest = cfs::digest(&found.files);
    let (from, to) = (extracted.src, tree.to_owned());
    let copied = blocking::run(move || {
        std::fs::remove_dir_all(&to)?;
        found.files.keys().try_for_each(|path| copy(&from, &to, path))
    });
    copied.await.map_err(|source| local(tree, source))?;
    Ok(digest)
}

/// As a run sees it: a link is the file that it leads to.
fn copy(from: &Path, to: &Path, path: &RelPath) -> io::Result<()> {
    let target = path.under(to);
    std::fs::create_dir_all(target.parent().unwrap_or(to))?;
    if path.is_folder_marker() { Ok(()) } else { std::fs::copy(path.under(from), target).map(|_| ()) }
}

/// Looks at what was brought. No object is stored for an empty file, so nothing tells whether it was executable: where all of
/// them having been so makes the very tree that was run, they were.
async fn look(index: &Index, wanted: &Wanted, tree: &Path, jobs: usize) -> Result<LocalTree, Error> {
    let found = cfs::look(index, tree, None, jobs).await?;
    let Some(expected) = wanted.digest.as_ref().filter(|expected| **expected != cfs::digest(&found.files)) else {
        return Ok(found);
    };
    let mut other = found.clone();
    let empty = other.files.iter_mut().filter(|(path, file)| file.size == 0 && !path.is_folder_marker());
    empty.for_each(|(_, file)| file.mode |= 0o111);
    if cfs::digest(&other.files) != *expected {
        return Ok(found);
    }
    for (path, file) in other.files.iter().filter(|(path, file)| file.size == 0 && !path.is_folder_marker()) {
        let path = path.under(tree);
        std::fs::set_permissions(&path, Permissions::from_mode(file.mode)).map_err(|source| local(&path, source))?;
    }
    Ok(other)
}

fn gone(wanted: &Wanted, reasons: Vec<String>) -> Error {
    Error::SourceGone { run: wanted.run.clone(), reasons }
}

fn local(path: &Path, source: io::Error) -> Error {
    Error::Local { what: format!("cannot write {}", path.display()), source }
}

fn make(folder: &Path) -> Result<(), Error> {
    std::fs::create_dir(folder).map_err(|source| local(folder, source))
}

/// The folder that something is brought to.
#[derive(Debug)]
struct Target {
    path: PathBuf,
    /// Of the empty folder that stands there.
    permissions: Option<Permissions>,
}

impl Target {
    /// Looks whether it is new or empty.
    fn of(folder: &Path) -> Result<Target, Error> {
        let bad = |why: &str| Error::BadTarget { folder: folder.to_owned(), why: why.to_owned() };
        let unreadable = |source| Error::Local { what: format!("cannot look at {}", folder.display()), source };
        if folder.symlink_metadata().is_err() {
            let path = std::path::absolute(folder).map_err(unreadable)?;
            let above = path.parent().filter(|_| path.file_name().is_some()).ok_or_else(|| bad("is no name for a folder"))?;
            let name = path.file_name().unwrap_or_default();
            return match above.canonicalize() {
                Ok(above) if above.is_dir() => Ok(Target { path: above.join(name), permissions: None }),
                _ => Err(bad("cannot be made: the folder above it does not exist")),
            };
        }
        let path = folder.canonicalize().map_err(|_| bad("is a symbolic link that leads nowhere"))?;
        if !path.is_dir() {
            return Err(bad("is a file"));
        }
        if std::fs::read_dir(&path).map_err(unreadable)?.next().is_some() {
            return Err(bad("is not empty"));
        }
        if std::env::current_dir().is_ok_and(|current| current.canonicalize().is_ok_and(|current| current == path)) {
            return Err(bad("is the folder that you are in, and would be replaced"));
        }
        let permissions = path.metadata().map_err(unreadable)?.permissions();
        Ok(Target { path, permissions: Some(permissions) })
    }

    /// A folder beside it that goes with its owner.
    fn beside(&self) -> Result<tempfile::TempDir, Error> {
        let above = self.path.parent().unwrap_or(Path::new("/"));
        let name = self.path.file_name().unwrap_or_default().to_string_lossy();
        let prefix: String = format!(".{name}").chars().take(40).chain(crate::index::TEMPORARY.chars()).collect();
        tempfile::Builder::new().prefix(&prefix).tempdir_in(above).map_err(|source| local(above, source))
    }

    /// Gives a whole tree the name, in one step. A folder that was filled meanwhile is not replaced.
    fn put(&self, tree: &Path) -> Result<(), Error> {
        let permissions = self.permissions.clone();
        permissions.map_or(Ok(()), |p| std::fs::set_permissions(tree, p)).map_err(|source| local(tree, source))?;
        std::fs::rename(tree, &self.path).map_err(|source| local(&self.path, source))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_new_or_empty_folder_is_taken() {
        let place = tempfile::tempdir().unwrap();
        let path = |name: &str| place.path().join(name);
        std::fs::write(path("file"), "").unwrap();
        std::fs::create_dir_all(path("full/x")).unwrap();
        std::fs::create_dir(path("empty")).unwrap();
        std::os::unix::fs::symlink(path("nothing"), path("dangling")).unwrap();
        std::os::unix::fs::symlink(path("empty"), path("link")).unwrap();
        for (name, said) in [
            ("file", "is a file"),
            ("full", "is not empty"),
            ("dangling", "is a symbolic link that leads nowhere"),
            ("none/x", "cannot be made: the folder above it does not exist"),
        ] {
            let refused = Target::of(&path(name)).unwrap_err().to_string();
            assert_eq!(refused, format!("{} {said}", path(name).display()));
        }
        assert!(matches!(Target::of(Path::new("/")), Err(Error::BadTarget { .. })));
        assert!(Target::of(&path("new")).unwrap().permissions.is_none());
        assert_eq!(Target::of(&path("link")).unwrap().path, path("empty").canonicalize().unwrap());
    }

    #[test]
    fn a_folder_that_was_filled_meanwhile_stays() {
        let place = tempfile::tempdir().unwrap();
        let folder = place.path().join("empty");
        std::fs::create_dir(&folder).unwrap();
        std::fs::set_permissions(&folder, Permissions::from_mode(0o750)).unwrap();
        let target = Target::of(&folder).unwrap();
        let beside = target.beside().unwrap();
        let tree = beside.path().join("tree");
        make(&tree).unwrap();
        std::fs::write(tree.join("main.py"), "1").unwrap();
        std::fs::write(folder.join("mine"), "").unwrap();
        assert!(target.put(&tree).is_err());
        assert!(folder.join("mine").exists() && !folder.join("main.py").exists());
        std::fs::remove_file(folder.join("mine")).unwrap();
        target.put(&tree).unwrap();
        assert_eq!(std::fs::metadata(&folder).unwrap().permissions().mode() & 0o777, 0o750);
        drop(beside);
        assert_eq!(std::fs::read_dir(place.path()).unwrap().count(), 1);
    }
}
