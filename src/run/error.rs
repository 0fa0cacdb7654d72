//! Why a run cannot be started, followed or brought home.

use crate::cfs;
use crate::colonies;
use crate::journal;

/// Errors of a run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The colony said no, or could not be reached.
    #[error(transparent)]
    Colony(#[from] colonies::Error),
    /// Files could not be brought over.
    #[error(transparent)]
    Files(#[from] cfs::Error),
    /// The journal failed.
    #[error(transparent)]
    Journal(#[from] journal::Error),
    /// No executor of that name takes processes in this colony.
    #[error("no executor named {} in colony {colony}", names.join(" or "))]
    NoExecutor {
        /// The names in project.yaml.
        names: Vec<String>,
        /// The colony.
        colony: String,
        /// Executors that there are.
        available: Vec<String>,
    },
    /// `source` names a file that the src tree does not have.
    #[error("`source` in project.yaml is {source_file}, but cfs/src has no such file")]
    NoSource {
        /// What it says.
        source_file: String,
    },
    /// Some files of the src or data tree could not be stored, so the run would not see what is on disk.
    #[error("{} could not be stored: {}", crate::run::error::count(problems.len(), "file"), list(problems))]
    Incomplete {
        /// Path (with its tree) and problem.
        problems: Vec<(String, String)>,
    },
    /// No run is meant by that word.
    #[error("no run {0:?} is known")]
    UnknownRun(String),
    /// Several runs begin with that word.
    #[error("{prefix:?} is ambiguous: {}", matches.join(", "))]
    AmbiguousRun {
        /// What was given.
        prefix: String,
        /// Process or run ids that begin with it.
        matches: Vec<String>,
    },
    /// The run was never submitted, so it has no log, no state and no results.
    #[error("run {0} was never submitted: it has no process")]
    NotSubmitted(String),
    /// Something else on this machine failed.
    #[error("{what}: {source}")]
    Local {
        /// What was being done, on what.
        what: String,
        /// What the system said.
        source: std::io::Error,
    },
}

/// `1 file`, `2 files`.
pub(crate) fn count(n: usize, noun: &str) -> String {
    if n == 1 { format!("1 {noun}") } else { format!("{n} {noun}s") }
}

fn list(problems: &[(String, String)]) -> String {
    const SHOWN: usize = 5;
    let mut text: Vec<String> = problems.iter().take(SHOWN).map(|(path, why)| format!("{path} ({why})")).collect();
    if problems.len() > SHOWN {
        text.push(format!("and {} more", problems.len() - SHOWN));
    }
    text.join("; ")
}

impl Error {
    /// Whether it may go away by itself.
    pub fn is_temporary(&self) -> bool {
        match self {
            Error::Colony(e) => e.is_temporary(),
            Error::Files(e) => e.is_temporary(),
            _ => false,
        }
    }

    /// Whether nobody answered.
    pub fn is_unreachable(&self) -> bool {
        match self {
            Error::Colony(e) => e.is_unreachable(),
            Error::Files(e) => e.is_unreachable(),
            _ => false,
        }
    }

    /// Whether what was asked for is at fault, not how it went.
    pub fn is_usage(&self) -> bool {
        matches!(self, Error::NoExecutor { .. } | Error::UnknownRun(_) | Error::AmbiguousRun { .. } | Error::NoSource { .. })
    }

    /// What to do about it, for a person.
    pub fn hint(&self) -> Option<String> {
        match self {
            Error::Colony(e) => e.hint(),
            Error::Files(e) => e.hint(),
            Error::NoExecutor { available, .. } if available.is_empty() => {
                Some("the colony has no executor that takes processes at the moment; see `pollinator executors`".into())
            }
            Error::NoExecutor { available, .. } => Some(format!(
                "there are: {}; change `conditions.executorNames` in project.yaml, or give --executor NAME",
                available.join(", ")
            )),
            Error::NoSource { .. } => Some("correct `source`, or leave it out when `cmd` says all".into()),
            Error::Incomplete { .. } => Some("mend or remove them, or leave them out with a line in .cfsignore".into()),
            Error::UnknownRun(_) => {
                Some("`pollinator runs --all` lists them; a run is a process id, the beginning of one, or `last`".into())
            }
            Error::AmbiguousRun { .. } => Some("give more of the id".into()),
            _ => None,
        }
    }
}
