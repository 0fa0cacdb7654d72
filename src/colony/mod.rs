//! The embedded local colony: a Colonies server, an S3 endpoint and an executor, for one person on one machine.
//!
//! [`serve()`] is the process that does it all; [`ensure_running`] starts it in the background where it is not there.

mod background;
mod database;
pub mod objects;
mod scheduler;
mod serve;
pub mod server;
mod settings;
mod unit;

pub use background::READY;
pub use background::Running;
pub use background::ensure_running;
pub use background::environment;
pub use background::keep_running;
pub use background::reset;
pub use background::status;
pub use background::stop;
pub use serve::Options;
pub use serve::serve;
pub use settings::COLONY;

use std::path::PathBuf;

/// Why the local colony cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A folder or file of it.
    #[error("{}: {source}", path.display())]
    Folder {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// Its database.
    #[error(transparent)]
    Database(#[from] crate::sqlite::Error),
    /// Another process serves it.
    #[error("the local colony in {} is served by another process already", folder.display())]
    Running {
        /// Its folder.
        folder: PathBuf,
    },
    /// It was never started, so it has no keys yet.
    #[error("the local colony was never started")]
    NeverStarted,
    /// Its settings are not understood.
    #[error("{} is damaged: {reason}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// Keys cannot be made or used.
    #[error("a key of the local colony: {0}")]
    Keys(String),
    /// No port on loopback.
    #[error("the local colony cannot listen on loopback: {0}")]
    Network(std::io::Error),
    /// Something on the way to a running colony.
    #[error("the local colony: {0}")]
    Setup(String),
    /// One of its parts ended while the others went on.
    #[error("{what} of the local colony ended: {reason}")]
    EndedEarly {
        /// Which part.
        what: String,
        /// Why.
        reason: String,
    },
    /// It did not come up.
    #[error("the local colony did not start: {reason}{}", shown(tail))]
    DidNotStart {
        /// Why.
        reason: String,
        /// Its log.
        log: PathBuf,
        /// The log's last lines.
        tail: Vec<String>,
    },
    /// It is just coming up.
    #[error("the local colony is just starting")]
    Starting,
    /// It did not end.
    #[error("the local colony did not stop within {seconds} s")]
    DidNotStop {
        /// How long was waited.
        seconds: u64,
    },
    /// Processes run.
    #[error("{processes} process(es) still run on the local colony")]
    Busy {
        /// How many.
        processes: usize,
    },
}

fn shown(tail: &[String]) -> String {
    if tail.is_empty() { String::new() } else { format!("\n  {}", tail.join("\n  ")) }
}

impl Error {
    /// What to do about it, for a person.
    pub fn hint(&self) -> Option<String> {
        match self {
            Error::NeverStarted => Some("`pollinator colony start` starts it".into()),
            Error::DidNotStart { log, .. } => Some(format!("its log is {}", log.display())),
            Error::Damaged { .. } => Some("`pollinator colony reset` makes a new one, without its processes and files".into()),
            Error::Starting => Some("try again in a moment".into()),
            Error::Busy { .. } => Some("wait for them (`pollinator runs --all`), or give --force to cancel them".into()),
            _ => None,
        }
    }
}
