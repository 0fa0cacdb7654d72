//! `pollinator colony`: the embedded local colony by hand.

use crate::cli::CliError;
use crate::cli::Context;
use crate::colony;
use std::path::PathBuf;
use tokio_util::sync::CancellationToken;

/// What to do with it.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Start it in the background
    Start,
    /// Stop it; its jobs go on and are found again at the next start
    Stop,
    /// Say whether it runs, and where
    Status,
    /// Print the variables that let any other ColonyOS client use it
    Env,
    /// Stop it and remove all its processes, files and keys
    Reset {
        /// Even while processes run
        #[arg(long)]
        force: bool,
    },
    /// Serve in the foreground
    #[command(hide = true)]
    Serve {
        /// Its folder
        #[arg(long)]
        folder: PathBuf,
    },
}

/// Runs the command.
pub async fn run(context: &Context, command: Command) -> Result<(), CliError> {
    if let Command::Serve { folder } = command {
        return serve(context, folder).await;
    }
    let state = context.settings()?.state_dir.clone();
    match command {
        Command::Start => {
            let running = colony::ensure_running(&state).await?;
            let word = if running.started { "started" } else { "runs already" };
            told(
                context,
                serde_json::json!({ "running": true, "started": running.started }),
                &format!("the local colony {word}: {}", place(&running)),
            )
        }
        Command::Stop => {
            let stopped = colony::stop(&state).await?;
            let text = if stopped { "the local colony has stopped" } else { "the local colony was not running" };
            told(context, serde_json::json!({ "running": false, "stopped": stopped }), text)
        }
        Command::Status => match colony::status(&state).await? {
            Some(running) => told(
                context,
                serde_json::json!({ "running": true, "server": format!("{}:{}", running.colony.host, running.colony.port),
                    "store": running.store.endpoint, "colony": running.colony.colony }),
                &format!("the local colony runs: {}", place(&running)),
            ),
            None => told(context, serde_json::json!({ "running": false }), "the local colony does not run"),
        },
        Command::Env => {
            colony::ensure_running(&state).await?;
            let variables = colony::environment(&state).await?;
            if context.json() {
                let map: serde_json::Map<_, _> =
                    variables.into_iter().map(|(name, value)| (name.to_string(), value.into())).collect();
                return context.print_json(&map);
            }
            for (name, value) in variables {
                context.print(&format!("export {name}={}", quoted(&value)));
            }
            Ok(())
        }
        Command::Reset { force } => {
            colony::reset(&state, force).await?;
            told(context, serde_json::json!({ "reset": true }), "the local colony and all that was in it are removed")
        }
        Command::Serve { .. } => Ok(()),
    }
}

fn told(context: &Context, json: serde_json::Value, text: &str) -> Result<(), CliError> {
    if context.json() {
        return context.print_json(&json);
    }
    context.print(text);
    Ok(())
}

fn place(running: &colony::Running) -> String {
    format!("server {}:{}, store {}", running.colony.host, running.colony.port, running.store.endpoint)
}

/// For a shell that takes it back with `eval`.
fn quoted(value: &str) -> String {
    format!("'{}'", value.replace('\'', "'\\''"))
}

/// Serves until the process is told to end.
async fn serve(context: &Context, folder: PathBuf) -> Result<(), CliError> {
    use tokio::signal::unix::SignalKind;
    use tokio::signal::unix::signal;
    crate::open_files::raise();
    let shutdown = CancellationToken::new();
    let listen = |kind| signal(kind).map_err(|e| CliError::failed(format!("signals cannot be listened for: {e}")));
    let (mut terminate, mut interrupt) = (listen(SignalKind::terminate())?, listen(SignalKind::interrupt())?);
    let stop = shutdown.clone();
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        stop.cancel();
    });
    Ok(colony::serve(colony::Options { folder }, shutdown, |_| context.print(colony::READY)).await?)
}
