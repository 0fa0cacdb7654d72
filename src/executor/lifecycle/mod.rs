//! The life of processes: assigned, files in, run, log, results back, closed.
//!
//! One task polls for work, always; each process lives in a task of its own, where a panic fails that process only. Every
//! step is in the journal before the next begins. When the executor stops, jobs go on: the next start finds them in the
//! journal, adopts them at the backend, and goes on with their logs where they stopped.

mod assign;
mod attempt;
mod guard;
mod inbox;
mod register;
mod retry;
mod room;
mod running;
mod telling;

use super::backend;
use super::backend::Engine;
use super::backend::Surroundings;
use super::error::Error;
use super::files::Files;
use super::files::Places;
use super::growth::Growth;
use super::journal::Entry;
use super::journal::Journal;
use super::options::Capacity;
use super::options::Described;
use super::options::Options;
use super::spec::Job;
use crate::colonies::Client;
use crate::colonies::Identity;
use crate::config::Secret;
use crate::sqlite;
use inbox::Inbox;
use room::Room;
use std::collections::HashMap;
use std::collections::HashSet;
use std::fs::File;
use std::fs::TryLockError;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::Mutex;
use std::time::Duration;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Closed jobs are remembered so long, ms.
const MEMORY_MS: i64 = 30 * 24 * 3600 * 1000;

/// How long an executor that is about to end may hold the lock, and how often it is tried.
const LOCK_WAIT: Duration = Duration::from_secs(5);
const LOCK_LOOK: Duration = Duration::from_millis(100);

/// What all parts of a running executor share.
pub(super) struct Host {
    name: String,
    executor_type: String,
    backend: &'static str,
    described: Described,
    capacity: Capacity,
    poll_seconds: u32,
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
    /// Processes that have a task.
    live: Mutex<HashMap<String, Arc<Inbox>>>,
    tasks: TaskTracker,
}

/// Runs an executor until `shutdown`. Jobs that run then go on, and the next start adopts them.
pub(super) async fn run(
    options: Options,
    files: Arc<dyn Files>,
    places: Arc<Places>,
    shutdown: CancellationToken,
) -> Result<(), Error> {
    let _alone = alone(&options.state_dir).await?;
    let host = Arc::new(Host::new(options, files, places, shutdown.clone())?);
    tokio::select! {
        joined = host.join() => joined?,
        () = shutdown.cancelled() => return Ok(()),
    }
    host.journal.prune(now_ms() - MEMORY_MS)?;
    let open = host.journal.open_jobs()?;
    host.sweep(&open);
    let known = open.iter().filter(|entry| Job::read(&entry.process, host.engine.needs_image()).is_ok());
    host.places.expect(known.map(|entry| entry.process.processid.clone()).collect());
    for entry in open {
        tracing::info!(process = entry.process.processid, stage = ?entry.stage, "found again in the journal");
        host.adopt(entry);
    }
    let done = host.poll_for_work().await;
    // Tasks hear of the shutdown themselves; they leave their jobs running.
    host.tasks.close();
    host.tasks.wait().await;
    done
}

impl Host {
    /// Removes folders of jobs that were closed but not cleaned up.
    fn sweep(&self, open: &[Entry]) {
        let wanted: HashSet<String> = open.iter().map(|e| format!("{}-{}", e.process.processid, e.job_id)).collect();
        let Ok(found) = std::fs::read_dir(&self.jobs_dir) else { return };
        for left in found.flatten().filter(|e| !wanted.contains(&*e.file_name().to_string_lossy())) {
            if let Err(error) = std::fs::remove_dir_all(left.path()) {
                tracing::warn!(folder = %left.path().display(), %error, "the folder of a job is left behind");
            }
        }
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
        let jobs_dir = folder(&options.jobs_dir.clone().unwrap_or_else(|| options.state_dir.join("jobs")))?;
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
            client,
            engine,
            growth,
            files,
            places,
            room: Room::new(options.capacity),
            fs_dir,
            jobs_dir,
            shutdown,
            live: Mutex::default(),
            tasks: TaskTracker::new(),
        })
    }
}

/// Makes sure that no other executor runs on the same state: jobs would be run twice.
async fn alone(state_dir: &Path) -> Result<File, Error> {
    let path = state_dir.join("executor.lock");
    let failed = |source| Error::Folder { path: path.clone(), source };
    sqlite::private_folder(state_dir).map_err(failed)?;
    let file = File::options().create(true).append(true).mode(0o600).open(&path).map_err(failed)?;
    let end = tokio::time::Instant::now() + LOCK_WAIT;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::Error(source)) => return Err(failed(source)),
            Err(TryLockError::WouldBlock) if tokio::time::Instant::now() < end => tokio::time::sleep(LOCK_LOOK).await,
            Err(TryLockError::WouldBlock) => return Err(Error::InUse { path: state_dir.into() }),
        }
    }
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
