//! The service manager's protocol, where there is a service manager.

use sd_notify::NotifyState;
use std::time::Duration;

/// How often the service manager wants to hear that we live, where it wants to.
pub fn beat() -> Option<Duration> {
    sd_notify::watchdog_enabled().map(|within| within / 3)
}

/// Tells the service manager, where there is one.
pub fn tell(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::debug!(%error, "the service manager does not listen");
    }
}
