//! What is said over the agent's socket: requests, status, streams. The same types serve both ends; `docs/control.md` tells of
//! them, and what is there is added to, never changed.

use crate::agent::Error;
use crate::agent::engine::Failure;
use crate::event::Event;
use crate::event::Tree;
use serde::Deserialize;
use serde::Serialize;
use std::path::PathBuf;

/// Version of the protocol: an agent that speaks another one is to be restarted.
pub const PROTOCOL: u32 = 1;

/// The whole status.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StatusReply {
    /// The agent.
    pub agent: AgentStatus,
    /// Its projects, in the order in which they were added; or the one that was asked for.
    pub projects: Vec<ProjectStatus>,
    /// Every project is in sync and without errors, or paused by its user.
    pub ok: bool,
}

/// The agent itself.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AgentStatus {
    /// Its version.
    pub version: String,
    /// [`PROTOCOL`] as it speaks it.
    pub protocol: u32,
    /// Its process.
    pub pid: u32,
    /// The machine.
    pub host: String,
    /// When it began, RFC 3339.
    pub started: String,
    /// Seconds since.
    pub uptime: u64,
    /// Memory that it uses, bytes; none where the system does not say.
    pub memory: Option<u64>,
    /// Its state folder.
    pub state_dir: PathBuf,
}

/// One project.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ProjectStatus {
    /// Its folder.
    pub root: PathBuf,
    /// Its name in the colony, where project.yaml can be read.
    pub name: Option<String>,
    /// The profile of the settings.
    pub profile: Option<String>,
    /// `idle`, `settling`, `scanning`, `uploading`, `downloading`, `paused`, `offline`, `error`, `missing`.
    pub state: String,
    /// What is stored is what is here, as far as anybody can know.
    pub in_sync: bool,
    /// What waits to be brought over.
    pub pending: Pending,
    /// Why it is not as it should be.
    pub reason: Option<String>,
    /// What to do about that.
    pub hint: Option<String>,
    /// When it is tried again, RFC 3339.
    pub next_try: Option<String>,
    /// When trees were last brought over, RFC 3339.
    pub last_sync: Option<String>,
    /// Until when it is paused, RFC 3339.
    pub paused_until: Option<String>,
    /// How changes become known.
    pub watcher: Watcher,
    /// Files that wait for their writer.
    pub writing: Vec<String>,
    /// Files that could not be brought over.
    pub problems: Vec<Problem>,
    /// Its last runs, newest first.
    pub runs: Vec<RunStatus>,
    /// Runs whose results are not home.
    pub results_waiting: Vec<String>,
    /// The colony.
    pub colony: Option<ColonyStatus>,
}

/// What waits to be brought over.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pending {
    /// Paths; none: anything may have changed.
    pub files: Option<u64>,
    /// Sum of their sizes, where it is known.
    pub bytes: Option<u64>,
}

/// How changes become known.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Watcher {
    /// `events`, `partial`, `polling`, `installing`, `lost`.
    pub kind: String,
    /// Folders that are watched.
    pub watches: u64,
    /// How often events were lost, and everything was looked at again.
    pub overflows: u64,
    /// Why it is not watched as it should be.
    pub reason: Option<String>,
}

/// A file that could not be brought over.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// With its tree.
    pub path: String,
    /// Why.
    pub problem: String,
}

/// A run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunStatus {
    /// Its id.
    pub run: String,
    /// Its process.
    pub process: Option<String>,
    /// Its state.
    pub state: String,
    /// When it was made, RFC 3339.
    pub created: String,
    /// Its results are home.
    pub fetched: bool,
}

/// The colony of a project.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ColonyStatus {
    /// `host:port` of its server.
    pub server: String,
    /// Its name.
    pub colony: String,
    /// Whether it answered when it was last asked; none: it was not asked yet.
    pub reachable: Option<bool>,
}

/// Adds a project.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Add {
    /// Its folder.
    pub root: PathBuf,
    /// Profile of the settings.
    #[serde(default)]
    pub profile: Option<String>,
}

/// Names one project, or all where it is missing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Which {
    /// Its folder.
    #[serde(default)]
    pub root: Option<PathBuf>,
}

/// Pauses.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pause {
    /// The project; all where it is missing.
    #[serde(default)]
    pub root: Option<PathBuf>,
    /// For so many seconds; until told where it is missing.
    #[serde(default)]
    pub seconds: Option<u64>,
}

/// Whom a call is meant for: work is only taken over by an agent that would do the same with it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Way {
    /// `host:port` of the Colonies server.
    pub server: String,
    /// Name of the colony.
    pub colony: String,
    /// Our id in it.
    pub id: String,
    /// Where objects go, without keys.
    pub store: String,
}

/// Asks for work on a project; answered by a stream of [`Line`]s.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Work {
    /// The project's folder.
    pub root: PathBuf,
    /// The colony that is meant; none: the project's.
    #[serde(default)]
    pub way: Option<Way>,
    /// What is to be done.
    pub job: Job,
    /// Who asks does not wait: the answer says only that it is taken on.
    #[serde(default)]
    pub detach: bool,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "job", rename_all = "kebab-case")]
pub enum Job {
    /// All that was changed before is to be stored.
    Flush,
    /// Trees are brought in step.
    Sync {
        /// Which; all where none is named.
        #[serde(default)]
        trees: Vec<Tree>,
        /// Carry out deletions that look like an accident.
        #[serde(default)]
        allow_deletes: bool,
        /// Files handled at once.
        #[serde(default)]
        jobs: Option<usize>,
    },
    /// A run is made.
    Run {
        /// Number of processes.
        processes: u32,
        /// Executor instead of those in project.yaml.
        #[serde(default)]
        executor: Option<String>,
        /// Carry out deletions that look like an accident.
        #[serde(default)]
        allow_deletes: bool,
        /// Files handled at once.
        #[serde(default)]
        jobs: Option<usize>,
        /// Who asks brings the results home itself, as long as it is connected.
        #[serde(default)]
        follow: bool,
        /// The commit to run instead of the working tree.
        #[serde(default)]
        commit: Option<String>,
        /// So many processes a sweep may make, where it is not the usual number.
        #[serde(default)]
        max_points: Option<u32>,
    },
}

/// One line of an answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "line", rename_all = "kebab-case")]
pub enum Line {
    /// Something happens.
    Event(EventLine),
    /// It is done.
    Done(Answer),
    /// It is not.
    Failed(Failure),
}

/// An event in an envelope: its own tag has the same place as the line's.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EventLine {
    /// The event.
    pub what: Event,
}

/// What was done.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// Runs that were made: our ids.
    #[serde(default)]
    pub runs: Vec<String>,
}

/// What a refusal says.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// What is wrong.
    pub message: String,
    /// What to do about it.
    pub hint: Option<String>,
    /// Exit code of a command that fails for it.
    pub code: u8,
    /// What kind of refusal it is, for programs.
    #[serde(default)]
    pub kind: RefusalKind,
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Refusal {
        Refusal { message: error.to_string(), hint: error.hint(), code: 1, ..Refusal::default() }
    }
}

/// Kinds of refusals.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RefusalKind {
    /// Any other.
    #[default]
    Other,
    /// The project is not one of the agent's.
    UnknownProject,
    /// The agent would bring it elsewhere.
    OtherColony,
    /// The agent has not reached the colony yet: it cannot be said whether it is the same.
    NotConnected,
}
