//! The clock: takes processes away whose time is up, and unregisters executors that are silent.

use super::Refused;
use super::Server;
use super::Work;
use super::executors;
use super::processes::enter;
use super::processes::with_attributes;
use crate::colonies::Process;
use crate::colony::database::now;
use crate::colony::scheduler;
use std::time::Duration;

/// How often deadlines are looked at, as on the real server.
const TICK: Duration = Duration::from_secs(1);

/// Looks at deadlines once a second, and for silent executors once a minute, until the shutdown.
pub(super) async fn watch(server: Server) {
    let mut clock = tokio::time::interval(TICK);
    clock.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut last_look = tokio::time::Instant::now();
    loop {
        tokio::select! {
            _ = clock.tick() => {}
            () = server.shutdown.cancelled() => return,
        }
        let look = last_look.elapsed() >= server.settings.silence_check;
        if look {
            last_look = tokio::time::Instant::now();
        }
        let silence = server.settings.silence;
        let outcome = server.database.run(move |work| {
            end_overdue(work)?;
            if look { executors::unregister_silent(work, silence) } else { Ok(()) }
        });
        if let Err(refused) = outcome.await {
            tracing::error!(message = refused.message, "deadlines could not be looked at");
        }
    }
}

fn end_overdue(work: &Work<'_>) -> Result<(), Refused> {
    let now = now();
    for (sql, end) in [
        (
            "SELECT body FROM process WHERE state = 1 AND exec_deadline > 0 AND exec_deadline <= ?1",
            scheduler::out_of_time as fn(&mut Process, i64),
        ),
        ("SELECT body FROM process WHERE state = 0 AND wait_deadline > 0 AND wait_deadline <= ?1", scheduler::waited_too_long),
    ] {
        let bodies: Vec<String> = work.db.prepare_cached(sql)?.query_map([now], |r| r.get(0))?.collect::<Result<_, _>>()?;
        for body in bodies {
            let mut process = with_attributes(work.db, &body)?;
            end(&mut process, now);
            enter(work, &mut process)?;
        }
    }
    Ok(())
}
