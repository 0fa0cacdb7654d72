//! What it takes to reach a colony and its object store. Keys are types that never print themselves.

use std::fmt;
use zeroize::Zeroizing;

/// A key or password. `Debug` and `Display` print `***`; the memory is wiped on drop.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Zeroizing<String>);

impl Secret {
    /// Takes over the text.
    pub fn new(text: impl Into<String>) -> Secret {
        Secret(Zeroizing::new(text.into()))
    }

    /// The text itself, for the one place that needs it: signing.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// How to reach a colony, and as whom.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ColonyAccess {
    /// Host name or address of the Colonies server.
    pub host: String,
    /// Its TCP port.
    pub port: u16,
    /// Whether it speaks TLS.
    pub tls: bool,
    /// Accept any certificate (for self-signed test servers).
    pub skip_verify: bool,
    /// Name of the colony.
    pub colony: String,
    /// Private key of a user or executor, 64 hex digits.
    pub key: Secret,
}

/// How to reach the object store (S3).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreAccess {
    /// `host` or `host:port`, without a scheme.
    pub endpoint: String,
    /// Whether it speaks TLS.
    pub tls: bool,
    /// Accept any certificate (for self-signed test servers).
    pub skip_verify: bool,
    /// Access key id.
    pub access_key: String,
    /// Secret access key.
    pub secret_key: Secret,
    /// Region; empty: `us-east-1`.
    pub region: String,
    /// Bucket.
    pub bucket: String,
}

#[cfg(test)]
impl StoreAccess {
    /// An address at which nobody answers.
    pub(crate) fn of_nobody() -> StoreAccess {
        StoreAccess {
            endpoint: "127.0.0.1:1".into(),
            tls: false,
            skip_verify: false,
            access_key: String::new(),
            secret_key: Secret::new(""),
            region: String::new(),
            bucket: "b".into(),
        }
    }
}
