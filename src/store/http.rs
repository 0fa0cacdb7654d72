//! The way of an S3 request over the wire: the SDK signs it, reqwest carries it, and a watchdog ends it when nothing
//! moves any more. There is no limit on how long a transfer takes, only on how long it stands still.

use super::pace::Leave;
use super::pace::Pace;
use crate::net;
use aws_sdk_s3::config::HttpClient;
use aws_sdk_s3::config::RuntimeComponents;
use aws_sdk_s3::error::ConnectorError;
use aws_sdk_s3::primitives::SdkBody;
use aws_smithy_runtime_api::client::http::HttpConnector;
use aws_smithy_runtime_api::client::http::HttpConnectorFuture;
use aws_smithy_runtime_api::client::http::HttpConnectorSettings;
use aws_smithy_runtime_api::client::http::SharedHttpConnector;
use aws_smithy_runtime_api::client::interceptors::Intercept;
use aws_smithy_runtime_api::client::interceptors::context::BeforeTransmitInterceptorContextMut;
use aws_smithy_runtime_api::client::orchestrator::HttpRequest;
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;
use aws_smithy_types::config_bag::ConfigBag;
use bytes::Bytes;
use http_body::Body;
use http_body::Frame;
use http_body::SizeHint;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::AtomicI64;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::task::Context;
use std::task::Poll;
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio::time::Sleep;

/// Work that a server may do in silence (joining parts, copying) may take this many times the stall limit.
const SILENT_WORK: u32 = 10;

/// A body above this size (bytes) can stand in the system's send buffers for a while after the last piece was taken from us.
const FILLS_BUFFERS: u64 = 1024 * 1024;

/// How the transport failed.
#[derive(Clone, Debug, thiserror::Error)]
pub(super) enum WireError {
    #[error("no connection: {reason}")]
    Connect { reason: String },
    #[error("the server's certificate is not trusted: {reason}")]
    Untrusted { reason: String },
    #[error("nothing moved for {seconds} s")]
    Stalled { seconds: u64 },
    #[error("the connection broke: {reason}")]
    Broken { reason: String },
    #[error("the answer is not HTTP: {reason}")]
    NotHttp { reason: String },
}

impl WireError {
    fn of(error: reqwest::Error) -> WireError {
        let connect = error.is_connect();
        let reason = net::describe(&error.without_url());
        if connect && net::is_about_certificates(&reason) {
            WireError::Untrusted { reason }
        } else if connect {
            WireError::Connect { reason }
        } else if reason.contains("invalid HTTP") {
            // hyper's words for its parse errors; reqwest hides the type.
            WireError::NotHttp { reason }
        } else {
            WireError::Broken { reason }
        }
    }

    /// What the SDK's retries make of it: `user` and `other` are not tried again.
    fn into_connector_error(self) -> ConnectorError {
        match self {
            WireError::Stalled { .. } => ConnectorError::timeout(self.into()),
            WireError::Untrusted { .. } => ConnectorError::user(self.into()),
            WireError::NotHttp { .. } => ConnectorError::other(self.into(), None),
            WireError::Connect { .. } | WireError::Broken { .. } => ConnectorError::io(self.into()),
        }
    }
}

/// How many bytes of a request's body have left us, over all attempts: the most that any attempt reached.
/// Travels as an extension of the request.
#[derive(Clone, Debug, Default)]
pub(super) struct Meter(Arc<MeterState>);

#[derive(Debug, Default)]
struct MeterState {
    most: AtomicU64,
    moved: Notify,
}

impl Meter {
    fn reached(&self, sent: u64) {
        if self.0.most.fetch_max(sent, Ordering::Relaxed) < sent {
            self.0.moved.notify_one();
        }
    }

    /// Runs `work` and reports to `progress` while bytes leave; on success `total` bytes are reported altogether.
    pub(super) async fn watch<T, E>(
        &self,
        work: impl Future<Output = Result<T, E>>,
        total: u64,
        progress: super::Progress<'_>,
    ) -> Result<T, E> {
        let mut reported = 0;
        let mut work = std::pin::pin!(work);
        loop {
            tokio::select! {
                result = &mut work => {
                    if result.is_ok() && total > reported {
                        progress(total - reported);
                    }
                    return result;
                }
                () = self.0.moved.notified() => {
                    let most = self.0.most.load(Ordering::Relaxed).min(total);
                    if most > reported {
                        progress(most - reported);
                        reported = most;
                    }
                }
            }
        }
    }
}

/// Takes headers off before signing that only tell which SDK this is: they are as long as a small request is otherwise.
#[derive(Debug)]
pub(super) struct Plain;

impl Intercept for Plain {
    fn name(&self) -> &'static str {
        "Plain"
    }

    fn modify_before_signing(
        &self,
        context: &mut BeforeTransmitInterceptorContextMut<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), aws_sdk_s3::error::BoxError> {
        let headers = context.request_mut().headers_mut();
        for name in ["x-amz-user-agent", "user-agent"] {
            headers.remove(name);
        }
        Ok(())
    }
}

/// Carries the SDK's requests with reqwest.
#[derive(Clone, Debug)]
pub(super) struct Connector(Arc<Wire>);

#[derive(Debug)]
struct Wire {
    client: reqwest::Client,
    stall: Duration,
    pace: Arc<Pace>,
    /// Server's clock minus ours in seconds; `i64::MIN` as long as no answer had a date.
    skew: AtomicI64,
}

impl Connector {
    pub(super) fn new(client: reqwest::Client, stall: Duration, pace: Pace) -> Connector {
        Connector(Arc::new(Wire { client, stall, pace: Arc::new(pace), skew: AtomicI64::new(i64::MIN) }))
    }

    pub(super) fn pace(&self) -> &Pace {
        &self.0.pace
    }

    /// By how many seconds the server's clock was ahead of ours in its latest answer.
    pub(super) fn skew(&self) -> Option<i64> {
        let skew = self.0.skew.load(Ordering::Relaxed);
        (skew != i64::MIN).then_some(skew)
    }
}

impl HttpClient for Connector {
    fn http_connector(&self, _: &HttpConnectorSettings, _: &RuntimeComponents) -> SharedHttpConnector {
        SharedHttpConnector::new(self.clone())
    }
}

impl HttpConnector for Connector {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let wire = Arc::clone(&self.0);
        HttpConnectorFuture::new(async move { wire.send(request).await })
    }
}

impl Wire {
    async fn send(&self, request: HttpRequest) -> Result<HttpResponse, ConnectorError> {
        let meter = request.extension::<Meter>().cloned();
        let limit = self.stall * patience(&request);
        let mut request = request.try_into_http1x().map_err(|e| ConnectorError::user(e.into()))?;
        // Not signed, and of use to nobody.
        for name in ["amz-sdk-request", "amz-sdk-invocation-id", "user-agent"] {
            request.headers_mut().remove(name);
        }
        let pulse = Pulse::default();
        let is_small = is_small(&request);
        let request = request.map(|inner| {
            let sending = (inner.size_hint().lower() > 0).then(|| Sending::new(&self.pace));
            let body = SentBody { inner, rest: Bytes::new(), sent: 0, pulse: pulse.clone(), meter, leave: None, sending };
            reqwest::Body::wrap(body)
        });
        let request = reqwest::Request::try_from(request).map_err(|e| ConnectorError::user(e.into()))?;
        let begun = Instant::now();
        let response = tokio::select! {
            response = self.client.execute(request) => response.map_err(|e| WireError::of(e).into_connector_error())?,
            () = pulse.stopped(limit) => return Err(WireError::Stalled { seconds: limit.as_secs() }.into_connector_error()),
        };
        if is_small {
            self.pace.note_round_trip(begun.elapsed());
        }
        self.note_skew(response.headers());
        let response = http::Response::from(response).map(|inner| {
            SdkBody::from_body_1_x(ReceivedBody { inner, limit, deadline: Box::pin(tokio::time::sleep(limit)), waiting: false })
        });
        HttpResponse::try_from(response).map_err(|e| ConnectorError::other(e.into(), None))
    }

    fn note_skew(&self, headers: &http::HeaderMap) {
        let date = headers.get(http::header::DATE).and_then(|d| d.to_str().ok());
        let date = date.and_then(|d| jiff::fmt::rfc2822::parse(d).ok());
        if let Some(date) = date {
            let skew = date.timestamp().as_second() - jiff::Timestamp::now().as_second();
            self.skew.store(skew, Ordering::Relaxed);
        }
    }
}

/// How many times the stall limit this request may stand still.
fn patience(request: &HttpRequest) -> u32 {
    let joins_parts = request.method() == "POST" && request.uri().contains("uploadId=");
    if joins_parts || request.headers().get("x-amz-copy-source").is_some() {
        SILENT_WORK
    } else if request.body().content_length().is_some_and(|length| length > FILLS_BUFFERS) {
        2
    } else {
        1
    }
}

/// Whether a request's time is that of a round trip: nothing to send, and nothing to be done but look.
fn is_small(request: &http::Request<SdkBody>) -> bool {
    let copies = request.headers().contains_key("x-amz-copy-source");
    !copies && request.body().content_length() == Some(0) && request.method() == http::Method::HEAD
}

/// When something last moved, and whether we hold it ourselves.
#[derive(Clone)]
struct Pulse(Arc<Mutex<(Instant, bool)>>);

impl Default for Pulse {
    fn default() -> Pulse {
        Pulse(Arc::new(Mutex::new((Instant::now(), false))))
    }
}

impl Pulse {
    fn beat(&self, held: bool) {
        // Both are whole at any time, so a panic elsewhere cannot have spoilt them.
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = (Instant::now(), held);
    }

    /// Waits until nothing has moved for `limit`.
    async fn stopped(&self, limit: Duration) {
        loop {
            let (last, held) = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
            if last.elapsed() >= limit && !held {
                return;
            }
            tokio::time::sleep_until(if held { Instant::now() } else { last } + limit).await;
        }
    }
}

/// A request's body: cut into pieces, each of which is a sign of life.
struct SentBody {
    inner: SdkBody,
    rest: Bytes,
    sent: u64,
    pulse: Pulse,
    meter: Option<Meter>,
    leave: Option<Leave>,
    sending: Option<Sending>,
}

/// Counts the time for which bodies are sent.
struct Sending {
    pace: Arc<Pace>,
    sent: u64,
}

impl Sending {
    fn new(pace: &Arc<Pace>) -> Sending {
        pace.begin();
        Sending { pace: Arc::clone(pace), sent: 0 }
    }
}

impl Drop for Sending {
    fn drop(&mut self) {
        self.pace.end(self.sent);
    }
}

impl Body for SentBody {
    type Data = Bytes;
    type Error = aws_sdk_s3::error::BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let this = &mut *self;
        this.pulse.beat(false);
        if let Some(meter) = &this.meter {
            // hyper asks for more only when it has room: what it got before is on its way.
            meter.reached(this.sent);
        }
        if this.rest.is_empty() {
            match Pin::new(&mut this.inner).poll_frame(cx) {
                Poll::Ready(Some(Ok(frame))) => match frame.into_data() {
                    Ok(data) => this.rest = data,
                    Err(trailers) => return Poll::Ready(Some(Ok(trailers))),
                },
                other => return other,
            }
        }
        let Some(sending) = &mut this.sending else {
            return Poll::Ready(Some(Ok(Frame::data(std::mem::take(&mut this.rest)))));
        };
        let length = this.rest.len().min(sending.pace.piece());
        if this.leave.is_none() {
            this.leave = sending.pace.leave(length);
        }
        if let Some(leave) = this.leave.as_mut() {
            if leave.as_mut().poll(cx).is_pending() {
                this.pulse.beat(true);
                return Poll::Pending;
            }
            this.leave = None;
        }
        let piece = this.rest.split_to(length);
        this.sent += length as u64;
        sending.sent += length as u64;
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        match self.inner.size_hint().exact() {
            Some(more) => SizeHint::with_exact(more + self.rest.len() as u64),
            None => SizeHint::default(),
        }
    }
}

/// A response's body, which fails when it stands still while somebody waits for it.
struct ReceivedBody {
    inner: reqwest::Body,
    limit: Duration,
    deadline: Pin<Box<Sleep>>,
    waiting: bool,
}

impl Body for ReceivedBody {
    type Data = Bytes;
    type Error = WireError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, WireError>>> {
        let this = &mut *self;
        if let Poll::Ready(frame) = Pin::new(&mut this.inner).poll_frame(cx) {
            this.waiting = false;
            return Poll::Ready(frame.map(|f| f.map_err(WireError::of)));
        }
        if !this.waiting {
            // The clock starts when we begin to wait, not while the reader was busy with the piece before.
            this.waiting = true;
            this.deadline.as_mut().reset(Instant::now() + this.limit);
        }
        match this.deadline.as_mut().poll(cx) {
            Poll::Ready(()) => Poll::Ready(Some(Err(WireError::Stalled { seconds: this.limit.as_secs() }))),
            Poll::Pending => Poll::Pending,
        }
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
