//! Submitting the runs of a sweep. All of them are written down before the first is sent, so that whatever breaks on the way,
//! the next call sends what is missing, and nothing twice.

use super::Connection;
use super::Error;
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

/// Submits a process for each point. Where an interrupted call had begun the very same sweep, that one is completed.
pub(super) async fn submit(
    making: &Making<'_>,
    points: &[Point],
    interrupted: Vec<String>,
    watched: Option<&Watched>,
    events: &Events,
) -> Result<Vec<Run>, Error> {
    let connection = making.connection;
    let sweep = submission::new_run_id()?;
    let fresh = points.iter().map(|point| making.intent(Some((&sweep, point)))).collect::<Result<Vec<Run>, Error>>()?;
    let mut earlier = Vec::new();
    let mut same = None;
    for sweep in interrupted {
        let runs = connection.journal.sweep(&sweep)?;
        if same.is_none() && is_same(&runs, &fresh) { same = Some(runs) } else { earlier.push(sweep) }
    }
    abandon(connection, &earlier, events)?;
    let runs = match same {
        Some(runs) => {
            if let (Some(watched), Some(first)) = (watched, runs.first()) {
                connection.journal.take_up_again(watched, &first.run_id)?;
            }
            let there = runs.iter().filter(|run| run.process_id.is_some()).count();
            let id = runs.first().and_then(|run| run.sweep.as_deref()).unwrap_or_default();
            events.warn(format!(
                "an interrupted call had submitted {there} of {} processes of this sweep already: taking sweep {id}",
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
