//! The local colony's database: one thread that writes, many requests in one transaction.
//!
//! Every request is a job for that thread. It takes all jobs that wait, runs each in a savepoint of its own, commits them
//! together with full durability, and only then answers: what was confirmed is on disk, and a thousand small requests do not
//! cost a thousand syncs.

use super::server::refusal::Refused;
use crate::colonies::Process;
use crate::sqlite;
use crate::sqlite::Durability;
use rusqlite::Connection;
use std::cell::Cell;
use std::cell::RefCell;
use std::path::Path;
use tokio::sync::broadcast;
use tokio::sync::mpsc;
use tokio::sync::oneshot;
use tokio::sync::watch;

const MIGRATIONS: &[&str] = &["
CREATE TABLE colony (name TEXT PRIMARY KEY, colony_id TEXT NOT NULL, paused INTEGER NOT NULL DEFAULT 0);
CREATE TABLE user (colony TEXT NOT NULL, name TEXT NOT NULL, user_id TEXT NOT NULL, email TEXT NOT NULL, phone TEXT NOT NULL,
    PRIMARY KEY (colony, name));
CREATE INDEX user_by_id ON user(colony, user_id);
CREATE TABLE executor (
    colony TEXT NOT NULL, name TEXT NOT NULL, executor_id TEXT NOT NULL, type TEXT NOT NULL, state INTEGER NOT NULL,
    heard INTEGER NOT NULL,         -- last assign, ns; 0: never
    body TEXT NOT NULL,             -- JSON of the whole
    PRIMARY KEY (colony, name));
CREATE INDEX executor_by_id ON executor(colony, executor_id);
CREATE TABLE function (function_id TEXT PRIMARY KEY, colony TEXT NOT NULL, executor TEXT NOT NULL, body TEXT NOT NULL);
CREATE TABLE process (
    process_id TEXT PRIMARY KEY, colony TEXT NOT NULL, state INTEGER NOT NULL, type TEXT NOT NULL, label TEXT NOT NULL,
    initiator TEXT NOT NULL, executor_id TEXT NOT NULL, priority_time INTEGER NOT NULL,
    submitted INTEGER NOT NULL, started INTEGER NOT NULL, ended INTEGER NOT NULL,       -- ns; 0: never
    wait_deadline INTEGER NOT NULL, exec_deadline INTEGER NOT NULL,
    nobody INTEGER NOT NULL DEFAULT 0,  -- 1: its only executor name was a star, which is nobody
    body TEXT NOT NULL);            -- JSON of the whole, without attributes
CREATE INDEX process_queue ON process(colony, state, priority_time);
CREATE INDEX process_by_label ON process(colony, label) WHERE label <> '';
CREATE INDEX process_running ON process(state, exec_deadline);
CREATE TABLE attribute (
    attribute_id TEXT PRIMARY KEY, process_id TEXT NOT NULL REFERENCES process(process_id) ON DELETE CASCADE,
    colony TEXT NOT NULL, type INTEGER NOT NULL, key TEXT NOT NULL, value TEXT NOT NULL,
    state INTEGER NOT NULL);        -- of the process, as it was last told to its attributes
CREATE INDEX attribute_of ON attribute(process_id);
CREATE TABLE log (
    timestamp INTEGER PRIMARY KEY,  -- ns, never twice
    colony TEXT NOT NULL, process_id TEXT NOT NULL, executor TEXT NOT NULL, message TEXT NOT NULL);
CREATE INDEX log_of_process ON log(process_id, timestamp);
CREATE INDEX log_of_executor ON log(colony, executor, timestamp);
CREATE TABLE file (
    sequence INTEGER PRIMARY KEY AUTOINCREMENT,
    file_id TEXT NOT NULL UNIQUE, colony TEXT NOT NULL, label TEXT NOT NULL, name TEXT NOT NULL, body TEXT NOT NULL);
CREATE INDEX file_by_name ON file(colony, label, name, sequence);
CREATE TABLE snapshot (
    snapshot_id TEXT PRIMARY KEY, colony TEXT NOT NULL, label TEXT NOT NULL, name TEXT NOT NULL, file_ids TEXT NOT NULL,
    added INTEGER NOT NULL, UNIQUE (colony, name));
"];

/// Most jobs in one transaction.
const TOGETHER: usize = 256;
/// Process changes kept for slow subscribers; who falls behind looks again instead.
const CHANGES: usize = 4096;

/// What a job sees: the open transaction, and what is to be told once it is committed.
pub(super) struct Work<'a> {
    /// The database.
    pub(super) db: &'a Connection,
    changes: RefCell<Vec<Process>>,
    queue_changed: Cell<bool>,
    last_log: &'a Cell<i64>,
}

impl Work<'_> {
    /// Tells subscribers, after the commit, that a process is in a new state.
    pub(super) fn changed(&self, process: &Process) {
        self.changes.borrow_mut().push(process.clone());
    }

    /// Wakes all executors that wait for work, after the commit.
    pub(super) fn wake_executors(&self) {
        self.queue_changed.set(true);
    }

    /// A time for a log entry: now, and later than every other entry's.
    pub(super) fn log_time(&self) -> i64 {
        let time = now().max(self.last_log.get() + 1);
        self.last_log.set(time);
        time
    }
}

/// Nanoseconds since 1970.
pub(super) fn now() -> i64 {
    i64::try_from(jiff::Timestamp::now().as_nanosecond()).unwrap_or(i64::MAX)
}

/// Answers once its transaction is committed; with words when it could not be.
type Answer = Box<dyn FnOnce(Option<&str>) + Send>;
type Job = Box<dyn FnOnce(&Work<'_>) -> Answer + Send>;

/// The database's thread. Cheap to clone.
#[derive(Clone)]
pub(super) struct Database {
    jobs: mpsc::Sender<Job>,
    changes: broadcast::Sender<Process>,
    queue: watch::Receiver<u64>,
}

impl Database {
    /// Opens `colony.db` in a folder and starts its thread, which ends with the last clone.
    pub(super) fn open(folder: &Path) -> Result<Database, sqlite::Error> {
        let path = folder.join("colony.db");
        let db = sqlite::open(&path, Durability::Full, MIGRATIONS)?;
        let last = db.query_row("SELECT coalesce(max(timestamp), 0) FROM log", [], |r| r.get(0));
        let last = last.map_err(|source| sqlite::Error::Sqlite { path, source })?;
        let (jobs, waiting) = mpsc::channel(4 * TOGETHER);
        let (changes, _) = broadcast::channel(CHANGES);
        let (queue_moved, queue) = watch::channel(0);
        let tell = changes.clone();
        std::thread::spawn(move || serve(&db, waiting, last, &tell, &queue_moved));
        Ok(Database { jobs, changes, queue })
    }

    /// Runs a job and waits for its commit. A refusal undoes what the job did.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        job: impl FnOnce(&Work<'_>) -> Result<T, Refused> + Send + 'static,
    ) -> Result<T, Refused> {
        let (tell, told) = oneshot::channel();
        let job: Job = Box::new(move |work| {
            let outcome = in_savepoint(work, job);
            Box::new(move |broken| {
                let outcome = match broken {
                    None => outcome,
                    Some(reason) => Err(Refused::internal(format!("the colony's database: {reason}"))),
                };
                // Whoever asked may have gone; what was done stays done.
                let _ = tell.send(outcome);
            })
        });
        let gone = || Refused::internal("the colony is stopping");
        self.jobs.send(job).await.map_err(|_| gone())?;
        told.await.map_err(|_| gone())?
    }

    /// Every process that enters a new state from now on.
    pub(super) fn changes(&self) -> broadcast::Receiver<Process> {
        self.changes.subscribe()
    }

    /// Changes whenever there may be work for an executor.
    pub(super) fn queue(&self) -> watch::Receiver<u64> {
        self.queue.clone()
    }
}

fn in_savepoint<T>(work: &Work<'_>, job: impl FnOnce(&Work<'_>) -> Result<T, Refused>) -> Result<T, Refused> {
    let told = work.changes.borrow().len();
    work.db.execute_batch("SAVEPOINT job")?;
    let outcome = job(work);
    match &outcome {
        Ok(_) => work.db.execute_batch("RELEASE job")?,
        Err(_) => {
            work.changes.borrow_mut().truncate(told);
            work.db.execute_batch("ROLLBACK TO job; RELEASE job")?;
        }
    }
    outcome
}

fn serve(
    db: &Connection,
    mut waiting: mpsc::Receiver<Job>,
    last_log: i64,
    changes: &broadcast::Sender<Process>,
    queue: &watch::Sender<u64>,
) {
    let last_log = Cell::new(last_log);
    while let Some(first) = waiting.blocking_recv() {
        let mut jobs = vec![first];
        while jobs.len() < TOGETHER {
            match waiting.try_recv() {
                Ok(job) => jobs.push(job),
                Err(_) => break,
            }
        }
        let work = Work { db, changes: RefCell::default(), queue_changed: Cell::new(false), last_log: &last_log };
        let begun = db.execute_batch("BEGIN IMMEDIATE");
        let answers: Vec<Answer> = jobs.into_iter().map(|job| job(&work)).collect();
        let broken = begun.and_then(|()| db.execute_batch("COMMIT")).err().map(|e| e.to_string());
        if let Some(reason) = &broken {
            tracing::error!(%reason, "a transaction of the colony could not be committed");
            if let Err(error) = db.execute_batch("ROLLBACK") {
                tracing::debug!(%error, "nothing to roll back");
            }
        } else {
            for process in work.changes.take() {
                // No subscribers: nobody to tell.
                let _ = changes.send(process);
            }
            if work.queue_changed.get() {
                queue.send_modify(|n| *n += 1);
            }
        }
        answers.into_iter().for_each(|answer| answer(broken.as_deref()));
    }
}
