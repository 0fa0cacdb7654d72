//! Submitting: exactly one process for each run, whatever breaks on the way.
//!
//! The server has no idempotency key, so the run's id is the process's label: after a lost answer or a kill the process
//! is looked for under it before anything is submitted again.

use super::Connection;
use super::Error;
use super::batch;
use super::interrupted::Interrupted;
use super::interrupted::find;
use super::interrupted::replaced;
use super::interrupted::settle_intents;
use super::interrupted::take_same;
use super::points;
use super::points::Point;
use super::provenance::Provenance;
use super::source::Origin;
use super::source::Source;
use super::spec;
use super::spec::Parts;
use super::trees::Frozen;
use super::trees::TreeOptions;
use crate::cfs::SyncReport;
use crate::colonies;
use crate::colonies::EXECUTOR_APPROVED;
use crate::colonies::Executor;
use crate::colonies::FunctionSpec;
use crate::colonies::Process;
use crate::colonies::Software;
use crate::event::Event;
use crate::event::Events;
use crate::event::Tree;
use crate::index::RelPath;
use crate::journal::runs::Run;
use crate::journal::runs::RunState;
use crate::journal::watched::Watched;
use crate::project::Project;
use crate::project::sweep::Values;
use std::time::Duration;

/// How often a process is looked for after an answer was lost, before it is submitted again.
const LOOKS: u32 = 4;
/// How often a submission is tried in all.
const TRIES: u32 = 5;

/// How a run is made.
#[derive(Clone, Debug)]
pub struct Options {
    /// How many processes run the same tree.
    pub processes: u32,
    /// Executor instead of those in project.yaml.
    pub executor: Option<String>,
    /// How the trees are brought over.
    pub trees: TreeOptions,
    /// What is run.
    pub source: Source,
    /// Make a run only where src or data are others than those that ran last, or that were there when this was first asked: for
    /// saves. Files that somebody is writing put it off.
    pub only_new: bool,
    /// Runs whose processes are cancelled before a new one is submitted; they stay where none is.
    pub replace: Vec<String>,
    /// So many processes a sweep may make.
    pub max_points: u32,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            processes: 1,
            executor: None,
            trees: TreeOptions::default(),
            source: Source::default(),
            only_new: false,
            replace: Vec::new(),
            max_points: points::MOST,
        }
    }
}

/// What became of a call to [`submit`].
#[derive(Clone, Debug, Default)]
pub struct Submitted {
    /// The runs, one for each process. None where there was nothing new to run.
    pub runs: Vec<Run>,
    /// The tree that they run, where there are runs.
    pub frozen: Option<Frozen>,
    /// Files that were left because somebody writes them.
    pub busy: Vec<(Tree, RelPath)>,
}

/// The way of a run up to its process: files over, tree frozen, intent written, submitted.
///
/// Gives one [`Run`] for each process. A process that an interrupted call submitted already for the very same run is
/// taken instead of a new one.
pub async fn submit(connection: &Connection, project: &Project, options: &Options, events: &Events) -> Result<Submitted, Error> {
    let origin = Origin::of(project, &options.source, events).await?;
    let project = &origin.project;
    let points = points_of(project, options)?;
    let executors = executors(connection, project, options).await?;
    let lock = lock(connection, project, events).await?;
    let interrupted = settle_intents(connection, project, events).await?;
    let brought = origin.bring_over(connection, &lock, &options.trees, events).await?;
    let watched = brought.inputs().map(|digest| Watched { place: place(connection, project), digest });
    if options.only_new && (!brought.busy().is_empty() || !is_new(connection, watched.as_ref())?) {
        return Ok(Submitted { busy: brought.busy(), ..Submitted::default() });
    }
    let (frozen, provenance) = origin.freeze(connection, &brought, events).await?;
    let making = Making { connection, project, executors: &executors, frozen: &frozen, provenance: &provenance };
    let sweep = points.map(|points| batch::intents(&making, &points)).transpose()?;
    cancel(connection, &replaced(connection, &options.replace, sweep.as_deref(), &interrupted)?).await?;
    let runs = making.submit(sweep, options.processes, interrupted, watched.as_ref(), events).await?;
    Ok(Submitted { runs, frozen: Some(frozen), busy: brought.busy() })
}

/// As [`submit`], of a tree that is known to be stored, frozen, and the same as here: the agent's, who watched it. Nothing is
/// looked at.
pub async fn submit_frozen(
    connection: &Connection,
    project: &Project,
    options: &Options,
    frozen: &Frozen,
    events: &Events,
) -> Result<Submitted, Error> {
    super::source::check_source(project, &project.tree_folder(Tree::Src), "cfs/src")?;
    let ((executors, lock), provenance) = tokio::join!(
        async { (executors(connection, project, options).await, lock(connection, project, events).await) },
        super::provenance::of(&project.folder)
    );
    let (executors, _lock) = (executors?, lock?);
    let points = points_of(project, options)?;
    let interrupted = settle_intents(connection, project, events).await?;
    let making = Making { connection, project, executors: &executors, frozen, provenance: &provenance };
    let sweep = points.map(|points| batch::intents(&making, &points)).transpose()?;
    let runs = making.submit(sweep, options.processes, interrupted, None, events).await?;
    Ok(Submitted { runs, frozen: Some(frozen.clone()), busy: Vec::new() })
}

/// The points of the project's sweep, where it is one.
fn points_of(project: &Project, options: &Options) -> Result<Option<Vec<Point>>, Error> {
    let points = points::of(&project.settings, options.max_points)?;
    match points {
        Some(_) if options.processes > 1 => {
            let reason = "--processes makes several of one; name the repetitions in the sweep (`repeat: [1, 2, 3]`)".into();
            Err(Error::Sweep { reason })
        }
        points => Ok(points),
    }
}

/// Cancels runs. One that has just ended needs it no more.
async fn cancel(connection: &Connection, runs: &[String]) -> Result<(), Error> {
    for run in runs {
        let Some(process) = connection.journal.run(run)?.and_then(|run| run.process_id) else { continue };
        match connection.client().cancel(&process).await {
            Ok(()) => {}
            Err(error) if error.is_unreachable() => return Err(error.into()),
            Err(error) => tracing::info!(%error, process, "not cancelled"),
        }
    }
    Ok(())
}

fn place(connection: &Connection, project: &Project) -> String {
    let client = connection.client();
    format!("{}|{}|{}|{}", client.server(), client.colony(), project.settings.projectname, project.folder.display())
}

/// Whether these inputs are to run. The first that are ever seen are only noted.
fn is_new(connection: &Connection, watched: Option<&Watched>) -> Result<bool, Error> {
    let Some(watched) = watched else { return Ok(true) };
    match connection.journal.watched(&watched.place)? {
        Some(earlier) => Ok(earlier != watched.digest),
        None => {
            connection.journal.take_up(watched)?;
            Ok(false)
        }
    }
}

/// What a run would do.
#[derive(Clone, Debug)]
pub struct Preview {
    /// The commit whose content is run; none: the working tree.
    pub commit: Option<String>,
    /// What would be brought over.
    pub plans: Vec<(Tree, SyncReport)>,
    /// What would be submitted, with placeholders for ids that are not known yet; of a sweep its first process.
    pub spec: FunctionSpec,
    /// The values of each process of a sweep; none where it is no sweep.
    pub points: Vec<Values>,
}

/// Says what [`submit`] would do, and does nothing.
pub async fn preview(connection: &Connection, project: &Project, options: &Options, events: &Events) -> Result<Preview, Error> {
    let origin = Origin::of(project, &options.source, events).await?;
    let project = &origin.project;
    let points = points_of(project, options)?.unwrap_or_default();
    let executors = executors(connection, project, options).await?;
    let lock = lock(connection, project, events).await?;
    let plans = origin.plans(connection, &lock, &options.trees, events).await?;
    let parts = Parts {
        colony: connection.client().colony(),
        executors: &executors.names,
        queue: executors.queue,
        snapshot_id: spec::NO_SNAPSHOT,
        snapshot_label: &spec::label(&project.settings.projectname, Tree::Src),
        run_id: spec::NO_RUN,
        sweep: points.first().map(|point| (spec::NO_SWEEP, point)),
    };
    let settings = points.first().map_or(&project.settings, |point| &point.settings);
    let spec = spec::function_spec(settings, &parts);
    let commit = origin.commit().map(|commit| commit.id.clone());
    Ok(Preview { commit, plans, spec, points: points.into_iter().map(|point| point.values).collect() })
}

/// The project's lock, with a word when somebody else holds it.
pub async fn lock(connection: &Connection, project: &Project, events: &Events) -> Result<super::connection::ProjectLock, Error> {
    let events = events.clone();
    let waiting = move || events.emit(Event::Note { message: "another pollinator works on this project; waiting for it".into() });
    connection.lock(&project.settings.projectname, waiting).await
}

/// The executors that may take a run.
#[derive(Clone, Debug, Default)]
pub(super) struct Takers {
    /// Their names; none: whoever comes.
    names: Vec<String>,
    /// All of them are ours and have a queue of their own.
    queue: bool,
}

/// The executors that may take it, checked against the colony: the server itself would let a process for an unknown name
/// wait for ever.
async fn executors(connection: &Connection, project: &Project, options: &Options) -> Result<Takers, Error> {
    let names = match &options.executor {
        Some(name) => vec![name.clone()],
        None => project.settings.executor_names.clone(),
    };
    let there = approved(connection).await?;
    let queue = have_queue(&there, &names);
    let available: Vec<String> = there.iter().map(|e| e.executorname.clone()).collect();
    if names.is_empty() || names.iter().any(|name| available.contains(name)) {
        return Ok(Takers { names, queue });
    }
    Err(Error::NoExecutor { names, colony: connection.client().colony().into(), available })
}

async fn approved(connection: &Connection) -> Result<Vec<Executor>, Error> {
    let there = connection.client().executors().await?;
    Ok(there.into_iter().filter(|e| e.state == EXECUTOR_APPROVED).collect())
}

/// Whether all executors that may take a run for these names (none: whoever comes) are ours and have a queue of their own:
/// [`Parts::queue`] for who makes a specification without submitting it.
///
/// # Errors
/// The colony does not answer.
pub async fn takers_have_queue(connection: &Connection, names: &[String]) -> Result<bool, Error> {
    Ok(have_queue(&approved(connection).await?, names))
}

fn have_queue(there: &[Executor], names: &[String]) -> bool {
    let may = |e: &&Executor| e.executortype == spec::EXECUTOR_TYPE && (names.is_empty() || names.contains(&e.executorname));
    let mut takers = there.iter().filter(may).peekable();
    takers.peek().is_some() && takers.all(has_queue)
}

/// Whether an executor is ours and its jobs wait in the queue of a cluster. Such an executor takes any `maxexectime`, and
/// ends jobs at their walltime itself.
fn has_queue(executor: &Executor) -> bool {
    let queues = |s: &Software| s.name == "pollinator" && matches!(s.kind.as_str(), "slurm" | "kubernetes");
    executor.capabilities.software.iter().any(queues)
}

/// What runs are made of.
#[derive(Clone, Copy)]
pub(super) struct Making<'a> {
    pub(super) connection: &'a Connection,
    pub(super) project: &'a Project,
    pub(super) executors: &'a Takers,
    pub(super) frozen: &'a Frozen,
    pub(super) provenance: &'a Provenance,
}

impl Making<'_> {
    /// Submits: the runs of a sweep, or so many of the same.
    async fn submit(
        &self,
        sweep: Option<Vec<Run>>,
        processes: u32,
        mut interrupted: Interrupted,
        watched: Option<&Watched>,
        events: &Events,
    ) -> Result<Vec<Run>, Error> {
        if let Some(sweep) = sweep {
            return batch::submit(self.connection, sweep, interrupted.sweeps, watched, events).await;
        }
        batch::abandon(self.connection, &interrupted.sweeps, events)?;
        let mut runs = Vec::new();
        for _ in 0..processes {
            let run = self.intent(None)?;
            match take_same(&mut interrupted.runs, &run) {
                Some(earlier) => {
                    events.warn(format!("an interrupted call had submitted this run already: taking run {}", earlier.run_id));
                    runs.push(earlier);
                }
                None => runs.push(submit_one(self.connection, run, watched, events).await?),
            }
        }
        Ok(runs)
    }

    /// A run as it is written down before it is submitted. `sweep`: the id of the sweep that it is a part of, and which part.
    pub(super) fn intent(&self, sweep: Option<(&str, &Point)>) -> Result<Run, Error> {
        let Making { connection, project, executors, frozen, provenance } = *self;
        let client = connection.client();
        let run_id = new_run_id()?;
        let parts = Parts {
            colony: client.colony(),
            executors: &executors.names,
            queue: executors.queue,
            snapshot_id: &frozen.snapshot_id,
            snapshot_label: &frozen.label,
            run_id: &run_id,
            sweep,
        };
        let settings = sweep.map_or(&project.settings, |(_, point)| &point.settings);
        let spec = spec::function_spec(settings, &parts);
        Ok(Run {
            created: now(),
            project_folder: project.folder.clone(),
            project_name: project.settings.projectname.clone(),
            server: client.server(),
            colony: client.colony().to_owned(),
            spec: serde_json::to_string(&spec).unwrap_or_default(),
            tree_digest: frozen.digest.clone(),
            snapshot_id: frozen.snapshot_id.clone(),
            git_commit: provenance.commit.clone(),
            git_dirty: provenance.dirty,
            revision: provenance.revision.clone(),
            process_id: None,
            state: RunState::Intent,
            executor: None,
            nodes: None,
            started: None,
            ended: None,
            errors: Vec::new(),
            results_fetched: None,
            sweep: sweep.map(|(id, _)| id.to_owned()),
            point: sweep.map(|(_, point)| point.number),
            params: sweep.map(|(_, point)| point.values.clone()).unwrap_or_default(),
            run_id,
        })
    }
}

/// 32 random hex digits.
pub fn new_run_id() -> Result<String, Error> {
    let mut bytes = [0u8; 16];
    let failed = |e: getrandom::Error| Error::Local {
        what: "no randomness from the system for a run's id".into(),
        source: std::io::Error::other(e.to_string()),
    };
    getrandom::fill(&mut bytes).map_err(failed)?;
    Ok(hex::encode(bytes))
}

/// Nanoseconds since 1970, by this machine's clock.
pub(crate) fn now() -> i64 {
    i64::try_from(jiff::Timestamp::now().as_nanosecond()).unwrap_or(i64::MAX)
}

async fn submit_one(connection: &Connection, run: Run, watched: Option<&Watched>, events: &Events) -> Result<Run, Error> {
    match watched {
        Some(watched) => connection.journal.add_run_of(&run, watched)?,
        None => connection.journal.add_run(&run)?,
    }
    send(connection, run, events).await
}

/// Submits a run that is written down.
pub(super) async fn send(connection: &Connection, mut run: Run, events: &Events) -> Result<Run, Error> {
    let spec: FunctionSpec = serde_json::from_str(&run.spec).unwrap_or_default();
    let process = match submit_once(connection, &spec, &run.run_id).await {
        Ok(process) => process,
        Err(error) => {
            // A refusal means that there is surely no process; otherwise the intent stays and is settled later.
            if !error.is_unreachable() {
                connection.journal.mark_run_lost(&run.run_id)?;
            }
            return Err(error.into());
        }
    };
    connection.journal.update_run(&run.run_id, &process, None)?;
    run.process_id = Some(process.processid.clone());
    run.state = process.state.into();
    events.emit(Event::Submitted {
        run: run.run_id.clone(),
        dashboard: connection.dashboard_page(&process.processid),
        process: process.processid,
    });
    Ok(run)
}

/// Submits, and after a lost answer looks whether it arrived before it submits again.
async fn submit_once(connection: &Connection, spec: &FunctionSpec, run_id: &str) -> Result<Process, colonies::Error> {
    let mut attempt = 1;
    loop {
        let error = match connection.client().submit(spec).await {
            Ok(process) => return Ok(process),
            Err(error) if error.is_temporary() => error,
            // A garbled answer says nothing about whether the process exists.
            Err(error @ colonies::Error::Garbage { .. }) => error,
            Err(error) => return Err(error),
        };
        for look in 0..LOOKS {
            if let Some(process) = find(connection, run_id).await? {
                return Ok(process);
            }
            tokio::time::sleep(Duration::from_millis(200 << look)).await;
        }
        if attempt == TRIES || !error.is_temporary() {
            return Err(error);
        }
        attempt += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An approved executor with this software.
    fn executor(name: &str, software: &str, kind: &str) -> Executor {
        let mut executor = Executor {
            executorname: name.into(),
            executortype: spec::EXECUTOR_TYPE.into(),
            state: EXECUTOR_APPROVED,
            ..Executor::default()
        };
        executor.capabilities.software = vec![Software { name: software.into(), kind: kind.into(), ..Software::default() }];
        executor
    }

    #[test]
    fn only_where_all_takers_are_ours_and_have_a_queue_no_time_counts() {
        let there = [
            executor("s", "pollinator", "slurm"),
            executor("k", "pollinator", "kubernetes"),
            executor("old", "colonyos", "slurm"),
        ];
        let names = |names: &[&str]| names.iter().map(|name| name.to_string()).collect::<Vec<_>>();
        assert!(have_queue(&there, &names(&["s"])));
        assert!(have_queue(&there, &names(&["s", "k"])));
        assert!(!have_queue(&there, &names(&["s", "old"])), "the older one ends a run by that time");
        assert!(!have_queue(&there, &[]), "whoever comes");
        assert!(have_queue(&there[..2], &[]));
        assert!(!have_queue(&there, &names(&["nobody"])));
        assert!(!have_queue(&[executor("p", "pollinator", "process")], &names(&["p"])));
    }
}
