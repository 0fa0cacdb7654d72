//! Where jobs run: the contract between an executor's life-cycle and a backend.
//!
//! A backend starts a job at most once for each job folder, finds it again after the executor's death, tells how it
//! ended, and kills it. It decides nothing about the colony: no log message, no verdict. Its outputs are files that
//! grow, so that what is sent to the process log survives the executor as a byte offset.

pub mod binds;
pub mod container;
pub mod environment;
pub mod kubernetes;
pub mod payload;
pub mod pipe;
pub mod process;
pub mod regular;
pub mod slurm;
pub mod statuses;
pub mod tries;

use super::error::Error;
use super::growth::Growth;
use super::options::Backend;
use super::spec::Job;
use crate::executor::passing::is_full;
use crate::executor::passing::is_passing;
use async_trait::async_trait;
use serde::Deserialize;
use serde::Serialize;
use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// Why a backend could not do what it was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Failure {
    /// A folder or file of the job cannot be used.
    #[error("{what} ({}): {source}", path.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The backend did not answer; whether it did what it was told is not known.
    #[error("{what}: {reason}")]
    Unanswered {
        /// What was asked.
        what: String,
        /// What came instead of an answer.
        reason: String,
    },
    /// The backend refused for good.
    #[error("{what}: {reason}")]
    Refused {
        /// What was asked.
        what: String,
        /// Its words.
        reason: String,
    },
    /// The backend cannot do what the specification asks for.
    #[error("{field}: {reason}")]
    Unsupported {
        /// The field of the specification.
        field: String,
        /// Why not.
        reason: String,
    },
}

impl Failure {
    /// Whether asking again later can help.
    pub fn is_temporary(&self) -> bool {
        match self {
            Failure::Unanswered { .. } => true,
            // A full disk may be emptied.
            Failure::Io { source, .. } => is_passing(source) || is_full(source),
            Failure::Refused { .. } | Failure::Unsupported { .. } => false,
        }
    }

    /// Names what was tried, and on what.
    pub(crate) fn io(what: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Failure {
        let path = path.into();
        move |source| Failure::Io { what, path, source }
    }
}

/// One attempt at one process, as a backend sees it.
#[derive(Clone, Debug)]
pub struct Task {
    /// What is to be run.
    pub job: Arc<Job>,
    /// Folder of this attempt, 0700, the backend's own: outputs, statuses.
    pub folder: PathBuf,
    /// The executor's file area, a canonical path.
    pub fs_dir: PathBuf,
}

impl Task {
    /// The main output: the executor's own lines for the reader of the process log stand there too.
    pub fn log(&self) -> PathBuf {
        self.folder.join("log")
    }
}

/// One output of a job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Output {
    /// The file; it may not be there yet.
    pub path: PathBuf,
    /// Put before each line, where there are several.
    pub prefix: Option<String>,
}

/// What a backend needs to find a job again; opaque to everybody else, kept in the journal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Handle(pub String);

/// What became of a job that an earlier life of this executor may have started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Adopted {
    /// It did start (it may have ended since): wait for it.
    Started(Handle),
    /// It surely did not start, and will not.
    Never,
}

/// How a job ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Ending {
    /// It left an exit status.
    Exited {
        /// The status; 0 is success. Above 128: killed by signal `status - 128`, as shells tell it.
        status: i32,
        /// Which of several processes, where it was one of them.
        rank: Option<u32>,
        /// Whether `init-cmd` ended with it, and the command never began.
        in_init: bool,
        /// What a scheduler says about it, beginning with its word (`OUT_OF_MEMORY`), where it ended the job.
        because: Option<String>,
    },
    /// A scheduler ended it before it could leave a status, or never began it.
    Stopped {
        /// Its word (`NODE_FAIL`) and what it means.
        reason: String,
    },
    /// It ended without leaving a status.
    Vanished {
        /// What is known about it.
        reason: String,
    },
}

/// What is known about a job that was started. It grows: a scheduler names the nodes only when the job begins.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// Why it does not run yet, in the scheduler's words; none where it runs, or nobody says.
    pub waiting: Option<String>,
    /// Host names it runs on.
    pub nodes: Vec<String>,
    /// The executor user's home folder.
    pub home: Option<String>,
    /// The job's id at a scheduler, with the attribute it is told under (`SLURM-JOBID`).
    pub job_id: Option<(String, String)>,
}

/// A backend.
#[async_trait]
pub trait Engine: Send + Sync {
    /// Whether a job must name an image.
    fn needs_image(&self) -> bool;

    /// Makes ready what the job needs beside its files (an image). May take long; may be repeated. Gives lines for the
    /// reader of the process log.
    async fn prepare(&self, task: &Task) -> Result<Vec<String>, Failure>;

    /// Starts the job. Called once for each [`Task::folder`], or again after [`Adopted::Never`].
    async fn start(&self, task: &Task) -> Result<Handle, Failure>;

    /// Finds a job again. `handle` is none where the executor died between telling the backend to start and writing down
    /// that it did.
    async fn adopt(&self, task: &Task, handle: Option<Handle>) -> Result<Adopted, Failure>;

    /// Whether it ends jobs at their walltime, counted from when they began; else that is done from outside.
    fn keeps_time(&self) -> bool {
        false
    }

    /// Waits for the end, and tells meanwhile what becomes known. May be dropped and called again.
    async fn watch(&self, task: &Task, handle: &Handle, facts: &watch::Sender<Facts>) -> Result<Ending, Failure>;

    /// Ends it with all its processes: asks first, and after `grace` insists. Done when none is left. One that has ended,
    /// and left nothing behind, is none to end.
    async fn kill(&self, task: &Task, handle: &Handle, grace: Duration) -> Result<(), Failure>;

    /// Its outputs; the first is [`Task::log`].
    fn outputs(&self, task: &Task) -> Vec<Output>;
}

/// What an engine has to know of the executor around it.
#[derive(Clone, Debug)]
pub struct Surroundings {
    /// The executor's name.
    pub name: String,
    /// Its own state, 0700.
    pub state_dir: PathBuf,
    /// Where the folders of jobs are, a canonical path.
    pub jobs_dir: PathBuf,
    /// The file area, a canonical path.
    pub fs_dir: PathBuf,
    /// Files of jobs that grow, for all jobs.
    pub growth: Arc<Growth>,
    /// Cancelled when the executor stops: what runs beside jobs has to end, jobs go on.
    pub shutdown: CancellationToken,
}

/// The engine of a backend.
///
/// # Errors
/// Settings that cannot work here.
pub fn engine(backend: Backend, around: Surroundings) -> Result<Arc<dyn Engine>, Error> {
    match backend {
        Backend::Process(settings) => Ok(Arc::new(process::ProcessEngine::new(*settings, &around)?)),
        Backend::Slurm(settings) => Ok(Arc::new(slurm::SlurmEngine::new(*settings, &around)?)),
        Backend::Container(settings) => Ok(Arc::new(container::ContainerEngine::new(*settings, &around)?)),
        Backend::Kubernetes(settings) => kubernetes::engine(*settings, &around).map_err(|reason| Error::Backend {
            name: around.name.clone(),
            backend: "Kubernetes",
            reason,
        }),
    }
}

/// The usual outputs: the main one, and one for each process where there are several.
fn outputs(task: &Task) -> Vec<Output> {
    let mut outputs = vec![Output { path: task.log(), prefix: None }];
    let size = task.job.processes();
    if size > 1 {
        let path = |rank| task.folder.join(format!("log.{rank}"));
        outputs.extend((0..size).map(|rank| Output { path: path(rank), prefix: Some(format!("[{rank}] ")) }));
    }
    outputs
}

/// Opens an output for appending, 0600.
fn append(path: &Path) -> Result<std::fs::File, Failure> {
    let open = OpenOptions::new().append(true).create(true).mode(0o600).open(path);
    open.map_err(Failure::io("cannot open the output of the job", path))
}

/// Adds a line of the executor's own to the main output.
///
/// # Errors
/// Those of the file.
pub fn say(log: &Path, line: &str) -> Result<(), Failure> {
    let text = format!("pollinator: {line}\n");
    append(log)?.write_all(text.as_bytes()).map_err(Failure::io("cannot write to the output of the job", log))
}
