//! Submitting the runs of a sweep. All of them are written down before the first is sent, so that whatever breaks on the way,
//! the next call sends what is missing, and nothing twice.

use super::Connection;
use super::Error;
use super::interrupted;
use super::points::Point;
use super::spec;
use super::submission;
use super::submission::Making;
use crate::event::Event;
use crate::event::Events;
use crate::journal::runs::Run;
use crate::journal::runs::RunState;
use crate::journal::watched::Watched;
use futures_util::StreamExt;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;

/// So many are submitted at once.
pub(super) const AT_ONCE: usize = 8;

/// Submits a new sweep, as [`intents`] gives it. Where an interrupted call had begun the very same sweep, that one is completed.
pub(super) async fn submit(
    connection: &Connection,
    fresh: Vec<Run>,
    interrupted: Vec<String>,
    watched: Option<&Watched>,
    events: &Events,
) -> Result<Vec<Run>, Error> {
    let same = continued(connection, &fresh, &interrupted)?;
    let earlier: Vec<String> = interrupted.into_iter().filter(|sweep| same.as_ref() != Some(sweep)).collect();
    abandon(connection, &earlier, events)?;
    let runs = match same {
        Some(sweep) => {
            let runs = connection.journal.sweep(&sweep)?;
            if let (Some(watched), Some(first)) = (watched, runs.first()) {
                connection.journal.take_up_again(watched, &first.run_id)?;
            }
            let there = runs.iter().filter(|run| run.process_id.is_some()).count();
            events.warn(format!(
                "an interrupted call had submitted {there} of {} processes of this sweep already: taking sweep {sweep}",
                runs.len()
            ));
            runs
        }
        None => {
            connection.journal.add_sweep(&fresh, watched)?;
            fresh
        }
    };
    if let Some(first) = runs.first() {
        let folder = spec::result_folder(&first.spec, &first.project_name);
        let folder = folder.and_then(|folder| folder.split_once('/').map(|(above, _)| above.to_owned())).unwrap_or_default();
        let (sweep, points) = (first.sweep.clone().unwrap_or_default(), runs.len() as u64);
        events.emit(Event::Sweep { sweep, points, results: format!("result/{folder}") });
    }
    send_all(connection, runs, events).await
}

/// The runs of a new sweep, as they are written down.
pub(super) fn intents(making: &Making<'_>, points: &[Point]) -> Result<Vec<Run>, Error> {
    let sweep = submission::new_run_id()?;
    points.iter().map(|point| making.intent(Some((&sweep, point)))).collect()
}

/// Which of the interrupted sweeps is the very same as this one.
pub(super) fn continued(connection: &Connection, fresh: &[Run], interrupted: &[String]) -> Result<Option<String>, Error> {
    for sweep in interrupted {
        if is_same(&connection.journal.sweep(sweep)?, fresh) {
            return Ok(Some(sweep.clone()));
        }
    }
    Ok(None)
}

/// Submits what is missing of sweeps that were cut off and are what a project's inputs ran at last: a killed agent's.
///
/// # Errors
/// Those of the colony; what is missing then is sent the next time.
pub async fn complete(connection: &Connection, project_name: &str, events: &Events) -> Result<(), Error> {
    let client = connection.client();
    let cut = || connection.journal.cut_sweeps(project_name, &client.server(), client.colony());
    if cut()?.is_empty() {
        return Ok(());
    }
    // With it, nobody is still at it.
    let _lock = connection.lock(project_name, || {}).await?;
    for sweep in cut()? {
        let mut intents = connection.journal.sweep(&sweep)?;
        intents.retain(|run| run.state == RunState::Intent);
        for (found, run) in interrupted::found(connection, intents).await? {
            if let Some(process) = found {
                connection.journal.update_run(&run.run_id, &process, None)?;
            }
        }
        let runs = connection.journal.sweep(&sweep)?;
        let there = runs.iter().filter(|run| run.process_id.is_some()).count();
        tracing::info!(sweep, there, all = runs.len(), "submitting what a sweep lacks that was cut off");
        send_all(connection, runs, events).await?;
    }
    Ok(())
}

/// Whether two sweeps are the same in everything but their ids.
fn is_same(earlier: &[Run], fresh: &[Run]) -> bool {
    let bare = |run: &Run| {
        let sweep = run.sweep.as_deref().unwrap_or_default();
        spec::without_id(&spec::without_id(&run.spec, &run.run_id), sweep)
    };
    let same = |(earlier, fresh): (&Run, &Run)| earlier.point == fresh.point && bare(earlier) == bare(fresh);
    earlier.len() == fresh.len() && earlier.iter().zip(fresh).all(same)
}

/// Gives up what interrupted calls did not submit of their sweeps.
pub(super) fn abandon(connection: &Connection, sweeps: &[String], events: &Events) -> Result<(), Error> {
    for sweep in sweeps {
        let runs = connection.journal.sweep(sweep)?;
        let missing: Vec<&Run> = runs.iter().filter(|run| run.state == RunState::Intent).collect();
        for run in &missing {
            connection.journal.mark_run_lost(&run.run_id)?;
        }
        if !missing.is_empty() {
            events.warn(format!(
                "an interrupted call had submitted {} of {} processes of sweep {sweep}; the others are not submitted any more",
                runs.len() - missing.len(),
                runs.len()
            ));
        }
    }
    Ok(())
}

/// Submits what is not submitted. What was begun is brought to its end also where another failed, so that the books say what is there.
async fn send_all(connection: &Connection, runs: Vec<Run>, events: &Events) -> Result<Vec<Run>, Error> {
    let all = runs.len();
    let sweep = runs.first().and_then(|run| run.sweep.clone()).unwrap_or_default();
    let stopped = AtomicBool::new(false);
    let send = |run: Run| async {
        if run.process_id.is_some() || stopped.load(Ordering::Relaxed) {
            return Ok(run);
        }
        // Somebody may have cancelled the sweep meanwhile.
        match connection.journal.run(&run.run_id)? {
            Some(now) if now.state == RunState::Intent => {}
            now => return Ok(now.unwrap_or(run)),
        }
        let sent = submission::send(connection, run, events).await;
        if sent.is_err() {
            stopped.store(true, Ordering::Relaxed);
        }
        sent
    };
    let ended: Vec<Result<Run, Error>> = futures_util::stream::iter(runs).map(send).buffered(AT_ONCE).collect().await;
    let mut sent = Vec::with_capacity(all);
    let mut failure = None;
    for run in ended {
        match run {
            Ok(run) => sent.push(run),
            Err(error) => failure = failure.or(Some(error)),
        }
    }
    let Some(error) = failure else { return Ok(sent) };
    if !error.is_unreachable() {
        // What is refused once is refused again: nobody is to complete this.
        for run in sent.iter().filter(|run| run.process_id.is_none()) {
            connection.journal.mark_run_lost(&run.run_id)?;
        }
    }
    let submitted = sent.iter().filter(|run| run.process_id.is_some()).count();
    Err(Error::SweepCut { sweep, submitted, all, source: Box::new(error) })
}
