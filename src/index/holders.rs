//! Which files on this machine hold a given content, as far as the index knows.

use super::Index;
use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::path::Path;
use std::path::PathBuf;

impl Index {
    /// Files of any tree that held these contents (SHA-256, hex) when they were last read, by content. They may have changed
    /// or vanished since. An index that cannot be read knows of none.
    pub fn holders(&self, contents: &BTreeSet<&str>) -> BTreeMap<String, Vec<PathBuf>> {
        let db = self.lock();
        // One pass over the table: there may be as many contents as rows, and an index of digests would cost every scan.
        let read = || -> rusqlite::Result<BTreeMap<String, Vec<PathBuf>>> {
            let mut rows = db.prepare_cached("SELECT sha256, root, path FROM file JOIN tree USING (tree_id)")?;
            let mut rows = rows.query([])?;
            let mut found: BTreeMap<String, Vec<PathBuf>> = BTreeMap::new();
            while let Some(row) = rows.next()? {
                let sha256 = hex::encode(row.get_ref(0)?.as_blob()?);
                if contents.contains(sha256.as_str()) {
                    let (root, path): (String, String) = (row.get(1)?, row.get(2)?);
                    found.entry(sha256).or_default().push(Path::new(&root).join(path));
                }
            }
            Ok(found)
        };
        read().unwrap_or_else(|error| {
            tracing::warn!(%error, "the index cannot be read; what may be here already is fetched");
            BTreeMap::new()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::ignore::Rules;
    use super::super::scan;
    use super::*;

    #[test]
    fn files_of_all_trees_are_found_by_their_content() {
        let (one, other, state) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let index = Index::open(state.path()).unwrap();
        std::fs::create_dir(one.path().join("sub")).unwrap();
        for path in [one.path().join("sub/a"), other.path().join("b")] {
            std::fs::write(path, "the same").unwrap();
        }
        std::fs::write(other.path().join("c"), "another").unwrap();
        let mut digest = String::new();
        for root in [one.path(), other.path()] {
            let tree = scan(root, &mut Rules::new(root, None).unwrap(), &index, 1).unwrap();
            digest.clone_from(&tree.files.values().next().unwrap().sha256);
        }
        let mut found = index.holders(&BTreeSet::from([digest.as_str(), "of nobody"]));
        found.values_mut().for_each(|paths| paths.sort());
        let mut expected = vec![one.path().join("sub/a"), other.path().join("b")];
        expected.sort();
        assert_eq!(found, BTreeMap::from([(digest.clone(), expected)]));
    }
}
