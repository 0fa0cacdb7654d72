//! `executor.db`: what became of every process that was assigned to this executor, step by step.
//!
//! Written before and after each step with full durability, so that after a crash every job is found again, none is run
//! twice and none is forgotten. One row is one attempt: the same process assigned again later is another row.

use super::error::Error;
use crate::colonies::Process;
use crate::sqlite;
use crate::sqlite::Durability;
use rusqlite::Connection;
use rusqlite::OptionalExtension;
use rusqlite::Row;
use rusqlite::params;
use serde::Deserialize;
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;

const MIGRATIONS: &[&str] = &["
CREATE TABLE job (
    job_id INTEGER PRIMARY KEY,
    owner TEXT NOT NULL,            -- id of the executor's key
    process_id TEXT NOT NULL,
    attempt INTEGER NOT NULL,       -- the process's start time, microseconds since 1970
    process TEXT NOT NULL,          -- JSON as assigned
    assigned INTEGER NOT NULL,      -- when we got it, ms since 1970, our clock
    stage TEXT NOT NULL,
    handle TEXT,                    -- the backend's
    started INTEGER,                -- ms since 1970, our clock
    verdict TEXT,                   -- JSON
    closed INTEGER,                 -- ms since 1970
    UNIQUE (owner, process_id, attempt)
);
CREATE TABLE log_position (
    job_id INTEGER NOT NULL REFERENCES job(job_id) ON DELETE CASCADE,
    output INTEGER NOT NULL,        -- which of the job's outputs
    offset INTEGER NOT NULL,        -- bytes that the server has accepted
    PRIMARY KEY (job_id, output)
) WITHOUT ROWID;
CREATE TABLE log_message (
    job_id INTEGER PRIMARY KEY REFERENCES job(job_id) ON DELETE CASCADE,
    pending_output INTEGER,         -- NULL: nothing is under way
    pending_upto INTEGER,           -- offset once it is accepted
    pending TEXT,                   -- digest of the message; the bytes are still in the output
    last TEXT NOT NULL DEFAULT '',  -- digest of the message accepted last
    last_run INTEGER NOT NULL DEFAULT 0 -- how often in a row that message was accepted
);
"];

/// The file, in the state folder.
pub const FILE: &str = "executor.db";

/// How far a job has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// The server gave it to us.
    Assigned,
    /// Its files are here.
    FilesIn,
    /// The backend was told to start it; whether it did is not known.
    Starting,
    /// The backend runs it.
    Running,
    /// It is over and the verdict stands.
    Ended,
    /// Its results are sent back.
    SentBack,
    /// The server knows the verdict, or does not want it.
    Closed,
}

impl Stage {
    const ALL: [(Stage, &'static str); 7] = [
        (Stage::Assigned, "assigned"),
        (Stage::FilesIn, "files-in"),
        (Stage::Starting, "starting"),
        (Stage::Running, "running"),
        (Stage::Ended, "ended"),
        (Stage::SentBack, "sent-back"),
        (Stage::Closed, "closed"),
    ];

    /// Its word, as it is kept and shown.
    pub fn word(self) -> &'static str {
        Stage::ALL.iter().find(|(s, _)| *s == self).map_or("assigned", |(_, w)| w)
    }

    fn from_word(word: &str) -> Option<Stage> {
        Stage::ALL.iter().find(|(_, w)| *w == word).map(|(s, _)| *s)
    }
}

/// What the server is told at the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fate {
    /// Close as successful.
    Success,
    /// Close as failed.
    Failed,
    /// Nothing: it was cancelled there. Results are sent back all the same.
    Cancelled,
    /// Nothing: it is no longer ours (another attempt may run), so nothing is sent back either.
    TakenAway,
}

/// The end of a job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdict {
    /// What to tell.
    pub fate: Fate,
    /// Reasons, for [`Fate::Failed`].
    pub errors: Vec<String>,
}

/// One job as the journal knows it.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// Row.
    pub job_id: i64,
    /// The process as it was assigned.
    pub process: Process,
    /// Which attempt: start time, microseconds since 1970.
    pub attempt: i64,
    /// When we got it, ms since 1970.
    pub assigned: i64,
    /// How far it is.
    pub stage: Stage,
    /// The backend's handle.
    pub handle: Option<String>,
    /// When it started, ms since 1970.
    pub started: Option<i64>,
    /// Its end.
    pub verdict: Option<Verdict>,
}

/// A message that was perhaps accepted by the server when we died.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pending {
    /// Which of the job's outputs.
    pub output: u32,
    /// Offset in that output once it is accepted.
    pub upto: u64,
    /// How often in a row the very same message had been accepted before.
    pub same_before: u32,
}

/// The number of an attempt: a process's start time. The server stores microseconds, but answers nanoseconds at assignment.
pub fn attempt_of(process: &Process) -> i64 {
    process.starttime.get().map_or(0, |t| t.as_microsecond())
}

/// The opened journal; cheap to clone. Every method is one short transaction.
#[derive(Clone)]
pub struct Journal {
    db: Arc<Mutex<Connection>>,
    path: PathBuf,
    owner: String,
}

impl std::fmt::Debug for Journal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Journal").field("path", &self.path).finish_non_exhaustive()
    }
}

impl Journal {
    /// Opens `executor.db` in the state folder, or makes it. `owner` is the id of the executor's key: jobs of another
    /// executor that used the same folder are left alone.
    pub fn open(state_dir: &Path, owner: &str) -> Result<Journal, Error> {
        let path = state_dir.join(FILE);
        let db = sqlite::open(&path, Durability::Full, MIGRATIONS)?;
        Ok(Journal { db: Arc::new(Mutex::new(db)), path, owner: owner.into() })
    }

    /// A panic of another holder left no transaction open: rusqlite rolls back on drop.
    fn lock(&self) -> MutexGuard<'_, Connection> {
        self.db.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn failed(&self, source: rusqlite::Error) -> Error {
        Error::Journal { path: self.path.clone(), source }
    }

    /// Runs one statement.
    fn run(&self, sql: &str, values: impl rusqlite::Params) -> Result<(), Error> {
        self.lock().execute(sql, values).map(|_| ()).map_err(|e| self.failed(e))
    }

    /// Writes down an assignment. One that is known already is given back as it stands.
    pub fn assigned(&self, process: &Process, now_ms: i64) -> Result<Entry, Error> {
        let attempt = attempt_of(process);
        let text = serde_json::to_string(process).map_err(|e| Error::Internal { reason: e.to_string() })?;
        self.run(
            "INSERT INTO job(owner, process_id, attempt, process, assigned, stage) VALUES (?, ?, ?, ?, ?, 'assigned')
             ON CONFLICT (owner, process_id, attempt) DO NOTHING",
            params![self.owner, process.processid, attempt, text, now_ms],
        )?;
        let found = self.find(&process.processid, attempt)?;
        found.ok_or_else(|| Error::Internal { reason: "a row just written to the executor's journal is not there".into() })
    }

    /// One attempt; its number may be off by the server's rounding.
    pub fn find(&self, process_id: &str, attempt: i64) -> Result<Option<Entry>, Error> {
        self.lock()
            .query_row(
                &format!("{SELECT} WHERE owner = ? AND process_id = ? AND abs(attempt - ?) <= 1"),
                params![self.owner, process_id, attempt],
                entry,
            )
            .optional()
            .map_err(|e| self.failed(e))
    }

    /// One row.
    pub fn by_id(&self, job_id: i64) -> Result<Option<Entry>, Error> {
        let found = self.lock().query_row(&format!("{SELECT} WHERE job_id = ?"), [job_id], entry).optional();
        found.map_err(|e| self.failed(e))
    }

    /// Jobs that are not closed, oldest first.
    pub fn open_jobs(&self) -> Result<Vec<Entry>, Error> {
        let db = self.lock();
        let read = || {
            let mut rows = db.prepare(&format!("{SELECT} WHERE owner = ? AND stage <> 'closed' ORDER BY job_id"))?;
            rows.query_map([&self.owner], entry)?.collect::<rusqlite::Result<Vec<_>>>()
        };
        read().map_err(|e| self.failed(e))
    }

    /// A live job came back to us under a new assignment.
    pub fn reassigned(&self, job_id: i64, process: &Process, now_ms: i64) -> Result<(), Error> {
        let text = serde_json::to_string(process).map_err(|e| Error::Internal { reason: e.to_string() })?;
        let values = params![attempt_of(process), text, now_ms, job_id];
        self.run("UPDATE job SET attempt = ?, process = ?, assigned = ? WHERE job_id = ?", values)
    }

    /// Writes down a step that has no more to say than its name.
    pub fn step(&self, job_id: i64, stage: Stage) -> Result<(), Error> {
        self.run("UPDATE job SET stage = ? WHERE job_id = ?", params![stage.word(), job_id])
    }

    /// The backend runs it.
    pub fn started(&self, job_id: i64, handle: &str, now_ms: i64) -> Result<(), Error> {
        let sql = "UPDATE job SET stage = 'running', handle = ?, started = coalesce(started, ?) WHERE job_id = ?";
        self.run(sql, params![handle, now_ms, job_id])
    }

    /// It is over.
    pub fn ended(&self, job_id: i64, verdict: &Verdict) -> Result<(), Error> {
        let text = serde_json::to_string(verdict).map_err(|e| Error::Internal { reason: e.to_string() })?;
        self.run("UPDATE job SET stage = 'ended', verdict = ? WHERE job_id = ?", params![text, job_id])
    }

    /// The server knows.
    pub fn closed(&self, job_id: i64, now_ms: i64) -> Result<(), Error> {
        self.run("UPDATE job SET stage = 'closed', closed = ? WHERE job_id = ?", params![now_ms, job_id])
    }

    /// Drops jobs that were closed before a time.
    pub fn prune(&self, before_ms: i64) -> Result<(), Error> {
        self.run("DELETE FROM job WHERE stage = 'closed' AND closed < ?", params![before_ms])
    }

    /// Bytes of each output that the server has.
    pub fn positions(&self, job_id: i64) -> Result<BTreeMap<u32, u64>, Error> {
        let db = self.lock();
        let read = || {
            let mut rows = db.prepare("SELECT output, offset FROM log_position WHERE job_id = ?")?;
            let pairs = rows.query_map([job_id], |r| Ok((r.get::<_, u32>(0)?, r.get::<_, i64>(1)?.max(0) as u64)))?;
            pairs.collect::<rusqlite::Result<BTreeMap<_, _>>>()
        };
        read().map_err(|e| self.failed(e))
    }

    /// Writes down what is about to be sent; gives how often in a row the same message was accepted before.
    pub fn sending(&self, job_id: i64, output: u32, upto: u64, message: &str) -> Result<Pending, Error> {
        self.run(
            "INSERT INTO log_message(job_id, pending_output, pending_upto, pending) VALUES (?, ?, ?, ?)
             ON CONFLICT (job_id) DO UPDATE SET pending_output = excluded.pending_output,
                 pending_upto = excluded.pending_upto, pending = excluded.pending",
            params![job_id, output, upto as i64, blake3::hash(message.as_bytes()).to_hex().as_str()],
        )?;
        let pending = self.pending(job_id)?;
        pending.ok_or_else(|| Error::Internal { reason: "a message just written to the executor's journal is not there".into() })
    }

    /// What was under way when we died.
    pub fn pending(&self, job_id: i64) -> Result<Option<Pending>, Error> {
        let sql = "SELECT pending_output, pending_upto, CASE WHEN last = pending THEN last_run ELSE 0 END
                   FROM log_message WHERE job_id = ? AND pending IS NOT NULL";
        self.lock()
            .query_row(sql, [job_id], |r| {
                let upto = r.get::<_, i64>(1)?.max(0) as u64;
                Ok(Pending { output: r.get(0)?, upto, same_before: r.get(2)? })
            })
            .optional()
            .map_err(|e| self.failed(e))
    }

    /// The pending message is settled: accepted by the server, or (`accepted` false) refused for good and passed over.
    pub fn sent(&self, job_id: i64, pending: &Pending, accepted: bool) -> Result<(), Error> {
        let mut db = self.lock();
        let mut write = || {
            let change = db.transaction()?;
            change.execute(
                "INSERT INTO log_position(job_id, output, offset) VALUES (?, ?, ?)
                 ON CONFLICT (job_id, output) DO UPDATE SET offset = excluded.offset",
                params![job_id, pending.output, pending.upto as i64],
            )?;
            let run = "UPDATE log_message SET last_run = CASE WHEN last = pending THEN last_run + 1 ELSE 1 END, last = pending
                       WHERE job_id = ?";
            if accepted {
                change.execute(run, [job_id])?;
            }
            change.execute("UPDATE log_message SET pending = NULL WHERE job_id = ?", [job_id])?;
            change.commit()
        };
        write().map_err(|e| self.failed(e))
    }
}

const SELECT: &str = "SELECT job_id, process, attempt, assigned, stage, handle, started, verdict FROM job";

fn entry(row: &Row<'_>) -> rusqlite::Result<Entry> {
    let text = |i: usize, e: &dyn std::fmt::Display| {
        rusqlite::Error::FromSqlConversionFailure(i, rusqlite::types::Type::Text, e.to_string().into())
    };
    let stage: String = row.get(4)?;
    let verdict: Option<String> = row.get(7)?;
    Ok(Entry {
        job_id: row.get(0)?,
        process: serde_json::from_str(&row.get::<_, String>(1)?).map_err(|e| text(1, &e))?,
        attempt: row.get(2)?,
        assigned: row.get(3)?,
        stage: Stage::from_word(&stage).ok_or_else(|| text(4, &stage))?,
        handle: row.get(5)?,
        started: row.get(6)?,
        verdict: verdict.map(|v| serde_json::from_str(&v)).transpose().map_err(|e| text(7, &e))?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::colonies::time::Time;

    fn process(id: &str, at: &str) -> Process {
        Process { processid: id.into(), starttime: Time::parse(at).unwrap(), ..Process::default() }
    }

    #[test]
    fn steps_survive_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        let journal = Journal::open(folder.path(), "me").unwrap();
        let first = process("p", "2026-11-23T05:00:00.123456789Z");
        let entry = journal.assigned(&first, 5).unwrap();
        assert_eq!(journal.assigned(&first, 9).unwrap(), entry, "the same attempt is one job");
        // The server rounds to microseconds.
        let rounded = process("p", "2026-11-23T05:00:00.123457Z");
        assert_eq!(journal.find("p", attempt_of(&rounded)).unwrap().unwrap().job_id, entry.job_id);
        let again = journal.assigned(&process("p", "2026-11-23T06:00:00Z"), 7).unwrap();
        assert_ne!(again.job_id, entry.job_id);
        journal.step(entry.job_id, Stage::FilesIn).unwrap();
        journal.started(entry.job_id, "h", 10).unwrap();
        drop(journal);

        let journal = Journal::open(folder.path(), "me").unwrap();
        let open = journal.open_jobs().unwrap();
        assert_eq!((open[0].stage, open[0].handle.as_deref(), open[0].started), (Stage::Running, Some("h"), Some(10)));
        let verdict = Verdict { fate: Fate::Failed, errors: vec!["x".into()] };
        journal.ended(entry.job_id, &verdict).unwrap();
        assert_eq!(journal.open_jobs().unwrap()[0].verdict, Some(verdict));
        journal.closed(entry.job_id, 20).unwrap();
        journal.closed(again.job_id, 20).unwrap();
        assert!(journal.open_jobs().unwrap().is_empty());
        assert!(Journal::open(folder.path(), "other").unwrap().find("p", entry.attempt).unwrap().is_none());
        journal.prune(21).unwrap();
        assert!(journal.find("p", entry.attempt).unwrap().is_none());
    }

    #[test]
    fn a_message_under_way_is_remembered_with_its_like() {
        let folder = tempfile::tempdir().unwrap();
        let journal = Journal::open(folder.path(), "me").unwrap();
        let job = journal.assigned(&process("p", "2026-11-23T05:00:00Z"), 5).unwrap().job_id;
        for n in 0..3 {
            let pending = journal.sending(job, 0, (n + 1) * 2, "x\n").unwrap();
            assert_eq!(u64::from(pending.same_before), n);
            assert_eq!(journal.pending(job).unwrap(), Some(pending.clone()));
            journal.sent(job, &pending, true).unwrap();
            assert_eq!(journal.pending(job).unwrap(), None);
        }
        let other = journal.sending(job, 1, 9, "y").unwrap();
        assert_eq!(other.same_before, 0);
        journal.sent(job, &other, true).unwrap();
        assert_eq!(journal.sending(job, 0, 8, "x\n").unwrap().same_before, 0);
        assert_eq!(journal.positions(job).unwrap(), BTreeMap::from([(0, 6), (1, 9)]));
    }
}
