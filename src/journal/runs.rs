//! Runs: intents written before submission, and what became of them.

use super::Error;
use super::Journal;
use crate::colonies::NODES;
use crate::colonies::Process;
use crate::colonies::ProcessState;
use rusqlite::Row;
use rusqlite::params;
use serde::Serialize;
use std::path::PathBuf;

/// Tables of schema version 2.
pub(super) const SCHEMA_1: &str = "
CREATE TABLE run (
    run_id TEXT PRIMARY KEY,        -- ours; the label and POLLINATOR_RUN_ID of the process
    created INTEGER NOT NULL,       -- ns since 1970
    project_folder TEXT NOT NULL,
    project_name TEXT NOT NULL,
    server TEXT NOT NULL,           -- host:port
    colony TEXT NOT NULL,
    spec TEXT NOT NULL,             -- JSON as submitted
    tree_digest TEXT NOT NULL,
    snapshot_id TEXT NOT NULL,
    git_commit TEXT,
    git_dirty INTEGER NOT NULL DEFAULT 0,
    process_id TEXT,                -- NULL: not known to be submitted
    state TEXT NOT NULL,            -- intent, waiting, running, success, failed, cancelled, lost
    executor TEXT,
    started INTEGER,
    ended INTEGER,
    errors TEXT NOT NULL DEFAULT '[]',
    results_fetched INTEGER         -- ns since 1970
);
CREATE INDEX run_by_time ON run(created DESC);
CREATE INDEX run_by_process ON run(process_id);
";

/// Tables of schema version 5.
pub(super) const SCHEMA_2: &str = "
ALTER TABLE run ADD COLUMN revision TEXT;    -- what --commit was given; NULL: the working tree was run
ALTER TABLE run ADD COLUMN nodes TEXT;       -- machines, as the executor names them
";

/// Tables of schema version 9.
pub(super) const SCHEMA_3: &str = "
ALTER TABLE run ADD COLUMN sweep TEXT;       -- id of the sweep that it is a part of; NULL: none
ALTER TABLE run ADD COLUMN point INTEGER;    -- its number in the sweep, from 0
ALTER TABLE run ADD COLUMN params TEXT;      -- its values: JSON, [[name, value], ...]
CREATE INDEX run_by_sweep ON run(sweep, point) WHERE sweep IS NOT NULL;
";

/// State of a run: that of its process, or what comes before and beside one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum RunState {
    /// Written down, not known to be submitted.
    Intent,
    /// Its process waits.
    Waiting,
    /// Its process runs.
    Running,
    /// Ended well.
    Success,
    /// Ended badly.
    Failed,
    /// Cancelled.
    Cancelled,
    /// It never came to the server, or the server knows it no more.
    Lost,
}

impl RunState {
    const ALL: [RunState; 7] = {
        use RunState::*;
        [Intent, Waiting, Running, Success, Failed, Cancelled, Lost]
    };

    /// The word in listings and in the table.
    pub fn word(self) -> &'static str {
        match self {
            RunState::Intent => "intent",
            RunState::Waiting => "waiting",
            RunState::Running => "running",
            RunState::Success => "success",
            RunState::Failed => "failed",
            RunState::Cancelled => "cancelled",
            RunState::Lost => "lost",
        }
    }

    fn from_word(word: &str) -> RunState {
        // Only words of ours are ever written; a stranger's is a run we know nothing of.
        RunState::ALL.into_iter().find(|s| s.word() == word).unwrap_or(RunState::Lost)
    }

    /// Whether the server may still change it.
    pub fn is_open(self) -> bool {
        matches!(self, RunState::Intent | RunState::Waiting | RunState::Running)
    }
}

impl From<ProcessState> for RunState {
    fn from(state: ProcessState) -> RunState {
        match state {
            ProcessState::Waiting => RunState::Waiting,
            ProcessState::Running => RunState::Running,
            ProcessState::Success => RunState::Success,
            ProcessState::Failed => RunState::Failed,
            ProcessState::Cancelled => RunState::Cancelled,
        }
    }
}

/// One run with what made it. Times are nanoseconds since 1970.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Run {
    /// Our id of it, 32 hex digits.
    pub run_id: String,
    /// When the intent was written.
    pub created: i64,
    /// The project's folder.
    pub project_folder: PathBuf,
    /// The project's name in the colony.
    pub project_name: String,
    /// `host:port` of the Colonies server.
    pub server: String,
    /// Name of the colony.
    pub colony: String,
    /// The function specification, JSON as submitted.
    #[serde(serialize_with = "as_json")]
    pub spec: String,
    /// Digest of the src tree that it ran.
    pub tree_digest: String,
    /// Snapshot of the src tree.
    pub snapshot_id: String,
    /// Commit that was checked out.
    pub git_commit: Option<String>,
    /// Whether what was run differed from the commit, or the folder around it did.
    pub git_dirty: bool,
    /// The revision that the run was asked to take instead of the working tree, as it was named.
    pub revision: Option<String>,
    /// The process, once known.
    pub process_id: Option<String>,
    /// What is known of its fate.
    pub state: RunState,
    /// Executor that holds or held it.
    pub executor: Option<String>,
    /// The machines that it ran on, as the executor names them; none where it does not say.
    pub nodes: Option<String>,
    /// When it was (last) assigned.
    pub started: Option<i64>,
    /// When it ended.
    pub ended: Option<i64>,
    /// The executor's reasons of a failure.
    pub errors: Vec<String>,
    /// When the results came home.
    pub results_fetched: Option<i64>,
    /// The sweep that it is a part of: 32 hex digits, the same for all of its runs.
    pub sweep: Option<String>,
    /// Its number in the sweep, from 0.
    pub point: Option<u32>,
    /// Its values in the sweep, by their names.
    #[serde(serialize_with = "as_map")]
    pub params: Vec<(String, String)>,
}

fn as_map<S: serde::Serializer>(pairs: &[(String, String)], s: S) -> Result<S::Ok, S::Error> {
    s.collect_map(pairs.iter().map(|(name, value)| (name, value)))
}

fn as_json<S: serde::Serializer>(text: &str, s: S) -> Result<S::Ok, S::Error> {
    serde_json::from_str::<serde_json::Value>(text).unwrap_or_default().serialize(s)
}

/// What [`Journal::query`] reads.
pub(super) const COLUMNS: &str = "run_id, created, project_folder, project_name, server, colony, spec, tree_digest, snapshot_id, git_commit, \
     git_dirty, process_id, state, executor, started, ended, errors, results_fetched, revision, nodes, sweep, point, params";

fn read(row: &Row<'_>) -> rusqlite::Result<Run> {
    let folder: String = row.get(2)?;
    let state: String = row.get(12)?;
    let errors: String = row.get(16)?;
    let params: Option<String> = row.get(22)?;
    Ok(Run {
        run_id: row.get(0)?,
        created: row.get(1)?,
        project_folder: folder.into(),
        project_name: row.get(3)?,
        server: row.get(4)?,
        colony: row.get(5)?,
        spec: row.get(6)?,
        tree_digest: row.get(7)?,
        snapshot_id: row.get(8)?,
        git_commit: row.get(9)?,
        git_dirty: row.get(10)?,
        process_id: row.get(11)?,
        state: RunState::from_word(&state),
        executor: row.get(13)?,
        started: row.get(14)?,
        ended: row.get(15)?,
        errors: serde_json::from_str(&errors).unwrap_or_default(),
        results_fetched: row.get(17)?,
        revision: row.get(18)?,
        nodes: row.get(19)?,
        sweep: row.get(20)?,
        point: row.get(21)?,
        params: params.and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default(),
    })
}

/// Writes a new run.
pub(super) fn insert(db: &rusqlite::Connection, run: &Run) -> rusqlite::Result<()> {
    let sql = format!(
        "INSERT INTO run({COLUMNS})
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18, ?19, ?20, ?21, ?22, ?23)"
    );
    let folder = run.project_folder.to_string_lossy();
    let errors = serde_json::to_string(&run.errors).unwrap_or_default();
    let params = run.sweep.as_ref().map(|_| serde_json::to_string(&run.params).unwrap_or_default());
    let values = params![
        run.run_id,
        run.created,
        folder,
        run.project_name,
        run.server,
        run.colony,
        run.spec,
        run.tree_digest,
        run.snapshot_id,
        run.git_commit,
        run.git_dirty,
        run.process_id,
        run.state.word(),
        run.executor,
        run.started,
        run.ended,
        errors,
        run.results_fetched,
        run.revision,
        run.nodes,
        run.sweep,
        run.point,
        params
    ];
    db.execute(&sql, values).map(drop)
}

/// Which runs a listing shows.
#[derive(Clone, Debug, Default)]
pub struct RunFilter {
    /// Only those of this project folder.
    pub project_folder: Option<PathBuf>,
    /// At most so many, newest first.
    pub limit: Option<u32>,
}

impl Journal {
    /// Writes a run down before anything of it is submitted.
    pub fn add_run(&self, run: &Run) -> Result<(), Error> {
        insert(&self.lock(), run).map_err(|e| self.failed(e))
    }

    /// Takes over what the server says of a run's process. `executor` is its name, where known.
    pub fn update_run(&self, run_id: &str, process: &Process, executor: Option<&str>) -> Result<(), Error> {
        let nanos = |t: crate::colonies::time::Time| t.get().map(|t| t.as_nanosecond() as i64);
        let errors = serde_json::to_string(&process.errors).unwrap_or_default();
        let sql = "UPDATE run SET process_id = ?2, state = ?3, executor = COALESCE(?4, executor), started = ?5, ended = ?6,
                   errors = ?7, nodes = COALESCE(?8, nodes) WHERE run_id = ?1";
        self.lock()
            .execute(
                sql,
                params![
                    run_id,
                    process.processid,
                    RunState::from(process.state).word(),
                    executor,
                    nanos(process.starttime),
                    nanos(process.endtime),
                    errors,
                    process.attribute(NODES)
                ],
            )
            .map(|_| ())
            .map_err(|e| self.failed(e))
    }

    /// Says that a run never came to the server, or is known there no more.
    pub fn mark_run_lost(&self, run_id: &str) -> Result<(), Error> {
        let mut db = self.lock();
        let mut write = || -> rusqlite::Result<()> {
            let transaction = db.transaction()?;
            // What it should have run is to run, if it never did.
            let sql = "UPDATE watched SET digest = '' WHERE run_id IN
                       (SELECT named.run_id FROM run AS lost JOIN run AS named ON named.run_id = lost.run_id OR named.sweep = lost.sweep
                        WHERE lost.run_id = ?1 AND lost.process_id IS NULL)";
            transaction.execute(sql, [run_id])?;
            transaction.execute("UPDATE run SET state = 'lost' WHERE run_id = ?1", [run_id])?;
            transaction.commit()
        };
        write().map_err(|e| self.failed(e))
    }

    /// Notes when a run's results came home (ns since 1970).
    pub fn mark_results_fetched(&self, run_id: &str, when: i64) -> Result<(), Error> {
        self.lock()
            .execute("UPDATE run SET results_fetched = ?2 WHERE run_id = ?1", params![run_id, when])
            .map(|_| ())
            .map_err(|e| self.failed(e))
    }

    /// Runs, newest first.
    pub fn runs(&self, filter: &RunFilter) -> Result<Vec<Run>, Error> {
        let folder = filter.project_folder.as_ref().map(|f| f.to_string_lossy().into_owned());
        let limit = filter.limit.map_or(-1, i64::from);
        let sql = format!(
            "SELECT {COLUMNS} FROM run WHERE ?1 IS NULL OR project_folder = ?1 ORDER BY created DESC, rowid DESC LIMIT ?2"
        );
        self.query(&sql, params![folder, limit])
    }

    /// Runs whose process id or run id begins with `prefix`, newest first.
    pub fn runs_with_prefix(&self, prefix: &str) -> Result<Vec<Run>, Error> {
        let sql = format!(
            "SELECT {COLUMNS} FROM run WHERE substr(process_id, 1, length(?1)) = ?1 OR substr(run_id, 1, length(?1)) = ?1
             ORDER BY created DESC, rowid DESC"
        );
        self.query(&sql, params![prefix])
    }

    /// Runs of a project folder that the agent still has to do with: those that have not ended, and those that ended after a time
    /// (ns since 1970) and whose results are not home. Of one colony, newest first.
    pub fn unfinished_runs(&self, folder: &std::path::Path, server: &str, colony: &str, since: i64) -> Result<Vec<Run>, Error> {
        let sql = format!(
            "SELECT {COLUMNS} FROM run WHERE project_folder = ?1 AND server = ?2 AND colony = ?3
             AND (state IN ('waiting', 'running')
                  OR (state IN ('success', 'failed', 'cancelled') AND results_fetched IS NULL AND COALESCE(ended, created) > ?4))
             ORDER BY created DESC"
        );
        self.query(&sql, params![folder.to_string_lossy(), server, colony, since])
    }

    /// The run with this id of ours.
    pub fn run(&self, run_id: &str) -> Result<Option<Run>, Error> {
        Ok(self.query(&format!("SELECT {COLUMNS} FROM run WHERE run_id = ?1"), params![run_id])?.into_iter().next())
    }

    /// Runs that were written down but are not known to be submitted, of one project in one colony.
    pub fn intents(&self, project_name: &str, server: &str, colony: &str) -> Result<Vec<Run>, Error> {
        let sql = format!(
            "SELECT {COLUMNS} FROM run WHERE state = 'intent' AND project_name = ?1 AND server = ?2 AND colony = ?3
             ORDER BY created"
        );
        self.query(&sql, params![project_name, server, colony])
    }

    /// Snapshots of this very tree that runs of this project in this colony used, with when each was last used: the one of the
    /// newest run first. They may serve again.
    pub fn snapshots_of_tree(
        &self,
        project_name: &str,
        server: &str,
        colony: &str,
        digest: &str,
    ) -> Result<Vec<(String, i64)>, Error> {
        let sql = "SELECT snapshot_id, max(created) AS used FROM run WHERE project_name = ?1 AND server = ?2 AND colony = ?3
                   AND tree_digest = ?4 AND snapshot_id <> '' GROUP BY snapshot_id ORDER BY used DESC";
        let db = self.lock();
        let rows = || -> rusqlite::Result<Vec<(String, i64)>> {
            let mut query = db.prepare_cached(sql)?;
            query.query_map(params![project_name, server, colony, digest], |row| Ok((row.get(0)?, row.get(1)?)))?.collect()
        };
        rows().map_err(|e| self.failed(e))
    }

    pub(super) fn query(&self, sql: &str, values: impl rusqlite::Params) -> Result<Vec<Run>, Error> {
        let db = self.lock();
        let rows = || -> rusqlite::Result<Vec<Run>> { db.prepare_cached(sql)?.query_map(values, read)?.collect() };
        rows().map_err(|e| self.failed(e))
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A run as it is before submission.
    pub(crate) fn intent(run_id: &str, created: i64) -> Run {
        Run {
            run_id: run_id.into(),
            created,
            project_folder: "/p".into(),
            project_name: "p".into(),
            server: "h:1".into(),
            colony: "c".into(),
            spec: "{}".into(),
            tree_digest: "d".into(),
            snapshot_id: "s".into(),
            git_commit: None,
            git_dirty: false,
            revision: None,
            process_id: None,
            state: RunState::Intent,
            executor: None,
            nodes: None,
            started: None,
            ended: None,
            errors: vec![],
            results_fetched: None,
            sweep: None,
            point: None,
            params: vec![],
        }
    }

    #[test]
    fn a_run_is_found_by_prefix_and_survives_reopening() {
        let folder = tempfile::tempdir().unwrap();
        let journal = Journal::open(folder.path()).unwrap();
        journal.add_run(&intent("aa11", 1)).unwrap();
        journal.add_run(&intent("aa22", 2)).unwrap();
        let process =
            Process { processid: "ffee".into(), state: ProcessState::Failed, errors: vec!["no".into()], ..Process::default() };
        journal.update_run("aa11", &process, Some("local")).unwrap();
        drop(journal);
        let journal = Journal::open(folder.path()).unwrap();
        let all = journal.runs(&RunFilter::default()).unwrap();
        assert_eq!(all.iter().map(|r| r.run_id.as_str()).collect::<Vec<_>>(), ["aa22", "aa11"]);
        assert_eq!(journal.runs_with_prefix("aa").unwrap().len(), 2);
        let found = journal.runs_with_prefix("ff").unwrap();
        assert_eq!((found[0].state, found[0].errors.clone()), (RunState::Failed, vec!["no".to_owned()]));
        assert_eq!(journal.intents("p", "h:1", "c").unwrap().len(), 1);
    }

    #[test]
    fn snapshots_of_a_tree_are_told_once_each_the_last_used_first() {
        let folder = tempfile::tempdir().unwrap();
        let journal = Journal::open(folder.path()).unwrap();
        let run = |id: &str, created, snapshot: &str, digest: &str| Run {
            snapshot_id: snapshot.into(),
            tree_digest: digest.into(),
            ..intent(id, created)
        };
        for (id, created, snapshot, digest) in
            [("1", 1, "old", "d"), ("2", 2, "new", "d"), ("3", 3, "old", "d"), ("4", 4, "other", "e"), ("5", 5, "", "d")]
        {
            journal.add_run(&run(id, created, snapshot, digest)).unwrap();
        }
        let found = journal.snapshots_of_tree("p", "h:1", "c", "d").unwrap();
        assert_eq!(found, [("old".to_owned(), 3), ("new".to_owned(), 2)]);
        assert!(journal.snapshots_of_tree("q", "h:1", "c", "d").unwrap().is_empty());
    }

    #[test]
    fn where_it_ran_is_kept_once_it_was_told() {
        let folder = tempfile::tempdir().unwrap();
        let journal = Journal::open(folder.path()).unwrap();
        journal.add_run(&Run { revision: Some("v1".into()), ..intent("aa11", 1) }).unwrap();
        let told = crate::colonies::Attribute { key: NODES.into(), value: "n1,n2".into(), ..Default::default() };
        let mut process = Process { processid: "ffee".into(), attributes: vec![told], ..Process::default() };
        journal.update_run("aa11", &process, None).unwrap();
        process.attributes.clear();
        journal.update_run("aa11", &process, None).unwrap();
        let run = journal.runs(&RunFilter::default()).unwrap().remove(0);
        assert_eq!((run.nodes.as_deref(), run.revision.as_deref()), (Some("n1,n2"), Some("v1")));
    }

    #[test]
    fn wildcards_in_a_prefix_are_plain_text() {
        let folder = tempfile::tempdir().unwrap();
        let journal = Journal::open(folder.path()).unwrap();
        journal.add_run(&intent("aa11", 1)).unwrap();
        assert!(journal.runs_with_prefix("%").unwrap().is_empty());
        assert!(journal.runs_with_prefix("a_").unwrap().is_empty());
    }
}
