//! Recorded subscriptions, held again with a websocket client against the local colony's server.

#![allow(clippy::unwrap_used)] // a failure of a helper is a failure of the test

mod wire_replay;

use futures_util::SinkExt;
use futures_util::StreamExt;
use serde_json::Value;
use serde_json::json;
use std::time::Duration;
use tokio::io::AsyncReadExt;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio_tungstenite::MaybeTlsStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use wire_replay::World;
use wire_replay::decoded;

/// What came next.
#[derive(Debug, PartialEq)]
enum Next {
    Frame(Value),
    /// The connection ended, without a close frame.
    End,
    Silence,
}

struct Talk {
    socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
    case: Value,
}

impl Talk {
    /// Connects and sends what was recorded.
    async fn begin(w: &mut World, nr: usize) -> Talk {
        let case = w.case("subscribe", nr);
        let (mut socket, _) = tokio_tungstenite::connect_async(format!("ws://{}/pubsub", w.address)).await.unwrap();
        let sent = &case["sent"];
        let text = match sent.get("raw") {
            Some(raw) => raw.as_str().unwrap().to_owned(),
            None => w.renew(&case, &sent["envelope"]),
        };
        socket.send(Message::text(text)).await.unwrap();
        Talk { socket, case }
    }

    /// Subscribes to one more thing on the same connection.
    async fn also(&mut self, w: &World, payload: &Value) {
        let ours: Value = serde_json::from_str(&w.translate(&payload.to_string())).unwrap();
        let signer = w.signer("user").unwrap();
        let request = pollinator::colonies::envelope::Request::signed(&signer, "subscribeprocessmsg", ours);
        self.socket.send(Message::text(serde_json::to_string(&request).unwrap())).await.unwrap();
    }

    async fn next(&mut self, within: u64) -> Next {
        match tokio::time::timeout(Duration::from_secs(within), self.socket.next()).await {
            Err(_) => Next::Silence,
            Ok(None | Some(Err(_))) => Next::End,
            Ok(Some(Ok(Message::Text(text)))) => Next::Frame(decoded(&text).unwrap()),
            Ok(Some(Ok(other))) => panic!("an unexpected frame: {other:?}"),
        }
    }

    /// The next frame, which must be as the recorded one with that number.
    async fn frame(&mut self, w: &mut World, nr: usize) {
        match self.next(15).await {
            Next::Frame(ours) => {
                let mut recorded = self.case["received"][nr]["message"]["payload"].clone();
                as_stored(&mut recorded, &ours);
                w.same_frame(&recorded, &ours).unwrap_or_else(|e| panic!("{}: {e}", self.case["case"]));
            }
            other => panic!("{}: {other:?}", self.case["case"]),
        }
    }

    /// Nothing more comes until the connection ends, within so many seconds.
    async fn ends(&mut self, within: u64) {
        assert_eq!(self.next(within).await, Next::End, "{}", self.case["case"]);
    }

    /// Nothing comes, and the connection stays open.
    async fn stays_silent(&mut self) {
        assert_eq!(self.next(2).await, Next::Silence, "{}", self.case["case"]);
    }
}

/// On purpose: our frames show a process as it is stored from then on. The real server's show what its handler had at hand,
/// in which deadline and states of attributes may be those from before the change.
fn as_stored(recorded: &mut Value, ours: &Value) {
    if recorded.get("execdeadline").is_some() && ours["state"] == 1 {
        recorded["execdeadline"] = ours["execdeadline"].clone();
    }
    for attribute in recorded.get_mut("attributes").and_then(Value::as_array_mut).into_iter().flatten() {
        attribute["state"] = ours["state"].clone();
    }
}

async fn world() -> World {
    let mut w = World::new(|_| {}).await;
    w.replay("addcolony", 0).await;
    w.replay("adduser", 0).await;
    w.replay("addexecutor", 0).await;
    w.must("colony owner", "approveexecutormsg", json!({ "colonyname": "wire", "executorname": "wire-exec" })).await;
    assert!(w.troubles.is_empty(), "{:?}", w.troubles);
    w
}

#[tokio::test(flavor = "multi_thread")]
async fn the_handshake_takes_any_origin() {
    let mut w = world().await;
    let recorded = w.case("subscribe", 0)["received"].as_str().unwrap().to_lowercase();
    let mut stream = TcpStream::connect(&w.address).await.unwrap();
    let request = "GET /pubsub HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
        Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nOrigin: http://anywhere.example\r\n\r\n";
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        answer.push(stream.read_u8().await.unwrap());
    }
    let answer = String::from_utf8(answer).unwrap().to_lowercase();
    for line in recorded.lines().filter(|line| !line.is_empty()) {
        assert!(answer.contains(line), "{line} is not in {answer}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_is_heard_to_run_and_to_succeed_twice() {
    let mut w = world().await;
    w.submit("aba7ca").await;
    let mut running = Talk::begin(&mut w, 1).await;
    w.assign("executor", "aba7ca").await;
    running.frame(&mut w, 0).await;
    running.ends(6).await;
    // What the recorded executor did before it closed.
    let id = w.ours("aba7ca");
    for (kind, key, value) in [(4, "NODES", "n1,n2"), (3, "LATE", "x")] {
        let attribute = json!({ "targetid": id, "targetcolonyname": "wire", "attributetype": kind, "key": key, "value": value });
        w.must("executor", "addattributemsg", json!({ "attribute": attribute })).await;
    }
    let out = w.case("subscribe", 2)["received"][0]["message"]["payload"]["out"].clone();
    w.must("executor", "setoutputmsg", json!({ "processid": id, "out": out })).await;
    let mut success = Talk::begin(&mut w, 2).await;
    w.close("aba7ca").await;
    success.frame(&mut w, 0).await;
    let again = w.case("subscribe", 2)["received"][1]["message"]["payload"]["out"].clone();
    w.must("executor", "closesuccessfulmsg", json!({ "processid": id, "out": again })).await;
    success.frame(&mut w, 1).await;
    success.ends(9).await;
    // A state that it has already.
    let mut had = Talk::begin(&mut w, 5).await;
    had.frame(&mut w, 0).await;
    had.ends(4).await;
    Talk::begin(&mut w, 18).await.ends(2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn cancelling_and_being_taken_away_are_heard() {
    let mut w = world().await;
    w.submit("d4fa9d").await;
    w.assign("executor", "d4fa9d").await;
    let mut cancelled = Talk::begin(&mut w, 3).await;
    w.cancel("d4fa9d").await;
    cancelled.frame(&mut w, 0).await;
    w.submit("9020fe").await;
    let mut twice = Talk::begin(&mut w, 4).await;
    w.assign("executor", "9020fe").await;
    twice.frame(&mut w, 0).await;
    w.until("9020fe", 0).await;
    w.assign("executor", "9020fe").await;
    twice.frame(&mut w, 1).await;
    cancelled.ends(7).await;
    w.until("9020fe", 3).await;

    w.submit("74983a").await;
    w.assign("executor", "74983a").await;
    let mut waiting = Talk::begin(&mut w, 23).await;
    // On purpose: the real frame still names the executor that lost the process, and how it was before.
    let Next::Frame(frame) = waiting.next(6).await else { panic!("nothing heard") };
    assert_eq!((&frame["state"], &frame["isassigned"], &frame["assignedexecutorid"]), (&json!(0), &json!(false), &json!("")));
}

#[tokio::test(flavor = "multi_thread")]
async fn executor_types_of_subscriptions_count() {
    let mut w = world().await;
    w.submit("cbd8d5").await;
    let mut nothing = Talk::begin(&mut w, 7).await;
    let mut other_type = Talk::begin(&mut w, 8).await;
    other_type.frame(&mut w, 0).await;
    other_type.ends(4).await;
    nothing.ends(4).await;
    Talk::begin(&mut w, 19).await.ends(2).await;
    w.cancel("cbd8d5").await;

    w.submit("81597a").await;
    let mut wrong_type = Talk::begin(&mut w, 9).await;
    // An answer to the second subscription says that the first is in place.
    let state_now =
        json!({ "colonyname": "wire", "processid": w.recorded_id("81597a"), "executortype": "", "state": 0, "timeout": 9 });
    wrong_type.also(&w, &state_now).await;
    assert!(matches!(wrong_type.next(5).await, Next::Frame(_)));
    let mut stranger = Talk::begin(&mut w, 10).await;
    // On purpose: the real server gives the whole process to any key.
    let refused = json!({ "status": 403, "message": "Access denied, not a member of Colony with name <wire>" });
    assert_eq!(stranger.next(5).await, Next::Frame(refused));
    let mut empty_type = Talk::begin(&mut w, 11).await;
    let mut two = Talk::begin(&mut w, 12).await;
    let second = two.case["sent_too"].clone();
    two.also(&w, &second).await;
    let mut success = Talk::begin(&mut w, 13).await;
    w.assign("executor", "81597a").await;
    empty_type.frame(&mut w, 0).await;
    two.frame(&mut w, 0).await;
    let errors = two.case["received"][1]["message"]["payload"]["errors"].clone();
    w.must("executor", "closefailedmsg", json!({ "processid": w.ours("81597a"), "errors": errors })).await;
    two.frame(&mut w, 1).await;
    wrong_type.ends(5).await;
    empty_type.ends(5).await;
    two.ends(6).await;
    success.ends(6).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_subscribed_to_is_refused_or_dropped_as_recorded() {
    let mut w = world().await;
    w.submit("aba7ca").await;
    for nr in [6, 16] {
        let mut refused = Talk::begin(&mut w, nr).await;
        refused.frame(&mut w, 0).await;
        refused.stays_silent().await;
    }
    let mut refused = Talk::begin(&mut w, 22).await;
    refused.frame(&mut w, 0).await;
    Talk::begin(&mut w, 14).await.ends(2).await;
    Talk::begin(&mut w, 15).await.ends(2).await;
    Talk::begin(&mut w, 17).await.stays_silent().await;
}

/// On purpose: the real server tells only one of those who listen to an executor type.
#[tokio::test(flavor = "multi_thread")]
async fn everybody_who_listens_to_an_executor_type_hears_of_a_process() {
    let mut w = world().await;
    let mut first = Talk::begin(&mut w, 20).await;
    let mut second = Talk::begin(&mut w, 21).await;
    let known = w.case("subscribe", 20)["received"][0]["message"]["payload"]["spec"].clone();
    // Until both subscriptions are in place, what is submitted may go unheard.
    for talk in [&mut first, &mut second] {
        let heard = loop {
            w.must("user", "submitfuncspecmsg", json!({ "spec": known })).await;
            match talk.next(1).await {
                Next::Frame(process) => break process,
                Next::Silence => {}
                Next::End => panic!("nothing was heard"),
            }
        };
        assert_eq!(heard["state"], 0);
        w.same_frame(&known, &heard["spec"]).unwrap();
    }
}
