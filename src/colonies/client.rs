//! The client: how a call is signed, sent, tried again and read. The calls themselves are in `calls`.
//!
//! Calls that only read, or that may safely happen twice, are tried again with backoff and jitter on temporary errors.
//! The others are tried again only where the request surely never left (no connection).

use super::envelope::Reply;
use super::envelope::Request;
use super::error::Error;
use super::identity::Identity;
use crate::config::ColonyAccess;
use crate::net;
use backon::BackoffBuilder;
use backon::ExponentialBuilder;
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::sync::Arc;
use std::time::Duration;

/// Largest reply taken, bytes. A listing of 100,000 files has 25 MB; a page of log is kept far below by its count.
const REPLY_LIMIT: usize = 512 << 20;
/// Most log messages asked for at once (the server refuses more than 500; fewer keep replies small).
pub const LOG_PAGE: i64 = 100;

/// Timeouts and retries of a [`Client`].
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// How long one request may take.
    pub request: Duration,
    /// How often a call is tried again.
    pub retries: usize,
    /// Pause before the first retry; it doubles, up to 5 s, with jitter.
    pub first_pause: Duration,
}

impl Default for Patience {
    fn default() -> Patience {
        Patience { request: Duration::from_secs(60), retries: 5, first_pause: Duration::from_millis(200) }
    }
}

/// What may be done with a call that failed for a temporary reason.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Again {
    /// It may happen twice.
    Yes,
    /// Only when it surely did not happen.
    Unsent,
}

/// A connection to a Colonies server as one member. Cheap to clone; connections are shared and kept open.
#[derive(Clone, Debug)]
pub struct Client {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    http: reqwest::Client,
    url: String,
    access: ColonyAccess,
    identity: Identity,
    patience: Patience,
}

impl Client {
    /// Prepares a client; nothing is sent yet.
    pub fn new(access: &ColonyAccess) -> Result<Client, Error> {
        Client::with_patience(access, Patience::default())
    }

    /// As [`Client::new`], with other timeouts and retries.
    pub fn with_patience(access: &ColonyAccess, patience: Patience) -> Result<Client, Error> {
        let identity = Identity::from_key(&access.key)?;
        let server = format!("{}:{}", access.host, access.port);
        let http = net::http_client(access.skip_verify).map_err(|reason| Error::Setup { server: server.clone(), reason })?;
        let scheme = if access.tls { "https" } else { "http" };
        let url = format!("{scheme}://{server}/api");
        Ok(Client { inner: Arc::new(Inner { http, url, access: access.clone(), identity, patience }) })
    }

    /// The same connection settings, signing with another key (a colony owner's, an executor's).
    pub fn with_identity(&self, identity: Identity) -> Client {
        let inner = &self.inner;
        Client {
            inner: Arc::new(Inner {
                http: inner.http.clone(),
                url: inner.url.clone(),
                access: inner.access.clone(),
                identity,
                patience: inner.patience,
            }),
        }
    }

    /// Id of the key that signs.
    pub fn id(&self) -> &str {
        self.inner.identity.id()
    }

    /// The key that signs.
    pub(crate) fn identity(&self) -> &Identity {
        &self.inner.identity
    }

    /// Settings this client was made of.
    pub fn access(&self) -> &ColonyAccess {
        &self.inner.access
    }

    /// Timeouts and retries.
    pub(super) fn patience(&self) -> Patience {
        self.inner.patience
    }

    /// Name of the colony that calls are about.
    pub fn colony(&self) -> &str {
        &self.inner.access.colony
    }

    /// `host:port` of the server.
    pub fn server(&self) -> String {
        format!("{}:{}", self.inner.access.host, self.inner.access.port)
    }

    pub(super) async fn call<T: DeserializeOwned>(&self, msgtype: &str, payload: Value, again: Again) -> Result<T, Error> {
        self.call_within(msgtype, payload, again, self.inner.patience.request).await
    }

    pub(super) async fn call_within<T: DeserializeOwned>(
        &self,
        msgtype: &str,
        payload: Value,
        again: Again,
        limit: Duration,
    ) -> Result<T, Error> {
        let request = Request::signed(&self.inner.identity, msgtype, payload);
        let bytes = self.send(&request, again, limit).await?;
        serde_json::from_slice(&bytes).map_err(|e| self.garbage(msgtype, e))
    }

    pub(super) fn garbage(&self, call: &str, reason: impl std::fmt::Display) -> Error {
        Error::Garbage { server: self.server(), call: call.into(), reason: reason.to_string() }
    }

    /// Sends with retries; gives the payload's bytes.
    pub(super) async fn send(&self, request: &Request, again: Again, limit: Duration) -> Result<Vec<u8>, Error> {
        let patience = self.inner.patience;
        let mut pauses = ExponentialBuilder::default()
            .with_min_delay(patience.first_pause)
            .with_max_delay(Duration::from_secs(5))
            .with_max_times(patience.retries)
            .with_jitter()
            .build();
        loop {
            let (error, unsent) = match self.send_once(request, limit).await {
                Ok(bytes) => return Ok(bytes),
                Err(failed) => failed,
            };
            let may = error.is_temporary() && (again == Again::Yes || unsent);
            match pauses.next() {
                Some(pause) if may => {
                    tracing::debug!(call = request.payloadtype, %error, ?pause, "trying again");
                    tokio::time::sleep(pause).await;
                }
                _ => return Err(error),
            }
        }
    }

    /// One try. With the error comes whether the request surely never left.
    async fn send_once(&self, request: &Request, limit: Duration) -> Result<Vec<u8>, (Error, bool)> {
        let call = request.payloadtype.clone();
        let body = serde_json::to_vec(request).map_err(|e| (self.garbage(&call, e), true))?;
        let answer = async {
            let response = self.inner.http.post(&self.inner.url).header("content-type", "text/plain").body(body).send().await?;
            let status = response.status().as_u16();
            read_limited(response).await.map(|body| (status, body))
        };
        let (status, body) = match tokio::time::timeout(limit, answer).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(e)) => {
                let unsent = e.is_connect();
                let reason = net::describe(&e.without_url());
                if net::is_about_certificates(&reason) {
                    return Err((Error::Untrusted { server: self.server(), reason }, true));
                }
                return Err((Error::Unreachable { server: self.server(), call, reason }, unsent));
            }
            Err(_) => return Err((Error::Timeout { server: self.server(), call, seconds: limit.as_secs() }, false)),
        };
        let Some(body) = body else {
            return Err((self.garbage(&call, format!("it is larger than {REPLY_LIMIT} bytes")), false));
        };
        self.open(&call, status, &body).map_err(|e| (e, false))
    }

    /// Opens a reply's envelope.
    fn open(&self, call: &str, status: u16, body: &[u8]) -> Result<Vec<u8>, Error> {
        let refused = |status, message: String| Error::Refused { call: call.into(), status, message };
        let reply = match Reply::read(body) {
            Ok(reply) => reply,
            // An empty body with 500: the real server's handler died.
            Err(_) if status >= 400 && body.is_empty() => return Err(refused(status, "the server gave no reason".into())),
            Err(_) if status == 502 || status == 503 || status == 504 => {
                return Err(refused(status, "a proxy in front of the server says that it is not there".into()));
            }
            Err(reason) => return Err(self.garbage(call, format!("HTTP {status}, {reason}"))),
        };
        if let Some(refusal) = reply.as_refusal() {
            let status = if status >= 400 { status } else { refusal.status };
            return Err(refused(status, refusal.message));
        }
        if status >= 400 {
            return Err(refused(status, "the server gave no reason".into()));
        }
        reply.bytes().map_err(|reason| self.garbage(call, reason))
    }

    /// Reads a list that may come as `null`.
    pub(super) async fn list<T: DeserializeOwned>(&self, msgtype: &str, payload: Value) -> Result<Vec<T>, Error> {
        Ok(self.call::<Option<Vec<T>>>(msgtype, payload, Again::Yes).await?.unwrap_or_default())
    }

    /// A call whose answer says nothing.
    pub(super) async fn tell(&self, msgtype: &str, payload: Value, again: Again) -> Result<(), Error> {
        self.call::<Value>(msgtype, payload, again).await.map(|_| ())
    }
}

/// The body, or none where it is larger than [`REPLY_LIMIT`].
async fn read_limited(mut response: reqwest::Response) -> Result<Option<Vec<u8>>, reqwest::Error> {
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await? {
        if body.len() + chunk.len() > REPLY_LIMIT {
            return Ok(None);
        }
        body.extend_from_slice(&chunk);
    }
    Ok(Some(body))
}
