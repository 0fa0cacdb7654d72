//! What the colony says a tree holds.

use super::Cfs;
use super::Error;
use super::labels;
use crate::colonies::File;
use crate::index;
use crate::index::RelPath;
use crate::journal::Journal;
use crate::journal::removed::RemovedFile;
use futures_util::StreamExt;
use futures_util::TryStreamExt;
use std::collections::BTreeMap;
use std::collections::BTreeSet;

/// Requests under way at once.
const AT_ONCE: usize = 8;
/// So many folders are asked about one by one; more of them cost less by one list of all labels, for the server reads every row
/// for each question.
const FEW_FOLDERS: usize = 4;

/// A file of the colony.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RemoteFile {
    /// Path below the tree.
    pub path: RelPath,
    /// Bytes.
    pub size: u64,
    /// SHA-256, hex, as registered.
    pub sha256: String,
    /// Object key; nothing is stored for an empty file.
    pub object: String,
}

/// A tree of the colony.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RemoteTree {
    /// Its files, folder markers among them.
    pub files: BTreeMap<RelPath, RemoteFile>,
    /// Rows that are no files of a tree: what they are called, and why.
    pub problems: Vec<(String, String)>,
}

impl RemoteTree {
    fn take(&mut self, root: &str, label: &str, row: Row) {
        match labels::path_of(root, label, &row.name) {
            Ok(path) => match u64::try_from(row.size) {
                Ok(size) => {
                    // Whatever was registered for an empty file: there is only one.
                    let sha256 = if size == 0 { index::empty_sha256().to_owned() } else { row.sha256.to_lowercase() };
                    let file = RemoteFile { path: path.clone(), size, sha256, object: row.object };
                    self.files.insert(path, file);
                }
                Err(_) => self.problems.push((path.to_string(), format!("is registered with the size {}", row.size))),
            },
            Err(error) => self.problems.push((format!("{label}/{}", row.name), format!("is not brought here: {}", error.why))),
        }
    }
}

struct Row {
    name: String,
    size: i64,
    sha256: String,
    object: String,
}

impl Cfs {
    /// The latest revisions of all files below a root label. Works where the root itself holds no file.
    pub async fn list(&self, root: &str) -> Result<RemoteTree, Error> {
        let mut tree = RemoteTree::default();
        self.take_labels(root, self.labels_below(root).await?, &mut tree).await?;
        tree.problems.sort();
        Ok(tree)
    }

    /// A label and those below it, as far as they hold files.
    async fn labels_below(&self, root: &str) -> Result<Vec<String>, Error> {
        let found = self.client.labels(root).await?;
        Ok(found.into_iter().map(|l| l.name).filter(|name| labels::is_below(root, name)).collect())
    }

    /// Adds the files of some labels below a root.
    async fn take_labels(&self, root: &str, labels: Vec<String>, tree: &mut RemoteTree) -> Result<(), Error> {
        let mut listings = futures_util::stream::iter(labels)
            .map(|label| async move { self.client.files(&label).await.map(|files| (label, files)) })
            .buffer_unordered(AT_ONCE);
        while let Some((label, files)) = listings.try_next().await? {
            for file in files {
                let row = Row { name: file.name, size: file.size, sha256: file.checksum, object: file.s3filename };
                tree.take(root, &label, row);
            }
        }
        Ok(())
    }

    /// The labels of some folders and of those below them.
    async fn labels_of(&self, root: &str, folders: &[RelPath]) -> Result<BTreeSet<String>, Error> {
        let wanted: BTreeSet<String> = folders.iter().map(|folder| format!("{root}/{folder}")).collect();
        if wanted.len() > FEW_FOLDERS {
            let all = self.labels_below(root).await?;
            let is_wanted = |label: &str| {
                let ends = label.match_indices('/').map(|(at, _)| at).chain([label.len()]);
                ends.into_iter().any(|end| wanted.contains(&label[..end]))
            };
            return Ok(all.into_iter().filter(|label| is_wanted(label)).collect());
        }
        let mut found = BTreeSet::new();
        for folder in &wanted {
            found.extend(self.labels_below(folder).await?);
        }
        Ok(found)
    }

    /// As [`Cfs::list`], of single files and of all that is below some folders only.
    pub async fn list_some(&self, root: &str, files: &[RelPath], folders: &[RelPath]) -> Result<RemoteTree, Error> {
        let mut tree = RemoteTree::default();
        let places: Vec<(String, String)> = files.iter().map(|path| labels::place_of(root, path)).collect();
        let mut rows = futures_util::stream::iter(places)
            .map(|(label, name)| async move { self.client.latest_file(&label, &name).await })
            .buffer_unordered(AT_ONCE);
        while let Some(row) = rows.try_next().await? {
            if let Some(File { label, name, size, checksum, reference, .. }) = row {
                tree.take(root, &label, Row { name, size, sha256: checksum, object: reference.s3object.object });
            }
        }
        let labels = self.labels_of(root, folders).await?;
        self.take_labels(root, labels.into_iter().collect(), &mut tree).await?;
        tree.problems.sort();
        Ok(tree)
    }

    /// The files of a snapshot, by their ids. `root` is the label that it was made of.
    ///
    /// A file that was removed since stands among the problems: the snapshot is broken then.
    pub async fn snapshot_tree(&self, snapshot_id: &str, root: &str) -> Result<RemoteTree, Error> {
        self.read_snapshot(snapshot_id, root, None).await
    }

    /// As [`Cfs::snapshot_tree`], of the label that it was made of; what we removed since is told all the same, with the object
    /// that held it.
    pub async fn snapshot_tree_as_it_was(&self, snapshot_id: &str, journal: &Journal) -> Result<RemoteTree, Error> {
        self.read_snapshot(snapshot_id, "", Some(journal)).await
    }

    async fn read_snapshot(&self, snapshot_id: &str, root: &str, journal: Option<&Journal>) -> Result<RemoteTree, Error> {
        let snapshot = self.client.snapshot(snapshot_id).await?;
        let root = if root.is_empty() { snapshot.label.clone() } else { root.to_owned() };
        let mut rows = futures_util::stream::iter(snapshot.fileids.unwrap_or_default())
            .map(|id| async move { self.client.file_by_id(&id).await.map(|row| (id, row)) })
            .buffer_unordered(AT_ONCE);
        let mut tree = RemoteTree::default();
        while let Some((id, row)) = rows.try_next().await? {
            let removed = match (&row, journal) {
                (None, Some(journal)) => journal.removed_file(&id)?,
                _ => None,
            };
            match (row, removed) {
                (Some(File { label, name, size, checksum, reference, .. }), _) => {
                    let row = Row { name, size, sha256: checksum, object: reference.s3object.object };
                    tree.take(&root, &label, row);
                }
                (None, Some(RemovedFile { label, name, size, sha256, object, .. })) => {
                    tree.take(&root, &label, Row { name, size, sha256, object });
                }
                (None, None) => {
                    tree.problems.push((format!("file {id}"), "was removed from the colony after the snapshot was made".into()))
                }
            }
        }
        tree.problems.sort();
        Ok(tree)
    }
}
