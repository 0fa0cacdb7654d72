//! `pollinator executors`: which executors the colony has, and what they offer.

use crate::cli::CliError;
use crate::cli::Context;
use crate::cli::render::times;
use crate::colonies::EXECUTOR_UNREGISTERED;
use crate::colonies::Executor;
use crate::run;

/// Arguments of `pollinator executors`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Those too that were removed or have been silent for too long
    #[arg(long)]
    pub all: bool,
}

/// Runs the command.
pub async fn run(context: &Context, args: Args) -> Result<(), CliError> {
    let connection = context.connect().await?;
    let mut executors = connection.client().executors().await.map_err(run::Error::from)?;
    executors.retain(|e| args.all || e.state != EXECUTOR_UNREGISTERED);
    executors.sort_by(|a, b| a.executorname.cmp(&b.executorname));
    if context.json() {
        return context.print_json(&executors);
    }
    if executors.is_empty() {
        context.print("the colony has no executor at the moment");
        return Ok(());
    }
    context.print_table(&["NAME", "TYPE", "STATE", "HARDWARE", "SOFTWARE", "LAST HEARD"], executors.iter().map(row).collect());
    Ok(())
}

fn row(executor: &Executor) -> Vec<String> {
    let heard = executor.lastheardfromtime.get().map_or("-".into(), |t| times::when(t.as_nanosecond() as i64));
    vec![
        executor.executorname.clone(),
        executor.executortype.clone(),
        executor.state_word().to_owned(),
        hardware(executor),
        software(executor),
        heard,
    ]
}

fn hardware(executor: &Executor) -> String {
    let one = |h: &crate::colonies::Hardware| {
        let mut parts = vec![h.model.clone(), h.platform.clone()];
        if h.nodes > 1 {
            parts.push(format!("{} nodes", h.nodes));
        }
        parts.extend([h.cpu.clone(), h.mem.clone()]);
        if h.gpu.count > 0 {
            parts.push(format!("{} x {}", h.gpu.count, h.gpu.name));
        }
        parts.retain(|part| !part.is_empty());
        parts.join(" ")
    };
    executor.capabilities.hardware.iter().map(one).filter(|text| !text.is_empty()).collect::<Vec<_>>().join("; ")
}

fn software(executor: &Executor) -> String {
    let one = |s: &crate::colonies::Software| format!("{} {}", s.name, s.version).trim().to_owned();
    executor.capabilities.software.iter().map(one).filter(|text| !text.is_empty()).collect::<Vec<_>>().join("; ")
}
