//! The agent's end of the control socket.

use super::model::Add;
use super::model::Line;
use super::model::PROTOCOL;
use super::model::Pause;
use super::model::Refusal;
use super::model::StatusReply;
use super::model::Which;
use super::model::Work;
use super::socket_path;
use crate::agent::Error;
use crate::agent::daemon::Message;
use crate::agent::engine::AskId;
use crate::socket;
use crate::socket::Socket;
use crate::watch::ProjectId;
use axum::Json;
use axum::Router;
use axum::body::Body;
use axum::extract::Query;
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header;
use axum::response::IntoResponse;
use axum::response::Response;
use axum::routing::get;
use axum::routing::post;
use futures_util::Stream;
use serde::Serialize;
use std::path::Path;
use std::path::PathBuf;
use std::pin::Pin;
use std::task::Context;
use std::task::Poll;
use tokio::sync::mpsc;
use tokio::sync::oneshot;

type Inbox = mpsc::UnboundedSender<Message>;
type Verdict = Result<(), Refusal>;

/// What somebody asks of the agent.
#[allow(missing_docs)]
pub enum Request {
    Status { root: Option<PathBuf>, tell: oneshot::Sender<Result<StatusReply, Refusal>> },
    Watch { tell: mpsc::UnboundedSender<StatusReply> },
    Add { add: Add, tell: oneshot::Sender<Verdict> },
    Remove { root: PathBuf, tell: oneshot::Sender<Verdict> },
    Pause { pause: Pause, tell: oneshot::Sender<Verdict> },
    Resume { which: Which, tell: oneshot::Sender<Verdict> },
    Work { work: Work, lines: mpsc::UnboundedSender<Line>, tell: oneshot::Sender<Result<(ProjectId, AskId), Refusal>> },
    Gone { project: ProjectId, ask: AskId },
    Reload { tell: oneshot::Sender<Verdict> },
    Stop { tell: oneshot::Sender<Verdict> },
}

/// Opens the socket and answers. Whoever calls holds the agent's lock: a socket that stands there is a dead one's.
pub fn open(state: &Path, inbox: Inbox) -> Result<Socket, Error> {
    let path = socket_path(state);
    socket::serve(&path, router(inbox)).map_err(|source| Error::Folder { what: "the socket", path, source })
}

fn router(inbox: Inbox) -> Router {
    Router::new()
        .route("/v1/agent", get(hello))
        .route("/v1/status", get(status))
        .route("/v1/watch", get(watch))
        .route("/v1/add", post(add))
        .route("/v1/remove", post(remove))
        .route("/v1/pause", post(pause))
        .route("/v1/resume", post(resume))
        .route("/v1/work", post(work))
        .route("/v1/reload", post(reload))
        .route("/v1/stop", post(stop))
        .fallback(nothing_there)
        .with_state(inbox)
}

async fn hello() -> Json<serde_json::Value> {
    Json(serde_json::json!({ "version": env!("CARGO_PKG_VERSION"), "protocol": PROTOCOL, "pid": std::process::id() }))
}

async fn nothing_there() -> Response {
    refusal(StatusCode::NOT_FOUND, Refusal { message: "there is no such call".into(), code: 2, ..Refusal::default() })
}

async fn status(State(inbox): State<Inbox>, Query(which): Query<Which>) -> Response {
    match ask(&inbox, |tell| Request::Status { root: which.root, tell }).await {
        Ok(reply) => Json(reply).into_response(),
        Err(refused) => refusal(StatusCode::NOT_FOUND, refused),
    }
}

async fn add(State(inbox): State<Inbox>, Json(add): Json<Add>) -> Response {
    verdict(ask(&inbox, |tell| Request::Add { add, tell }).await)
}

async fn remove(State(inbox): State<Inbox>, Json(which): Json<Which>) -> Response {
    let root = which.root.unwrap_or_default();
    verdict(ask(&inbox, |tell| Request::Remove { root, tell }).await)
}

async fn pause(State(inbox): State<Inbox>, Json(pause): Json<Pause>) -> Response {
    verdict(ask(&inbox, |tell| Request::Pause { pause, tell }).await)
}

async fn resume(State(inbox): State<Inbox>, Json(which): Json<Which>) -> Response {
    verdict(ask(&inbox, |tell| Request::Resume { which, tell }).await)
}

async fn reload(State(inbox): State<Inbox>) -> Response {
    verdict(ask(&inbox, |tell| Request::Reload { tell }).await)
}

async fn stop(State(inbox): State<Inbox>) -> Response {
    verdict(ask(&inbox, |tell| Request::Stop { tell }).await)
}

async fn watch(State(inbox): State<Inbox>) -> Response {
    let (tell, told) = mpsc::unbounded_channel();
    if inbox.send(Message::Request(Request::Watch { tell })).is_err() {
        return refusal(StatusCode::SERVICE_UNAVAILABLE, ending());
    }
    lines(Told { lines: told, on_drop: None })
}

async fn work(State(inbox): State<Inbox>, Json(work): Json<Work>) -> Response {
    let (tell_lines, told) = mpsc::unbounded_channel();
    let detach = work.detach;
    let begun = ask(&inbox, |tell| Request::Work { work, lines: tell_lines, tell }).await;
    match begun {
        Ok(_) if detach => Json(serde_json::json!({ "ok": true })).into_response(),
        Ok((project, ask)) => lines(Told { lines: told, on_drop: Some((inbox, project, ask)) }),
        Err(refused) => refusal(StatusCode::CONFLICT, refused),
    }
}

/// Hands a request to the agent's task and waits for its answer.
async fn ask<T>(inbox: &Inbox, request: impl FnOnce(oneshot::Sender<Result<T, Refusal>>) -> Request) -> Result<T, Refusal> {
    let (tell, told) = oneshot::channel();
    inbox.send(Message::Request(request(tell))).map_err(|_| ending())?;
    told.await.map_err(|_| ending())?
}

fn ending() -> Refusal {
    Refusal { message: "the agent is ending".into(), code: 1, ..Refusal::default() }
}

fn verdict(verdict: Verdict) -> Response {
    match verdict {
        Ok(()) => Json(serde_json::json!({ "ok": true })).into_response(),
        Err(refused) => refusal(StatusCode::CONFLICT, refused),
    }
}

fn refusal(status: StatusCode, refused: Refusal) -> Response {
    (status, Json(refused)).into_response()
}

/// Lines of JSON as they come. Whoever hangs up is told of when this is dropped.
struct Told<T> {
    lines: mpsc::UnboundedReceiver<T>,
    on_drop: Option<(Inbox, ProjectId, AskId)>,
}

impl<T> Drop for Told<T> {
    fn drop(&mut self) {
        if let Some((inbox, project, ask)) = self.on_drop.take() {
            // The agent's end is the only reason to fail.
            let _ = inbox.send(Message::Request(Request::Gone { project, ask }));
        }
    }
}

impl<T: Serialize> Stream for Told<T> {
    type Item = Result<Vec<u8>, std::convert::Infallible>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let line = std::task::ready!(self.lines.poll_recv(context));
        Poll::Ready(line.map(|line| {
            let mut text = serde_json::to_vec(&line).unwrap_or_default();
            text.push(b'\n');
            Ok(text)
        }))
    }
}

fn lines<T: Serialize + Send + 'static>(told: Told<T>) -> Response {
    ([(header::CONTENT_TYPE, "application/x-ndjson")], Body::from_stream(told)).into_response()
}
