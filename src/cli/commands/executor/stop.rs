//! `pollinator executor stop`: ends an executor, with or without its jobs.

use super::Which;
use crate::cli::CliError;
use crate::cli::Context;
use crate::executor::control;
use crate::executor::control::client;
use crate::executor::control::model::StopMode;
use crate::lock::Holder;
use std::path::Path;
use std::time::Duration;
use std::time::Instant;

/// How long it may take to end where it waits for no job.
const PATIENCE: Duration = Duration::from_secs(30);
/// How often it is looked whether it has ended: a lock that is held elsewhere tells of its end in no other way.
const LOOK: Duration = Duration::from_millis(50);

/// Arguments of `pollinator executor stop`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    pub which: Which,
    /// Take no new work, and stop when the last job is closed
    #[arg(long, conflicts_with = "cancel_jobs")]
    pub when_drained: bool,
    /// Cancel its processes, wait until they are closed, and stop
    #[arg(long)]
    pub cancel_jobs: bool,
}

/// Runs the command, until the executor has ended.
pub async fn run(context: &Context, args: Args) -> Result<(), CliError> {
    let folder = super::folder(context, &args.which)?;
    let mode = match (args.when_drained, args.cancel_jobs) {
        (true, _) => StopMode::WhenDrained,
        (_, true) => StopMode::CancelJobs,
        _ => StopMode::Now,
    };
    let stopped = match client::holder(&folder) {
        None => false,
        Some(Err(_)) => return Err(CliError::failed(format!("it cannot be seen who runs the executor in {}", folder.display()))),
        Some(Ok(holder)) => {
            control::ask_to_stop(&folder, mode, &holder)
                .map_err(|e| CliError::failed(format!("the wish cannot be left in {}: {e}", folder.display())))?;
            client::look(&folder).await;
            context.interruptible(ended(&folder, &holder, mode)).await??;
            true
        }
    };
    if context.json() {
        return context.print_json(&serde_json::json!({ "stopped": stopped, "mode": mode }));
    }
    context.print(match (stopped, mode) {
        (false, _) => "the executor did not run",
        (true, StopMode::Now) => "the executor has ended; its jobs go on, and the next start finds them",
        (true, _) => "the executor has ended, and no job is left",
    });
    Ok(())
}

async fn ended(folder: &Path, holder: &Holder, mode: StopMode) -> Result<(), CliError> {
    let begun = Instant::now();
    let mut pulse = if holder.is_here() { None } else { client::pulse(folder) };
    while client::holder(folder).is_some_and(|now| now.as_ref().is_ok_and(|now| now == holder)) {
        if mode == StopMode::Now && begun.elapsed() > PATIENCE {
            let seconds = PATIENCE.as_secs();
            return Err(CliError::failed(format!("the executor ({holder}) has not ended within {seconds} s")));
        }
        if pulse.as_mut().is_some_and(|pulse| !pulse.beats()) {
            let reason = "has given no sign of life for half a minute";
            let hint = "where its machine is gone, `pollinator executor start` here takes its jobs over";
            return Err(CliError::failed(format!("the executor ({holder}) {reason}")).with_hint(hint));
        }
        tokio::time::sleep(LOOK).await;
    }
    Ok(())
}
