//! A local tree as a run sees it: its files, the markers of its folders, and the digest that tells it from any other.

use super::Error;
use super::plan::Policy;
use crate::blocking;
use crate::index;
use crate::index::FOLDER_MARKER;
use crate::index::Index;
use crate::index::LocalFile;
use crate::index::LocalTree;
use crate::index::RelPath;
use crate::index::ignore::Rules;
use sha2::Digest;
use sha2::Sha256;
use std::collections::BTreeMap;
use std::path::Path;

/// Looks at a folder as at the src tree of a run. Ignore rules count from `rules_from` down; none: from the folder itself.
pub async fn look(index: &Index, folder: &Path, rules_from: Option<&Path>, jobs: usize) -> Result<LocalTree, Error> {
    let (root, top, index) = (folder.to_owned(), rules_from.map(Path::to_owned), index.clone());
    let looked = blocking::run(move || {
        let mut rules = Rules::of_tree(&root, top.as_deref())?;
        let mut tree = index::scan(&root, &mut rules, &index, jobs)?;
        mark_root(&mut tree, Policy::Mirror);
        Ok(tree)
    });
    looked.await
}

/// A root without files of its own gets a marker: the server finds nothing below a label that holds nothing itself, neither
/// for a snapshot nor for other executors' listings. An empty src needs it for its snapshot.
pub(super) fn mark_root(tree: &mut LocalTree, policy: Policy) {
    let has_own = tree.files.keys().any(|path| path.parent().is_none());
    let wanted = policy == Policy::Mirror || !tree.files.is_empty();
    if tree.exists
        && wanted
        && !has_own
        && let Ok(marker) = RelPath::parse(FOLDER_MARKER)
    {
        tree.files.insert(marker, LocalFile::marker());
    }
}

/// Names, contents and executable bits of a tree, as one digest.
pub fn digest(files: &BTreeMap<RelPath, LocalFile>) -> String {
    let mut hasher = Sha256::new();
    for (path, file) in files {
        hasher.update(path.as_str().len().to_string());
        for part in ["\0", path.as_str(), "\0", &file.sha256, if file.mode & 0o111 == 0 { "\0-\n" } else { "\0x\n" }] {
            hasher.update(part);
        }
    }
    hex::encode(hasher.finalize())
}
