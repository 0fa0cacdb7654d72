//! `pollinator executor drain`: an executor takes no new work, and goes on with what it has.

use super::Which;
use crate::cli::CliError;
use crate::cli::Context;
use crate::cli::error::UNREACHABLE;
use crate::executor::control;
use crate::executor::control::client;
use crate::executor::control::model::Status;
use std::path::Path;
use std::time::Duration;

/// How often it is looked whether the last job is closed.
const LOOK: Duration = Duration::from_millis(500);

/// Arguments of `pollinator executor drain`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    pub which: Which,
    /// Take work again
    #[arg(long, conflicts_with = "wait")]
    pub undo: bool,
    /// Return when the last job is closed
    #[arg(long)]
    pub wait: bool,
}

/// Runs the command. The wish is kept over restarts.
pub async fn run(context: &Context, args: Args) -> Result<(), CliError> {
    let folder = super::folder(context, &args.which)?;
    let status = client::status(&folder).await?.ok_or_else(|| super::nowhere(std::slice::from_ref(&folder)))?;
    let changed = control::set_draining(&folder, !args.undo);
    let changed = changed.map_err(|e| CliError::failed(format!("the wish cannot be left in {}: {e}", folder.display())))?;
    client::look(&folder).await;
    let name = status.name.clone();
    let text = match (args.undo, status.running) {
        (true, true) => format!("the executor {name} takes work again"),
        (true, false) => format!("the executor {name} takes work when it starts"),
        (false, true) => format!("the executor {name} takes no new work; jobs that it has go on"),
        (false, false) => format!("the executor {name} does not run; it takes no new work when it starts"),
    };
    let status = if args.wait { wait(context, &folder, status).await? } else { status };
    if context.json() {
        let left = status.processes.len();
        return context
            .print_json(&serde_json::json!({ "executor": name, "draining": !args.undo, "changed": changed, "processes": left }));
    }
    context.print(&text);
    if args.wait {
        context.print("its last job is closed");
    }
    Ok(())
}

/// Waits until nothing is left.
async fn wait(context: &Context, folder: &Path, mut status: Status) -> Result<Status, CliError> {
    let wait = async {
        loop {
            // One that does not answer here is judged by its journal.
            if status.drained {
                return Ok(status);
            }
            if !status.running {
                let left = status.processes.len();
                let message = format!("the executor {} does not run, and {left} of its processes are not closed", status.name);
                return Err(CliError { code: UNREACHABLE, ..CliError::failed(message) });
            }
            tokio::time::sleep(LOOK).await;
            status = client::status(folder).await?.unwrap_or_default();
        }
    };
    context.interruptible(wait).await?
}
