//! `pollinator run`: brings the project over, submits it, and with `--follow` stays until its results are home.

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
use crate::run::trees::TreeOptions;
use futures_util::future::join_all;

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
        }
    }
}

/// Runs the command.
pub async fn run(context: &Context, args: Args) -> Result<(), CliError> {
    let project = context.project()?;
    let connection = context.connect_with(args.trees_how.limit_up).await?;
    let trees = args.trees_how.options(context, args.dry_run)?;
    if args.dry_run && args.commit.is_none() {
        return super::sync::show_plans(context, &connection, &project, &Tree::ALL, &trees).await;
    }
    let source = args.commit.clone().map_or(Source::WorkingTree, Source::Commit);
    let job = args.job(&trees);
    let options = run::Options { processes: args.processes, executor: args.executor, trees, source, ..run::Options::default() };
    if args.dry_run {
        return show_preview(context, &connection, &project, &options).await;
    }
    // What a commit holds was chosen when it was made.
    let looked_at = if options.source == Source::WorkingTree { &[Tree::Src, Tree::Data][..] } else { &[Tree::Data] };
    super::sync::look_before_first_upload(context, &connection, &project, looked_at).await?;
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
    let runs = match follow_all(context, &connection, runs, args.count).await? {
        Followed::Ended(runs) => runs,
        Followed::Interrupted(runs) => {
            let ids: Vec<&str> = runs.iter().filter_map(|run| run.process_id.as_deref()).collect();
            return Err(stopped_following(&ids));
        }
    };
    bring_home(context, &connection, &project, &runs, &trees).await?;
    fate(&runs)
}

/// Runs that the agent made, out of the books.
fn made(connection: &Connection, ids: &[String]) -> Result<Vec<Run>, CliError> {
    let mut runs = Vec::new();
    for id in ids {
        let run = connection.journal.run(id)?;
        runs.push(run.ok_or_else(|| CliError::failed(format!("the agent made run {id}, which is not in the books here")))?);
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
        let document = serde_json::json!({ "commit": preview.commit, "trees": trees, "spec": preview.spec });
        return context.print_json(&document);
    }
    if let Some(commit) = &preview.commit {
        context.print(&format!("commit {commit}"));
    }
    super::sync::print_plans(context, &preview.plans);
    context.print_json(&preview.spec)
}

/// How following ended.
enum Followed {
    /// All processes have ended.
    Ended(Vec<Run>),
    /// The user pressed Ctrl-C; the processes go on.
    Interrupted(Vec<Run>),
}

async fn follow_all(context: &Context, connection: &Connection, runs: Vec<Run>, page: i64) -> Result<Followed, CliError> {
    let events = context.events();
    let follow_one = |run: Run| async {
        let id = run.process_id.clone().unwrap_or_default();
        let process = run::follow::follow(connection.client(), &id, page, &events).await?;
        run::history::note(connection, run, &process).await
    };
    match context.interruptible(join_all(runs.iter().cloned().map(follow_one))).await {
        Ok(ended) => Ok(Followed::Ended(ended.into_iter().collect::<Result<_, _>>()?)),
        Err(_) => Ok(Followed::Interrupted(runs)),
    }
}

/// Says how to go on after Ctrl-C.
pub fn stopped_following(ids: &[&str]) -> CliError {
    let mut error = CliError::interrupted(if ids.len() == 1 {
        "stopped following; the process goes on"
    } else {
        "stopped following; the processes go on"
    });
    for id in ids.iter().take(5) {
        let short = &id[..id.len().min(12)];
        error = error
            .with_hint(format!("follow it again with `pollinator logs -f {short}`"))
            .with_hint(format!("cancel it with `pollinator cancel {short}`"));
    }
    error
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
fn fate(runs: &[Run]) -> Result<(), CliError> {
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
