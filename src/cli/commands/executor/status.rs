//! `pollinator executor status`: how an executor stands, or what its journal knows while it does not run.

use super::Which;
use crate::cli::CliError;
use crate::cli::Context;
use crate::cli::error::UNREACHABLE;
use crate::executor::control::client;
use crate::executor::control::model::Running;
use crate::executor::control::model::Share;
use crate::executor::control::model::Status;
use crate::executor::control::model::StopMode;
use jiff::Timestamp;

/// Arguments of `pollinator executor status`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    pub which: Which,
}

/// Runs the command: one executor, or all whose state is at its usual place.
pub async fn run(context: &Context, args: Args) -> Result<(), CliError> {
    let folders = super::folders(context, &args.which)?;
    let mut all = Vec::new();
    for folder in &folders {
        if let Some(status) = client::status(folder).await? {
            all.push(status);
        }
    }
    if all.is_empty() {
        return Err(super::nowhere(&folders));
    }
    if context.json() {
        match all.as_slice() {
            [one] => context.print_json(one)?,
            _ => context.print_json(&all)?,
        }
    } else {
        for (number, status) in all.iter().enumerate() {
            if number > 0 {
                context.print("");
            }
            show(context, status);
        }
    }
    match all.iter().find(|status| !status.running) {
        Some(down) => Err(CliError { code: UNREACHABLE, ..CliError::failed(format!("the executor {} does not run", down.name)) }),
        None => Ok(()),
    }
}

fn show(context: &Context, status: &Status) {
    let line = |name: &str, text: &str| context.print(&format!("{name:<12}{text}"));
    line("executor", &format!("{} ({}), backend {}", status.name, status.executor_type, status.backend));
    line("colony", &format!("{} at {}", status.colony, status.server));
    line("runs", &whereabouts(status));
    line("work", &work(status));
    if let Some(problem) = &status.problem {
        line("problem", problem);
    }
    if let (Some(heard), None) = (status.heard, &status.problem) {
        line("heard", &format!("{} ago", since(heard)));
    }
    if let Some(room) = &status.room {
        let shares = [
            ("slots", &room.slots, 1, ""),
            ("CPU", &room.cpu_millis, 1000, ""),
            ("memory", &room.mem_mib, 1, " MiB"),
            ("GPUs", &room.gpus, 1, ""),
        ];
        let told: Vec<String> =
            shares.iter().map(|(name, share, unit, text)| format!("{name} {}{text}", of(share, *unit))).collect();
        line("taken", &told.join(", "));
    }
    line("state", &status.state_dir.display().to_string());
    line("files", &status.fs_dir.display().to_string());
    if status.processes.is_empty() {
        return;
    }
    context.print("");
    context.print_table(&["PROCESS", "PROJECT", "STAGE", "ASSIGNED", "STARTED"], status.processes.iter().map(row).collect());
}

fn whereabouts(status: &Status) -> String {
    let since =
        status.since.map_or_else(String::new, |at| format!(", since {} ({})", at.strftime("%Y-%m-%d %H:%M:%SZ"), since(at)));
    let pid = status.pid.map_or_else(String::new, |pid| format!("process {pid} "));
    match (status.running, status.answers) {
        (true, true) => format!("{pid}on {}, version {}{since}", status.host, status.version),
        (true, false) => format!(
            "{pid}on {}, version {}: it does not answer here, this is what its journal knows",
            status.host, status.version
        ),
        (false, _) => format!("no; last on {}", status.host),
    }
}

fn work(status: &Status) -> String {
    let taking = match (status.running, status.draining) {
        (true, false) => "takes work",
        (true, true) if status.drained => "takes no new work, and has none left",
        (true, true) => "takes no new work",
        (false, false) => "none while it does not run; jobs go on, and the next start finds them",
        (false, true) => "takes no new work when it starts",
    };
    let stopping = match status.stopping {
        Some(StopMode::WhenDrained) => "; stops when the last job is closed",
        Some(StopMode::CancelJobs) => "; cancels its jobs and stops",
        Some(StopMode::Now) => "; stops",
        None => "",
    };
    format!("{taking}{stopping}")
}

fn of(share: &Share, unit: u64) -> String {
    let number = |n: u64| if n.is_multiple_of(unit) { (n / unit).to_string() } else { format!("{:.1}", n as f64 / unit as f64) };
    match share.all {
        Some(all) => format!("{} of {}", number(share.used), number(all)),
        None => number(share.used),
    }
}

fn row(running: &Running) -> Vec<String> {
    let ago = |at: Option<Timestamp>| at.map_or_else(|| "-".into(), |at| format!("{} ago", since(at)));
    vec![
        running.process.clone(),
        running.project.clone().unwrap_or_else(|| "-".into()),
        running.stage.clone(),
        ago(running.assigned),
        ago(running.started),
    ]
}

/// The time since then, in one unit.
fn since(at: Timestamp) -> String {
    let seconds = Timestamp::now().as_second().saturating_sub(at.as_second()).max(0);
    match seconds {
        0..=119 => format!("{seconds} s"),
        120..=7199 => format!("{} min", seconds / 60),
        7200..=172_799 => format!("{} h", seconds / 3600),
        _ => format!("{} d", seconds / 86_400),
    }
}
