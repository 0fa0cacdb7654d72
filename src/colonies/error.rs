//! What can go wrong between us and a Colonies server.

/// Errors of the Colonies protocol. [`Error::is_temporary`] says whether trying again can help.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The server could not be reached, or the connection broke.
    #[error("cannot reach the Colonies server at {server} ({call}): {reason}")]
    Unreachable {
        /// `host:port`.
        server: String,
        /// The call, as its payload type.
        call: String,
        /// What the transport said.
        reason: String,
    },
    /// Its certificate is not to be trusted; trying again cannot help.
    #[error("the certificate of the Colonies server at {server} cannot be trusted: {reason}")]
    Untrusted {
        /// `host:port`.
        server: String,
        /// What is wrong with it.
        reason: String,
    },
    /// No answer in time.
    #[error("the Colonies server at {server} did not answer {call} within {seconds} s")]
    Timeout {
        /// `host:port`.
        server: String,
        /// The call.
        call: String,
        /// How long we waited.
        seconds: u64,
    },
    /// The server understood and refused.
    #[error("the Colonies server refused {call}: {message} (HTTP {status})")]
    Refused {
        /// The call.
        call: String,
        /// HTTP status; 404 is not always used for "not found", and 5xx does not mean "try again".
        status: u16,
        /// The server's own words.
        message: String,
    },
    /// The answer is not of the protocol.
    #[error("the Colonies server at {server} sent an answer to {call} that is not understood: {reason}")]
    Garbage {
        /// `host:port`.
        server: String,
        /// The call.
        call: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The private key cannot be used.
    #[error("the private key of the colony cannot be used: {0}")]
    Key(#[from] super::identity::KeyError),
    /// The client cannot be set up (TLS roots, address).
    #[error("cannot set up the connection to the Colonies server at {server}: {reason}")]
    Setup {
        /// `host:port`.
        server: String,
        /// Why.
        reason: String,
    },
}

impl Error {
    /// Whether the same call may succeed later without anything being changed.
    ///
    /// A refusal with 5xx is temporary only where the message names no lasting cause: the server answers 500 for
    /// unknown snapshots, users and executors too.
    pub fn is_temporary(&self) -> bool {
        match self {
            Error::Unreachable { .. } | Error::Timeout { .. } => true,
            Error::Refused { status, message, .. } => match status {
                408 | 429 | 502 | 503 | 504 => true,
                500 => message.contains("connection") || message.contains("too many clients") || message.contains("timeout"),
                _ => false,
            },
            _ => false,
        }
    }

    /// Whether nobody answered (exit code 4), as against an answer that says no.
    pub fn is_unreachable(&self) -> bool {
        matches!(self, Error::Unreachable { .. } | Error::Timeout { .. } | Error::Untrusted { .. })
    }

    /// The HTTP status of a refusal.
    pub fn status(&self) -> Option<u16> {
        match self {
            Error::Refused { status, .. } => Some(*status),
            _ => None,
        }
    }

    /// Whether the answer is a fault of the server's own (5xx, garbage), whatever its cause.
    pub fn is_fault_of_the_server(&self) -> bool {
        self.status().is_some_and(|status| status >= 500) || matches!(self, Error::Garbage { .. })
    }

    /// Whether it is a fault of the server's own that may pass: not its way to say that something does not exist.
    pub fn is_passing_fault(&self) -> bool {
        self.is_fault_of_the_server() && !self.is_not_found()
    }

    /// Whether the server says that what was asked for does not exist.
    pub fn is_not_found(&self) -> bool {
        match self {
            Error::Refused { status: 404, .. } => true,
            Error::Refused { message, .. } => {
                let m = message.to_lowercase();
                m.contains("not found") || m.contains("does not exist") || m.contains("is nil") || m.contains("no rows")
            }
            _ => false,
        }
    }

    /// Whether the signer is not (or no longer) a member.
    pub fn is_not_member(&self) -> bool {
        matches!(self, Error::Refused { status: 403, message, .. } if message.contains("not a member") || message.contains("not approved"))
    }

    /// What to do about it, for a person.
    pub fn hint(&self) -> Option<String> {
        match self {
            Error::Untrusted { .. } => Some(
                "install the certificate of the authority that signed it, or set COLONIES_SKIPVERIFY=true for a test server".into(),
            ),
            Error::Unreachable { .. } | Error::Timeout { .. } => {
                Some("check COLONIES_SERVER_HOST, COLONIES_SERVER_PORT, COLONIES_TLS and the network; `pollinator doctor` tries each step".into())
            }
            Error::Refused { status: 403, message, .. } if message.contains("not a member") => {
                Some("the key (COLONIES_PRVKEY) is not that of a user or approved executor of this colony; ask its owner to add you".into())
            }
            Error::Refused { status: 403, message, .. } if message.contains("does not exist") => {
                Some("check COLONIES_COLONY_NAME".into())
            }
            Error::Garbage { .. } => Some("is this really a Colonies server, and is COLONIES_TLS right?".into()),
            Error::Key(_) => Some("COLONIES_PRVKEY must be 64 hexadecimal digits".into()),
            _ => None,
        }
    }
}
