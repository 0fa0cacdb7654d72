//! Errors as people see them: what failed, on what, why, what to do next; and the exit code of each kind.

use crate::agent;
use crate::agent::hooks;
use crate::cfs;
use crate::colonies;
use crate::colony;
use crate::config;
use crate::executor;
use crate::index;
use crate::journal;
use crate::project;
use crate::run;
use crate::store;
use std::fmt;

/// Exit code: something failed.
pub const FAILED: u8 = 1;
/// Exit code: usage or configuration.
pub const USAGE: u8 = 2;
/// Exit code: the process failed or was cancelled.
pub const PROCESS_FAILED: u8 = 3;
/// Exit code: a server cannot be reached.
pub const UNREACHABLE: u8 = 4;
/// Exit code: interrupted by the user.
pub const INTERRUPTED: u8 = 130;

/// An error with its exit code and advice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CliError {
    /// Exit code.
    pub code: u8,
    /// What failed, on what, why.
    pub message: String,
    /// More of the same, one line each.
    pub details: Vec<String>,
    /// What to do next.
    pub hints: Vec<String>,
}

impl CliError {
    fn new(code: u8, message: impl Into<String>) -> CliError {
        CliError { code, message: message.into(), details: Vec::new(), hints: Vec::new() }
    }

    /// Something failed.
    pub fn failed(message: impl Into<String>) -> CliError {
        CliError::new(FAILED, message)
    }

    /// Usage or configuration.
    pub fn usage(message: impl Into<String>) -> CliError {
        CliError::new(USAGE, message)
    }

    /// The process failed or was cancelled.
    pub fn process_failed(message: impl Into<String>) -> CliError {
        CliError::new(PROCESS_FAILED, message)
    }

    /// The user pressed Ctrl-C.
    pub fn interrupted(message: impl Into<String>) -> CliError {
        CliError::new(INTERRUPTED, message)
    }

    /// With advice.
    pub fn with_hint(mut self, hint: impl Into<String>) -> CliError {
        self.hints.push(hint.into());
        self
    }

    fn with_hints(mut self, hint: Option<String>) -> CliError {
        self.hints.extend(hint);
        self
    }

    /// The first advice.
    pub fn first_hint(&self) -> Option<String> {
        self.hints.first().cloned()
    }
}

impl fmt::Display for CliError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for CliError {}

/// The exit code for a failure that may be "nobody answered".
fn reached(unreachable: bool) -> u8 {
    if unreachable { UNREACHABLE } else { FAILED }
}

impl From<colonies::Error> for CliError {
    fn from(error: colonies::Error) -> CliError {
        let code = match error {
            colonies::Error::Key(_) => USAGE,
            _ => reached(error.is_unreachable()),
        };
        CliError::new(code, error.to_string()).with_hints(error.hint())
    }
}

impl From<store::Error> for CliError {
    fn from(error: store::Error) -> CliError {
        CliError::new(reached(error.is_unreachable()), error.to_string()).with_hints(error.hint())
    }
}

impl From<cfs::Error> for CliError {
    fn from(error: cfs::Error) -> CliError {
        CliError::new(reached(error.is_unreachable()), error.to_string()).with_hints(error.hint())
    }
}

impl From<run::Error> for CliError {
    fn from(error: run::Error) -> CliError {
        match error {
            run::Error::Colony(error) => error.into(),
            run::Error::Files(error) => error.into(),
            run::Error::Project(error) => error.into(),
            error if error.is_usage() => CliError::new(USAGE, error.to_string()).with_hints(error.hint()),
            error => CliError::failed(error.to_string()).with_hints(error.hint()),
        }
    }
}

impl From<run::tunnel::Error> for CliError {
    fn from(error: run::tunnel::Error) -> CliError {
        let code = match error {
            run::tunnel::Error::Unfit { .. } | run::tunnel::Error::NoKey { .. } | run::tunnel::Error::PortTaken { .. } => USAGE,
            _ => FAILED,
        };
        CliError::new(code, error.to_string()).with_hints(error.hint())
    }
}

impl From<project::Error> for CliError {
    fn from(error: project::Error) -> CliError {
        CliError::new(USAGE, error.to_string()).with_hints(error.hint())
    }
}

impl From<config::Error> for CliError {
    fn from(error: config::Error) -> CliError {
        CliError::new(USAGE, error.to_string()).with_hints(error.hint())
    }
}

impl From<colony::Error> for CliError {
    fn from(error: colony::Error) -> CliError {
        CliError::failed(error.to_string()).with_hints(error.hint())
    }
}

impl From<hooks::Error> for CliError {
    fn from(error: hooks::Error) -> CliError {
        let code = match error {
            hooks::Error::NoGit(_) | hooks::Error::File { .. } => FAILED,
            _ => USAGE,
        };
        CliError::new(code, error.to_string()).with_hints(error.hint())
    }
}

impl From<executor::Error> for CliError {
    fn from(error: executor::Error) -> CliError {
        let code = if error.is_usage() { USAGE } else { FAILED };
        CliError::new(code, error.to_string()).with_hints(error.hint())
    }
}

impl From<executor::settings::Error> for CliError {
    fn from(error: executor::settings::Error) -> CliError {
        CliError::new(USAGE, error.to_string()).with_hints(error.hint())
    }
}

impl From<journal::Error> for CliError {
    fn from(error: journal::Error) -> CliError {
        CliError::failed(error.to_string())
    }
}

impl From<agent::Error> for CliError {
    fn from(error: agent::Error) -> CliError {
        let (message, hint) = (error.to_string(), error.hint());
        let mut told = match error {
            agent::Error::Refused { code, .. } => CliError::new(code, message),
            agent::Error::NotRunning => CliError::new(UNREACHABLE, message),
            agent::Error::Life { tail, .. } => CliError { details: tail, ..CliError::failed(message) },
            _ => CliError::failed(message),
        };
        told.hints.extend(hint);
        told
    }
}

impl From<index::Error> for CliError {
    fn from(error: index::Error) -> CliError {
        CliError::failed(error.to_string())
    }
}
