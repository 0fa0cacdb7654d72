//! Runs: intents written before submission, and what became of them.

/// Tables of schema version 2.
pub(super) const SCHEMA_1: &str = "
CREATE TABLE run (
    run_id TEXT PRIMARY KEY,        -- ours, travels as POLLINATOR_RUN_ID
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
    log_since INTEGER NOT NULL DEFAULT 0,
    log_seen INTEGER NOT NULL DEFAULT 0,
    results_fetched INTEGER         -- ns since 1970
);
CREATE INDEX run_by_time ON run(created DESC);
CREATE INDEX run_by_process ON run(process_id);
";
