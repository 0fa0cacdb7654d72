//! What the server refuses, with the status and words that clients know.

use crate::colonies::envelope::Reply;

/// A refusal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::colony) struct Refused {
    /// HTTP status.
    pub(in crate::colony) status: u16,
    /// Words.
    pub(in crate::colony) message: String,
}

impl Refused {
    /// Any refusal.
    pub(in crate::colony) fn new(status: u16, message: impl Into<String>) -> Refused {
        Refused { status, message: message.into() }
    }

    /// 400.
    pub(in crate::colony) fn bad(message: impl Into<String>) -> Refused {
        Refused::new(400, message)
    }

    /// 403.
    pub(in crate::colony) fn forbidden(message: impl Into<String>) -> Refused {
        Refused::new(403, message)
    }

    /// 500: also what is not found in most calls, as clients know it.
    pub(in crate::colony) fn internal(message: impl Into<String>) -> Refused {
        Refused::new(500, message)
    }

    /// As an envelope.
    pub(in crate::colony) fn reply(&self) -> Reply {
        Reply::refusal(self.status, &self.message)
    }
}

impl From<rusqlite::Error> for Refused {
    fn from(error: rusqlite::Error) -> Refused {
        Refused::internal(format!("the colony's database: {error}"))
    }
}

impl From<serde_json::Error> for Refused {
    fn from(error: serde_json::Error) -> Refused {
        Refused::internal(format!("the colony's database holds what is not understood: {error}"))
    }
}
