//! The S3 endpoint of the local colony: objects in a folder, strictly as S3 says, for the clients that ColonyOS has.
//!
//! `objects.db` is the catalogue and holds small objects; `data/` holds the others, one file for each object or part.
//! Whatever was answered with success survives kill -9 and a loss of power; what was not is not there.

mod catalogue;
mod content;
mod digest;
mod error;
mod listing;
mod lists;
mod multipart;
mod records;
mod service;

pub use error::Error;

use crate::blocking;
use crate::config::Secret;
use axum::error_handling::HandleError;
use axum::serve::ListenerExt;
use catalogue::Catalogue;
use content::Contents;
use s3s::S3ErrorCode;
use s3s::S3Result;
use s3s::auth::S3Auth;
use s3s::auth::SecretKey;
use s3s::service::S3ServiceBuilder;
use service::Endpoint;
use std::fs::File;
use std::fs::TryLockError;
use std::path::Path;
use std::path::PathBuf;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

/// How long requests that are under way may take when the endpoint is to stop.
const FAREWELL: Duration = Duration::from_secs(5);

/// The one pair of keys that the endpoint takes.
#[derive(Clone, Debug)]
pub struct Keys {
    /// Access key id.
    pub access_key: String,
    /// Secret access key.
    pub secret_key: Secret,
}

#[async_trait::async_trait]
impl S3Auth for Keys {
    async fn get_secret_key(&self, access_key: &str) -> S3Result<SecretKey> {
        if access_key == self.access_key {
            return Ok(SecretKey::from(self.secret_key.expose()));
        }
        Err(error::refuse(S3ErrorCode::InvalidAccessKeyId, "the access key id you provided does not exist in our records"))
    }
}

/// Serves the objects in `folder` (made when missing) until `shutdown`. Requests under way get a few seconds to end.
///
/// # Errors
/// [`Error::InUse`] while another process serves the folder; those of the disk and of the catalogue.
pub async fn serve(listener: TcpListener, folder: PathBuf, keys: Keys, shutdown: CancellationToken) -> Result<(), Error> {
    let (endpoint, written, _lock) = blocking::run(move || open(&folder)).await?;
    let mut builder = S3ServiceBuilder::new(endpoint);
    builder.set_auth(keys);
    let service = HandleError::new(builder.build(), async |error: s3s::HttpError| {
        tracing::error!(?error, "the S3 endpoint failed");
        http::StatusCode::INTERNAL_SERVER_ERROR
    });
    let app = axum::Router::new().fallback_service(service);
    let listener = listener.tap_io(|stream| {
        // Replies are small; waiting to fill a packet would only cost time.
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "TCP_NODELAY");
        }
    });
    let server = axum::serve(listener, app).with_graceful_shutdown(shutdown.clone().cancelled_owned());
    let served = tokio::select! {
        served = server => served.map_err(Error::Serve),
        () = async { shutdown.cancelled().await; tokio::time::sleep(FAREWELL).await } => Ok(()),
    };
    // Changes that clients wait for are still written. A client that hangs does not keep us.
    let _ = tokio::time::timeout(FAREWELL, written).await;
    served
}

type Opened = (Endpoint, oneshot::Receiver<()>, File);

fn open(folder: &Path) -> Result<Opened, Error> {
    let failed = |source| Error::Folder { path: folder.to_path_buf(), source };
    crate::sqlite::private_folder(folder).map_err(failed)?;
    let lock = File::create(folder.join("lock")).map_err(failed)?;
    match lock.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => return Err(Error::InUse { path: folder.to_path_buf() }),
        Err(TryLockError::Error(source)) => return Err(failed(source)),
    }
    let contents = Contents::open(folder.join("data"))?;
    let (catalogue, written) = Catalogue::open(folder.join("objects.db"), contents.folder())?;
    let swept = contents.sweep(&catalogue.named_files()?)?;
    if swept > 0 {
        tracing::info!(swept, "removed leftovers of interrupted uploads");
    }
    Ok((Endpoint { catalogue, contents }, written, lock))
}
