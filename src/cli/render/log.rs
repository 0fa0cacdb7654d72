//! Diagnostics (`tracing`) on standard error.

use crate::cli::CliError;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use tracing_subscriber::EnvFilter;

/// Those of the agent: what it does, with times unless a journal adds them.
pub fn start_agent(verbose: bool) {
    let filter = service_filter(verbose);
    let terminal = std::io::IsTerminal::is_terminal(&std::io::stderr());
    let layer =
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_target(false).with_ansi(terminal);
    // Set by systemd where standard error goes to its journal.
    let _ = if std::env::var_os("JOURNAL_STREAM").is_some() { layer.without_time().try_init() } else { layer.try_init() };
}

fn service_filter(verbose: bool) -> EnvFilter {
    let default = if verbose { "warn,pollinator=debug" } else { "off,pollinator=info" };
    EnvFilter::try_from_env("POLLINATOR_LOG").unwrap_or_else(|_| EnvFilter::new(default))
}

/// Those of an executor: as the agent's, or appended to a file that only its owner can read.
///
/// # Errors
/// The file cannot be opened.
pub fn start_service(verbose: bool, file: Option<&Path>) -> Result<(), CliError> {
    let Some(path) = file else {
        start_agent(verbose);
        return Ok(());
    };
    let opened = std::fs::OpenOptions::new().create(true).append(true).mode(0o600).open(path);
    let file = opened.map_err(|e| CliError::usage(format!("the log {} cannot be written: {e}", path.display())))?;
    let layer = tracing_subscriber::fmt().with_env_filter(service_filter(verbose)).with_writer(std::sync::Mutex::new(file));
    // A second start (tests in one process) keeps the first.
    let _ = layer.with_target(false).with_ansi(false).try_init();
    Ok(())
}

/// Starts them: warnings, with `-v` our own steps; `POLLINATOR_LOG` (the syntax of tracing's filters) says otherwise.
pub fn start(verbose: bool) {
    // What libraries say of a failure, our own errors say in better words.
    let default = if verbose { "warn,pollinator=debug" } else { "off,pollinator=warn" };
    let filter = EnvFilter::try_from_env("POLLINATOR_LOG").unwrap_or_else(|_| EnvFilter::new(default));
    let terminal = std::io::IsTerminal::is_terminal(&std::io::stderr());
    let layer =
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_target(false).with_ansi(terminal);
    // A second start (tests in one process) keeps the first.
    let _ = layer.try_init();
}
