//! Runs that were: which one a word means, and what became of it.

use super::Connection;
use super::Error;
use super::follow::ExecutorNames;
use super::interrupted;
use crate::colonies::NODES;
use crate::colonies::Process;
use crate::journal::runs::Run;
use crate::journal::runs::RunFilter;
use crate::journal::runs::RunState;
use futures_util::StreamExt;
use std::path::Path;

/// A run named by a person: from our books, or a process of the colony that we have no books about.
#[derive(Clone, Debug)]
pub enum Found {
    /// One of ours.
    Run(Box<Run>),
    /// Somebody else's, by its process id.
    Process(String),
    /// All of a sweep of ours.
    Sweep(Sweep),
}

/// The runs of a sweep.
#[derive(Clone, Debug)]
pub struct Sweep {
    /// How it was named.
    pub word: String,
    /// Its id.
    pub id: String,
    /// Its runs, in their order; never none.
    pub runs: Vec<Run>,
}

impl Found {
    /// Its process.
    ///
    /// # Errors
    /// [`Error::NotSubmitted`] for a run that never had one; [`Error::IsSweep`] for a sweep, which has many.
    pub fn process_id(&self) -> Result<&str, Error> {
        match self {
            Found::Process(id) => Ok(id),
            Found::Run(run) => run.process_id.as_deref().ok_or_else(|| Error::NotSubmitted(run.run_id.clone())),
            Found::Sweep(sweep) => Err(Error::IsSweep { word: sweep.word.clone(), runs: sweep.runs.len() }),
        }
    }

    /// The run in our books.
    pub fn run(&self) -> Option<&Run> {
        match self {
            Found::Run(run) => Some(run),
            Found::Process(_) | Found::Sweep(_) => None,
        }
    }
}

/// What `word` means: `last` (of this project folder, where one is given), the id of a process, a run or a sweep, or the beginning
/// of one. The last run of a sweep stands for all of it.
pub fn resolve(connection: &Connection, word: &str, project_folder: Option<&Path>) -> Result<Found, Error> {
    let journal = &connection.journal;
    let sweep_of = |id: String| Ok(Found::Sweep(Sweep { word: word.to_owned(), runs: journal.sweep(&id)?, id }));
    if word == "last" {
        let filter = RunFilter { project_folder: project_folder.map(Path::to_owned), limit: Some(1) };
        let last = journal.runs(&filter)?.into_iter().next().ok_or_else(|| Error::UnknownRun(word.into()))?;
        return match last.sweep.clone() {
            Some(id) => sweep_of(id),
            None => Ok(Found::Run(Box::new(last))),
        };
    }
    let is_hex = !word.is_empty() && word.bytes().all(|b| b.is_ascii_hexdigit());
    if !is_hex {
        return Err(Error::UnknownRun(word.into()));
    }
    let mut matches = journal.runs_with_prefix(&word.to_lowercase())?;
    let mut sweeps = journal.sweeps_with_prefix(&word.to_lowercase())?;
    match (matches.len(), sweeps.len()) {
        (1, 0) => Ok(Found::Run(Box::new(matches.remove(0)))),
        (0, 1) => sweep_of(sweeps.remove(0)),
        (0, 0) if word.len() == 64 => Ok(Found::Process(word.to_lowercase())),
        (0, 0) => Err(Error::UnknownRun(word.into())),
        _ => {
            let ids = matches.into_iter().map(|run| run.process_id.unwrap_or(run.run_id));
            let ids = ids.chain(sweeps.into_iter().map(|id| format!("{id} (a sweep)"))).take(10).collect();
            Err(Error::AmbiguousRun { prefix: word.into(), matches: ids })
        }
    }
}

/// So many runs are asked for at once.
const AT_ONCE: usize = 8;

/// As [`refresh`], of several, in their order. Where the server does not answer, what is known stays, and the reason is logged: a
/// server out of reach does not take the history away.
pub async fn refresh_all(connection: &Connection, runs: Vec<Run>) -> Vec<Run> {
    let fresh = |run: Run| async {
        match refresh(connection, run.clone()).await {
            Ok(fresh) => fresh,
            Err(error) => {
                tracing::warn!(%error, run = run.run_id, "showing the last known state");
                run
            }
        }
    };
    futures_util::stream::iter(runs).map(fresh).buffered(AT_ONCE).collect().await
}

/// Asks the server what became of a run that may still change, and notes it. Runs of other colonies stay as they are.
pub async fn refresh(connection: &Connection, run: Run) -> Result<Run, Error> {
    let client = connection.client();
    if !run.state.is_open() || run.server != client.server() || run.colony != client.colony() {
        return Ok(run);
    }
    let process = match &run.process_id {
        Some(id) => match client.process(id).await {
            Ok(process) => Some(process),
            Err(error) if error.is_not_found() => None,
            Err(error) => return Err(error.into()),
        },
        // Perhaps the call that made it is still at it: then it is left alone.
        None => match interrupted::find(connection, &run.run_id).await? {
            Some(process) => Some(process),
            None => return Ok(run),
        },
    };
    let Some(process) = process else {
        connection.journal.mark_run_lost(&run.run_id)?;
        return Ok(Run { state: RunState::Lost, ..run });
    };
    note(connection, run, &process).await
}

/// Notes what a process became in its run's books.
pub async fn note(connection: &Connection, mut run: Run, process: &Process) -> Result<Run, Error> {
    let executor = match &run.executor {
        Some(name) => Some(name.clone()),
        None => ExecutorNames::new(connection.client()).of(process).await,
    };
    connection.journal.update_run(&run.run_id, process, executor.as_deref())?;
    let nanos = |t: crate::colonies::time::Time| t.get().and_then(|t| i64::try_from(t.as_nanosecond()).ok());
    run.process_id = Some(process.processid.clone());
    run.state = process.state.into();
    run.executor = executor;
    run.started = nanos(process.starttime);
    run.ended = nanos(process.endtime);
    run.errors = process.errors.clone();
    run.nodes = process.attribute(NODES).map(str::to_owned).or(run.nodes);
    Ok(run)
}
