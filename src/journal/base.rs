//! The trees as they were at the last synchronization: the third tree of the comparison.

/// Tables of schema version 1.
pub(super) const SCHEMA_1: &str = "
CREATE TABLE base_tree (
    project TEXT NOT NULL,          -- remote place: server, colony and root label
    folder TEXT NOT NULL,           -- canonical local folder
    tree_id INTEGER PRIMARY KEY,
    device INTEGER NOT NULL,        -- st_dev of the folder when it was last in step
    UNIQUE (project, folder)
);
CREATE TABLE base_file (
    tree_id INTEGER NOT NULL REFERENCES base_tree(tree_id) ON DELETE CASCADE,
    path TEXT NOT NULL,             -- below the folder, with /
    sha256 TEXT NOT NULL,
    size INTEGER NOT NULL,
    mode INTEGER NOT NULL,
    PRIMARY KEY (tree_id, path)
) WITHOUT ROWID;
";
