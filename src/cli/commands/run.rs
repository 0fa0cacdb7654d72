//! `pollinator run`: brings the project over, submits it, and with `--follow` stays until its results are home.

use super::sweeps;
use super::sweeps::Followed;
use crate::agent::control::model::Job;
use crate::cli::CliError;
use crate::cli::Context;
use crate::cli::handover::hand_over;
use crate::colonies::Process;
use crate::colonies::ProcessState;
use crate::colonies::client::LOG_PAGE;
use crate::event::Tree;
use crate::journal::runs::Run;
use crate::journal::runs::RunState;
use crate::project::Project;
use crate::run;
use crate::run::Connection;
use crate::run::Source;
use crate::run::points;
use crate::run::trees::TreeOptions;
use crate::run::tunnel;
use crate::run::tunnel::Ports;
use crate::run::tunnel::Route;
use std::convert::Infallible;

/// Arguments of `pollinator run`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Stay until the process has ended: print its log, bring the results home, exit with 3 if it failed or was cancelled
    #[arg(short, long)]
    pub follow: bool,
    /// Submit this many processes that run the same tree
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub processes: u32,
    /// How many log messages are asked for at once (as in the earlier tool)
    #[arg(long, value_name = "N", default_value_t = LOG_PAGE, value_parser = clap::value_parser!(i64).range(1..=500))]
    pub count: i64,
    /// Return as soon as the process is submitted (the default without --follow)
    #[arg(long, conflicts_with = "follow")]
    pub detach: bool,
    /// Show what would be transferred and submitted, and do nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Run what this commit of the project's git repository holds (cfs/src and project.yaml) instead of the working tree
    #[arg(long, value_name = "REV")]
    pub commit: Option<String>,
    /// Run on this executor instead of those in project.yaml
    #[arg(long, value_name = "NAME")]
    pub executor: Option<String>,
    /// How many processes the project's sweep may make
    #[arg(long, value_name = "N", default_value_t = points::MOST, value_parser = clap::value_parser!(u32).range(1..=points::MOST_EVER as i64))]
    pub max_points: u32,
    /// How the trees are brought over
    #[command(flatten)]
    pub trees_how: super::TreeArgs,
}

impl Args {
    fn job(&self, trees: &TreeOptions) -> Job {
        Job::Run {
            processes: self.processes,
            executor: self.executor.clone(),
            allow_deletes: trees.allow_deletes,
            jobs: Some(trees.jobs),
            follow: self.follow,
            commit: self.commit.clone(),
            max_points: Some(self.max_points),
        }
    }
}

/// Runs the command.
pub async fn run(context: &Context, args: Args) -> Result<(), CliError> {
    let project = context.project()?;
    let connection = context.connect_with(args.trees_how.limit_up).await?;
    let trees = args.trees_how.options(context, args.dry_run)?;
    if args.dry_run && args.commit.is_none() {
        if let Some(points) = points::of(&project.settings, args.max_points)?.filter(|_| !context.json()) {
            context.print(&format!("a sweep of {} processes", points.len()));
        }
        return super::sync::show_plans(context, &connection, &project, &Tree::ALL, &trees).await;
    }
    let source = args.commit.clone().map_or(Source::WorkingTree, Source::Commit);
    let job = args.job(&trees);
    let (processes, max_points) = (args.processes, args.max_points);
    let options = run::Options { processes, executor: args.executor, trees, source, max_points, ..run::Options::default() };
    if args.dry_run {
        return show_preview(context, &connection, &project, &options).await;
    }
    // What a commit holds was chosen when it was made.
    let looked_at = if options.source == Source::WorkingTree { &[Tree::Src, Tree::Data][..] } else { &[Tree::Data] };
    super::sync::look_before_first_upload(context, &connection, &project, looked_at).await?;
    let tunnel = if args.follow { way_of_tunnel(&project)? } else { None };
    // What the agent hands back is held to the end: as long as it is, the results are ours to bring home.
    let handed = match args.trees_how.limit_up {
        None => hand_over(context, &connection, &project, job).await?,
        Some(_) => None,
    };
    let runs = match &handed {
        Some(handed) => made(&connection, &handed.runs)?,
        None => context.interruptible(run::submit(&connection, &project, &options, &context.events())).await??.runs,
    };
    if !args.follow {
        return Ok(());
    }
    let runs = match follow(context, &connection, runs, args.count, tunnel).await? {
        Followed::Ended(runs) => runs,
        Followed::Interrupted(runs) => return Err(sweeps::stopped_following(&runs)),
    };
    let home = bring_home(context, &connection, &project, &runs, &trees).await;
    if runs.iter().any(|run| run.sweep.is_some()) && !context.json() {
        let runs = made(&connection, &runs.iter().map(|run| run.run_id.clone()).collect::<Vec<_>>())?;
        sweeps::print_points(context, &runs);
    }
    home?;
    fate(&runs)
}

/// The way of the project's tunnel, looked at before anything is submitted.
fn way_of_tunnel(project: &Project) -> Result<Option<(Route, Ports)>, CliError> {
    let Some(settings) = &project.settings.tunnel else { return Ok(None) };
    let (route, ports) = tunnel::of_project(settings)?;
    tunnel::check_port(ports.local)?;
    Ok(Some((route, ports)))
}

/// Follows runs, with the project's tunnel beside them as long as they go on.
async fn follow(
    context: &Context,
    connection: &Connection,
    runs: Vec<Run>,
    page: i64,
    tunnel: Option<(Route, Ports)>,
) -> Result<Followed, CliError> {
    let process = match (&runs[..], &tunnel) {
        ([run], Some(_)) => run.process_id.clone(),
        (_, Some(_)) => {
            context
                .warn("a tunnel leads to one process, and these are several: `pollinator tunnel RUN` opens one to any of them");
            None
        }
        _ => None,
    };
    let events = context.events();
    let beside = async {
        if let (Some(process), Some((route, ports))) = (&process, &tunnel) {
            // What became of it was told; the process is followed all the same.
            let _ = tunnel::attend(connection.client(), process, route, *ports, &events).await;
        }
        std::future::pending::<Infallible>().await
    };
    tokio::select! {
        followed = sweeps::follow_all(context, connection, runs, page) => followed,
        never = beside => match never {},
    }
}

/// Runs out of the books.
fn made(connection: &Connection, ids: &[String]) -> Result<Vec<Run>, CliError> {
    let mut runs = Vec::new();
    for id in ids {
        let run = connection.journal.run(id)?;
        runs.push(run.ok_or_else(|| CliError::failed(format!("run {id} is not in the books here")))?);
    }
    Ok(runs)
}

/// What would be brought over and submitted.
async fn show_preview(
    context: &Context,
    connection: &Connection,
    project: &Project,
    options: &run::Options,
) -> Result<(), CliError> {
    let events = context.events();
    let preview = run::preview(connection, project, options, &events);
    let preview = context.interruptible(preview).await??;
    if context.json() {
        let trees = super::sync::documents(&preview.plans);
        let mut document = serde_json::json!({ "commit": preview.commit, "trees": trees, "spec": preview.spec });
        if !preview.points.is_empty() {
            let point = |values: &Vec<(String, String)>| values.iter().cloned().collect::<std::collections::BTreeMap<_, _>>();
            document["points"] = serde_json::json!(preview.points.iter().map(point).collect::<Vec<_>>());
        }
        return context.print_json(&document);
    }
    if let Some(commit) = &preview.commit {
        context.print(&format!("commit {commit}"));
    }
    if !preview.points.is_empty() {
        context.print(&format!("a sweep of {} processes; this is the first", preview.points.len()));
    }
    super::sync::print_plans(context, &preview.plans);
    context.print_json(&preview.spec)
}

async fn bring_home(
    context: &Context,
    connection: &Connection,
    project: &Project,
    runs: &[Run],
    trees: &TreeOptions,
) -> Result<(), CliError> {
    let references: Vec<&Run> = runs.iter().collect();
    let events = context.events();
    let report = context.interruptible(run::results::fetch(connection, project, &references, trees, &events)).await??;
    super::sync::complain(Tree::Result, &report)
}

/// The exit code says how the processes ended; their reasons were told when they ended.
pub fn fate(runs: &[Run]) -> Result<(), CliError> {
    let bad: Vec<&Run> = runs.iter().filter(|run| run.state != RunState::Success).collect();
    let Some(first) = bad.first() else { return Ok(()) };
    let id = first.process_id.as_deref().unwrap_or(&first.run_id);
    let what = ended_badly(id, first.state == RunState::Cancelled);
    let message = match runs.len() {
        1 => what,
        all => format!("{} of {all} processes did not succeed; {what}", bad.len()),
    };
    Err(CliError::process_failed(message))
}

/// The same for one process that we may have no books about.
pub fn fate_of_process(process: &Process) -> Result<(), CliError> {
    if process.state == ProcessState::Success {
        return Ok(());
    }
    Err(CliError::process_failed(ended_badly(&process.processid, process.state == ProcessState::Cancelled)))
}

fn ended_badly(id: &str, cancelled: bool) -> String {
    format!("process {id} {}", if cancelled { "was cancelled" } else { "failed" })
}
