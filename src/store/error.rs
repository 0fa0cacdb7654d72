//! What can go wrong between us and an object store.

use crate::store::http::WireError;
use aws_sdk_s3::error::DisplayErrorContext;
use aws_sdk_s3::error::ErrorMetadata;
use aws_sdk_s3::error::ProvideErrorMetadata;
use aws_sdk_s3::error::SdkError;
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;

/// Errors of the object store. [`Error::is_temporary`] says whether trying again can help.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The server could not be reached, or the connection broke and could not be mended.
    #[error("cannot reach the object store at {server} ({}): {reason}", doing(.call, .key))]
    Unreachable {
        /// `host:port`.
        server: String,
        /// The S3 operation.
        call: String,
        /// Object key; empty for calls on the bucket.
        key: String,
        /// What the transport said.
        reason: String,
    },
    /// The server cannot show that it is the one that was asked for.
    #[error("the object store at {server} has a certificate that is not trusted: {reason}")]
    Untrusted {
        /// `host:port`.
        server: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The connection stands, and nothing moves on it.
    #[error("the object store at {server} sent and took nothing for {seconds} s ({})", doing(.call, .key))]
    Timeout {
        /// `host:port`.
        server: String,
        /// The S3 operation.
        call: String,
        /// Object key; empty for calls on the bucket.
        key: String,
        /// How long we waited without any progress.
        seconds: u64,
    },
    /// The server understood and refused.
    #[error("the object store refused {call} {bucket}/{key}: {code}: {message} (HTTP {status})")]
    Refused {
        /// The S3 operation.
        call: String,
        /// Bucket.
        bucket: String,
        /// Object key; empty for calls on the bucket.
        key: String,
        /// HTTP status.
        status: u16,
        /// S3 error code (`NoSuchKey`, …); a word made from the status where the answer carries none.
        code: String,
        /// The server's own words.
        message: String,
    },
    /// The answer is not S3.
    #[error("the server at {server} sent an answer to {} that is not S3: {reason}", doing(.call, .key))]
    Garbage {
        /// `host:port`.
        server: String,
        /// The S3 operation.
        call: String,
        /// Object key; empty for calls on the bucket.
        key: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The object was replaced while it was being downloaded.
    #[error("object {key} was replaced in the store while it was being downloaded")]
    Changed {
        /// Object key.
        key: String,
    },
    /// What was to be uploaded could not be read.
    #[error("cannot read what is to be stored as {key}: {source}")]
    Read {
        /// Object key.
        key: String,
        /// Why.
        source: std::io::Error,
    },
    /// What was downloaded could not be written.
    #[error("cannot write what was downloaded from {key}: {source}")]
    Write {
        /// Object key.
        key: String,
        /// Why.
        source: std::io::Error,
    },
    /// The local disk (or the user's quota on it) is full.
    #[error("no space left on this machine for the contents of object {key}")]
    NoSpace {
        /// Object key.
        key: String,
    },
    /// More bytes than an S3 object can hold, or than its part size (chosen from the size first seen) allows.
    #[error("{key} has more than {limit} bytes, which cannot be stored as one object with the part size chosen for it")]
    TooLarge {
        /// Object key.
        key: String,
        /// Largest number of bytes that would have been possible.
        limit: u64,
    },
    /// The key cannot be sent over HTTP unchanged.
    #[error("object key {key:?} cannot be used: it is empty, longer than 1024 bytes, or has a part that is . or ..")]
    BadKey {
        /// Object key.
        key: String,
    },
    /// The client cannot be set up (address, TLS roots).
    #[error("cannot set up the connection to the object store at {server}: {reason}")]
    Setup {
        /// `host:port`.
        server: String,
        /// Why.
        reason: String,
    },
}

impl Error {
    /// Whether the same call may succeed later without anything being changed.
    pub fn is_temporary(&self) -> bool {
        match self {
            Error::Unreachable { .. } | Error::Timeout { .. } | Error::Changed { .. } => true,
            Error::Refused { status, code, .. } => {
                matches!(status, 408 | 429 | 500 | 502 | 503 | 504 | 507)
                    // The last: a clock that is wrong until it is set.
                    || ["RequestTimeout", "SlowDown", "RequestTimeTooSkewed"].contains(&code.as_str())
            }
            _ => false,
        }
    }

    /// Whether nobody answered (exit code 4), as against an answer that says no.
    pub fn is_unreachable(&self) -> bool {
        matches!(self, Error::Unreachable { .. } | Error::Timeout { .. } | Error::Untrusted { .. })
    }

    /// Whether the server says that the object (or its bucket) is not there.
    pub fn is_not_found(&self) -> bool {
        matches!(self, Error::Refused { status: 404, .. })
    }

    /// The S3 error code of a refusal.
    pub fn code(&self) -> Option<&str> {
        match self {
            Error::Refused { code, .. } => Some(code),
            _ => None,
        }
    }

    /// What to do about it, for a person.
    pub fn hint(&self) -> Option<String> {
        match self {
            Error::Untrusted { .. } => Some(
                "install the certificate of the authority that signed it, or set AWS_S3_SKIPVERIFY=true for a test server".into(),
            ),
            Error::Unreachable { .. } | Error::Timeout { .. } => {
                Some("check AWS_S3_ENDPOINT, AWS_S3_TLS and the network; `pollinator doctor` tries each step".into())
            }
            Error::Garbage { .. } => {
                Some("is AWS_S3_ENDPOINT really an S3 server (and not its web console), and is AWS_S3_TLS right?".into())
            }
            Error::Refused { code, status, bucket, .. } => refusal_hint(code, *status, bucket),
            Error::NoSpace { .. } => {
                Some("free some space (or quota), then run the same command again: it goes on where it stopped".into())
            }
            Error::Changed { .. } => Some("run the same command again".into()),
            Error::Setup { .. } => Some("AWS_S3_ENDPOINT must be host or host:port, without http:// or a path".into()),
            _ => None,
        }
    }
}

/// The operation and what it was done on.
fn doing(call: &str, key: &str) -> String {
    if key.is_empty() { call.to_owned() } else { format!("{call} {key}") }
}

fn refusal_hint(code: &str, status: u16, bucket: &str) -> Option<String> {
    let text = match code {
        "InvalidAccessKeyId" => "the store does not know this key: check AWS_S3_ACCESSKEY".into(),
        "SignatureDoesNotMatch" => "the secret does not belong to the key: check AWS_S3_SECRETKEY (and AWS_S3_ACCESSKEY)".into(),
        "RequestTimeTooSkewed" => {
            "this machine's clock is wrong: set it (NTP), the store takes at most 15 minutes of difference".into()
        }
        "NoSuchBucket" => format!("there is no bucket {bucket}: check AWS_S3_BUCKET"),
        "AccessDenied" | "Forbidden" | "AllAccessDisabled" => format!(
            "AWS_S3_ACCESSKEY may not do this in bucket {bucket}: check AWS_S3_ACCESSKEY, AWS_S3_SECRETKEY and AWS_S3_BUCKET, or ask the bucket's owner"
        ),
        "InvalidBucketName" => "AWS_S3_BUCKET must have 3 to 63 of a-z, 0-9, - and .".into(),
        "AuthorizationHeaderMalformed" | "PermanentRedirect" | "IllegalLocationConstraintException" | "TemporaryRedirect" => {
            "the bucket is in another region: check AWS_S3_REGION".into()
        }
        "QuotaExceeded" | "InsufficientStorage" | "XMinioStorageFull" => {
            "the store is full, or your quota in it is used up".into()
        }
        "SlowDown" | "TooManyRequests" | "ServiceUnavailable" => {
            "the store is busy: try again later, or with fewer --jobs".into()
        }
        _ if status == 301 || status == 307 => "the bucket is in another region: check AWS_S3_REGION".into(),
        _ => return None,
    };
    Some(text)
}

/// What was being done, for messages.
#[derive(Clone, Copy)]
pub(super) struct Scope<'a> {
    pub(super) server: &'a str,
    pub(super) bucket: &'a str,
    pub(super) call: &'static str,
    pub(super) key: &'a str,
}

impl Scope<'_> {
    pub(super) fn garbage(&self, reason: impl Into<String>) -> Error {
        Error::Garbage { server: self.server.into(), call: self.call.into(), key: self.key.into(), reason: reason.into() }
    }

    /// An error of the transport.
    pub(super) fn wire(&self, error: &WireError) -> Error {
        let (server, call, key) = (self.server.to_owned(), self.call.to_owned(), self.key.to_owned());
        match error {
            WireError::Stalled { seconds } => Error::Timeout { server, call, key, seconds: *seconds },
            WireError::NotHttp { reason } => Error::Garbage { server, call, key, reason: reason.clone() },
            WireError::Untrusted { reason } => Error::Untrusted { server, reason: reason.clone() },
            WireError::Broken { reason } | WireError::Connect { reason } => {
                Error::Unreachable { server, call, key, reason: reason.clone() }
            }
        }
    }

    /// What the SDK says, in our words.
    pub(super) fn sdk<E>(&self, error: SdkError<E, HttpResponse>) -> Error
    where
        E: ProvideErrorMetadata + std::error::Error + Send + Sync + 'static,
    {
        if let Some(wire) = find_wire(&error) {
            return self.wire(wire);
        }
        let status = error.raw_response().map(|r| r.status().as_u16());
        match (status, &error) {
            (Some(status), SdkError::ServiceError(service)) => self.refused(status, service.err().meta(), service.raw()),
            (Some(status), _) if status >= 400 => self.refusal(status, word_for(status).into(), "(no explanation)".into()),
            (Some(_), _) => self.garbage(DisplayErrorContext(&error).to_string()),
            (None, SdkError::ConstructionFailure(_)) => {
                Error::Setup { server: self.server.into(), reason: DisplayErrorContext(&error).to_string() }
            }
            (None, _) => Error::Unreachable {
                server: self.server.into(),
                call: self.call.into(),
                key: self.key.into(),
                reason: DisplayErrorContext(&error).to_string(),
            },
        }
    }

    fn refused(&self, status: u16, meta: &ErrorMetadata, raw: &HttpResponse) -> Error {
        if status < 400 && meta.code().is_none() {
            return self.garbage(format!("HTTP {status} with a body that is not the expected XML"));
        }
        let code = meta.code().map_or_else(|| word_for(status).to_owned(), str::to_owned);
        let message = meta.message().map_or_else(|| first_words(raw), str::to_owned);
        self.refusal(status, code, message)
    }

    fn refusal(&self, status: u16, code: String, message: String) -> Error {
        Error::Refused { call: self.call.into(), bucket: self.bucket.into(), key: self.key.into(), status, code, message }
    }
}

/// The beginning of an answer that names no S3 error, for the message.
fn first_words(raw: &HttpResponse) -> String {
    let text = raw.body().bytes().map(String::from_utf8_lossy).unwrap_or_default();
    let line: String =
        text.split_whitespace().collect::<Vec<_>>().join(" ").chars().filter(|c| !c.is_control()).take(120).collect();
    if line.is_empty() { "(no explanation)".into() } else { line }
}

fn word_for(status: u16) -> &'static str {
    match status {
        301 => "PermanentRedirect",
        400 => "BadRequest",
        401 | 403 => "Forbidden",
        404 => "NotFound",
        409 => "Conflict",
        412 => "PreconditionFailed",
        429 => "TooManyRequests",
        501 => "NotImplemented",
        503 => "ServiceUnavailable",
        507 => "InsufficientStorage",
        _ => "Unexplained",
    }
}

/// Looks for an error of our own connector among the causes.
pub(super) fn find_wire<'a>(error: &'a (dyn std::error::Error + 'static)) -> Option<&'a WireError> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(wire) = error.downcast_ref::<WireError>() {
            return Some(wire);
        }
        next = error.source();
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(status: u16, code: &str) -> Error {
        Error::Refused {
            call: "PutObject".into(),
            bucket: "b".into(),
            key: "k".into(),
            status,
            code: code.into(),
            message: "no".into(),
        }
    }

    #[test]
    fn wrong_keys_name_the_variable_to_check() {
        assert!(refused(403, "InvalidAccessKeyId").hint().unwrap().contains("AWS_S3_ACCESSKEY"));
        assert!(refused(403, "SignatureDoesNotMatch").hint().unwrap().contains("AWS_S3_SECRETKEY"));
        assert!(refused(403, "RequestTimeTooSkewed").hint().unwrap().contains("clock"));
        assert!(refused(404, "NoSuchBucket").hint().unwrap().contains("AWS_S3_BUCKET"));
    }

    #[test]
    fn only_what_can_pass_by_itself_is_temporary() {
        assert!(refused(503, "SlowDown").is_temporary());
        assert!(refused(500, "InternalError").is_temporary());
        assert!(!refused(403, "AccessDenied").is_temporary());
        assert!(!refused(404, "NoSuchKey").is_temporary());
        assert!(!Error::NoSpace { key: "k".into() }.is_temporary());
        assert!(Error::Changed { key: "k".into() }.is_temporary());
    }
}
