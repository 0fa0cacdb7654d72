//! A container's log as it is opened at the cluster.

use super::cluster::Cluster;
use super::cluster::chain;
use futures_util::AsyncRead;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use jiff::Timestamp;
use kube::api::LogParams;
use std::future::pending;
use std::pin::Pin;
use std::time::Duration;

/// How long the server may take to open a stream.
const OPENING: Duration = Duration::from_secs(30);

/// The bytes of a log, each line with the time at which the runtime took it.
pub type Stream = Pin<Box<dyn AsyncRead + Send>>;

/// What of a log is wanted.
#[derive(Clone, Debug)]
pub struct Extent {
    /// The pod's name.
    pub pod: String,
    /// The container's.
    pub container: String,
    /// Also what it will print.
    pub follow: bool,
    /// From when on, ns since 1970; none: all of it.
    pub since: Option<i128>,
}

/// Why there is no stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NotOpened {
    /// There is no such container, and will not be.
    Gone,
    /// It never began, and there is nothing to read.
    Empty,
    /// The cluster cannot or will not tell.
    Refused(String),
    /// There is no connection.
    Broken(String),
}

/// Opens a log.
pub fn open(cluster: &Cluster, extent: Extent) -> BoxFuture<'static, Result<Stream, NotOpened>> {
    let pods = cluster.pods.clone();
    async move {
        let params = LogParams {
            container: Some(extent.container),
            follow: extent.follow,
            timestamps: true,
            since_time: extent.since.and_then(|since| Timestamp::from_nanosecond(since).ok()),
            ..LogParams::default()
        };
        match tokio::time::timeout(OPENING, pods.log_stream(&extent.pod, &params)).await {
            Ok(Ok(stream)) => Ok(Box::pin(stream) as Stream),
            Ok(Err(kube::Error::Api(status))) if status.code == 404 => Err(NotOpened::Gone),
            Ok(Err(kube::Error::Api(status))) if !extent.follow && status.message.contains("is waiting to start") => {
                Err(NotOpened::Empty)
            }
            Ok(Err(kube::Error::Api(status))) => Err(NotOpened::Refused(status.message.clone())),
            Ok(Err(error)) => Err(NotOpened::Broken(chain(&error))),
            Err(_) => Err(NotOpened::Broken("no answer".into())),
        }
    }
    .boxed()
}

/// A second stream of a log, opened while the first is still read.
///
/// A stream that is silent may have something under way, and after a rotation that is to be had from nowhere else. So the first
/// is given up only when it stays silent for as long as a whole opening takes, on the same way to the same node.
#[derive(Default)]
pub struct Successor(Option<BoxFuture<'static, Result<Stream, NotOpened>>>);

impl Successor {
    /// Whether none is being opened.
    pub fn is_none(&self) -> bool {
        self.0.is_none()
    }

    /// Begins to open it.
    pub fn begin(&mut self, cluster: &Cluster, extent: Extent) {
        self.0 = Some(open(cluster, extent));
    }

    /// The first stream is alive.
    pub fn drop_it(&mut self) {
        self.0 = None;
    }

    /// Waits until it is open; for ever where none is being opened.
    pub async fn opened(&mut self) -> Result<Stream, NotOpened> {
        match &mut self.0 {
            Some(opening) => opening.await,
            None => pending().await,
        }
    }
}
