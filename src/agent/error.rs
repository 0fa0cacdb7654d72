//! Why the agent, or something of it, does not work.

use super::control::model::RefusalKind;
use std::path::PathBuf;

/// Why the agent, or something of it, does not work.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Another agent serves this state folder.
    #[error("an agent runs already: {holder}")]
    Running {
        /// Who.
        holder: String,
    },
    /// A file or folder of the agent cannot be used.
    #[error("{what} {}: {source}", path.display())]
    Folder {
        /// What it is.
        what: &'static str,
        /// Where.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The list of projects was written by a newer version, or is damaged.
    #[error("the list of projects {}: {reason}", path.display())]
    Roster {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The state folder was deleted or replaced while the agent ran.
    #[error("the state folder {} was deleted or replaced while the agent ran; it ends", path.display())]
    FolderGone {
        /// Which.
        path: PathBuf,
    },
    /// No agent answers.
    #[error("no agent runs here")]
    NotRunning,
    /// An agent answers, and not as it should.
    #[error("the agent did not answer as it should: {reason}")]
    Garbled {
        /// What is wrong.
        reason: String,
    },
    /// It says no.
    #[error("{message}")]
    Refused {
        /// Its words.
        message: String,
        /// What to do.
        hint: Option<String>,
        /// Exit code of a command that fails for it.
        code: u8,
        /// What kind of refusal it is.
        kind: RefusalKind,
    },
    /// It did not start, or not end.
    #[error("{reason}")]
    Life {
        /// What happened.
        reason: String,
        /// The end of its log.
        tail: Vec<String>,
    },
    /// A service manager refused.
    #[error("{what}: {reason}")]
    Service {
        /// What was tried.
        what: String,
        /// What was said.
        reason: String,
    },
}

impl Error {
    /// What to do about it, for a person.
    pub fn hint(&self) -> Option<String> {
        match self {
            Error::Running { .. } => Some("`pollinatord status` asks it, `pollinatord restart` replaces it".into()),
            Error::NotRunning => Some("`pollinatord start` starts it; `pollinatord install` has it started at login".into()),
            Error::Garbled { .. } => Some("`pollinatord restart` replaces it by this version".into()),
            Error::FolderGone { .. } => {
                Some("`pollinatord start` begins anew; projects that its list has lost are added with `pollinatord add`".into())
            }
            Error::Refused { hint, .. } => hint.clone(),
            Error::Roster { .. } => Some("install the newer version, or move the file away and add the projects again".into()),
            _ => None,
        }
    }
}
