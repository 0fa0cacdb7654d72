//! Paths below a tree: the only way from a name that somebody else chose to a file of ours.

use serde::Serialize;
use std::fmt;
use std::path::Path;
use std::path::PathBuf;

/// A path below a tree's root: `/` between components, none of them empty, `.` or `..`, nothing absolute, no NUL.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct RelPath(String);

/// Why a text is no [`RelPath`].
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
#[error("{text:?} is not a path below a tree: {why}")]
pub struct BadPath {
    /// The text.
    pub text: String,
    /// The rule it breaks.
    pub why: &'static str,
}

/// Longest name of a file on the file systems in use, bytes.
const LONGEST_NAME: usize = 255;
/// Longest path, bytes.
const LONGEST_PATH: usize = 3072;

impl RelPath {
    /// Checks a text.
    pub fn parse(text: &str) -> Result<RelPath, BadPath> {
        let bad = |why| Err(BadPath { text: text.chars().take(200).collect(), why });
        if text.is_empty() {
            return bad("it is empty");
        }
        if text.len() > LONGEST_PATH {
            return bad("it is too long");
        }
        if text.contains('\0') {
            return bad("it holds a NUL character");
        }
        for part in text.split('/') {
            match part {
                "" => return bad("a component is empty"),
                "." | ".." => return bad("a component leads elsewhere"),
                part if part.len() > LONGEST_NAME => return bad("a component is too long"),
                _ => {}
            }
        }
        Ok(RelPath(text.to_owned()))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The last component.
    pub fn name(&self) -> &str {
        self.0.rsplit('/').next().unwrap_or(&self.0)
    }

    /// All but the last component; none at the root.
    pub fn parent(&self) -> Option<RelPath> {
        self.0.rsplit_once('/').map(|(parent, _)| RelPath(parent.to_owned()))
    }

    /// The folders above it, nearest first.
    pub fn ancestors(&self) -> impl Iterator<Item = RelPath> {
        std::iter::successors(self.parent(), RelPath::parent)
    }

    /// One more component.
    pub fn join(&self, name: &str) -> Result<RelPath, BadPath> {
        RelPath::parse(&format!("{}/{name}", self.0))
    }

    /// The text of another name in the same folder.
    pub fn beside(&self, name: &str) -> String {
        match self.0.rsplit_once('/') {
            Some((folder, _)) => format!("{folder}/{name}"),
            None => name.to_owned(),
        }
    }

    /// Below a root folder.
    pub fn under(&self, root: &Path) -> PathBuf {
        root.join(&self.0)
    }

    /// Whether it is the marker of a folder.
    pub fn is_folder_marker(&self) -> bool {
        self.name() == super::FOLDER_MARKER
    }
}

impl fmt::Display for RelPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_leads_out_of_the_tree_is_no_path() {
        for bad in ["", "/", "/etc/passwd", "..", "a/..", "a/../b", "./a", "a//b", "a/", "a\0b", &"x".repeat(256)] {
            assert!(RelPath::parse(bad).is_err(), "{bad:?}");
        }
        for good in ["a", "a/b.txt", "å ä", "100%_x", "...", "a\\b", "-rf", ".hidden"] {
            assert_eq!(RelPath::parse(good).unwrap().as_str(), good);
        }
    }

    proptest! {
        #[test]
        fn whatever_is_accepted_stays_below(text in "[a./\\\\ ]{0,12}") {
            if let Ok(path) = RelPath::parse(&text) {
                let full = path.under(Path::new("/base/tree"));
                prop_assert!(full.starts_with("/base/tree"));
                prop_assert!(full.components().all(|c| !matches!(c, std::path::Component::ParentDir)));
                prop_assert!(full != Path::new("/base/tree"));
            }
        }
    }
}
