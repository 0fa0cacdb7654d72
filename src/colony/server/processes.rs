//! Processes: submitted, listed, closed, cancelled.

use super::Context;
use super::Payload;
use super::Refused;
use super::Work;
use super::executors;
use super::members;
use crate::colonies::ATTRIBUTE_ENV;
use crate::colonies::Attribute;
use crate::colonies::FunctionSpec;
use crate::colonies::Process;
use crate::colonies::ProcessState;
use crate::colonies::time::Time;
use crate::colony::database::now;
use crate::colony::scheduler;
use rusqlite::Connection;
use rusqlite::OptionalExtension;
use rusqlite::params;
use serde_json::Value;
use serde_json::json;

/// Most processes a listing gives.
const MAX_COUNT: i64 = 100;
/// 64 random hex digits.
pub(super) fn new_id() -> Result<String, Refused> {
    let mut bytes = [0u8; 32];
    getrandom::fill(&mut bytes).map_err(|e| Refused::internal(format!("no randomness: {e}")))?;
    Ok(hex::encode(bytes))
}

fn nanos(time: Time) -> i64 {
    time.get().and_then(|t| i64::try_from(t.as_nanosecond()).ok()).unwrap_or(0)
}

/// A process as it is stored, with its attributes.
pub(super) fn find(db: &Connection, id: &str) -> Result<Option<Process>, Refused> {
    let body: Option<String> =
        db.prepare_cached("SELECT body FROM process WHERE process_id = ?1")?.query_row([id], |r| r.get(0)).optional()?;
    body.map(|body| with_attributes(db, &body)).transpose()
}

pub(super) fn with_attributes(db: &Connection, body: &str) -> Result<Process, Refused> {
    let mut process: Process = serde_json::from_str(body)?;
    let mut rows = db.prepare_cached(
        "SELECT attribute_id, colony, type, key, value, state FROM attribute WHERE process_id = ?1 ORDER BY rowid",
    )?;
    let rows = rows.query_map([&process.processid], |r| {
        Ok(Attribute {
            attributeid: r.get(0)?,
            targetid: process.processid.clone(),
            targetcolonyname: r.get(1)?,
            attributetype: r.get(2)?,
            key: r.get(3)?,
            value: r.get(4)?,
            state: r.get(5)?,
            ..Attribute::default()
        })
    })?;
    let attributes: Vec<Attribute> = rows.collect::<Result<_, _>>()?;
    // The environment is made of attributes of this type, whoever set them.
    for attribute in attributes.iter().filter(|a| a.attributetype == ATTRIBUTE_ENV) {
        process.spec.env.insert(attribute.key.clone(), attribute.value.clone());
    }
    process.attributes = attributes;
    Ok(process)
}

/// When the clock takes a process away. A limit of 0 seconds shows no deadline, and is over at once.
fn exec_deadline(process: &Process) -> i64 {
    match process.spec.maxexectime {
        0 => nanos(process.starttime),
        _ => nanos(process.execdeadline),
    }
}

/// Writes a process as it is now.
fn store(db: &Connection, process: &Process) -> Result<(), Refused> {
    let bare = Process { attributes: Vec::new(), ..process.clone() };
    let spec = &process.spec;
    db.prepare_cached(
        "INSERT INTO process(process_id, colony, state, type, label, initiator, executor_id, priority_time, submitted, started,
            ended, wait_deadline, exec_deadline, body)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14)
         ON CONFLICT(process_id) DO UPDATE SET state = ?3, executor_id = ?7, started = ?10, ended = ?11, exec_deadline = ?13, body = ?14",
    )?
    .execute(params![
        process.processid,
        spec.conditions.colonyname,
        process.state.number(),
        spec.conditions.executortype,
        spec.label,
        process.initiatorname,
        process.assignedexecutorid,
        process.prioritytime,
        nanos(process.submissiontime),
        nanos(process.starttime),
        nanos(process.endtime),
        nanos(process.waitdeadline),
        exec_deadline(process),
        serde_json::to_string(&bare)?
    ])?;
    Ok(())
}

/// Writes a process that entered a new state, and has it told. Its attributes take over the state.
pub(super) fn enter(work: &Work<'_>, process: &mut Process) -> Result<(), Refused> {
    for attribute in &mut process.attributes {
        attribute.state = process.state.number();
    }
    work.db
        .prepare_cached("UPDATE attribute SET state = ?2 WHERE process_id = ?1")?
        .execute(params![process.processid, process.state.number()])?;
    tell(work, process)
}

/// Writes a process and has it told.
fn tell(work: &Work<'_>, process: &Process) -> Result<(), Refused> {
    store(work.db, process)?;
    work.changed(process);
    if process.state == ProcessState::Waiting {
        work.wake_executors();
    }
    Ok(())
}

pub(super) fn submit(work: &Work<'_>, context: &Context, payload: &Payload) -> Result<Value, Refused> {
    let mut spec: FunctionSpec = payload.get("spec")?;
    let member = members::require_member(work.db, context, &spec.conditions.colonyname)?;
    scheduler::normalise(&mut spec).map_err(|e| Refused::bad(e.message()))?;
    // As on the real server: the name is not kept, and the process is for nobody.
    let nobody = spec.conditions.executornames.as_deref() == Some(&["*".to_owned()]);
    if nobody {
        spec.conditions.executornames = Some(Vec::new());
    }
    let (id, now) = (new_id()?, now());
    let limit = scheduler::wait_deadline(now, spec.maxwaittime);
    let attributes: Vec<Attribute> = spec
        .env
        .iter()
        .map(|(key, value)| Attribute {
            attributeid: attribute_id(&id, ATTRIBUTE_ENV, key),
            targetid: id.clone(),
            targetcolonyname: spec.conditions.colonyname.clone(),
            attributetype: ATTRIBUTE_ENV,
            key: key.clone(),
            value: value.clone(),
            ..Attribute::default()
        })
        .collect();
    let mut process = Process {
        processid: id,
        initiatorid: context.signer.clone(),
        initiatorname: member.name().to_owned(),
        prioritytime: scheduler::priority_time(now, spec.priority),
        submissiontime: Time::from_nanos(now),
        waitdeadline: if limit == 0 { Time::never() } else { Time::from_nanos(limit) },
        attributes,
        spec,
        ..Process::default()
    };
    enter(work, &mut process)?;
    for attribute in &process.attributes {
        insert_attribute(work.db, attribute)?;
    }
    if nobody {
        work.db.execute("UPDATE process SET nobody = 1 WHERE process_id = ?1", [&process.processid])?;
    }
    Ok(json!(process))
}

fn attribute_id(process: &str, kind: i64, key: &str) -> String {
    blake3::hash(format!("{process}\n{kind}\n{key}").as_bytes()).to_hex().to_string()
}

fn insert_attribute(db: &Connection, a: &Attribute) -> rusqlite::Result<usize> {
    db.prepare_cached(
        "INSERT OR IGNORE INTO attribute(attribute_id, process_id, colony, type, key, value, state) VALUES (?1, ?2, ?3, ?4, ?5, ?6, 0)",
    )?
    .execute(params![a.attributeid, a.targetid, a.targetcolonyname, a.attributetype, a.key, a.value])
}

/// Puts everything that an executor runs back into the queue; retries are not counted.
pub(super) fn requeue_of(work: &Work<'_>, executor_id: &str) -> Result<(), Refused> {
    let bodies: Vec<String> = work
        .db
        .prepare_cached("SELECT body FROM process WHERE executor_id = ?1 AND state = 1")?
        .query_map([executor_id], |r| r.get(0))?
        .collect::<Result<_, _>>()?;
    for body in bodies {
        let mut process = with_attributes(work.db, &body)?;
        scheduler::take_back(&mut process);
        process.starttime = Time::never();
        // The attributes keep the state they had, as on the real server.
        tell(work, &process)?;
    }
    Ok(())
}

pub(super) fn get(work: &Work<'_>, context: &Context, payload: &Payload) -> Result<Value, Refused> {
    let process = find(work.db, &payload.text("processid")?)?;
    let process = process.ok_or_else(|| Refused::new(404, "Failed to get process, process not found"))?;
    members::require_member(work.db, context, &process.spec.conditions.colonyname)?;
    Ok(json!(process))
}

/// In the order in which clients know them: the queue, oldest start first, latest end first.
fn order(state: ProcessState) -> &'static str {
    match state {
        ProcessState::Waiting => "priority_time",
        ProcessState::Running => "started",
        _ => "ended DESC",
    }
}

fn read_list(db: &Connection, sql: &str, values: impl rusqlite::Params) -> Result<Value, Refused> {
    let bodies: Vec<String> = db.prepare_cached(sql)?.query_map(values, |r| r.get(0))?.collect::<Result<_, _>>()?;
    let all = bodies.iter().map(|body| with_attributes(db, body)).collect::<Result<Vec<_>, _>>()?;
    Ok(if all.is_empty() { Value::Null } else { json!(all) })
}

pub(super) fn list(work: &Work<'_>, context: &Context, payload: &Payload) -> Result<Value, Refused> {
    let colony = payload.text("colonyname")?;
    members::require_member(work.db, context, &colony)?;
    let count = payload.number("count")?;
    if count > MAX_COUNT {
        return Err(Refused::bad(format!("Count is larger than MaxCount limit <{MAX_COUNT}>")));
    }
    if count < 0 {
        return Err(Refused::bad("Failed to get processes, count must not be negative"));
    }
    let state = ProcessState::from_number(payload.number("state")?);
    let state = state.ok_or_else(|| Refused::bad("Failed to get processes, invalid msg.State"))?;
    let (kind, initiator, label) = (payload.text("executortype")?, payload.text("initiator")?, payload.text("label")?);
    // Only one of them counts, in this order.
    let (column, value) = if !kind.is_empty() {
        ("type", kind)
    } else if !initiator.is_empty() {
        require_initiator(work.db, &colony, &initiator)?;
        ("initiator", initiator)
    } else if !label.is_empty() {
        ("label", label)
    } else {
        ("colony", colony.clone())
    };
    let sql = format!(
        "SELECT body FROM process WHERE colony = ?1 AND state = ?2 AND {column} = ?3 ORDER BY {}, rowid LIMIT ?4",
        order(state)
    );
    read_list(work.db, &sql, params![colony, state.number(), value, count])
}

fn require_initiator(db: &Connection, colony: &str, name: &str) -> Result<(), Refused> {
    let sql = "SELECT 1 FROM user WHERE colony = ?1 AND name = ?2 UNION SELECT 1 FROM executor WHERE colony = ?1 AND name = ?2";
    let known = db.query_row(sql, params![colony, name], |_| Ok(())).optional()?;
    known.ok_or_else(|| Refused::bad(format!("User <{name}> does not exist")))
}

pub(super) fn history(work: &Work<'_>, context: &Context, payload: &Payload) -> Result<Value, Refused> {
    let colony = payload.text("colonyname")?;
    members::require_member(work.db, context, &colony)?;
    let state = ProcessState::from_number(payload.number("state")?);
    let state = state.ok_or_else(|| Refused::bad("Failed to get process history, invalid msg.State"))?;
    let since = now().saturating_sub(payload.number("seconds")?.saturating_mul(1_000_000_000));
    // By submission, whatever the state: so `FindProcessesByExecutorID` of colonies has it.
    let sql = "SELECT body FROM process WHERE colony = ?1 AND state = ?2 AND submitted >= ?3 AND (?4 = '' OR executor_id = ?4)
         ORDER BY submitted, rowid";
    read_list(work.db, sql, params![colony, state.number(), since, payload.text("executorid")?])
}

/// The process of a payload, its colony checked; "not found" is 500 in these calls.
fn required(work: &Work<'_>, context: &Context, payload: &Payload, verb: &str) -> Result<Process, Refused> {
    let process = find(work.db, &payload.text("processid")?)?;
    let process = process.ok_or_else(|| Refused::internal(format!("Failed to {verb}, process is nil")))?;
    members::require_member(work.db, context, &process.spec.conditions.colonyname)?;
    Ok(process)
}

pub(super) fn cancel(work: &Work<'_>, context: &Context, payload: &Payload) -> Result<Value, Refused> {
    let mut process = required(work, context, payload, "cancel process")?;
    match process.state {
        ProcessState::Success => return Err(Refused::bad("Tried to cancel successful process")),
        ProcessState::Failed => return Err(Refused::bad("Tried to cancel failed process")),
        ProcessState::Cancelled => return Err(Refused::bad("Tried to cancel already cancelled process")),
        ProcessState::Waiting | ProcessState::Running => {}
    }
    process.state = ProcessState::Cancelled;
    process.endtime = Time::from_nanos(now());
    enter(work, &mut process)?;
    Ok(json!({}))
}

pub(super) fn remove(work: &Work<'_>, context: &Context, payload: &Payload) -> Result<Value, Refused> {
    let process = required(work, context, payload, "remove process")?;
    if process.state == ProcessState::Running {
        return Err(Refused::bad("Failed to remove process, cannot remove a running process"));
    }
    work.db.execute("DELETE FROM process WHERE process_id = ?1", [&process.processid])?;
    work.db.execute("DELETE FROM log WHERE process_id = ?1", [&process.processid])?;
    Ok(json!({}))
}

pub(super) fn remove_all(work: &Work<'_>, context: &Context, payload: &Payload) -> Result<Value, Refused> {
    let colony = payload.text("colonyname")?;
    members::require_owner(work.db, context, &colony)?;
    let state = payload.number("state")?;
    let these = "colony = ?1 AND state <> 1 AND (?2 = -1 OR state = ?2)";
    let logs = format!("DELETE FROM log WHERE process_id IN (SELECT process_id FROM process WHERE {these})");
    work.db.execute(&logs, params![colony, state])?;
    work.db.execute(&format!("DELETE FROM process WHERE {these}"), params![colony, state])?;
    Ok(json!({}))
}

/// The process of a payload that this signer holds.
fn held(work: &Work<'_>, context: &Context, payload: &Payload, verb: &str) -> Result<Process, Refused> {
    let process = required(work, context, payload, verb)?;
    if !process.isassigned {
        return Err(Refused::forbidden(format!("Failed to {verb}, process is not assigned")));
    }
    if process.assignedexecutorid != context.signer {
        return Err(Refused::forbidden(format!("Failed to {verb}, not allowed to {verb}")));
    }
    Ok(process)
}

/// Twice is taken. A refused close still leaves its output, as on the real server.
pub(super) fn close_successful(work: &Work<'_>, context: &Context, payload: &Payload) -> Result<Value, Refused> {
    let mut process = held(work, context, payload, "close process as successful")?;
    match process.state {
        ProcessState::Failed => return Err(Refused::bad("Tried to set failed process as successful")),
        ProcessState::Cancelled => return Err(Refused::bad("Tried to set cancelled process as successful")),
        _ => {}
    }
    let output: Vec<Value> = payload.get("out")?;
    if !output.is_empty() {
        process.output = output;
    }
    process.state = ProcessState::Success;
    process.endtime = Time::from_nanos(now());
    enter(work, &mut process)?;
    executors::count_success(work, &process)?;
    Ok(json!({}))
}

pub(super) fn close_failed(work: &Work<'_>, context: &Context, payload: &Payload) -> Result<Value, Refused> {
    let mut process = held(work, context, payload, "close process as failed")?;
    let ended = match process.state {
        ProcessState::Success => Some("successful"),
        ProcessState::Failed => Some("failed"),
        ProcessState::Cancelled => Some("cancelled"),
        _ => None,
    };
    if let Some(state) = ended {
        return Err(Refused::bad(format!("Tried to set {state} process as failed")));
    }
    process.errors = payload.get("errors")?;
    process.state = ProcessState::Failed;
    process.endtime = Time::from_nanos(now());
    enter(work, &mut process)?;
    Ok(json!({}))
}

pub(super) fn set_output(work: &Work<'_>, context: &Context, payload: &Payload) -> Result<Value, Refused> {
    let mut process = required(work, context, payload, "set output")?;
    if process.state != ProcessState::Running {
        return Err(Refused::forbidden("Failed to set output, process is not running"));
    }
    if process.assignedexecutorid != context.signer {
        return Err(Refused::forbidden("Failed to set output, not allowed to set output"));
    }
    let output: Vec<Value> = payload.get("out")?;
    if !output.is_empty() {
        process.output = output;
        store(work.db, &process)?;
    }
    Ok(json!({}))
}

pub(super) fn add_attribute(work: &Work<'_>, context: &Context, payload: &Payload) -> Result<Value, Refused> {
    let mut attribute: Attribute = payload.get("attribute")?;
    let process = find(work.db, &attribute.targetid)?;
    let process = process.ok_or_else(|| Refused::internal("Failed to add attribute, process is nil"))?;
    members::require_member(work.db, context, &process.spec.conditions.colonyname)?;
    if process.state != ProcessState::Running {
        return Err(Refused::forbidden("Failed to add attribute, process is not running"));
    }
    if process.assignedexecutorid != context.signer {
        return Err(Refused::forbidden(format!(
            "Failed to add attribute, only executor with id <{}> is allowed to set attributes",
            process.assignedexecutorid
        )));
    }
    attribute.attributeid = attribute_id(&process.processid, attribute.attributetype, &attribute.key);
    attribute.targetcolonyname = process.spec.conditions.colonyname;
    if insert_attribute(work.db, &attribute)? == 0 {
        return Err(Refused::bad("Failed to add attribute, there is one with this key already, and it cannot be changed"));
    }
    Ok(json!(attribute))
}

pub(super) fn attribute(work: &Work<'_>, context: &Context, payload: &Payload) -> Result<Value, Refused> {
    let id = payload.text("attributeid")?;
    let process: Option<String> =
        work.db.query_row("SELECT process_id FROM attribute WHERE attribute_id = ?1", [&id], |r| r.get(0)).optional()?;
    let unknown = || Refused::bad("Attribute does not exists");
    let process = find(work.db, &process.ok_or_else(unknown)?)?.ok_or_else(unknown)?;
    members::require_member(work.db, context, &process.spec.conditions.colonyname)?;
    let attribute = process.attributes.into_iter().find(|a| a.attributeid == id).ok_or_else(unknown)?;
    Ok(json!(attribute))
}
