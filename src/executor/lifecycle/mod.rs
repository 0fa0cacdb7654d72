//! The life of processes: assigned, files in, run, log, results back, closed.
//!
//! One task polls for work, always; each process lives in a task of its own, where a panic fails that process only. Every
//! step is in the journal before the next begins. When the executor stops, jobs go on: the next start finds them in the
//! journal, adopts them at the backend, and goes on with their logs where they stopped.

mod allocations;
mod assign;
mod attempt;
mod contact;
mod guard;
mod inbox;
mod keeper;
mod patience;
mod register;
mod retry;
mod room;
mod running;
mod supervise;
mod telling;

use super::Manager;
use super::backend;
use super::backend::Engine;
use super::backend::Surroundings;
use super::control::model::StopMode;
use super::error::Error;
use super::files::Files;
use super::files::Places;
use super::growth::Growth;
use super::journal::Journal;
use super::journal::Stage;
use super::options::Capacity;
use super::options::Described;
use super::options::Options;
use super::spec::Job;
use crate::blocking;
use crate::colonies::Client;
use crate::colonies::Identity;
use crate::config::Secret;
use crate::lock;
use crate::lock::Lock;
use crate::sqlite;
use contact::Contact;
use inbox::Inbox;
use room::Room;
use std::collections::HashMap;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::Mutex;
use std::time::Duration;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Closed jobs are remembered so long, ms.
const MEMORY_MS: i64 = 30 * 24 * 3600 * 1000;

/// How long an executor that is about to end may hold the lock.
const LOCK_WAIT: Duration = Duration::from_secs(5);
/// How long what is under way may take to come to a stop.
const FAREWELL: Duration = Duration::from_secs(6);
/// Held while the executor runs, in its state folder; says who runs it.
pub const LOCK: &str = "executor.lock";

/// What all parts of a running executor share.
pub(super) struct Host {
    name: String,
    executor_type: String,
    backend: &'static str,
    described: Described,
    capacity: Capacity,
    poll_seconds: u32,
    prepare_patience: Duration,
    client: Client,
    owner: Option<Client>,
    journal: Journal,
    engine: Arc<dyn Engine>,
    growth: Arc<Growth>,
    files: Arc<dyn Files>,
    places: Arc<Places>,
    room: Arc<Room>,
    fs_dir: PathBuf,
    jobs_dir: PathBuf,
    shutdown: CancellationToken,
    /// It has left: what has not come to a stop by then is not polled again. A runtime that ends fails what is under way, and
    /// that would be written down as what became of a job.
    left: CancellationToken,
    /// Processes that have a task.
    live: Mutex<HashMap<String, Arc<Inbox>>>,
    tasks: TaskTracker,
    contact: Contact,
    /// When it was registered, ms since 1970, of late.
    registered: Mutex<Vec<i64>>,
    /// When it started, ms since 1970.
    since: i64,
    state_dir: PathBuf,
    /// How it is about to stop.
    ending: Mutex<Option<StopMode>>,
    /// Somebody says that there are wishes.
    wishes: Notify,
    tell_steps: bool,
}

/// Runs an executor until `shutdown`. Jobs that run then go on, and the next start adopts them.
pub(super) async fn run(
    options: Options,
    files: Arc<dyn Files>,
    places: Arc<Places>,
    shutdown: CancellationToken,
    service: Option<&dyn Manager>,
) -> Result<(), Error> {
    let lock = alone(&options.state_dir, &shutdown).await?;
    let host = Arc::new(Host::new(options, files, places, shutdown.clone())?);
    let Some(manager) = service else { return host.lives().await };
    let _door = host.open_door()?;
    manager.ready();
    let reports = tokio::spawn(host.clone().report_allocations());
    let (lived, kept) = tokio::select! {
        lived = host.lives() => (lived, Ok(())),
        kept = host.keep(&lock, manager) => {
            // Also where its folder is gone: nothing that is done from here on is written down.
            shutdown.cancel();
            (host.leave().await, kept)
        }
    };
    reports.abort();
    kept.and(lived)
}

impl Host {
    /// From joining to leaving.
    async fn lives(self: &Arc<Host>) -> Result<(), Error> {
        tokio::select! {
            joined = self.join() => joined?,
            () = self.shutdown.cancelled() => return Ok(()),
        }
        // By what the journal knows, before it forgets.
        self.sweep();
        self.journal.prune(now_ms() - MEMORY_MS)?;
        let open = self.journal.open_jobs()?;
        let known = open.iter().filter(|entry| Job::read(&entry.process, self.engine.needs_image()).is_ok());
        self.places.expect(known.map(|entry| entry.process.processid.clone()).collect());
        for entry in open {
            tracing::info!(process = entry.process.processid, stage = ?entry.stage, "found again in the journal");
            self.adopt(entry);
        }
        let done = self.poll_for_work().await;
        self.leave().await?;
        done
    }

    /// Tasks hear of the shutdown themselves; they leave their jobs running.
    async fn leave(&self) -> Result<(), Error> {
        self.tasks.close();
        if tokio::time::timeout(FAREWELL, self.tasks.wait()).await.is_err() {
            // What they did is in the journal.
            tracing::warn!("not everything ended in time; the next start goes on with it");
            self.left.cancel();
            // Not for ever: one may be waiting for a disk that does not answer.
            _ = tokio::time::timeout(FAREWELL, self.tasks.wait()).await;
        }
        Ok(())
    }

    /// Removes folders of jobs that were closed but not cleaned up: those alone that the journal knows by their name.
    fn sweep(&self) {
        let Ok(found) = std::fs::read_dir(&self.jobs_dir) else { return };
        for left in found.flatten().filter(|entry| self.is_over(&entry.file_name().to_string_lossy())) {
            if let Err(error) = std::fs::remove_dir_all(left.path()) {
                tracing::warn!(folder = %left.path().display(), %error, "the folder of a job is left behind");
            }
        }
    }

    /// Whether that is the folder of a job of ours that is closed.
    fn is_over(&self, folder: &str) -> bool {
        let Some((process, job_id)) = folder.rsplit_once('-') else { return false };
        let Ok(job_id) = job_id.parse::<i64>() else { return false };
        let known = self.journal.by_id(job_id);
        matches!(known, Ok(Some(entry)) if entry.process.processid == process && entry.stage == Stage::Closed)
    }

    fn new(options: Options, files: Arc<dyn Files>, places: Arc<Places>, shutdown: CancellationToken) -> Result<Host, Error> {
        let colony = |source| Error::Colony { name: options.name.clone(), source };
        let client = Client::new(&options.access).map_err(colony)?;
        let owner_identity = |key: &Secret| Identity::from_key(key).map_err(|e| colony(e.into()));
        let owner = options.owner_key.as_ref().map(owner_identity).transpose()?;
        let folder = |path: &PathBuf| {
            sqlite::private_folder(path).map_err(|source| Error::Folder { path: path.clone(), source })?;
            path.canonicalize().map_err(|source| Error::Folder { path: path.clone(), source })
        };
        let jobs_dir = folder(&match &options.jobs_dir {
            // It may be somebody's, and another executor's, too.
            Some(shared) => shared.join(own_folder(&options.name, client.id())),
            None => options.state_dir.join("jobs"),
        })?;
        let fs_dir = folder(&options.fs_dir)?;
        let backend_name = options.backend.name();
        let growth = Growth::new();
        let around = Surroundings {
            name: options.name.clone(),
            state_dir: options.state_dir.clone(),
            jobs_dir: jobs_dir.clone(),
            fs_dir: fs_dir.clone(),
            growth: growth.clone(),
            shutdown: shutdown.clone(),
        };
        let engine = backend::engine(options.backend, around)?;
        Ok(Host {
            journal: Journal::open(&options.state_dir, client.id())?,
            owner: owner.map(|identity| client.with_identity(identity)),
            name: options.name,
            executor_type: options.executor_type,
            backend: backend_name,
            described: options.described,
            capacity: options.capacity,
            poll_seconds: options.poll_seconds.max(1),
            prepare_patience: options.prepare_patience,
            client,
            engine,
            growth,
            files,
            places,
            room: Room::new(options.capacity),
            fs_dir,
            jobs_dir,
            shutdown,
            left: CancellationToken::new(),
            live: Mutex::default(),
            tasks: TaskTracker::new(),
            contact: Contact::default(),
            registered: Mutex::default(),
            since: now_ms(),
            state_dir: options.state_dir,
            ending: Mutex::default(),
            wishes: Notify::new(),
            tell_steps: options.tell_steps,
        })
    }
}

/// The folder for jobs of one executor in a folder that others may use.
fn own_folder(name: &str, id: &str) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() || "-_.".contains(c) { c } else { '_' };
    format!("pollinator-{}-{}", name.chars().map(plain).collect::<String>(), id.get(..8).unwrap_or(id))
}

/// Makes sure that no other executor runs on the same state: jobs would be run twice.
async fn alone(state_dir: &Path, shutdown: &CancellationToken) -> Result<Lock, Error> {
    let (path, state) = (state_dir.join(LOCK), PathBuf::from(state_dir));
    let stop = shutdown.clone();
    let taken = blocking::run(move || lock::take(&path, |_| LOCK_WAIT, &stop)).await;
    taken.map_err(|error| match error {
        lock::Error::Held { holder } => {
            let holder = holder.map_or_else(|| "who, is not known".into(), |holder| holder.to_string());
            Error::InUse { path: state, holder }
        }
        lock::Error::Stopped => Error::Internal { reason: error.to_string() },
        lock::Error::Io { path, source } => Error::Folder { path, source },
    })
}

/// Our clock, ms since 1970.
fn now_ms() -> i64 {
    jiff::Timestamp::now().as_millisecond()
}

/// The span until a time of our clock; zero where it is past.
fn span_until(ms: i64) -> Duration {
    Duration::from_millis(u64::try_from(ms - now_ms()).unwrap_or(0))
}

#[cfg(test)]
mod test_server;
#[cfg(test)]
mod tests;
