//! `pollinator runs`: the history, newest first.

use super::sweeps;
use crate::cli::CliError;
use crate::cli::Context;
use crate::cli::render::times;
use crate::journal::runs::Run;
use crate::journal::runs::RunFilter;
use crate::run::Connection;
use crate::run::history;
use crate::run::history::Found;

/// Arguments of `pollinator runs`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Runs of all projects, not only of the one in this folder
    #[arg(long)]
    pub all: bool,
    /// How many; a sweep counts as one
    #[arg(short = 'n', long, value_name = "N", default_value_t = 20)]
    pub limit: u32,
    /// The runs of one sweep: its id, the beginning of it, or `last`
    #[arg(long, value_name = "ID", conflicts_with_all = ["all", "limit"])]
    pub sweep: Option<String>,
}

/// Runs the command.
pub async fn run(context: &Context, args: Args) -> Result<(), CliError> {
    let connection = context.connect().await?;
    if let Some(word) = &args.sweep {
        return one_sweep(context, &connection, word).await;
    }
    let project_folder = if args.all { None } else { context.project_if_any()?.map(|p| p.folder) };
    let filter = RunFilter { project_folder, limit: Some(args.limit) };
    let known = connection.journal.runs_and_sweeps(&filter).map_err(crate::run::Error::from)?;
    let lengths: Vec<usize> = known.iter().map(Vec::len).collect();
    let mut runs = history::refresh_all(&connection, known.into_iter().flatten().collect()).await;
    if context.json() {
        return context.print_json(&runs);
    }
    if runs.is_empty() {
        context.print("no runs yet: `pollinator run --follow` makes one");
        return Ok(());
    }
    let rows = lengths.into_iter().filter_map(|length| {
        let together: Vec<Run> = runs.drain(..length).collect();
        let mut row = sweeps::row(&together).or_else(|| together.first().map(row))?;
        if args.all {
            row.insert(1, together.first()?.project_name.clone());
        }
        Some(row)
    });
    let rows = rows.collect();
    let mut headers = vec!["PROCESS", "STATE", "CREATED", "TOOK", "EXECUTOR", "COMMIT", "RESULTS"];
    if args.all {
        headers.insert(1, "PROJECT");
    }
    context.print_table(&headers, rows);
    Ok(())
}

/// Opens a sweep.
async fn one_sweep(context: &Context, connection: &Connection, word: &str) -> Result<(), CliError> {
    let folder = context.project_if_any()?.map(|p| p.folder);
    let runs = match history::resolve(connection, word, folder.as_deref())? {
        Found::Sweep(sweep) => sweep.runs,
        Found::Run(run) => match &run.sweep {
            Some(sweep) => connection.journal.sweep(sweep)?,
            None => return Err(CliError::usage(format!("run {word} is no part of a sweep"))),
        },
        Found::Process(_) => return Err(CliError::usage(format!("process {word} is no part of a sweep of yours"))),
    };
    let runs = history::refresh_all(connection, runs).await;
    if context.json() {
        return context.print_json(&runs);
    }
    sweeps::print_points(context, &runs);
    Ok(())
}

/// A span between two times, where both are known.
pub fn took(started: Option<i64>, ended: Option<i64>) -> String {
    match (started, ended) {
        (Some(start), Some(end)) if end >= start => times::duration(end - start),
        _ => "-".into(),
    }
}

/// The beginning of a run's commit; `+` where there were changes.
pub fn commit(run: &Run) -> String {
    let short = |c: &str| format!("{}{}", &c[..c.len().min(8)], if run.git_dirty { "+" } else { "" });
    run.git_commit.as_deref().map_or("-".into(), short)
}

fn row(run: &Run) -> Vec<String> {
    let id = run.process_id.as_deref().unwrap_or("-");
    vec![
        id[..id.len().min(12)].to_owned(),
        run.state.word().to_owned(),
        times::when(run.created),
        took(run.started, run.ended),
        run.executor.clone().unwrap_or_else(|| "-".into()),
        commit(run),
        run.results_fetched.map_or("-".into(), |_| "fetched".into()),
    ]
}
