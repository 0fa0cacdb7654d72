//! Colonies, users, and who may do what.

use super::Context;
use super::Payload;
use super::Refused;
use super::Work;
use crate::colonies::Colony;
use crate::colonies::EXECUTOR_APPROVED;
use crate::colonies::EXECUTOR_UNREGISTERED;
use crate::colonies::Statistics;
use crate::colonies::User;
use rusqlite::Connection;
use rusqlite::OptionalExtension;
use rusqlite::Row;
use rusqlite::params;
use serde_json::Value;
use serde_json::json;

/// Who a signer is in a colony.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Member {
    /// A user, by name.
    User(String),
    /// An approved executor, by name.
    Executor(String),
}

impl Member {
    /// The name.
    pub(super) fn name(&self) -> &str {
        match self {
            Member::User(name) | Member::Executor(name) => name,
        }
    }
}

fn denied(colony: &str) -> Refused {
    Refused::forbidden(format!("Access denied, not a member of Colony with name <{colony}>"))
}

/// Whether a colony exists; refuses as the real server does where not.
fn require_colony(db: &Connection, colony: &str) -> Result<String, Refused> {
    let owner = db.query_row("SELECT colony_id FROM colony WHERE name = ?1", [colony], |r| r.get(0)).optional()?;
    owner.ok_or_else(|| Refused::forbidden(format!("Colony with name <{colony}> does not exists")))
}

/// The member who signed.
pub(super) fn require_member(db: &Connection, context: &Context, colony: &str) -> Result<Member, Refused> {
    require_colony(db, colony)?;
    let user = "SELECT name FROM user WHERE colony = ?1 AND user_id = ?2";
    if let Some(name) = db.query_row(user, params![colony, context.signer], |r| r.get(0)).optional()? {
        return Ok(Member::User(name));
    }
    let executor = "SELECT name FROM executor WHERE colony = ?1 AND executor_id = ?2 AND state = ?3";
    let name = db.query_row(executor, params![colony, context.signer, EXECUTOR_APPROVED], |r| r.get(0)).optional()?;
    name.map(Member::Executor).ok_or_else(|| denied(colony))
}

/// Any executor of the colony that is registered, approved or not.
pub(super) fn is_registered_executor(db: &Connection, context: &Context, colony: &str) -> Result<bool, Refused> {
    let sql = "SELECT 1 FROM executor WHERE colony = ?1 AND executor_id = ?2 AND state <> ?3";
    let found = db.query_row(sql, params![colony, context.signer, EXECUTOR_UNREGISTERED], |_| Ok(())).optional()?;
    Ok(found.is_some())
}

/// Only the owner of the colony may.
pub(super) fn require_owner(db: &Connection, context: &Context, colony: &str) -> Result<(), Refused> {
    let owner = require_colony(db, colony)?;
    if owner == context.signer { Ok(()) } else { Err(Refused::forbidden("Access denied, not colony owner")) }
}

pub(super) fn add_colony(work: &Work<'_>, context: &Context, payload: &Payload) -> Result<Value, Refused> {
    context.require_server_owner()?;
    let colony: Colony = payload.get("colony")?;
    let there = work.db.query_row("SELECT 1 FROM colony WHERE name = ?1", [&colony.name], |_| Ok(())).optional()?;
    if there.is_some() {
        return Err(Refused::bad(format!("A Colony with name <{}> already exists", colony.name)));
    }
    work.db.execute("INSERT INTO colony(name, colony_id) VALUES (?1, ?2)", params![colony.name, colony.colonyid])?;
    Ok(json!(colony))
}

pub(super) fn remove_colony(work: &Work<'_>, context: &Context, payload: &Payload) -> Result<Value, Refused> {
    context.require_server_owner()?;
    let name = payload.text("colonyname")?;
    if work.db.execute("DELETE FROM colony WHERE name = ?1", [&name])? == 0 {
        return Err(Refused::bad(format!("Colony with name <{name}> not found")));
    }
    for table in ["user", "executor", "function", "process", "log", "file", "snapshot"] {
        work.db.execute(&format!("DELETE FROM {table} WHERE colony = ?1"), [&name])?;
    }
    Ok(json!({}))
}

fn read_colony(row: &Row<'_>) -> rusqlite::Result<Colony> {
    Ok(Colony { name: row.get(0)?, colonyid: row.get(1)? })
}

pub(super) fn colonies(work: &Work<'_>, context: &Context, _: &Payload) -> Result<Value, Refused> {
    context.require_server_owner()?;
    let mut rows = work.db.prepare_cached("SELECT name, colony_id FROM colony ORDER BY name")?;
    let all: Vec<Colony> = rows.query_map([], read_colony)?.collect::<Result<_, _>>()?;
    Ok(if all.is_empty() { Value::Null } else { json!(all) })
}

pub(super) fn colony(work: &Work<'_>, context: &Context, payload: &Payload) -> Result<Value, Refused> {
    let name = payload.text("colonyname")?;
    require_member(work.db, context, &name)?;
    let colony = work.db.query_row("SELECT name, colony_id FROM colony WHERE name = ?1", [&name], read_colony)?;
    Ok(json!(colony))
}

fn count(db: &Connection, sql: &str, colony: Option<&str>) -> Result<i64, Refused> {
    Ok(db.query_row(sql, params![colony], |r| r.get(0))?)
}

fn statistics_of(db: &Connection, colony: Option<&str>) -> Result<Statistics, Refused> {
    let executors = |state: i64| {
        count(db, &format!("SELECT count(*) FROM executor WHERE (?1 IS NULL OR colony = ?1) AND state = {state}"), colony)
    };
    let processes = |state: i64| {
        count(db, &format!("SELECT count(*) FROM process WHERE (?1 IS NULL OR colony = ?1) AND state = {state}"), colony)
    };
    Ok(Statistics {
        colonies: count(db, "SELECT count(*) FROM colony WHERE ?1 IS NULL OR name = ?1", colony)?,
        executors: count(db, "SELECT count(*) FROM executor WHERE ?1 IS NULL OR colony = ?1", colony)?,
        activeexecutors: executors(EXECUTOR_APPROVED)?,
        unregisteredexecutors: executors(EXECUTOR_UNREGISTERED)?,
        waitingprocesses: processes(0)?,
        runningprocesses: processes(1)?,
        successfulprocesses: processes(2)?,
        failedprocesses: processes(3)?,
        cancelledprocesses: processes(4)?,
        ..Statistics::default()
    })
}

pub(super) fn statistics(work: &Work<'_>, context: &Context, _: &Payload) -> Result<Value, Refused> {
    context.require_server_owner()?;
    Ok(json!(statistics_of(work.db, None)?))
}

pub(super) fn colony_statistics(work: &Work<'_>, context: &Context, payload: &Payload) -> Result<Value, Refused> {
    let colony = payload.text("colonyname")?;
    require_member(work.db, context, &colony)?;
    Ok(json!(statistics_of(work.db, Some(&colony))?))
}

pub(super) fn add_user(work: &Work<'_>, context: &Context, payload: &Payload) -> Result<Value, Refused> {
    let user: User = payload.get("user")?;
    require_owner(work.db, context, &user.colonyname)?;
    let sql = "SELECT name FROM user WHERE colony = ?1 AND (name = ?2 OR user_id = ?3)";
    let there: Option<String> =
        work.db.query_row(sql, params![user.colonyname, user.name, user.userid], |r| r.get(0)).optional()?;
    if let Some(name) = there {
        return Err(Refused::bad(format!("A user with name <{name}> already exists in Colony with name <{}>", user.colonyname)));
    }
    work.db.execute(
        "INSERT INTO user(colony, name, user_id, email, phone) VALUES (?1, ?2, ?3, ?4, ?5)",
        params![user.colonyname, user.name, user.userid, user.email, user.phone],
    )?;
    Ok(json!(user))
}

pub(super) fn remove_user(work: &Work<'_>, context: &Context, payload: &Payload) -> Result<Value, Refused> {
    let (colony, name) = (payload.text("colonyname")?, payload.text("name")?);
    require_owner(work.db, context, &colony)?;
    if work.db.execute("DELETE FROM user WHERE colony = ?1 AND name = ?2", params![colony, name])? == 0 {
        return Err(Refused::internal("Failed to remove user, user is nil"));
    }
    Ok(json!({}))
}

fn read_user(row: &Row<'_>) -> rusqlite::Result<User> {
    Ok(User { colonyname: row.get(0)?, name: row.get(1)?, userid: row.get(2)?, email: row.get(3)?, phone: row.get(4)? })
}

pub(super) fn users(work: &Work<'_>, context: &Context, payload: &Payload) -> Result<Value, Refused> {
    let colony = payload.text("colonyname")?;
    require_member(work.db, context, &colony)?;
    let mut rows =
        work.db.prepare_cached("SELECT colony, name, user_id, email, phone FROM user WHERE colony = ?1 ORDER BY name")?;
    let users: Vec<User> = rows.query_map([&colony], read_user)?.collect::<Result<_, _>>()?;
    Ok(if users.is_empty() { Value::Null } else { json!(users) })
}

pub(super) fn user(work: &Work<'_>, context: &Context, payload: &Payload) -> Result<Value, Refused> {
    let (colony, name) = (payload.text("colonyname")?, payload.text("name")?);
    require_member(work.db, context, &colony)?;
    let sql = "SELECT colony, name, user_id, email, phone FROM user WHERE colony = ?1 AND name = ?2";
    let user = work.db.query_row(sql, params![colony, name], read_user).optional()?;
    user.map(|u| json!(u)).ok_or_else(|| Refused::internal("Failed to get user, user is nil"))
}

fn set_paused(work: &Work<'_>, context: &Context, payload: &Payload, paused: bool) -> Result<Value, Refused> {
    let colony = payload.text("colonyname")?;
    require_owner(work.db, context, &colony)?;
    work.db.execute("UPDATE colony SET paused = ?2 WHERE name = ?1", params![colony, paused])?;
    work.wake_executors();
    Ok(json!({}))
}

pub(super) fn pause(work: &Work<'_>, context: &Context, payload: &Payload) -> Result<Value, Refused> {
    set_paused(work, context, payload, true)
}

pub(super) fn resume(work: &Work<'_>, context: &Context, payload: &Payload) -> Result<Value, Refused> {
    set_paused(work, context, payload, false)
}

/// Whether assignments are paused.
pub(super) fn is_paused(db: &Connection, colony: &str) -> Result<bool, Refused> {
    Ok(db.query_row("SELECT paused FROM colony WHERE name = ?1", [colony], |r| r.get(0)).optional()?.unwrap_or(false))
}

pub(super) fn pause_status(work: &Work<'_>, context: &Context, payload: &Payload) -> Result<Value, Refused> {
    let colony = payload.text("colonyname")?;
    require_member(work.db, context, &colony)?;
    Ok(json!({ "msgtype": "pausestatusreplymsg", "colonyname": colony, "ispaused": is_paused(work.db, &colony)? }))
}
