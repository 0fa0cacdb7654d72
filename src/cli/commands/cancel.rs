//! `pollinator cancel RUN`: ends a waiting or running process.

use super::sweeps;
use crate::cli::CliError;
use crate::cli::Context;
use crate::journal::runs::Run;
use crate::run;
use crate::run::Connection;
use crate::run::history;
use crate::run::history::Found;
use crate::run::history::Sweep;
use futures_util::StreamExt;
use futures_util::TryStreamExt;

/// Arguments of `pollinator cancel`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Process or sweep ids, beginnings of them, or `last`
    #[arg(value_name = "RUN", required = true)]
    pub runs: Vec<String>,
}

/// Runs the command.
pub async fn run(context: &Context, args: Args) -> Result<(), CliError> {
    let connection = context.connect().await?;
    let folder = context.project_if_any()?.map(|p| p.folder);
    let mut cancelled = Vec::new();
    for word in &args.runs {
        let found = history::resolve(&connection, word, folder.as_deref())?;
        if let Found::Sweep(sweep) = &found {
            cancelled.extend(cancel_sweep(context, &connection, sweep).await?);
            continue;
        }
        let id = found.process_id()?;
        connection.client().cancel(id).await.map_err(run::Error::from)?;
        let process = connection.client().process(id).await.map_err(run::Error::from)?;
        if let Some(run) = found.run() {
            history::note(&connection, run.clone(), &process).await?;
        }
        cancelled.push(id.to_owned());
        if !context.json() {
            context.print(&format!("Process cancelled ProcessID={id}"));
        }
    }
    if context.json() { context.print_json(&serde_json::json!({ "cancelled": cancelled })) } else { Ok(()) }
}

/// So many processes are cancelled at once.
const AT_ONCE: usize = 8;

/// Cancels what of a sweep has not ended. What is not submitted yet never is.
async fn cancel_sweep(context: &Context, connection: &Connection, sweep: &Sweep) -> Result<Vec<String>, CliError> {
    let mut cancelled = Vec::new();
    let mut runs = history::refresh_all(connection, sweep.runs.clone()).await;
    let open = |runs: &[Run]| runs.iter().any(|run| run.state.is_open());
    if !open(&runs) {
        return Err(CliError::failed(format!("sweep {} has ended: {}", sweep.id, sweeps::counts(&runs))));
    }
    // Once more as long as somebody was submitting it meanwhile.
    while open(&runs) {
        for run in runs.iter().filter(|run| run.process_id.is_none() && run.state.is_open()) {
            connection.journal.mark_run_lost(&run.run_id)?;
        }
        let open = runs.iter().filter(|run| run.state.is_open()).filter_map(|run| run.process_id.as_deref());
        let cancel = |id: &str| {
            let id = id.to_owned();
            async move {
                match connection.client().cancel(&id).await {
                    Err(error) if error.is_unreachable() => Err(error),
                    // It may have ended by itself at this moment: what became of it is asked for below.
                    done => Ok((id, done)),
                }
            }
        };
        let all: Vec<_> =
            futures_util::stream::iter(open).map(cancel).buffered(AT_ONCE).try_collect().await.map_err(run::Error::from)?;
        let now = history::refresh_all(connection, connection.journal.sweep(&sweep.id)?).await;
        for (id, done) in all {
            let run = now.iter().find(|run| run.process_id.as_deref() == Some(&id));
            match (done, run) {
                (Ok(()), _) => cancelled.push(id),
                (Err(error), Some(run)) if run.state.is_open() => return Err(run::Error::from(error).into()),
                (Err(_), _) => {}
            }
        }
        runs = now;
    }
    if !context.json() {
        let (all, id) = (runs.len(), &sweep.id);
        context.print(&format!("Sweep cancelled SweepID={id} ({} of {all} processes)", cancelled.len()));
    }
    Ok(cancelled)
}
