//! Diagnostics (`tracing`) on standard error.

use tracing_subscriber::EnvFilter;

/// Starts them: warnings, with `-v` our own steps; `POLLINATOR_LOG` (the syntax of tracing's filters) says otherwise.
pub fn start(verbose: bool) {
    let default = if verbose { "warn,pollinator=debug" } else { "error,pollinator=warn" };
    let filter = EnvFilter::try_from_env("POLLINATOR_LOG").unwrap_or_else(|_| EnvFilter::new(default));
    let layer = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_target(false);
    // A second start (tests in one process) keeps the first.
    let _ = layer.try_init();
}
