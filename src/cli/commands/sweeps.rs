//! What several commands do with a sweep: showing its points, counting their states, following them all.

use crate::cli::CliError;
use crate::cli::Context;
use crate::cli::render::prefix::Named;
use crate::cli::render::times;
use crate::event::Event;
use crate::event::Events;
use crate::journal::runs::Run;
use crate::journal::runs::RunState;
use crate::run;
use crate::run::Connection;
use crate::run::points;
use crate::run::spec::result_folder;
use futures_util::StreamExt;

/// So many processes are followed at once; the others when one of these has ended.
const FOLLOWED: usize = 64;

/// How following ended.
pub enum Followed {
    /// All processes have ended.
    Ended(Vec<Run>),
    /// The user pressed Ctrl-C; the processes go on.
    Interrupted(Vec<Run>),
}

/// Follows all runs to their end. Those of a sweep have their values before each line.
pub async fn follow_all(context: &Context, connection: &Connection, runs: Vec<Run>, page: i64) -> Result<Followed, CliError> {
    let events = events_of(context, &runs);
    let follow_one = |(number, run): (usize, Run)| {
        let events = &events;
        async move {
            // One that never came to the server has nothing to be followed.
            let Some(id) = run.process_id.clone() else { return (number, Ok(run)) };
            let followed = async {
                let process = run::follow::follow(connection.client(), &id, page, events).await?;
                run::history::note(connection, run, &process).await
            };
            (number, followed.await)
        }
    };
    let all = futures_util::stream::iter(runs.iter().cloned().enumerate()).map(follow_one).buffer_unordered(FOLLOWED);
    let Ok(mut ended) = context.interruptible(all.collect::<Vec<_>>()).await else { return Ok(Followed::Interrupted(runs)) };
    ended.sort_by_key(|(number, _)| *number);
    let ended = ended.into_iter().map(|(_, run)| run).collect::<Result<Vec<Run>, _>>()?;
    if let Some(sweep) = ended.first().and_then(|run| run.sweep.clone()) {
        let count = |state| ended.iter().filter(|run| run.state == state).count() as u64;
        let (success, cancelled) = (count(RunState::Success), count(RunState::Cancelled));
        events.emit(Event::SweepFinished { sweep, success, failed: ended.len() as u64 - success - cancelled, cancelled });
    }
    Ok(Followed::Ended(ended))
}

/// For people, lines of a sweep have names.
fn events_of(context: &Context, runs: &[Run]) -> Events {
    if context.json() || runs.iter().all(|run| run.sweep.is_none()) { context.events() } else { named(context, runs).events() }
}

/// Events where each line of these runs' logs has its values before it.
pub fn named(context: &Context, runs: &[Run]) -> Named {
    let name = |run: &Run| Some((run.process_id.clone()?, points::shown(&run.params)));
    Named::new(context.events(), runs.iter().filter_map(name).collect())
}

/// The beginning of an id, as people type it.
pub fn short(id: &str) -> &str {
    &id[..id.len().min(12)]
}

/// The points of a sweep, a row each.
pub fn print_points(context: &Context, runs: &[Run]) {
    let row = |run: &Run| {
        let id = run.process_id.as_deref().unwrap_or("-");
        let folder = result_folder(&run.spec, &run.project_name).unwrap_or_default();
        vec![
            points::shown(&run.params),
            short(id).to_owned(),
            run.state.word().to_owned(),
            super::runs::took(run.started, run.ended),
            run.executor.clone().unwrap_or_else(|| "-".into()),
            run.results_fetched.map_or("-".into(), |_| format!("result/{folder}")),
        ]
    };
    context.print_table(&["POINT", "PROCESS", "STATE", "TOOK", "EXECUTOR", "RESULTS"], runs.iter().map(row).collect());
}

/// How many runs are in which state: `4 success, 1 failed`.
pub fn counts(runs: &[Run]) -> String {
    let states = [
        RunState::Success,
        RunState::Failed,
        RunState::Cancelled,
        RunState::Running,
        RunState::Waiting,
        RunState::Intent,
        RunState::Lost,
    ];
    let count = |state: RunState| (runs.iter().filter(|run| run.state == state).count(), state.word());
    let some = states.map(count).into_iter().filter(|(number, _)| *number > 0);
    some.map(|(number, word)| format!("{number} {word}")).collect::<Vec<_>>().join(", ")
}

/// A sweep as a row of `pollinator runs`.
pub fn row(runs: &[Run]) -> Option<Vec<String>> {
    let first = runs.first()?;
    let id = first.sweep.as_deref()?;
    let executors: std::collections::BTreeSet<&str> = runs.iter().filter_map(|run| run.executor.as_deref()).collect();
    let executors = executors.into_iter().collect::<Vec<_>>().join(", ");
    let ended = runs.iter().map(|run| run.ended).collect::<Option<Vec<i64>>>().and_then(|all| all.into_iter().max());
    let fetched = runs.iter().filter(|run| run.results_fetched.is_some()).count();
    Some(vec![
        short(id).to_owned(),
        format!("sweep of {}: {}", runs.len(), counts(runs)),
        times::when(first.created),
        super::runs::took(runs.iter().filter_map(|run| run.started).min(), ended),
        if executors.is_empty() { "-".into() } else { executors },
        super::runs::commit(first),
        match fetched {
            0 => "-".into(),
            all if all == runs.len() => "fetched".into(),
            some => format!("{some} fetched"),
        },
    ])
}

/// Says how to go on after Ctrl-C.
pub fn stopped_following(runs: &[Run]) -> CliError {
    match runs.first().and_then(|run| run.sweep.as_deref()) {
        Some(sweep) => stopped("the processes go on", &[sweep]),
        None => {
            let ids: Vec<&str> = runs.iter().filter_map(|run| run.process_id.as_deref()).collect();
            stopped(if ids.len() == 1 { "the process goes on" } else { "the processes go on" }, &ids)
        }
    }
}

/// The same for one process.
pub fn stopped_following_process(id: &str) -> CliError {
    stopped("the process goes on", &[id])
}

fn stopped(goes_on: &str, ids: &[&str]) -> CliError {
    let mut error = CliError::interrupted(format!("stopped following; {goes_on}"));
    for id in ids.iter().take(5) {
        let short = short(id);
        error = error
            .with_hint(format!("follow it again with `pollinator logs -f {short}`"))
            .with_hint(format!("cancel it with `pollinator cancel {short}`"));
    }
    error
}
