//! `pollinator results RUN`: brings home what the project's result tree holds in the colony.

use super::sweeps;
use crate::cli::CliError;
use crate::cli::Context;
use crate::event::Tree;
use crate::run;
use crate::run::history;
use crate::run::history::Found;
use crate::run::trees::TreeOptions;

/// Arguments of `pollinator results`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// A process id, the beginning of one, or `last`
    #[arg(value_name = "RUN", default_value = "last")]
    pub run: String,
    /// Show what would be fetched, and do nothing
    #[arg(long)]
    pub dry_run: bool,
}

/// Runs the command.
pub async fn run(context: &Context, args: Args) -> Result<(), CliError> {
    let connection = context.connect().await?;
    let here = context.project_if_any()?;
    let found = history::resolve(&connection, &args.run, here.as_ref().map(|p| p.folder.as_path()))?;
    let known = match &found {
        Found::Run(run) => vec![history::refresh(&connection, (**run).clone()).await?],
        Found::Sweep(sweep) => history::refresh_all(&connection, sweep.runs.clone()).await,
        Found::Process(_) => Vec::new(),
    };
    // The results belong to the folder that the run was made from, wherever the command is given.
    let project = match known.first() {
        Some(run) => context.project_at(&run.project_folder)?,
        None => context.project()?,
    };
    match known.iter().filter(|run| run.state.is_open()).collect::<Vec<_>>()[..] {
        [] => {}
        [run] if known.len() == 1 => {
            context.warn(&format!("the process is still {}: these are the results so far", run.state.word()));
        }
        _ => context.warn(&format!("the sweep has not ended ({}): these are the results so far", sweeps::counts(&known))),
    }
    let options = TreeOptions { dry_run: args.dry_run, ..TreeOptions::default() };
    if args.dry_run {
        return super::sync::show_plans(context, &connection, &project, &[Tree::Result], &options).await;
    }
    // What has not ended is fetched again later.
    let of_one = known.len() == 1;
    let runs: Vec<_> = known.iter().filter(|run| of_one || !run.state.is_open()).collect();
    let events = context.events();
    let report = context.interruptible(run::results::fetch(&connection, &project, &runs, &options, &events)).await??;
    super::sync::complain(Tree::Result, &report)
}
