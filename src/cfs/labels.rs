//! Labels and paths: a tree below a root label, one label a folder.

use crate::index::BadPath;
use crate::index::RelPath;

/// Label and name of a file of the tree at `root`.
pub fn place_of(root: &str, path: &RelPath) -> (String, String) {
    let label = match path.parent() {
        Some(parent) => format!("{root}/{parent}"),
        None => root.to_owned(),
    };
    (label, path.name().to_owned())
}

/// Whether a label belongs to the tree at `root`. The server's own answer cannot be trusted: `_` and `%` are wildcards to it,
/// and `/a/src` also finds `/a/src2`.
pub fn is_below(root: &str, label: &str) -> bool {
    label.strip_prefix(root).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// Path of a file of the tree at `root` by its row. Rows are written by anybody: what leads elsewhere is refused.
pub fn path_of(root: &str, label: &str, name: &str) -> Result<RelPath, BadPath> {
    let outside = || BadPath { text: format!("{label}/{name}"), why: "it is not of this tree" };
    let folder = label.strip_prefix(root).ok_or_else(outside)?;
    if name.contains('/') {
        return Err(BadPath { text: name.into(), why: "a name holds a slash" });
    }
    match folder.strip_prefix('/') {
        None if folder.is_empty() => RelPath::parse(name),
        None => Err(outside()),
        Some(folder) => RelPath::parse(folder)?.join(name),
    }
}

/// Where objects of a project lie in the bucket: the first two parts of its labels.
pub fn key_prefix(root: &str) -> String {
    let parts: Vec<&str> = root.split('/').filter(|part| !part.is_empty()).take(2).collect();
    parts.join("/")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_of_others_never_become_paths_of_this_tree() {
        let root = "/pollinator/p/src";
        assert_eq!(path_of(root, root, "a").unwrap().as_str(), "a");
        assert_eq!(path_of(root, "/pollinator/p/src/x/y", "a b").unwrap().as_str(), "x/y/a b");
        for (label, name) in [
            ("/pollinator/p/src2", "a"),
            ("/pollinator/p/src/", "a"),
            ("/pollinator/p/src/..", "a"),
            ("/pollinator/p/src/x/../../..", "a"),
            (root, ".."),
            (root, "../a"),
            (root, "x/y"),
            (root, ""),
            ("", "a"),
        ] {
            assert!(path_of(root, label, name).is_err(), "{label} {name}");
        }
        assert!(is_below(root, "/pollinator/p/src/x") && !is_below(root, "/pollinator/p/src2"));
        let path = RelPath::parse("x/y").unwrap();
        assert_eq!(place_of(root, &path), ("/pollinator/p/src/x".into(), "y".into()));
        assert_eq!(key_prefix(root), "pollinator/p");
    }
}
