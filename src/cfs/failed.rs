//! Why one file did not arrive, and whether that is its own matter.

use super::Error;
use crate::colonies;
use crate::journal;
use crate::panics;
use crate::store;

/// Why one file did not arrive.
#[derive(Debug)]
pub(super) enum Failed {
    /// Its own matter: the others go on.
    File(String),
    /// Would befall the others, too.
    All(Error),
}

impl Failed {
    /// What work on one file comes to: a panic in it is that file's matter, too.
    pub(super) async fn caught<T>(work: impl Future<Output = Result<T, Failed>>) -> Result<T, Failed> {
        let done = panics::caught(work).await;
        done.unwrap_or_else(|said| Err(Failed::File(format!("internal error: {said}"))))
    }

    /// For a list of problems.
    pub(super) fn text(&self) -> String {
        match self {
            Failed::File(why) => why.clone(),
            Failed::All(error) => error.to_string(),
        }
    }
}

impl From<Error> for Failed {
    fn from(error: Error) -> Failed {
        Failed::All(error)
    }
}

impl From<journal::Error> for Failed {
    fn from(error: journal::Error) -> Failed {
        Failed::All(error.into())
    }
}

/// A refusal of one name is that file's matter; who cannot be reached or does not let us in is everybody's.
impl From<colonies::Error> for Failed {
    fn from(error: colonies::Error) -> Failed {
        match &error {
            colonies::Error::Refused { status: 200 | 400, .. } => Failed::File(error.to_string()),
            _ => Failed::All(error.into()),
        }
    }
}

impl From<store::Error> for Failed {
    fn from(error: store::Error) -> Failed {
        match &error {
            store::Error::Refused { status: 400 | 404 | 413, .. } => Failed::File(error.to_string()),
            store::Error::Refused { .. }
            | store::Error::Unreachable { .. }
            | store::Error::Timeout { .. }
            | store::Error::Untrusted { .. } => Failed::All(error.into()),
            store::Error::Setup { .. } | store::Error::Garbage { .. } => Failed::All(error.into()),
            store::Error::NoSpace { .. } => Failed::All(error.into()),
            _ => Failed::File(error.to_string()),
        }
    }
}
