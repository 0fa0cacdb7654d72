//! `GET /pubsub`: subscriptions by websocket. Unlike the real server, membership is checked.

use super::Refused;
use super::Server;
use super::members;
use super::open;
use super::payload;
use super::processes;
use crate::colonies::Process;
use crate::colonies::ProcessState;
use crate::colonies::envelope::Reply;
use axum::extract::State;
use axum::extract::ws::Message;
use axum::extract::ws::WebSocket;
use axum::extract::ws::WebSocketUpgrade;
use axum::response::Response;
use tokio::sync::broadcast::error::RecvError;
use tokio::time::Instant;

/// One subscription on a connection.
struct Subscription {
    kind: &'static str,
    state: i64,
    /// A process, or none for all of a colony and executor type.
    process: Option<String>,
    colony: String,
    executor_type: String,
    /// The last change that was told, so that looking again tells nothing twice: retries and end.
    told: Option<(ProcessState, i64, i64)>,
}

impl Subscription {
    fn wants(&self, process: &Process) -> bool {
        let which = match &self.process {
            Some(id) => process.processid == *id,
            None => process.spec.conditions.colonyname == self.colony,
        };
        let type_fits = self.executor_type.is_empty() || process.spec.conditions.executortype == self.executor_type;
        which && type_fits && process.state.number() == self.state
    }
}

/// Takes the connection.
pub(super) async fn connect(State(server): State<Server>, upgrade: WebSocketUpgrade) -> Response {
    upgrade.max_message_size(1 << 20).on_upgrade(async move |socket| serve(&server, socket).await)
}

/// Serves one connection until its first timeout, a bad frame, or the shutdown. The end comes without a close frame.
async fn serve(server: &Server, mut socket: WebSocket) {
    // Listened to before the first look, so that nothing falls between.
    let mut changes = server.database.changes();
    let mut subscriptions: Vec<Subscription> = Vec::new();
    let mut end: Option<Instant> = None;
    loop {
        let frame = tokio::select! {
            frame = socket.recv() => frame,
            change = changes.recv() => {
                let changed = match change {
                    Ok(process) => tell(&mut socket, &mut subscriptions, &process).await,
                    // Too slow: look again instead of losing anything.
                    Err(RecvError::Lagged(_)) => look_again(server, &mut socket, &mut subscriptions).await,
                    Err(RecvError::Closed) => return,
                };
                if changed.is_err() { return }
                continue;
            }
            () = at(end) => return,
            () = server.shutdown.cancelled() => return,
        };
        let text = match frame {
            Some(Ok(Message::Text(text))) => text,
            Some(Ok(Message::Ping(_) | Message::Pong(_))) => continue,
            _ => return,
        };
        match subscribe(server, text.as_bytes()).await {
            Ok(Some((mut subscription, seconds, now))) => {
                let until = Instant::now() + std::time::Duration::from_secs(seconds);
                end = Some(end.map_or(until, |earlier| earlier.min(until)));
                if let Some(process) = now.filter(|p| p.state.number() == subscription.state) {
                    subscription.told = Some(mark(&process));
                    if send(&mut socket, &Reply::answer(subscription.kind, &process)).await.is_err() {
                        return;
                    }
                }
                subscriptions.push(subscription);
            }
            Ok(None) => {}
            Err(Fault::Refused(refused)) => {
                if send(&mut socket, &refused.reply()).await.is_err() {
                    return;
                }
            }
            Err(Fault::Drop) => return,
        }
    }
}

async fn at(end: Option<Instant>) {
    match end {
        Some(end) => tokio::time::sleep_until(end).await,
        None => std::future::pending().await,
    }
}

fn mark(process: &Process) -> (ProcessState, i64, i64) {
    let nanos = |t: crate::colonies::time::Time| t.get().map_or(0, |t| t.as_nanosecond() as i64);
    (process.state, process.retries, nanos(process.starttime).max(nanos(process.endtime)))
}

async fn send(socket: &mut WebSocket, reply: &Reply) -> Result<(), axum::Error> {
    socket.send(Message::text(serde_json::to_string(reply).unwrap_or_default())).await
}

async fn tell(socket: &mut WebSocket, subscriptions: &mut [Subscription], process: &Process) -> Result<(), axum::Error> {
    for subscription in subscriptions.iter_mut().filter(|s| s.wants(process)) {
        if subscription.process.is_some() && subscription.told == Some(mark(process)) {
            continue;
        }
        subscription.told = Some(mark(process));
        send(socket, &Reply::answer(subscription.kind, process)).await?;
    }
    Ok(())
}

async fn look_again(server: &Server, socket: &mut WebSocket, subscriptions: &mut [Subscription]) -> Result<(), axum::Error> {
    let ids: Vec<String> = subscriptions.iter().filter_map(|s| s.process.clone()).collect();
    for id in ids {
        if let Ok(Some(process)) = server.database.run(move |work| processes::find(work.db, &id)).await {
            tell(socket, subscriptions, &process).await?;
        }
    }
    Ok(())
}

/// Why a frame makes no subscription.
enum Fault {
    /// Told, and the connection stays.
    Refused(Refused),
    /// The connection ends.
    Drop,
}

/// Reads a frame: the subscription, its seconds, and the process as it is now. None: nothing that can be subscribed to.
async fn subscribe(server: &Server, text: &[u8]) -> Result<Option<(Subscription, u64, Option<Process>)>, Fault> {
    let request = payload::envelope(text).map_err(|_| Fault::Drop)?;
    request.signer().map_err(|_| Fault::Drop)?;
    let kind = match request.payloadtype.as_str() {
        "subscribeprocessmsg" => "subscribeprocessmsg",
        "subscribeprocessesmsg" => "subscribeprocessesmsg",
        _ => return Ok(None),
    };
    let call = open(request).map_err(|_| {
        Fault::Refused(Refused::forbidden("Failed to subscribe to process, msg.msgType does not match rpcMsg.PayloadType"))
    })?;
    let refused = Fault::Refused;
    let state = call.payload.number("state").map_err(refused)?;
    let seconds = u64::try_from(call.payload.number("timeout").map_err(refused)?).ok().filter(|s| *s > 0).ok_or(Fault::Drop)?;
    let executor_type = call.payload.text("executortype").map_err(refused)?;
    let colony = call.payload.text("colonyname").map_err(refused)?;
    let context = server.context(call.signer);
    if kind == "subscribeprocessesmsg" {
        let (context, name) = (context, colony.clone());
        let member = server.database.run(move |work| members::require_member(work.db, &context, &name)).await.map_err(refused)?;
        if !matches!(member, members::Member::Executor(_)) {
            return Err(Fault::Refused(Refused::forbidden("executor not found")));
        }
        return Ok(Some((
            Subscription { kind: "subscribeprocessmsg", state, process: None, colony, executor_type, told: None },
            seconds,
            None,
        )));
    }
    let id = call.payload.text("processid").map_err(refused)?;
    let asked = id.clone();
    let look = server.database.run(move |work| {
        let process =
            processes::find(work.db, &asked)?.ok_or_else(|| Refused::forbidden(format!("Invalid process with Id {asked}")))?;
        members::require_member(work.db, &context, &process.spec.conditions.colonyname)?;
        Ok(process)
    });
    let process = look.await.map_err(refused)?;
    let subscription = Subscription { kind, state, process: Some(id), colony, executor_type, told: None };
    Ok(Some((subscription, seconds, Some(process))))
}
