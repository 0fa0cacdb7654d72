//! Assigning: a long poll that looks into the queue whenever there may be something in it, for all executors that wait.

use super::Call;
use super::Context;
use super::Refused;
use super::Server;
use super::Work;
use super::executors;
use super::members;
use super::processes::enter;
use super::processes::with_attributes;
use crate::colonies::Process;
use crate::colonies::time::Time;
use crate::colony::database::now;
use crate::colony::scheduler;
use crate::colony::scheduler::Offer;
use rusqlite::params;
use serde_json::Value;
use serde_json::json;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// One look into the queue for an executor.
enum Look {
    Got(Box<Process>),
    Nothing,
    Paused,
}

/// Says when its owner is gone, so that no process is given to a closed connection.
struct Presence(Arc<AtomicBool>);

impl Drop for Presence {
    fn drop(&mut self) {
        self.0.store(false, Ordering::SeqCst);
    }
}

/// Long poll: looks, and looks again whenever there may be something, for all that wait.
pub(super) async fn assign(server: &Server, call: Call) -> Result<Value, Refused> {
    let colony = call.payload.text("colonyname")?;
    let seconds = call.payload.number("timeout")?;
    let (cpu, mem) = (call.payload.text("availablecpu")?, call.payload.text("availablemem")?);
    let unusable = |e: scheduler::Unusable| Refused::bad(e.message());
    let cpu = if cpu.is_empty() { None } else { Some(scheduler::millicores(&cpu).map_err(unusable)?) };
    let mem = if mem.is_empty() { None } else { Some(scheduler::bytes(&mem).map_err(unusable)?) };
    let context = server.context(call.signer);
    let end = tokio::time::Instant::now() + Duration::from_secs(u64::try_from(seconds).unwrap_or(0));
    let mut queue = server.database.queue();
    let present = Arc::new(AtomicBool::new(true));
    let _presence = Presence(present.clone());
    loop {
        queue.borrow_and_update();
        let (context, colony, present) = (context.clone(), colony.clone(), present.clone());
        let job = move |work: &Work<'_>| {
            if present.load(Ordering::SeqCst) { look(work, &context, &colony, seconds, cpu, mem) } else { Ok(Look::Nothing) }
        };
        let paused = match server.database.run(job).await? {
            Look::Got(process) => return Ok(json!(process)),
            Look::Nothing => false,
            Look::Paused => true,
        };
        let over = tokio::select! {
            () = tokio::time::sleep_until(end) => true,
            () = server.shutdown.cancelled() => true,
            changed = queue.changed() => changed.is_err(),
        };
        if !over && seconds > 0 {
            continue;
        }
        return Err(match (paused, seconds < 0) {
            (true, true) => Refused::new(503, "No processes available: colony assignments are paused"),
            (true, false) => Refused::new(408, "Assignment timeout: colony assignments are paused"),
            (false, _) => Refused::new(404, "No process available for assignment"),
        });
    }
}

fn look(
    work: &Work<'_>,
    context: &Context,
    colony: &str,
    seconds: i64,
    cpu: Option<i64>,
    mem: Option<i64>,
) -> Result<Look, Refused> {
    members::require_member(work.db, context, colony)?;
    let executor = executors::approved(work.db, colony, &context.signer)?;
    let executor = executor.ok_or_else(|| Refused::internal("Failed to assign process, executor not found"))?;
    if seconds == 0 {
        return Err(Refused::bad("Invalid timeout value, timeout cannot be zero"));
    }
    executors::heard(work, colony, &context.signer)?;
    if members::is_paused(work.db, colony)? {
        return Ok(Look::Paused);
    }
    let offer = Offer { name: executor.executorname, kind: executor.executortype, location: executor.locationname, cpu, mem };
    let sql =
        "SELECT body FROM process WHERE colony = ?1 AND state = 0 AND type = ?2 AND nobody = 0 ORDER BY priority_time, rowid";
    let mut rows = work.db.prepare_cached(sql)?;
    let mut rows = rows.query(params![colony, offer.kind])?;
    while let Some(row) = rows.next()? {
        let body: String = row.get(0)?;
        let waiting: Process = serde_json::from_str(&body)?;
        if !scheduler::fits(&waiting.spec.conditions, &offer) {
            continue;
        }
        let mut process = with_attributes(work.db, &body)?;
        let now = now();
        scheduler::assign(&mut process, &context.signer, now);
        // The reply still has the old deadline and attributes, as on the real server.
        let reply = process.clone();
        let deadline = scheduler::exec_deadline(now, process.spec.maxexectime);
        process.execdeadline =
            if deadline == 0 || process.spec.maxexectime == 0 { Time::never() } else { Time::from_nanos(deadline) };
        enter(work, &mut process)?;
        return Ok(Look::Got(Box::new(reply)));
    }
    Ok(Look::Nothing)
}
