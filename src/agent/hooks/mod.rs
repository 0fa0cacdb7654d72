//! Git hooks: put where git looks for them, beside those that are there, and what they are called for.
//!
//! [`script`] (pure) is the file that git starts; [`install`] and [`state`] look after it; [`pushed`] and [`moment`] read what
//! git says when it calls.

pub mod background;
pub mod hand;
pub mod install;
pub mod moment;
pub mod pushed;
pub mod repository;
pub mod script;
pub mod state;

pub use hand::Work;
pub use hand::hand_to_agent;
pub use repository::Repository;

use serde::Serialize;
use std::path::PathBuf;

/// The hooks of git that are ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Hook {
    /// After each commit.
    PostCommit,
    /// Before anything is pushed.
    PrePush,
}

impl Hook {
    /// All of them.
    pub const ALL: [Hook; 2] = [Hook::PostCommit, Hook::PrePush];

    /// The name of its file.
    pub fn name(self) -> &'static str {
        match self {
            Hook::PostCommit => "post-commit",
            Hook::PrePush => "pre-push",
        }
    }
}

/// Why hooks cannot be installed, removed, looked at or carried out.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Git cannot be started.
    #[error("git cannot be started: {0}")]
    NoGit(std::io::Error),
    /// Git says no.
    #[error("git knows no work tree in {}: {reason}", folder.display())]
    NoRepository {
        /// Where it was asked.
        folder: PathBuf,
        /// What it said.
        reason: String,
    },
    /// The project lies elsewhere.
    #[error("{} is not below {}", folder.display(), top.display())]
    Outside {
        /// The project's folder.
        folder: PathBuf,
        /// Top of the work tree.
        top: PathBuf,
    },
    /// A path that cannot stand in a script.
    #[error("the path {0:?} is no text in UTF-8, or has control characters in it; a hook cannot name it")]
    OddPath(PathBuf),
    /// A file or folder of hooks.
    #[error("{what} {}: {source}", path.display())]
    File {
        /// What was being done.
        what: &'static str,
        /// To which.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A hook that is no file.
    #[error("{} is no file, so git calls no hook there", path.display())]
    NoFile {
        /// What stands there.
        path: PathBuf,
    },
    /// A hook of ours that somebody changed.
    #[error("{} was edited after `pollinator hook install` wrote it", path.display())]
    Edited {
        /// The file.
        path: PathBuf,
        /// Where lines of one's own belong.
        kept: PathBuf,
    },
    /// An earlier hook cannot be kept, since its place is taken.
    #[error("{} cannot be kept as {}: something stands there already", path.display(), kept.display())]
    KeptStands {
        /// The earlier hook.
        path: PathBuf,
        /// Where it would be kept.
        kept: PathBuf,
    },
    /// An earlier hook that works under its own name only.
    #[error("{} looks at its own name to know what to do, so it cannot be kept under another one", path.display())]
    ByName {
        /// The earlier hook.
        path: PathBuf,
        /// The command that does what our hook would do.
        line: String,
    },
}

impl Error {
    /// What to do about it, for a person.
    pub fn hint(&self) -> Option<String> {
        match self {
            Error::NoGit(_) => Some("install git, or put it into PATH".into()),
            Error::NoRepository { .. } => Some("`git init` makes a repository; -C DIR names a project in one".into()),
            Error::Outside { .. } => Some("the project has to lie in the repository whose commits and pushes start it".into()),
            Error::File { source, path, .. } if source.kind() == std::io::ErrorKind::PermissionDenied => Some(format!(
                "make {} writable, or let `git config core.hooksPath` name a folder that is",
                path.parent().unwrap_or(path).display()
            )),
            Error::File { .. } | Error::NoFile { .. } => Some(
                "`git rev-parse --git-path hooks` says where git looks for hooks; `git config core.hooksPath` changes it".into(),
            ),
            Error::Edited { path, kept } => Some(format!(
                "move your lines to {} (executable; it runs first), delete {}, and give the command again",
                kept.display(),
                path.display()
            )),
            Error::KeptStands { kept, .. } => Some(format!("move {} away, and give the command again", kept.display())),
            Error::ByName { line, .. } => {
                Some(format!("it belongs to a manager of hooks: let that one run this command: {line}"))
            }
            Error::OddPath(_) => None,
        }
    }
}
