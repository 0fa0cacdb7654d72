//! Logs of processes and executors. No two entries bear the same time, so paging by time loses none.

use super::Context;
use super::Payload;
use super::Refused;
use super::Work;
use super::members;
use super::processes;
use crate::colonies::LogEntry;
use crate::colonies::ProcessState;
use crate::colony::database::now;
use rusqlite::OptionalExtension;
use rusqlite::Row;
use rusqlite::params;
use serde_json::Value;
use serde_json::json;

/// Most entries a page holds.
const MAX_COUNT: i64 = 500;
/// Most entries a search gives.
const MAX_FOUND: i64 = 100;
/// How far back a search looks, days.
const MAX_DAYS: i64 = 30;

pub(super) fn add(work: &Work<'_>, context: &Context, payload: &Payload) -> Result<Value, Refused> {
    let id = payload.text("processid")?;
    let process = processes::find(work.db, &id)?.ok_or_else(|| Refused::internal("Failed to add log, process is nil"))?;
    let colony = &process.spec.conditions.colonyname;
    let member = members::require_member(work.db, context, colony)?;
    if process.state != ProcessState::Running {
        return Err(Refused::forbidden("Failed to set output, process is not running"));
    }
    if process.assignedexecutorid != context.signer {
        return Err(Refused::forbidden("Failed to add log, not allowed to add log, only the assigned Executor may att logs"));
    }
    insert(work, colony, &id, member.name(), payload)
}

pub(super) fn add_of_executor(work: &Work<'_>, context: &Context, payload: &Payload) -> Result<Value, Refused> {
    let (colony, name) = (payload.text("colonyname")?, payload.text("executorname")?);
    let member = members::require_member(work.db, context, &colony)?;
    if member != members::Member::Executor(name.clone()) {
        return Err(Refused::forbidden("Failed to add log, only the executor itself may add to its log"));
    }
    insert(work, &colony, "", &name, payload)
}

fn insert(work: &Work<'_>, colony: &str, process: &str, executor: &str, payload: &Payload) -> Result<Value, Refused> {
    let message = payload.text("message")?;
    if message.contains('\0') {
        return Err(Refused::bad("Failed to add log, a NUL character cannot be stored"));
    }
    work.db
        .prepare_cached("INSERT INTO log(timestamp, colony, process_id, executor, message) VALUES (?1, ?2, ?3, ?4, ?5)")?
        .execute(params![work.log_time(), colony, process, executor, message])?;
    Ok(json!({}))
}

fn read(row: &Row<'_>) -> rusqlite::Result<LogEntry> {
    Ok(LogEntry {
        timestamp: row.get(0)?,
        colonyname: row.get(1)?,
        processid: row.get(2)?,
        executorname: row.get(3)?,
        message: row.get(4)?,
    })
}

fn entries(work: &Work<'_>, sql: &str, values: impl rusqlite::Params, reversed: bool) -> Result<Value, Refused> {
    let mut all: Vec<LogEntry> = work.db.prepare_cached(sql)?.query_map(values, read)?.collect::<Result<_, _>>()?;
    if reversed {
        all.reverse();
    }
    Ok(if all.is_empty() { Value::Null } else { json!(all) })
}

pub(super) fn get(work: &Work<'_>, context: &Context, payload: &Payload) -> Result<Value, Refused> {
    let colony = payload.text("colonyname")?;
    members::require_member(work.db, context, &colony)?;
    let count = payload.number("count")?;
    if count > MAX_COUNT {
        return Err(Refused::forbidden(format!("Count exceeds max log count ({MAX_COUNT})")));
    }
    if count < 0 {
        return Err(Refused::bad("Failed to get logs, count must not be negative"));
    }
    let (process, executor) = (payload.text("processid")?, payload.text("executorname")?);
    let (column, value) = if executor.is_empty() {
        let known = processes::find(work.db, &process)?.filter(|p| p.spec.conditions.colonyname == colony);
        known.ok_or_else(|| Refused::internal("Failed to get logs, process does not exist"))?;
        ("process_id", process)
    } else {
        let sql = "SELECT 1 FROM executor WHERE colony = ?1 AND name = ?2";
        let known = work.db.query_row(sql, params![colony, executor], |_| Ok(())).optional()?;
        known.ok_or_else(|| Refused::internal("Failed to get logs, executor does not exist"))?;
        ("executor", executor)
    };
    let columns = "SELECT timestamp, colony, process_id, executor, message FROM log WHERE colony = ?1";
    if payload.get("latest")? {
        let sql = format!("{columns} AND {column} = ?2 ORDER BY timestamp DESC LIMIT ?3");
        return entries(work, &sql, params![colony, value, count], true);
    }
    let sql = format!("{columns} AND {column} = ?2 AND timestamp > ?3 ORDER BY timestamp LIMIT ?4");
    entries(work, &sql, params![colony, value, payload.number("since")?, count], false)
}

/// `%` and `_` are wildcards, as clients know it.
pub(super) fn search(work: &Work<'_>, context: &Context, payload: &Payload) -> Result<Value, Refused> {
    let colony = payload.text("colonyname")?;
    members::require_member(work.db, context, &colony)?;
    let (count, days) = (payload.number("count")?, payload.number("days")?);
    if count > MAX_FOUND {
        return Err(Refused::bad(format!("Count exceeds max log count ({MAX_FOUND})")));
    }
    if days > MAX_DAYS || count < 0 || days < 0 {
        return Err(Refused::bad(format!("Days exceeds max days ({MAX_DAYS})")));
    }
    let since = now() - days * 86_400 * 1_000_000_000;
    let sql = "SELECT timestamp, colony, process_id, executor, message FROM log
               WHERE colony = ?1 AND timestamp >= ?2 AND message LIKE ?3 ORDER BY timestamp DESC LIMIT ?4";
    entries(work, sql, params![colony, since, format!("%{}%", payload.text("text")?), count], false)
}
