//! `pollinatord` in the foreground: signals, the service manager's protocol, and the agent.

use crate::agent;
use crate::cli::CliError;
use crate::cli::Context;
use crate::cli::manager::beat;
use crate::cli::manager::tell;
use tokio::signal::unix::SignalKind;
use tokio::signal::unix::signal;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// Serves until the process is told to end: SIGTERM, Ctrl-C, or `pollinatord stop`. SIGHUP reads the settings again.
pub async fn serve(context: &Context, poll: bool) -> Result<(), CliError> {
    crate::open_files::raise();
    let state = context.settings()?.state_dir.clone();
    let stop = CancellationToken::new();
    let (tell_reload, reload) = mpsc::unbounded_channel();
    let listen = |kind| signal(kind).map_err(|e| CliError::failed(format!("signals cannot be listened for: {e}")));
    let (mut terminate, mut interrupt) = (listen(SignalKind::terminate())?, listen(SignalKind::interrupt())?);
    let (mut hangup, ending) = (listen(SignalKind::hangup())?, stop.clone());
    tokio::spawn(async move {
        loop {
            tokio::select! {
                _ = terminate.recv() => break,
                _ = interrupt.recv() => break,
                _ = hangup.recv() => {
                    // Newer service managers (Type=notify-reload) want to know when.
                    let when = sd_notify::NotifyState::monotonic_usec_now().ok();
                    tell(&[sd_notify::NotifyState::Reloading].into_iter().chain(when).collect::<Vec<_>>());
                    // The agent's end is the only reason to fail.
                    let _ = tell_reload.send(());
                    tell(&[sd_notify::NotifyState::Ready]);
                }
            }
        }
        tell(&[sd_notify::NotifyState::Stopping]);
        ending.cancel();
    });
    let options = agent::Options { state, poll: poll || polls(context) };
    let ready = || {
        tracing::info!(version = env!("CARGO_PKG_VERSION"), pid = std::process::id(), "the agent serves");
        tell(&[sd_notify::NotifyState::Ready]);
        if std::env::var_os(agent::life::TELL_READY).is_some() {
            context.print(agent::life::READY);
        }
    };
    agent::serve(options, stop, reload, ready, beat()).await?;
    tracing::info!("the agent has ended");
    Ok(())
}

/// Whether `POLLINATOR_WATCH=poll` is set: for file systems that tell nothing and do not look it.
fn polls(context: &Context) -> bool {
    match std::env::var("POLLINATOR_WATCH") {
        Ok(text) if text == "poll" => true,
        Ok(text) if !text.is_empty() && text != "auto" => {
            context.warn(&format!("POLLINATOR_WATCH must be poll or auto, found {text:?}: it is not used"));
            false
        }
        _ => false,
    }
}
