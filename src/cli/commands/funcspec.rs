//! `pollinator funcspec`: the function specification that a run would submit, as JSON.

use crate::cli::CliError;
use crate::cli::Context;
use crate::event::Tree;
use crate::run;
use crate::run::points;
use crate::run::points::Point;
use crate::run::spec;
use crate::run::spec::Parts;
use crate::run::trees;
use crate::run::trees::TreeOptions;

/// Arguments of `pollinator funcspec`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Send nothing: the snapshot's id stands as a placeholder
    #[arg(long)]
    pub dry_run: bool,
    /// Executor instead of those in project.yaml
    #[arg(long, value_name = "NAME")]
    pub executor: Option<String>,
    /// Taken for the sake of scripts for the earlier Pollinator, where it does nothing either
    #[arg(short, long, hide = true)]
    pub follow: bool,
}

/// Runs the command. As today's tool does, it brings the trees over first, so that the specification can be submitted.
pub async fn run(context: &Context, args: Args) -> Result<(), CliError> {
    let project = context.project()?;
    let name = &project.settings.projectname;
    let points = points::of(&project.settings, points::MOST)?;
    let executors = args.executor.map_or_else(|| project.settings.executor_names.clone(), |name| vec![name]);
    let (colony, queue, snapshot_id, snapshot_label) = if args.dry_run {
        (context.colony_name()?, false, spec::NO_SNAPSHOT.to_owned(), spec::label(name, Tree::Src))
    } else {
        let connection = context.connect().await?;
        let queue = run::submission::takers_have_queue(&connection, &executors).await?;
        let events = context.events();
        let _lock = run::submission::lock(&connection, &project, &events).await?;
        let report = trees::bring_over(&connection, &project, &TreeOptions::default(), &events).await?;
        let frozen = trees::freeze(&connection, &project, &report.src).await?;
        (connection.client().colony().to_owned(), queue, frozen.snapshot_id, frozen.label)
    };
    // It is none of our runs, but where each run has its own folder for results, it needs one, too.
    let run_id = if args.dry_run { spec::NO_RUN.to_owned() } else { run::submission::new_run_id()? };
    let made = |sweep: Option<(&str, &Point)>| {
        let parts = Parts {
            colony: &colony,
            executors: &executors,
            queue,
            snapshot_id: &snapshot_id,
            snapshot_label: &snapshot_label,
            run_id: &run_id,
            sweep,
        };
        let mut made = spec::function_spec(sweep.map_or(&project.settings, |(_, point)| &point.settings), &parts);
        made.env.remove(spec::RUN_ID);
        made.label.clear();
        made
    };
    // A sweep is a process for each point, so it has a specification for each.
    match points {
        None => context.print_json(&made(None)),
        Some(points) => {
            let sweep = if args.dry_run { spec::NO_SWEEP.to_owned() } else { run::submission::new_run_id()? };
            context.print_json(&points.iter().map(|point| made(Some((&sweep, point)))).collect::<Vec<_>>())
        }
    }
}
