//! `pollinator executor start`: signals, the service manager's protocol, and the executor.

use super::Which;
use crate::cli::CliError;
use crate::cli::Context;
use crate::cli::manager;
use crate::executor;
use crate::executor::settings;
use crate::executor::settings::Shown;
use sd_notify::NotifyState;
use std::path::PathBuf;
use std::time::Duration;
use tokio::signal::unix::SignalKind;
use tokio::signal::unix::signal;
use tokio_util::sync::CancellationToken;

/// Arguments of `pollinator executor start`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Where jobs run
    #[arg(long, value_name = "BACKEND", value_parser = ["process", "container", "slurm", "kubernetes"])]
    pub backend: Option<String>,
    #[command(flatten)]
    pub which: Which,
    /// Show the settings that hold, without secrets, and start nothing
    #[arg(long)]
    pub check: bool,
    /// Write the log into a file instead of standard error
    #[arg(long, value_name = "FILE")]
    pub log: Option<PathBuf>,
}

/// Runs the command until it is told to end: SIGTERM, Ctrl-C, or `pollinator executor stop`.
pub async fn run(context: &Context, args: Args) -> Result<(), CliError> {
    let asked = settings::Asked { backend: args.backend, ..args.which.asked() };
    let loaded = settings::load(&super::sources(context), &asked)?;
    if args.check {
        loaded.warnings.iter().for_each(|warning| context.warn(warning));
        return show(context, &loaded.shown);
    }
    loaded.warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
    for row in &loaded.shown.rows {
        if let Some(value) = &row.value {
            tracing::info!(from = row.origin, "{} = {value}", row.name);
        }
    }
    crate::open_files::raise();
    let stop = stopped_by_signals()?;
    let options = loaded.into_options()?;
    tracing::info!(version = env!("CARGO_PKG_VERSION"), pid = std::process::id(), executor = options.name, "starting");
    executor::serve(options, stop, &Manager).await?;
    manager::tell(&[NotifyState::Stopping]);
    tracing::info!("the executor has ended");
    Ok(())
}

fn show(context: &Context, shown: &Shown) -> Result<(), CliError> {
    if context.json() {
        return context.print_json(shown);
    }
    let row =
        |row: &crate::config::Row| vec![row.name.clone(), row.value.clone().unwrap_or_else(|| "-".into()), row.origin.clone()];
    context.print_table(&["SETTING", "VALUE", "FROM"], shown.rows.iter().map(row).collect());
    Ok(())
}

fn stopped_by_signals() -> Result<CancellationToken, CliError> {
    let stop = CancellationToken::new();
    let listen = |kind| signal(kind).map_err(|e| CliError::failed(format!("signals cannot be listened for: {e}")));
    let (mut terminate, mut interrupt) = (listen(SignalKind::terminate())?, listen(SignalKind::interrupt())?);
    let (mut hangup, ending) = (listen(SignalKind::hangup())?, stop.clone());
    tokio::spawn(async move {
        loop {
            tokio::select! {
                _ = terminate.recv() => break,
                _ = interrupt.recv() => break,
                // The terminal it was started from is closed: no reason to end. Settings are read at the start only.
                _ = hangup.recv() => tracing::info!("SIGHUP changes nothing: restart it for other settings; jobs go on meanwhile"),
            }
        }
        manager::tell(&[NotifyState::Stopping]);
        ending.cancel();
    });
    Ok(stop)
}

/// The service manager, as the executor sees it.
struct Manager;

impl executor::Manager for Manager {
    fn ready(&self) {
        manager::tell(&[NotifyState::Ready]);
    }

    fn status(&self, text: &str) {
        manager::tell(&[NotifyState::Status(text)]);
    }

    fn beat_every(&self) -> Option<Duration> {
        manager::beat()
    }

    fn beat(&self) {
        manager::tell(&[NotifyState::Watchdog]);
    }
}
