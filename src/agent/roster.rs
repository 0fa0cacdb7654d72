//! The projects that the agent owns: a small file, written whole and atomically.

use super::Error;
use crate::durable;
use serde::Deserialize;
use serde::Serialize;
use std::path::Path;
use std::path::PathBuf;

/// Version of the file's form.
const VERSION: u32 = 1;

/// One project.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Canonical folder.
    pub root: PathBuf,
    /// Profile of the settings; none: the default.
    #[serde(default)]
    pub profile: Option<String>,
    /// Whether it is paused.
    #[serde(default)]
    pub paused: bool,
    /// Until when, ns since 1970; none: until told.
    #[serde(default)]
    pub paused_until: Option<i64>,
}

#[derive(Serialize, Deserialize)]
struct Document {
    version: u32,
    projects: Vec<Entry>,
}

/// The list.
#[derive(Debug)]
pub struct Roster {
    path: PathBuf,
    entries: Vec<Entry>,
}

impl Roster {
    /// Reads it; a missing one is empty.
    ///
    /// # Errors
    /// [`Error::Roster`]: a newer version wrote it, or it is damaged. It is left as it is.
    pub fn open(state: &Path) -> Result<Roster, Error> {
        let path = state.join("projects.json");
        let wrong = |reason: String| Error::Roster { path: path.clone(), reason };
        let entries = match std::fs::read(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Vec::new(),
            Err(source) => return Err(Error::Folder { what: "the list of projects", path, source }),
            Ok(bytes) => {
                #[derive(Deserialize)]
                struct Version {
                    version: u32,
                }
                let version: Version = serde_json::from_slice(&bytes).map_err(|e| wrong(format!("is damaged ({e})")))?;
                if version.version > VERSION {
                    return Err(wrong(format!(
                        "was written by a newer version (form {}, this one knows {VERSION})",
                        version.version
                    )));
                }
                let document: Document = serde_json::from_slice(&bytes).map_err(|e| wrong(format!("is damaged ({e})")))?;
                document.projects
            }
        };
        Ok(Roster { path, entries })
    }

    /// The projects, in the order in which they were added.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// Adds a project, or changes the one in the same folder.
    pub fn put(&mut self, entry: Entry) -> Result<(), Error> {
        match self.entries.iter_mut().find(|other| other.root == entry.root) {
            Some(other) => *other = entry,
            None => self.entries.push(entry),
        }
        self.write()
    }

    /// Takes a project out; says whether it was there.
    pub fn remove(&mut self, root: &Path) -> Result<bool, Error> {
        let before = self.entries.len();
        self.entries.retain(|entry| entry.root != root);
        self.write()?;
        Ok(self.entries.len() != before)
    }

    fn write(&self) -> Result<(), Error> {
        let document = Document { version: VERSION, projects: self.entries.clone() };
        let text = serde_json::to_vec_pretty(&document).unwrap_or_default();
        let write = || -> std::io::Result<()> {
            let folder = self.path.parent().unwrap_or(Path::new("."));
            crate::sqlite::private_folder(folder)?;
            durable::replace_for_good(&self.path, &text)
        };
        write().map_err(|source| Error::Folder { what: "the list of projects", path: self.path.clone(), source })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_survives_and_a_newer_or_damaged_one_is_left_alone() {
        let state = tempfile::tempdir().unwrap();
        let entry = |root: &str| Entry { root: root.into(), profile: Some("hpc".into()), paused: true, paused_until: Some(5) };
        let mut roster = Roster::open(state.path()).unwrap();
        roster.put(entry("/a")).unwrap();
        roster.put(entry("/b")).unwrap();
        roster.put(Entry { profile: None, ..entry("/a") }).unwrap();
        assert!(roster.remove(Path::new("/b")).unwrap() && !roster.remove(Path::new("/b")).unwrap());
        assert_eq!(Roster::open(state.path()).unwrap().entries(), [Entry { profile: None, ..entry("/a") }]);
        for bad in [r#"{"version": 9, "future": []}"#, "{\"version\": 1, \"proj"] {
            std::fs::write(state.path().join("projects.json"), bad).unwrap();
            let error = Roster::open(state.path()).unwrap_err();
            assert!(error.to_string().contains("projects.json"), "{error}");
            assert_eq!(std::fs::read_to_string(state.path().join("projects.json")).unwrap(), bad);
        }
    }
}
