//! Executors and the functions they offer.

use super::Context;
use super::Payload;
use super::Refused;
use super::Work;
use super::members;
use super::processes;
use crate::colonies::Allocations;
use crate::colonies::Capabilities;
use crate::colonies::EXECUTOR_APPROVED;
use crate::colonies::EXECUTOR_PENDING;
use crate::colonies::EXECUTOR_REJECTED;
use crate::colonies::EXECUTOR_UNREGISTERED;
use crate::colonies::Executor;
use crate::colonies::Function;
use crate::colonies::Process;
use crate::colonies::time::Time;
use crate::colony::database::now;
use rusqlite::Connection;
use rusqlite::OptionalExtension;
use rusqlite::Row;
use rusqlite::params;
use serde_json::Value;
use serde_json::json;
use std::time::Duration;

const COLUMNS: &str = "body, state, heard";

fn read(row: &Row<'_>) -> rusqlite::Result<(String, i64, i64)> {
    Ok((row.get(0)?, row.get(1)?, row.get(2)?))
}

fn whole((body, state, heard): (String, i64, i64)) -> Result<Executor, Refused> {
    let executor: Executor = serde_json::from_str(&body)?;
    let lastheardfromtime = if heard == 0 { Time::never() } else { Time::from_nanos(heard) };
    Ok(Executor { state, lastheardfromtime, ..executor })
}

/// An executor by name.
fn find(db: &Connection, colony: &str, name: &str) -> Result<Option<Executor>, Refused> {
    let sql = format!("SELECT {COLUMNS} FROM executor WHERE colony = ?1 AND name = ?2");
    db.query_row(&sql, params![colony, name], read).optional()?.map(whole).transpose()
}

/// The approved executor with an id.
pub(super) fn approved(db: &Connection, colony: &str, id: &str) -> Result<Option<Executor>, Refused> {
    let sql = format!("SELECT {COLUMNS} FROM executor WHERE colony = ?1 AND executor_id = ?2 AND state = {EXECUTOR_APPROVED}");
    db.query_row(&sql, params![colony, id], read).optional()?.map(whole).transpose()
}

/// Registers an executor, or one of a known name again: it is pending then, and what it ran goes back to waiting.
pub(super) fn add(work: &Work<'_>, context: &Context, payload: &Payload) -> Result<Value, Refused> {
    let mut executor: Executor = payload.get("executor")?;
    members::require_owner(work.db, context, &executor.colonyname)?;
    if executor.executorname.is_empty() || executor.executorid.is_empty() {
        return Err(Refused::bad("Failed to add executor, name or id is empty"));
    }
    if let Some(earlier) = find(work.db, &executor.colonyname, &executor.executorname)? {
        if !context.settings.register_again {
            let (name, colony) = (&executor.executorname, &executor.colonyname);
            return Err(Refused::bad(format!("Executor with name <{name}> in Colony <{colony}> already exists")));
        }
        processes::requeue_of(work, &earlier.executorid)?;
    }
    executor.state = EXECUTOR_PENDING;
    executor.commissiontime = Time::from_nanos(now());
    let heard = executor.lastheardfromtime.get().and_then(|t| i64::try_from(t.as_nanosecond()).ok()).unwrap_or(0);
    work.db.execute(
        "INSERT OR REPLACE INTO executor(colony, name, executor_id, type, state, heard, body) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
        params![
            executor.colonyname,
            executor.executorname,
            executor.executorid,
            executor.executortype,
            executor.state,
            heard,
            serde_json::to_string(&executor)?
        ],
    )?;
    Ok(json!(executor))
}

fn set_state(work: &Work<'_>, context: &Context, payload: &Payload, verb: &str, state: i64) -> Result<Executor, Refused> {
    let (colony, name) = (payload.text("colonyname")?, payload.text("executorname")?);
    members::require_owner(work.db, context, &colony)?;
    let executor = find(work.db, &colony, &name)?;
    let executor = executor.ok_or_else(|| Refused::internal(format!("Failed to {verb} executor, executor is nil")))?;
    work.db.execute("UPDATE executor SET state = ?3 WHERE colony = ?1 AND name = ?2", params![colony, name, state])?;
    Ok(executor)
}

pub(super) fn approve(work: &Work<'_>, context: &Context, payload: &Payload) -> Result<Value, Refused> {
    set_state(work, context, payload, "approve", EXECUTOR_APPROVED)?;
    work.wake_executors();
    Ok(json!({}))
}

pub(super) fn reject(work: &Work<'_>, context: &Context, payload: &Payload) -> Result<Value, Refused> {
    set_state(work, context, payload, "reject", EXECUTOR_REJECTED)?;
    Ok(json!({}))
}

pub(super) fn remove(work: &Work<'_>, context: &Context, payload: &Payload) -> Result<Value, Refused> {
    let executor = set_state(work, context, payload, "remove", EXECUTOR_UNREGISTERED)?;
    processes::requeue_of(work, &executor.executorid)?;
    Ok(json!({}))
}

/// Executors that have been silent for too long are unregistered, and what they ran goes back to waiting.
pub(super) fn unregister_silent(work: &Work<'_>, silence: Duration) -> Result<(), Refused> {
    let silence = i64::try_from(silence.as_nanos()).unwrap_or(i64::MAX);
    let sql = "SELECT colony, name, executor_id FROM executor WHERE state = ?1 AND heard > 0 AND heard < ?2";
    let silent: Vec<(String, String, String)> = work
        .db
        .prepare_cached(sql)?
        .query_map(params![EXECUTOR_APPROVED, now() - silence], |r| Ok((r.get(0)?, r.get(1)?, r.get(2)?)))?
        .collect::<Result<_, _>>()?;
    for (colony, name, id) in silent {
        tracing::warn!(executor = name, "silent for too long: unregistered");
        let sql = "UPDATE executor SET state = ?3 WHERE colony = ?1 AND name = ?2";
        work.db.execute(sql, params![colony, name, EXECUTOR_UNREGISTERED])?;
        processes::requeue_of(work, &id)?;
    }
    Ok(())
}

/// Notes a sign of life.
pub(super) fn heard(work: &Work<'_>, colony: &str, id: &str) -> Result<(), Refused> {
    work.db.execute("UPDATE executor SET heard = ?3 WHERE colony = ?1 AND executor_id = ?2", params![colony, id, now()])?;
    Ok(())
}

pub(super) fn list(work: &Work<'_>, context: &Context, payload: &Payload) -> Result<Value, Refused> {
    let colony = payload.text("colonyname")?;
    if let Err(refused) = members::require_member(work.db, context, &colony)
        && !members::is_registered_executor(work.db, context, &colony)?
    {
        return Err(refused);
    }
    let sql = format!("SELECT {COLUMNS} FROM executor WHERE colony = ?1 ORDER BY name");
    let rows: Vec<_> = work.db.prepare_cached(&sql)?.query_map([&colony], read)?.collect::<Result<_, _>>()?;
    let all = rows.into_iter().map(whole).collect::<Result<Vec<_>, _>>()?;
    Ok(if all.is_empty() { Value::Null } else { json!(all) })
}

pub(super) fn by_name(work: &Work<'_>, context: &Context, payload: &Payload) -> Result<Value, Refused> {
    let (colony, name) = (payload.text("colonyname")?, payload.text("executorname")?);
    members::require_member(work.db, context, &colony)?;
    let executor = find(work.db, &colony, &name)?;
    executor.map(|e| json!(e)).ok_or_else(|| Refused::internal("Failed to get executor, executor is nil"))
}

pub(super) fn by_id(work: &Work<'_>, context: &Context, payload: &Payload) -> Result<Value, Refused> {
    let (colony, id) = (payload.text("colonyname")?, payload.text("executorid")?);
    members::require_member(work.db, context, &colony)?;
    let sql = format!("SELECT {COLUMNS} FROM executor WHERE colony = ?1 AND executor_id = ?2");
    let found = work.db.query_row(&sql, params![colony, id], read).optional()?.map(whole).transpose()?;
    found.map(|e| json!(e)).ok_or_else(|| Refused::internal("Failed to get executor, executor is nil"))
}

/// Changes what an executor says of itself.
fn change_self(
    work: &Work<'_>,
    context: &Context,
    payload: &Payload,
    change: impl FnOnce(&mut Executor),
) -> Result<Value, Refused> {
    let (colony, name) = (payload.text("colonyname")?, payload.text("executorname")?);
    members::require_member(work.db, context, &colony)?;
    let mut executor = match find(work.db, &colony, &name)? {
        Some(executor) if executor.executorid == context.signer => executor,
        Some(_) => return Err(Refused::forbidden("Access denied, not the executor itself")),
        None => return Err(Refused::internal("Failed to update executor, executor is nil")),
    };
    change(&mut executor);
    let sql = "UPDATE executor SET body = ?3 WHERE colony = ?1 AND name = ?2";
    work.db.execute(sql, params![colony, name, serde_json::to_string(&executor)?])?;
    Ok(json!({}))
}

pub(super) fn update(work: &Work<'_>, context: &Context, payload: &Payload) -> Result<Value, Refused> {
    let capabilities: Capabilities = payload.get("capabilities")?;
    change_self(work, context, payload, |executor| executor.capabilities = capabilities)
}

pub(super) fn report_allocation(work: &Work<'_>, context: &Context, payload: &Payload) -> Result<Value, Refused> {
    let allocations: Allocations = payload.get("allocations")?;
    change_self(work, context, payload, |executor| executor.allocations = allocations)
}

pub(super) fn add_function(work: &Work<'_>, context: &Context, payload: &Payload) -> Result<Value, Refused> {
    let mut function: Function = payload.get("fun")?;
    members::require_member(work.db, context, &function.colonyname)?;
    function.functionid = processes::new_id()?;
    work.db.execute(
        "INSERT INTO function(function_id, colony, executor, body) VALUES (?1, ?2, ?3, ?4)",
        params![function.functionid, function.colonyname, function.executorname, serde_json::to_string(&function)?],
    )?;
    Ok(json!(function))
}

pub(super) fn functions(work: &Work<'_>, context: &Context, payload: &Payload) -> Result<Value, Refused> {
    let (colony, executor) = (payload.text("colonyname")?, payload.text("executorname")?);
    members::require_member(work.db, context, &colony)?;
    let sql = "SELECT body FROM function WHERE colony = ?1 AND (?2 = '' OR executor = ?2) ORDER BY rowid";
    let rows: Vec<String> =
        work.db.prepare_cached(sql)?.query_map(params![colony, executor], |r| r.get(0))?.collect::<Result<_, _>>()?;
    let all = rows.iter().map(|body| serde_json::from_str(body)).collect::<Result<Vec<Function>, _>>()?;
    Ok(if all.is_empty() { Value::Null } else { json!(all) })
}

pub(super) fn remove_function(work: &Work<'_>, context: &Context, payload: &Payload) -> Result<Value, Refused> {
    let id = payload.text("functionid")?;
    let colony: Option<String> =
        work.db.query_row("SELECT colony FROM function WHERE function_id = ?1", [&id], |r| r.get(0)).optional()?;
    let colony = colony.ok_or_else(|| Refused::internal("Failed to remove function, function is nil"))?;
    members::require_member(work.db, context, &colony)?;
    work.db.execute("DELETE FROM function WHERE function_id = ?1", [&id])?;
    Ok(json!({}))
}

/// Counts a success of an executor's function: how long the process waited and ran, in seconds. Averages weigh the newest half.
pub(super) fn count_success(work: &Work<'_>, process: &Process) -> Result<(), Refused> {
    let colony = &process.spec.conditions.colonyname;
    let Some(executor) = approved(work.db, colony, &process.assignedexecutorid)? else { return Ok(()) };
    let sql = "SELECT body FROM function WHERE colony = ?1 AND executor = ?2 ORDER BY rowid";
    let mut rows = work.db.prepare_cached(sql)?;
    let bodies: Vec<String> = rows.query_map(params![colony, executor.executorname], |r| r.get(0))?.collect::<Result<_, _>>()?;
    let functions = bodies.iter().map(|body| serde_json::from_str(body)).collect::<Result<Vec<Function>, _>>()?;
    let Some(mut function) = functions.into_iter().find(|f| f.funcname == process.spec.funcname) else { return Ok(()) };
    let seconds = |from: Time, to: Time| match (from.get(), to.get()) {
        (Some(from), Some(to)) => to.duration_since(from).as_secs_f64(),
        _ => 0.0,
    };
    let waited = seconds(process.submissiontime, process.starttime);
    let ran = seconds(process.starttime, process.endtime);
    if function.counter == 0 {
        (function.minwaittime, function.maxwaittime, function.avgwaittime) = (waited, waited, waited);
        (function.minexectime, function.maxexectime, function.avgexectime) = (ran, ran, ran);
    }
    function.counter += 1;
    function.minwaittime = function.minwaittime.min(waited);
    function.maxwaittime = function.maxwaittime.max(waited);
    function.avgwaittime = (function.avgwaittime + waited) / 2.0;
    function.minexectime = function.minexectime.min(ran);
    function.maxexectime = function.maxexectime.max(ran);
    function.avgexectime = (function.avgexectime + ran) / 2.0;
    let sql = "UPDATE function SET body = ?2 WHERE function_id = ?1";
    work.db.execute(sql, params![function.functionid, serde_json::to_string(&function)?])?;
    Ok(())
}
