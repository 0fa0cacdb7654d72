//! `pollinator runs`: the history, newest first.

use crate::cli::CliError;
use crate::cli::Context;
use crate::cli::render::times;
use crate::journal::runs::Run;
use crate::journal::runs::RunFilter;
use crate::run::history;
use futures_util::StreamExt;

/// Runs asked for at once when states are refreshed.
const AT_ONCE: usize = 8;

/// Arguments of `pollinator runs`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Runs of all projects, not only of the one in this folder
    #[arg(long)]
    pub all: bool,
    /// How many
    #[arg(short = 'n', long, value_name = "N", default_value_t = 20)]
    pub limit: u32,
}

/// Runs the command.
pub async fn run(context: &Context, args: Args) -> Result<(), CliError> {
    let connection = context.connect().await?;
    let project_folder = if args.all { None } else { context.project_if_any()?.map(|p| p.folder) };
    let filter = RunFilter { project_folder, limit: Some(args.limit) };
    let known = connection.journal.runs(&filter).map_err(crate::run::Error::from)?;
    let runs: Vec<Run> = futures_util::stream::iter(known)
        .map(|run| async {
            // A server out of reach does not take the history away: the last known state is shown.
            match history::refresh(&connection, run.clone()).await {
                Ok(fresh) => fresh,
                Err(error) => {
                    tracing::warn!(%error, run = run.run_id, "showing the last known state");
                    run
                }
            }
        })
        .buffered(AT_ONCE)
        .collect()
        .await;
    if context.json() {
        return context.print_json(&runs);
    }
    if runs.is_empty() {
        context.print("no runs yet: `pollinator run --follow` makes one");
        return Ok(());
    }
    let rows = runs.iter().map(|run| row(run, args.all)).collect();
    let mut headers = vec!["PROCESS", "STATE", "CREATED", "TOOK", "EXECUTOR", "COMMIT", "RESULTS"];
    if args.all {
        headers.insert(1, "PROJECT");
    }
    context.print_table(&headers, rows);
    Ok(())
}

fn row(run: &Run, with_project: bool) -> Vec<String> {
    let id = run.process_id.as_deref().unwrap_or("-");
    let commit = run
        .git_commit
        .as_deref()
        .map_or("-".into(), |c| format!("{}{}", &c[..c.len().min(8)], if run.git_dirty { "+" } else { "" }));
    let took = match (run.started, run.ended) {
        (Some(start), Some(end)) if end >= start => times::duration(end - start),
        _ => "-".into(),
    };
    let mut row = vec![
        id[..id.len().min(12)].to_owned(),
        run.state.word().to_owned(),
        times::when(run.created),
        took,
        run.executor.clone().unwrap_or_else(|| "-".into()),
        commit,
        run.results_fetched.map_or("-".into(), |_| "fetched".into()),
    ];
    if with_project {
        row.insert(1, run.project_name.clone());
    }
    row
}
