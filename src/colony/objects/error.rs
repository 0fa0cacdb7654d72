//! What can go wrong in the S3 endpoint, towards whoever starts it and towards its clients.

use s3s::S3Error;
use s3s::S3ErrorCode;
use std::io::ErrorKind;
use std::path::PathBuf;

/// Why the S3 endpoint cannot start or go on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Its folder cannot be used.
    #[error("cannot use the object folder {}: {source}", path.display())]
    Folder {
        /// The folder or the file in it.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// Its catalogue cannot be used.
    #[error("cannot use the catalogue of objects: {0}")]
    Catalogue(#[from] crate::sqlite::Error),
    /// SQLite failed while the catalogue was read at the start.
    #[error("cannot read the catalogue of objects {}: {source}", path.display())]
    Read {
        /// The database.
        path: PathBuf,
        /// What SQLite said.
        source: rusqlite::Error,
    },
    /// Another process serves this folder.
    #[error("the object folder {} is served by another process", path.display())]
    InUse {
        /// The folder.
        path: PathBuf,
    },
    /// Connections cannot be accepted.
    #[error("the S3 endpoint cannot accept connections: {0}")]
    Serve(std::io::Error),
}

impl Error {
    /// What to do about it, for a person.
    pub fn hint(&self) -> Option<String> {
        match self {
            Error::Folder { source, .. } if source.kind() == ErrorKind::StorageFull => Some("free some space on the disk".into()),
            Error::Folder { path, .. } => Some(format!("{} must be a folder that you can write", path.display())),
            Error::InUse { .. } => Some("stop it with `pollinator colony stop`".into()),
            Error::Catalogue(error) if error.is_corrupt() => {
                Some("`pollinator colony reset` begins anew; the objects of the local colony are then gone".into())
            }
            _ => None,
        }
    }
}

/// A failure of the disk as a client gets it.
pub(super) fn disk(error: &std::io::Error) -> S3Error {
    tracing::error!(%error, "the object folder cannot be read or written");
    if matches!(error.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded) {
        return full();
    }
    S3Error::with_message(S3ErrorCode::InternalError, format!("the disk of the local colony failed: {error}"))
}

/// A failure of the catalogue as a client gets it.
pub(super) fn catalogue(error: &rusqlite::Error) -> S3Error {
    tracing::error!(%error, "the catalogue of objects failed");
    if error.sqlite_error_code() == Some(rusqlite::ErrorCode::DiskFull) {
        return full();
    }
    S3Error::with_message(S3ErrorCode::InternalError, format!("the catalogue of the local colony failed: {error}"))
}

fn full() -> S3Error {
    let mut error = S3Error::with_message(
        S3ErrorCode::Custom("InsufficientStorage".into()),
        "no space left on the disk that holds the local colony",
    );
    error.set_status_code(http::StatusCode::INSUFFICIENT_STORAGE);
    error
}

pub(super) fn refuse(code: S3ErrorCode, message: impl Into<String>) -> S3Error {
    S3Error::with_message(code, message.into())
}
