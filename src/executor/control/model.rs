//! How an executor stands, as it is told.

use crate::executor::journal::Entry;
use crate::executor::journal::Stage;
use crate::executor::spec::Job;
use jiff::Timestamp;
use serde::Deserialize;
use serde::Serialize;
use std::path::PathBuf;

/// Version of what is told.
pub const PROTOCOL: u32 = 1;

/// How to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StopMode {
    /// At once; jobs go on, and the next start finds them.
    Now,
    /// Take no new work, and stop when the last job is closed.
    WhenDrained,
    /// Cancel all processes, and stop when the last of them is closed.
    CancelJobs,
}

/// How an executor stands.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Status {
    /// [`PROTOCOL`].
    pub protocol: u32,
    /// Its name.
    pub name: String,
    /// Its type.
    #[serde(rename = "type")]
    pub executor_type: String,
    /// The colony.
    pub colony: String,
    /// Its server, `host:port`.
    pub server: String,
    /// Where jobs run.
    pub backend: String,
    /// Id of its key.
    pub executor_id: String,
    /// Version of the program.
    pub version: String,
    /// Whether it runs, here or elsewhere.
    pub running: bool,
    /// Whether it was asked itself; else this is what its journal knows.
    pub answers: bool,
    /// Its process.
    pub pid: Option<u32>,
    /// The machine it runs on, or ran on last.
    pub host: String,
    /// When it started.
    pub since: Option<Timestamp>,
    /// Whether it takes no new work.
    pub draining: bool,
    /// Whether it takes no new work and has none left.
    pub drained: bool,
    /// How it is about to stop.
    pub stopping: Option<StopMode>,
    /// When the server answered last.
    pub heard: Option<Timestamp>,
    /// Why it cannot be reached, or does not take us, where that is so.
    pub problem: Option<String>,
    /// What is taken of what there is.
    pub room: Option<Usage>,
    /// Processes that are not closed.
    pub processes: Vec<Running>,
    /// Its state.
    pub state_dir: PathBuf,
    /// Its file area.
    pub fs_dir: PathBuf,
}

/// What is taken of what there is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Usage {
    /// Processes.
    pub slots: Share,
    /// Millicores.
    pub cpu_millis: Share,
    /// MiB.
    pub mem_mib: Share,
    /// GPUs.
    pub gpus: Share,
}

/// Some of a whole; a whole of none is not limited.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Share {
    /// What is taken.
    pub used: u64,
    /// Of how much.
    pub all: Option<u64>,
}

/// One process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Running {
    /// Its id.
    pub process: String,
    /// Its project, where it can be told.
    pub project: Option<String>,
    /// How far it is: the journal's word.
    pub stage: String,
    /// When it was assigned.
    pub assigned: Option<Timestamp>,
    /// When its job started.
    pub started: Option<Timestamp>,
    /// What the backend knows the job by.
    pub handle: Option<String>,
}

impl Running {
    /// As the journal knows it.
    pub fn of(entry: &Entry) -> Running {
        let time = |ms: i64| Timestamp::from_millisecond(ms).ok();
        Running {
            process: entry.process.processid.clone(),
            project: Job::read(&entry.process, false).ok().and_then(|job| job.project().map(str::to_owned)),
            stage: entry.stage.word().into(),
            assigned: time(entry.assigned),
            started: entry.started.and_then(time),
            handle: entry.handle.clone(),
        }
    }

    /// Whether its job runs, or may run.
    pub fn is_begun(&self) -> bool {
        [Stage::Starting, Stage::Running].iter().any(|stage| self.stage == stage.word())
    }
}
