//! A Colonies server in memory that misbehaves on demand: answers are lost after the work was done, log messages are
//! refused, an executor is forgotten. For faults that the embedded colony never makes; everything else is tested against
//! that one.

use crate::colonies::Executor;
use crate::colonies::FunctionSpec;
use crate::colonies::Process;
use crate::colonies::ProcessState;
use crate::colonies::identity;
use crate::colonies::time::Time;
use crate::config::ColonyAccess;
use crate::config::Secret;
use axum::http::StatusCode;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;
use serde_json::json;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::Mutex;
use std::time::Duration;
use tokio::sync::Notify;

/// What the server knows.
#[derive(Default)]
pub(super) struct State {
    pub(super) processes: BTreeMap<String, Process>,
    pub(super) logs: BTreeMap<String, Vec<String>>,
    pub(super) executors: Vec<Executor>,
    pub(super) functions: Vec<Value>,
    /// Calls by message type.
    pub(super) calls: BTreeMap<String, u32>,
    /// So many answers to calls of a type get lost after the work was done.
    pub(super) lose: BTreeMap<String, u32>,
    /// So many calls of a type meet a fault of the server's own, whose words say nothing of passing.
    pub(super) fault: BTreeMap<String, u32>,
    /// The next verdict comes just after the server took the process away.
    pub(super) too_late: bool,
    /// The process of the next verdict has gone back to waiting, since its executor was silent.
    pub(super) forgets: bool,
    /// So many calls of a type are refused with 400.
    pub(super) refuse: BTreeMap<String, u32>,
}

/// The server.
pub(super) struct TestServer {
    pub(super) state: Arc<Mutex<State>>,
    pub(super) changed: Arc<Notify>,
    pub(super) access: ColonyAccess,
    pub(super) owner_key: Secret,
}

impl TestServer {
    /// Starts it on a free port, in a runtime of its own.
    pub(super) fn start() -> TestServer {
        let (owner, owner_key) = identity::Identity::generate().unwrap();
        let (_, key) = identity::Identity::generate().unwrap();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let port = listener.local_addr().unwrap().port();
        let state = Arc::new(Mutex::new(State::default()));
        let changed = Arc::new(Notify::new());
        let shared = (state.clone(), changed.clone(), owner.id().to_owned());
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async move {
                let app = axum::Router::new().route(
                    "/api",
                    axum::routing::post(move |body: String| {
                        let shared = shared.clone();
                        async move { answer(&shared.0, &shared.1, &shared.2, &body).await }
                    }),
                );
                axum::serve(tokio::net::TcpListener::from_std(listener).unwrap(), app).await.unwrap();
            });
        });
        let access = ColonyAccess { host: "127.0.0.1".into(), port, tls: false, skip_verify: false, colony: "test".into(), key };
        TestServer { state, changed, access, owner_key }
    }

    pub(super) fn submit(&self, id: &str, spec: Value) {
        let spec: FunctionSpec = serde_json::from_value(spec).unwrap();
        let process = Process { processid: id.into(), spec, ..Process::default() };
        self.state.lock().unwrap().processes.insert(id.into(), process);
        self.changed.notify_waiters();
    }

    pub(super) fn process(&self, id: &str) -> Process {
        self.state.lock().unwrap().processes[id].clone()
    }

    pub(super) fn log(&self, id: &str) -> Vec<String> {
        self.state.lock().unwrap().logs.get(id).cloned().unwrap_or_default()
    }

    pub(super) fn calls(&self, call: &str) -> u32 {
        self.state.lock().unwrap().calls.get(call).copied().unwrap_or(0)
    }

    /// Waits until a test holds.
    pub(super) async fn until(&self, what: &str, test: impl Fn(&State) -> bool) {
        let end = tokio::time::Instant::now() + Duration::from_secs(120);
        while !test(&self.state.lock().unwrap()) {
            assert!(tokio::time::Instant::now() < end, "never came: {what}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    pub(super) async fn until_state(&self, id: &str, wanted: ProcessState) -> Process {
        self.until(&format!("{id} {wanted:?}"), |s| {
            let now = s.processes[id].state;
            assert!(now == wanted || !now.is_final(), "{id} is {now:?}: {:?}", s.processes[id].errors);
            now == wanted
        })
        .await;
        self.process(id)
    }
}

type Answer = Result<Value, (u16, &'static str)>;

async fn answer(state: &Mutex<State>, changed: &Notify, owner: &str, body: &str) -> (StatusCode, String) {
    let envelope: Value = serde_json::from_str(body).unwrap();
    let text = |name: &str| envelope[name].as_str().unwrap().to_owned();
    let signer = identity::recover(&text("payload"), &text("signature")).unwrap();
    let payload: Value = serde_json::from_slice(&STANDARD.decode(text("payload")).unwrap()).unwrap();
    let call = text("payloadtype");
    let answer = loop {
        // Registered before looking.
        let wake = changed.notified();
        tokio::pin!(wake);
        wake.as_mut().enable();
        let found = handle(&mut state.lock().unwrap(), owner, &signer, &call, &payload);
        if let Some(answer) = found {
            break answer;
        }
        let limit = Duration::from_secs(payload["timeout"].as_u64().unwrap());
        if tokio::time::timeout(limit, wake).await.is_err() {
            break Err((404, "No process available for assignment"));
        }
    };
    let mut state = state.lock().unwrap();
    if let Some(left) = state.lose.get_mut(&call).filter(|left| **left > 0) {
        *left -= 1;
        return (StatusCode::BAD_GATEWAY, "<html>".into());
    }
    let (status, payload, error) = match answer {
        Ok(value) => (200, value, false),
        Err((status, message)) => (status, json!({ "status": status, "message": message }), true),
    };
    let kind = if error { "error" } else { &call };
    let reply = json!({ "payloadtype": kind, "payload": STANDARD.encode(payload.to_string()), "error": error });
    (StatusCode::from_u16(status).unwrap(), reply.to_string())
}

const NO_MEMBER: Answer = Err((403, "Access denied, not a member of Colony with name <test>"));

/// None: wait for a change (assign).
fn handle(state: &mut State, owner: &str, signer: &str, call: &str, p: &Value) -> Option<Answer> {
    *state.calls.entry(call.into()).or_default() += 1;
    if let Some(left) = state.refuse.get_mut(call).filter(|left| **left > 0) {
        *left -= 1;
        return Some(Err((400, "refused by the test")));
    }
    if let Some(left) = state.fault.get_mut(call).filter(|left| **left > 0) {
        *left -= 1;
        return Some(Err((500, "could not extend file: No space left on device")));
    }
    let name = p["executorname"].as_str().unwrap_or_default().to_owned();
    Some(match call {
        "addexecutormsg" if signer == owner => {
            let executor: Executor = serde_json::from_value(p["executor"].clone()).unwrap();
            assert_eq!(p["executor"]["lastheardfromtime"], "0001-01-01T00:00:00Z");
            state.executors.push(executor);
            Ok(p["executor"].clone())
        }
        "approveexecutormsg" if signer == owner => {
            state.executors.iter_mut().filter(|e| e.executorname == name).for_each(|e| e.state = 1);
            Ok(json!({}))
        }
        _ if !state.executors.iter().any(|e| e.executorid == signer && e.state == 1) => NO_MEMBER,
        "getexecutorsmsg" => Ok(json!(state.executors)),
        "getfunctionsmsg" => Ok(json!(state.functions)),
        "addfunctionmsg" => {
            state.functions.push(p["fun"].clone());
            Ok(p["fun"].clone())
        }
        "assignprocessmsg" => return assign(state, signer, p).map(Ok),
        "getprocesshistmsg" => {
            let of = |q: &&Process| json!(q.state) == p["state"] && json!(q.assignedexecutorid) == p["executorid"];
            Ok(json!(state.processes.values().filter(of).collect::<Vec<_>>()))
        }
        _ => on_process(state, signer, call, p),
    })
}

fn assign(state: &mut State, signer: &str, p: &Value) -> Option<Value> {
    if p["availablecpu"] == "-1m" {
        return None;
    }
    let process = state.processes.values_mut().find(|q| q.state == ProcessState::Waiting)?;
    process.state = ProcessState::Running;
    process.isassigned = true;
    process.assignedexecutorid = signer.into();
    process.starttime = Time::at(jiff::Timestamp::now());
    Some(json!(process))
}

fn on_process(state: &mut State, signer: &str, call: &str, p: &Value) -> Answer {
    let id = p["processid"].as_str().or(p["attribute"]["targetid"].as_str()).unwrap().to_owned();
    let Some(process) = state.processes.get_mut(&id) else { return Err((404, "process not found")) };
    if call.starts_with("close") && std::mem::take(&mut state.too_late) {
        process.state = ProcessState::Waiting;
        process.retries += 1;
    }
    if call.starts_with("close") && std::mem::take(&mut state.forgets) {
        process.state = ProcessState::Waiting;
        process.assignedexecutorid.clear();
    }
    let held = process.state == ProcessState::Running && process.assignedexecutorid == signer;
    let log = state.logs.entry(id).or_default();
    match call {
        "getprocessmsg" => return Ok(json!(process)),
        "getlogsmsg" => {
            let count = p["count"].as_u64().unwrap() as usize;
            let last = log.iter().skip(log.len().saturating_sub(count)).map(|m| json!({ "message": m }));
            return Ok(Value::Array(last.collect()));
        }
        _ if !held => return Err((403, "Failed to set output, process is not running")),
        "addlogmsg" => log.push(p["message"].as_str().unwrap().to_owned()),
        "addattributemsg" => {
            let attribute = serde_json::from_value(p["attribute"].clone()).unwrap();
            process.attributes.push(attribute);
            return Ok(p["attribute"].clone());
        }
        "closesuccessfulmsg" => process.state = ProcessState::Success,
        "closefailedmsg" => {
            process.state = ProcessState::Failed;
            process.errors = serde_json::from_value(p["errors"].clone()).unwrap();
        }
        other => panic!("the test server does not know {other}"),
    }
    Ok(json!({}))
}
