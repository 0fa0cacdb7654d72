//! Why a run cannot be started, followed or brought home.

use crate::cfs;
use crate::colonies;
use crate::journal;
use crate::project;
use std::path::PathBuf;

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
    /// The settings in a commit.
    #[error(transparent)]
    Project(#[from] project::Error),
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
    #[error("`source` in project.yaml is {source_file}, but {place} has no such file")]
    NoSource {
        /// What it says.
        source_file: String,
        /// The src tree, as a person calls it.
        place: String,
    },
    /// Some files of the src or data tree could not be stored, so the run would not see what is on disk.
    #[error("{} could not be stored: {}", crate::run::error::count(problems.len(), "file"), list(problems))]
    Incomplete {
        /// Path (with its tree) and problem.
        problems: Vec<(String, String)>,
    },
    /// A sweep asks for more processes than are allowed.
    #[error("the sweep in project.yaml makes {points} processes, and no more than {most} are allowed")]
    TooManyPoints {
        /// What it asks for.
        points: u64,
        /// What is allowed.
        most: u32,
    },
    /// A sweep cannot be made of its values.
    #[error("the sweep in project.yaml cannot be run: {reason}")]
    Sweep {
        /// What is wrong.
        reason: String,
    },
    /// Not all processes of a sweep could be submitted.
    #[error("sweep {sweep}: {submitted} of {all} processes were submitted, then: {source}")]
    SweepCut {
        /// Its id.
        sweep: String,
        /// Processes that there are.
        submitted: usize,
        /// Processes that there should be.
        all: usize,
        /// What stopped it.
        source: Box<Error>,
    },
    /// A whole sweep is meant where only one run can be.
    #[error("{word:?} means a sweep of {runs} runs, and this is done with one run")]
    IsSweep {
        /// What was given.
        word: String,
        /// How many there are.
        runs: usize,
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
    /// A commit is asked for where git knows of no repository.
    #[error("{} is in no git repository that can be read: {reason}", folder.display())]
    NoRepository {
        /// The project's folder.
        folder: PathBuf,
        /// What git said.
        reason: String,
    },
    /// That word means no commit.
    #[error("no commit is known by the name {revision:?}: {reason}")]
    UnknownRevision {
        /// What was given.
        revision: String,
        /// What git said.
        reason: String,
    },
    /// A commit does not hold the project.
    #[error("{what} in commit {commit}")]
    NotInCommit {
        /// Its id.
        commit: String,
        /// What is not there.
        what: String,
    },
    /// Not every file of a commit's src tree could be had.
    #[error("{} of commit {commit} cannot be had: {}", count(problems.len(), "file"), list(problems))]
    NotWhole {
        /// Its id.
        commit: String,
        /// Paths and problems.
        problems: Vec<(String, String)>,
    },
    /// Git failed on a commit that it knows.
    #[error("git cannot give the files of commit {commit}: {reason}")]
    Git {
        /// Its id.
        commit: String,
        /// What git said.
        reason: String,
    },
    /// A folder that something is to be brought to is not fit for it.
    #[error("{} {why}", folder.display())]
    BadTarget {
        /// The folder.
        folder: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// The source of a run is nowhere to be had.
    #[error("the source of run {run} cannot be brought back: {}", reasons.join("; "))]
    SourceGone {
        /// The run.
        run: String,
        /// Where it was looked for, and why it is not there; what is known of it.
        reasons: Vec<String>,
    },
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

/// The first problems, for a person.
pub(super) fn list(problems: &[(String, String)]) -> String {
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
            Error::SweepCut { source, .. } => source.is_temporary(),
            _ => false,
        }
    }

    /// Whether nobody answered.
    pub fn is_unreachable(&self) -> bool {
        match self {
            Error::Colony(e) => e.is_unreachable(),
            Error::Files(e) => e.is_unreachable(),
            Error::SweepCut { source, .. } => source.is_unreachable(),
            _ => false,
        }
    }

    /// Whether what was asked for is at fault, not how it went.
    pub fn is_usage(&self) -> bool {
        matches!(
            self,
            Error::Project(_)
                | Error::NoExecutor { .. }
                | Error::UnknownRun(_)
                | Error::AmbiguousRun { .. }
                | Error::NoSource { .. }
                | Error::NoRepository { .. }
                | Error::UnknownRevision { .. }
                | Error::NotInCommit { .. }
                | Error::NotWhole { .. }
                | Error::BadTarget { .. }
                | Error::TooManyPoints { .. }
                | Error::Sweep { .. }
                | Error::IsSweep { .. }
        )
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
            Error::Project(e) => e.hint(),
            Error::NoRepository { .. } => Some("--commit takes a commit of the repository that the project is in".into()),
            Error::UnknownRevision { .. } => {
                Some("`git log` lists commits; a shallow clone lacks older ones (`git fetch --unshallow` brings them)".into())
            }
            Error::NotInCommit { .. } => Some("give a commit that holds the project where it now lies in the repository".into()),
            Error::NotWhole { .. } => Some(
                "`git lfs install && git lfs fetch --all` for files in LFS; a line in .cfsignore leaves a submodule out".into(),
            ),
            Error::BadTarget { .. } => Some("name a folder that is not there yet, or one that is empty".into()),
            Error::SourceGone { .. } => Some("`pollinator show` tells what is known of the run".into()),
            Error::AmbiguousRun { .. } => Some("give more of the id".into()),
            Error::TooManyPoints { points, .. } => Some(format!("`--max-points {points}` allows them, if they are meant")),
            Error::SweepCut { sweep, source, .. } if source.is_unreachable() => Some(format!(
                "`pollinator run` submits the others, and none twice; `pollinator cancel {}` ends those that there are",
                &sweep[..sweep.len().min(12)]
            )),
            Error::SweepCut { sweep, .. } => {
                Some(format!("`pollinator cancel {}` ends those that there are", &sweep[..sweep.len().min(12)]))
            }
            Error::IsSweep { .. } => Some("`pollinator runs --sweep ID` lists its runs".into()),
            _ => None,
        }
    }
}
