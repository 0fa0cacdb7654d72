//! The client against every recorded call: it sends what real clients send, and reads what the real server answers.
//!
//! A server in the test gives back the recorded bytes with their recorded status, and keeps what it was asked.

#![allow(clippy::unwrap_used, clippy::expect_used)] // A test fails by panicking.

use axum::Router;
use axum::body::Bytes;
use axum::http::StatusCode;
use axum::routing::post;
use pollinator::colonies::client::Patience;
use pollinator::colonies::envelope::Request;
use pollinator::colonies::*;
use pollinator::config::ColonyAccess;
use pollinator::config::Secret;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use serde_json::json;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::Mutex;
use std::time::Duration;

const KEY: &str = "5ef2ec8506f398e37436f3f77b9c215a276bfbc30d8f9f59afb7de226df70526";

/// Calls whose recordings are single calls of ours.
const CALLS: &[&str] = &[
    "addattribute",
    "addcolony",
    "addexecutor",
    "addexecutorlog",
    "addfile",
    "addfunction",
    "addlog",
    "adduser",
    "approveexecutor",
    "assignprocess",
    "cancelprocess",
    "closefailed",
    "closesuccessful",
    "createsnapshot",
    "getattribute",
    "getcluster",
    "getcolonies",
    "getcolony",
    "getcolonystats",
    "getexecutor",
    "getexecutorbyid",
    "getexecutors",
    "getfile",
    "getfilelabels",
    "getfiles",
    "getfunctions",
    "getlogs",
    "getpausestatus",
    "getprocess",
    "getprocesses",
    "getprocesshist",
    "getserverinfo",
    "getsnapshot",
    "getsnapshots",
    "getstatistics",
    "getuser",
    "getusers",
    "pauseassignments",
    "rejectexecutor",
    "removeallprocesses",
    "removeallsnapshot",
    "removecolony",
    "removeexecutor",
    "removefile",
    "removefunction",
    "removeprocess",
    "removesnapshot",
    "removeuser",
    "reportallocation",
    "resumeassignments",
    "searchlogs",
    "setoutput",
    "submitfuncspec",
    "updateexecutor",
    "version",
];

fn recordings(call: &str) -> Vec<Value> {
    let path = format!("{}/tests/wire/{call}.json", env!("CARGO_MANIFEST_DIR"));
    serde_json::from_str(&std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{path}: {e}"))).unwrap()
}

type Script = Arc<Mutex<VecDeque<(u16, Vec<u8>)>>>;
type Asked = Arc<Mutex<Vec<Request>>>;

/// Gives the scripted answers in turn.
struct Scripted {
    access: ColonyAccess,
    script: Script,
    asked: Asked,
}

impl Scripted {
    async fn start() -> Scripted {
        let script: Script = Arc::default();
        let asked: Asked = Arc::default();
        let (answers, questions) = (script.clone(), asked.clone());
        let answer = move |body: Bytes| {
            let (answers, questions) = (answers.clone(), questions.clone());
            async move {
                questions.lock().unwrap().push(serde_json::from_slice(&body).expect("a request envelope"));
                let (status, body) = answers.lock().unwrap().pop_front().expect("no more answers in the script");
                (StatusCode::from_u16(status).unwrap(), body)
            }
        };
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let app = Router::new().route("/api", post(answer));
        tokio::spawn(async move { axum::serve(listener, app).await });
        let access = ColonyAccess {
            host: "127.0.0.1".into(),
            port,
            tls: false,
            skip_verify: false,
            colony: "wire".into(),
            key: Secret::new(KEY),
        };
        Scripted { access, script, asked }
    }

    fn client(&self, colony: &str) -> Client {
        let patience = Patience { request: Duration::from_secs(10), retries: 0, first_pause: Duration::from_millis(1) };
        Client::with_patience(&ColonyAccess { colony: colony.into(), ..self.access.clone() }, patience).unwrap()
    }
}

fn get<T: DeserializeOwned + Default>(payload: &Value, key: &str) -> T {
    payload.get(key).cloned().map(|v| serde_json::from_value(v).unwrap_or_default()).unwrap_or_default()
}

fn shown<T: Serialize>(result: Result<T, Error>) -> Result<Value, Error> {
    result.map(|value| serde_json::to_value(value).unwrap())
}

fn nothing(result: Result<(), Error>) -> Result<Value, Error> {
    result.map(|()| json!({}))
}

/// Makes the call of a recorded payload through the client's own method for it.
async fn call(client: &Client, msgtype: &str, p: &Value) -> Result<Value, Error> {
    let text = |key: &str| get::<String>(p, key);
    let state = ProcessState::from_number(get(p, "state")).unwrap_or_default();
    match msgtype {
        "versionmsg" => shown(client.version().await),
        "getserverinfomsg" => client.server_info().await,
        "addcolonymsg" => shown(client.add_colony(&get(p, "colony")).await),
        "removecolonymsg" => nothing(client.remove_colony(&text("colonyname")).await),
        "getcoloniesmsg" => shown(client.colonies().await),
        "getstatisticsmsg" => shown(client.statistics().await),
        "getclustermsg" => client.cluster().await,
        "getcolonymsg" => shown(client.colony_info().await),
        "getcolonystatsmsg" => shown(client.colony_statistics().await),
        "addusermsg" => shown(client.add_user(&get(p, "user")).await),
        "removeusermsg" => nothing(client.remove_user(&text("name")).await),
        "getusersmsg" => shown(client.users().await),
        "getusermsg" => shown(client.user(&text("name")).await),
        "getpausestatusmsg" => client
            .is_paused()
            .await
            .map(|paused| json!({ "msgtype": "pausestatusreplymsg", "colonyname": client.colony(), "ispaused": paused })),
        "pauseassignmentsmsg" => nothing(client.pause_assignments().await),
        "resumeassignmentsmsg" => nothing(client.resume_assignments().await),
        "addexecutormsg" => shown(client.add_executor(&get(p, "executor")).await),
        "approveexecutormsg" => nothing(client.approve_executor(&text("executorname")).await),
        "rejectexecutormsg" => nothing(client.reject_executor(&text("executorname")).await),
        "removeexecutormsg" => nothing(client.remove_executor(&text("executorname")).await),
        "getexecutorsmsg" => shown(client.executors().await),
        "getexecutormsg" => shown(client.executor(&text("executorname")).await),
        "getexecutorbyidmsg" => shown(client.executor_by_id(&text("executorid")).await),
        "updateexecutormsg" => nothing(client.update_executor(&text("executorname"), &get(p, "capabilities")).await),
        "reportallocationmsg" => nothing(client.report_allocation(&text("executorname"), &get(p, "allocations")).await),
        "addexecutorlogmsg" => nothing(client.add_executor_log(&text("executorname"), &text("message")).await),
        "addfunctionmsg" => shown(client.add_function(&get(p, "fun")).await),
        "getfunctionsmsg" => shown(client.functions(&text("executorname")).await),
        "removefunctionmsg" => nothing(client.remove_function(&text("functionid")).await),
        "submitfuncspecmsg" => shown(client.submit(&get(p, "spec")).await),
        "assignprocessmsg" => {
            let seconds = u32::try_from(get::<i64>(p, "timeout")).unwrap_or(0);
            shown(client.assign(seconds, &text("availablecpu"), &text("availablemem")).await)
        }
        "getprocessmsg" => shown(client.process(&text("processid")).await),
        "getprocessesmsg" => {
            let filter = [("executortype", 0), ("label", 1), ("initiator", 2)].into_iter().find(|(key, _)| !text(key).is_empty());
            let filter = match filter {
                None => ProcessFilter::None,
                Some((key, 0)) => ProcessFilter::ExecutorType(text(key)),
                Some((key, 1)) => ProcessFilter::Label(text(key)),
                Some((key, _)) => ProcessFilter::Initiator(text(key)),
            };
            shown(client.processes(state, get(p, "count"), &filter).await)
        }
        "getprocesshistmsg" => shown(client.process_history(state, get(p, "seconds"), &text("executorid")).await),
        "cancelprocessmsg" => nothing(client.cancel(&text("processid")).await),
        "removeprocessmsg" => nothing(client.remove_process(&text("processid")).await),
        "removeallprocessesmsg" => nothing(client.remove_all_processes(ProcessState::from_number(get(p, "state"))).await),
        "closesuccessfulmsg" => nothing(client.close_successful(&text("processid"), &get::<Vec<Value>>(p, "out")).await),
        "closefailedmsg" => nothing(client.close_failed(&text("processid"), &get::<Vec<String>>(p, "errors")).await),
        "setoutputmsg" => nothing(client.set_output(&text("processid"), &get::<Vec<Value>>(p, "out")).await),
        "addattributemsg" => shown(client.add_attribute(&get(p, "attribute")).await),
        "getattributemsg" => shown(client.attribute(&text("attributeid")).await),
        "addlogmsg" => nothing(client.add_log(&text("processid"), &text("message")).await),
        "getlogsmsg" if get(p, "latest") => shown(client.latest_logs(&text("processid"), get(p, "count")).await),
        "getlogsmsg" if text("processid").is_empty() => {
            shown(client.executor_logs(&text("executorname"), get(p, "since"), get(p, "count")).await)
        }
        "getlogsmsg" => shown(client.logs(&text("processid"), get(p, "since"), get(p, "count")).await),
        "searchlogsmsg" => shown(client.search_logs(&text("text"), get(p, "days"), get(p, "count")).await),
        "addfilemsg" => shown(client.add_file(&get(p, "file")).await),
        "getfilemsg" if !text("fileid").is_empty() => shown(client.file_by_id(&text("fileid")).await.map(Vec::from_iter)),
        "getfilemsg" if get(p, "latest") => shown(client.latest_file(&text("label"), &text("name")).await.map(Vec::from_iter)),
        "getfilemsg" => shown(client.file_revisions(&text("label"), &text("name")).await),
        "getfilesmsg" => shown(client.files(&text("label")).await),
        "getfilelabelsmsg" if get(p, "exact") => shown(client.labels_exact(&text("name")).await),
        "getfilelabelsmsg" => shown(client.labels(&text("name")).await),
        "removefilemsg" if text("fileid").is_empty() => nothing(client.remove_file(&text("label"), &text("name")).await),
        "removefilemsg" => nothing(client.remove_file_by_id(&text("fileid")).await),
        "createsnapshotmsg" => shown(client.create_snapshot(&text("label"), &text("name")).await),
        "getsnapshotmsg" if text("snapshotid").is_empty() => shown(client.snapshot_by_name(&text("name")).await),
        "getsnapshotmsg" => shown(client.snapshot(&text("snapshotid")).await),
        "getsnapshotsmsg" => shown(client.snapshots().await),
        "removesnapshotmsg" => nothing(client.remove_snapshot(&text("snapshotid")).await),
        "removeallsnapshotmsg" => nothing(client.remove_all_snapshots().await),
        other => panic!("no method for {other}"),
    }
}

/// What may differ between two texts of one thing: `null`, an empty list or map and a missing field; a time's notation;
/// `1` and `1.0`.
fn plain(value: &Value) -> Value {
    match value {
        Value::Object(map) => {
            let kept = map.iter().map(|(k, v)| (k.clone(), plain(v))).filter(|(_, v)| !v.is_null());
            let map: serde_json::Map<_, _> = kept.collect();
            if map.is_empty() { Value::Null } else { Value::Object(map) }
        }
        Value::Array(list) if list.is_empty() => Value::Null,
        Value::Array(list) => list.iter().map(plain).collect(),
        Value::String(text) if text.is_empty() => Value::Null,
        Value::String(text) => match time::Time::parse(text) {
            Ok(time) if text.len() > 18 => json!(time.to_string()),
            _ => value.clone(),
        },
        Value::Number(n) if n.as_f64() == Some(0.0) => json!(0),
        other => other.clone(),
    }
}

/// A request without what a server takes for granted: zeroes, `false` and "never" mean the same as a field left out.
fn asked_for(value: &Value) -> Value {
    match plain(value) {
        Value::Object(map) => {
            let kept = map.iter().map(|(k, v)| (k.clone(), asked_for(v))).filter(|(_, v)| !v.is_null());
            let map: serde_json::Map<_, _> = kept.collect();
            if map.is_empty() { Value::Null } else { Value::Object(map) }
        }
        Value::Array(list) => list.iter().map(asked_for).collect(),
        Value::Bool(false) => Value::Null,
        Value::Number(n) if n.as_f64() == Some(0.0) => Value::Null,
        Value::String(text) if text == time::NEVER => Value::Null,
        other => other,
    }
}

/// Recorded requests that our client cannot or does not make, by their case.
fn not_ours(call: &str, case: &str, payload: &Value) -> bool {
    match call {
        // One object instead of a list, and fields that nobody knows: read by servers, written by no client of ours.
        "addexecutor" => case.contains("line 1.8"),
        "submitfuncspec" => case.contains("unknown fields"),
        // Several filters at once, a count or state that the types exclude, fields left out or of the wrong type.
        "getprocesses" => {
            let named = ["executortype", "label", "initiator"].iter().filter(|k| !get::<String>(payload, k).is_empty()).count();
            named > 1 || get::<i64>(payload, "count") < 0 || ProcessState::from_number(get(payload, "state")).is_none()
        }
        "getprocesshist" => ProcessState::from_number(get(payload, "state")).is_none(),
        "assignprocess" => get::<i64>(payload, "timeout") < 0,
        "getlogs" => {
            (get::<bool>(payload, "latest") && get::<i64>(payload, "since") != 0)
                || (!get::<String>(payload, "processid").is_empty() && !get::<String>(payload, "executorname").is_empty())
        }
        // Both an id and a name, or neither; ours uses one.
        "getsnapshot" | "removesnapshot" => {
            get::<String>(payload, "snapshotid").is_empty()
                && (call == "removesnapshot" || get::<String>(payload, "name").is_empty())
                || (!get::<String>(payload, "snapshotid").is_empty() && !get::<String>(payload, "name").is_empty())
        }
        "getfile" => get::<String>(payload, "fileid").is_empty() && get::<String>(payload, "name").is_empty(),
        "removeprocess" => get::<bool>(payload, "all"),
        _ => false,
    }
}

#[tokio::test]
async fn every_recorded_request_is_made_and_every_recorded_reply_read() {
    let server = Scripted::start().await;
    let mut compared = 0;
    let mut differences = Vec::new();
    for name in CALLS {
        for recording in recordings(name) {
            let case = recording["case"].as_str().unwrap_or_default();
            let (Some(payload), Some(raw)) = (recording["request"].get("payload"), recording["response"]["raw"].as_str()) else {
                continue;
            };
            if !payload.is_object() {
                continue;
            }
            let status = u16::try_from(recording["status"].as_u64().unwrap()).unwrap();
            let msgtype = recording["request"]["envelope"]["payloadtype"].as_str().unwrap();
            *server.script.lock().unwrap() = VecDeque::from([(status, raw.as_bytes().to_vec())]);
            server.asked.lock().unwrap().clear();
            let colony: String = get(payload, "colonyname");
            let answer = call(&server.client(&colony), msgtype, payload).await;
            compared += 1;
            let asked = server.asked.lock().unwrap()[0].clone();
            let sent = asked.decoded().unwrap();
            if !not_ours(name, case, payload) && asked_for(&sent) != asked_for(payload) {
                differences.push(format!("{name}: {case}: sent {sent}, recorded {payload}"));
            }
            if let Some(difference) = reads_otherwise(name, &recording["response"]["payload"], status, answer) {
                differences.push(format!("{name}: {case}: {difference}"));
            }
        }
    }
    assert!(differences.is_empty(), "{} of {compared} differ:\n{}", differences.len(), differences.join("\n"));
    assert!(compared > 250, "only {compared} recordings were compared");
}

/// Compares what the client made of a reply with the recorded reply.
fn reads_otherwise(name: &str, recorded: &Value, status: u16, answer: Result<Value, Error>) -> Option<String> {
    match answer {
        // The real server repeats `msgtype` here, which says nothing.
        Ok(value) if name == "version" && status == 200 => {
            (plain(&value["buildversion"]) != plain(&recorded["buildversion"])).then(|| format!("read as {value}"))
        }
        Ok(value) if status == 200 => (plain(&value) != plain(recorded)).then(|| format!("read as {value}, recorded {recorded}")),
        Err(Error::Refused { status: read, message, .. }) if status != 200 => {
            // Two objects one after the other were recorded as text only; the first of them is what is read.
            let said = recorded["message"].as_str().unwrap_or(if recorded.is_null() { &message } else { "" });
            (read != status || message != said || message.is_empty())
                .then(|| format!("refusal read as {read} {message}, recorded {status} {said}"))
        }
        // What the client turns into "there is none".
        Ok(value)
            if plain(&value).is_null() && matches!(name, "getfile" | "assignprocess") && matches!(status, 400 | 404 | 408) =>
        {
            None
        }
        // A file that was not stored although the server answered 200.
        Err(Error::Refused { status: 200, .. }) if name == "addfile" && recorded.is_null() => None,
        Err(Error::Garbage { .. }) if name == "getprocesshist" && recorded.is_null() && status == 200 => None,
        other => Some(format!("recorded {status}, read as {other:?}")),
    }
}
