//! A project on disk: `project.yaml` read and checked, and a new one made.

mod agent;
mod create;
mod file;
mod scalar;
pub mod sweep;
mod yaml;

pub use agent::AgentSettings;
pub use agent::OnCommit;
pub use agent::OnPush;
pub use agent::OnSave;
pub use agent::ResultsHome;
pub use agent::WhenBusy;
pub use create::Created;
pub use create::create;
pub use file::Gpu;
pub use file::ProjectFile;
pub use file::Results;
pub use file::Tunnel;
pub use scalar::is_host_name;
pub use scalar::is_user_name;
pub use sweep::Sweep;

use crate::event::Tree;
use std::path::Path;
use std::path::PathBuf;

/// Name of the settings file.
pub const FILE_NAME: &str = "project.yaml";

/// Why a project cannot be read or made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// There is no `project.yaml` here or above.
    #[error("there is no {FILE_NAME} in {} or above it", folder.display())]
    NotFound {
        /// Where it was looked for first.
        folder: PathBuf,
    },
    /// It cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// What it says is not understood; the message names key, file, line and column.
    #[error("{message} at {}:{line}:{column}", path.display())]
    Invalid {
        /// The file.
        path: PathBuf,
        /// Line, from 1.
        line: usize,
        /// Column, from 1.
        column: usize,
        /// What is wrong.
        message: String,
    },
    /// A file or folder of a new project stands already.
    #[error("{} exists already", path.display())]
    Exists {
        /// What stands there.
        path: PathBuf,
    },
    /// A file or folder of a new project cannot be made.
    #[error("cannot make {}: {source}", path.display())]
    Unmakeable {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
}

impl Error {
    /// What to do about it, for a person.
    pub fn hint(&self) -> Option<String> {
        match self {
            Error::NotFound { .. } => {
                Some("`pollinator new -n EXECUTOR` makes a project here; -C DIR names one elsewhere".into())
            }
            Error::Exists { .. } => Some("nothing was made; move it away, or make the project in another folder".into()),
            _ => None,
        }
    }
}

/// A project: its folder and what its file says.
#[derive(Clone, Debug, PartialEq)]
pub struct Project {
    /// Canonical folder that holds `project.yaml`.
    pub folder: PathBuf,
    /// What it says.
    pub settings: ProjectFile,
}

impl Project {
    /// Folder of one of the trees.
    pub fn tree_folder(&self, tree: Tree) -> PathBuf {
        self.folder.join("cfs").join(tree.name())
    }
}

/// Reads the project in this folder, or in the nearest one above that has a `project.yaml`. Gives it with what a person
/// should know about it.
pub fn find(start: &Path) -> Result<(Project, Vec<String>), Error> {
    let missing = || Error::NotFound { folder: start.to_owned() };
    let start = start.canonicalize().map_err(|_| missing())?;
    let folder = start.ancestors().find(|folder| folder.join(FILE_NAME).is_file()).ok_or_else(missing)?;
    load(folder)
}

/// Reads the text of a `project.yaml` that is not the one in the project's folder. `name` is how errors and warnings call it.
pub fn parse(bytes: &[u8], name: &Path) -> Result<(ProjectFile, Vec<String>), Error> {
    file::read(bytes, name)
}

/// Reads the project in this folder.
pub fn load(folder: &Path) -> Result<(Project, Vec<String>), Error> {
    let path = folder.join(FILE_NAME);
    if !path.is_file() {
        return Err(Error::NotFound { folder: folder.to_owned() });
    }
    let unreadable = |source| Error::Unreadable { path: path.clone(), source };
    let bytes = std::fs::read(&path).map_err(unreadable)?;
    let (settings, warnings) = file::read(&bytes, Path::new(FILE_NAME))?;
    let folder = folder.canonicalize().map_err(unreadable)?;
    Ok((Project { folder, settings }, warnings))
}
