//! The Colonies server of the local colony: the protocol over HTTP, one file for each group of calls.

mod assign;
mod clock;
mod executors;
mod files;
mod logs;
mod members;
mod payload;
mod processes;
mod pubsub;
pub(super) mod refusal;
mod snapshots;

use super::database::Database;
use super::database::Work;
use crate::colonies::Colony;
use crate::colonies::envelope::Reply;
use crate::colonies::envelope::Request;
use axum::Router;
use axum::body::Bytes;
use axum::extract::DefaultBodyLimit;
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header;
use axum::response::IntoResponse;
use axum::response::Response;
use axum::routing::get;
use axum::routing::post;
use payload::Payload;
use refusal::Refused;
use serde_json::Value;
use serde_json::json;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::OnceLock;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// Whatever is not there.
const NOT_FOUND: (StatusCode, &str) = (StatusCode::NOT_FOUND, "404 page not found");
/// Largest request taken: the real server was seen to take 128 MiB.
const LARGEST_REQUEST: usize = 256 << 20;

/// How the server behaves.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Id of the server's owner.
    pub owner: String,
    /// Whether an executor may be registered again under its name (the published compose file: yes).
    pub register_again: bool,
    /// An approved executor that has not asked for work for so long is unregistered.
    pub silence: Duration,
    /// How often silent executors are looked for.
    pub silence_check: Duration,
    /// Answer questions about labels with the faults of the real server: `_` and `%` are wildcards, and a label that holds
    /// no file itself hides those below it. For tests that want to meet them; off in a local colony.
    pub faulty_labels: bool,
}

impl Settings {
    /// What a local colony uses.
    pub fn new(owner: impl Into<String>) -> Settings {
        Settings {
            owner: owner.into(),
            register_again: true,
            silence: Duration::from_secs(600),
            silence_check: Duration::from_secs(60),
            faulty_labels: false,
        }
    }
}

/// A server; cheap to clone.
#[derive(Clone)]
pub struct Server {
    database: Database,
    settings: Arc<Settings>,
    /// Where it listens, once it does.
    address: Arc<OnceLock<SocketAddr>>,
    /// Ends long polls and subscriptions.
    shutdown: CancellationToken,
}

impl Server {
    /// A server on the database in a folder, which is made where it is missing.
    ///
    /// # Errors
    /// Those of the database.
    pub fn open(folder: &Path, settings: Settings, shutdown: CancellationToken) -> Result<Server, crate::sqlite::Error> {
        let database = Database::open(folder)?;
        Ok(Server { database, settings: Arc::new(settings), address: Arc::default(), shutdown })
    }

    fn context(&self, signer: String) -> Context {
        Context { signer, settings: self.settings.clone() }
    }

    fn port(&self) -> (String, u16) {
        self.address.get().map_or_else(|| ("127.0.0.1".into(), 0), |a| (a.ip().to_string(), a.port()))
    }

    pub(super) fn database(&self) -> &Database {
        &self.database
    }

    /// Makes a colony where there is none of its name, without a request of the owner.
    ///
    /// # Errors
    /// The database's, in words.
    pub async fn make_colony(&self, colony: &Colony) -> Result<(), String> {
        let colony = colony.clone();
        let made = self.database.run(move |work| {
            let sql = "INSERT OR IGNORE INTO colony(name, colony_id) VALUES (?1, ?2)";
            work.db.execute(sql, [&colony.name, &colony.colonyid])?;
            Ok(())
        });
        made.await.map_err(|refused| refused.message)
    }

    /// Serves until the shutdown. Requests under way are answered.
    ///
    /// # Errors
    /// Those of the network.
    pub async fn serve(self, listener: TcpListener) -> std::io::Result<()> {
        let shutdown = self.shutdown.clone();
        // A server serves one listener.
        let _ = self.address.set(listener.local_addr()?);
        tokio::spawn(clock::watch(self.clone()));
        let app = Router::new()
            .route("/api", post(api))
            .route("/api/", post(async || (StatusCode::TEMPORARY_REDIRECT, [(header::LOCATION, "/api")])))
            .route("/health", get(async || StatusCode::OK))
            .route("/pubsub", get(pubsub::connect))
            .fallback(async || NOT_FOUND)
            .method_not_allowed_fallback(async || NOT_FOUND)
            .layer(DefaultBodyLimit::max(LARGEST_REQUEST))
            .with_state(self);
        axum::serve(listener, app).with_graceful_shutdown(shutdown.cancelled_owned()).await
    }
}

/// `POST /api`: one envelope in, one out. No header is looked at.
async fn api(State(server): State<Server>, body: Bytes) -> Response {
    let (status, reply) = match answer(&server, &body).await {
        Ok(reply) => (StatusCode::OK, reply),
        Err(refused) => {
            let status = StatusCode::from_u16(refused.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
            (status, refused.reply())
        }
    };
    let text = serde_json::to_string(&reply).unwrap_or_default();
    (status, [(header::CONTENT_TYPE, "text/plain; charset=utf-8")], text).into_response()
}

/// An opened request: who signed it, and what it says.
pub(super) struct Call {
    /// Id of the signer; empty where none is needed.
    pub(super) signer: String,
    /// `…msg`.
    pub(super) kind: String,
    /// The payload, checked.
    pub(super) payload: Payload,
}

/// Calls that need no signature.
const OPEN_CALLS: [&str; 2] = ["versionmsg", "getserverinfomsg"];

async fn answer(server: &Server, body: &[u8]) -> Result<Reply, Refused> {
    let request: Request = payload::envelope(body)?;
    let call = open(request)?;
    let kind = call.kind.clone();
    let answer = dispatch(server, call).await?;
    let kind = if kind == "getpausestatusmsg" { "pausestatusreplymsg" } else { &kind };
    Ok(Reply::answer(kind, &answer))
}

/// Checks signature, kind and payload of an envelope, in the order of the real server.
pub(super) fn open(request: Request) -> Result<Call, Refused> {
    let kind = request.payloadtype.clone();
    if kind.is_empty() {
        return Err(Refused::forbidden(
            "invalid rpcMsg.PayloadType: empty (this usually means the client is misconfigured - check that COLONIES_PRVKEY and other environment variables are set correctly)",
        ));
    }
    let signer = if OPEN_CALLS.contains(&kind.as_str()) {
        String::new()
    } else {
        request.signer().map_err(|e| Refused::forbidden(e.to_string()))?
    };
    if !is_known(&kind) {
        return Err(Refused::forbidden(format!("invalid rpcMsg.PayloadType: {kind}")));
    }
    let payload = Payload::read(&request, &phrase(&kind))?;
    Ok(Call { signer, kind, payload })
}

/// `getprocessmsg` as `get process`, for messages.
fn phrase(kind: &str) -> String {
    let name = kind.trim_end_matches("msg");
    let verbs = [
        "get",
        "add",
        "remove",
        "approve",
        "reject",
        "assign",
        "close",
        "cancel",
        "submit",
        "create",
        "set",
        "search",
        "update",
        "report",
        "pause",
        "resume",
        "subscribe",
    ];
    match verbs.iter().find_map(|verb| name.strip_prefix(verb).map(|rest| (verb, rest))) {
        Some((verb, rest)) if !rest.is_empty() => format!("{verb} {rest}"),
        _ => name.to_owned(),
    }
}

const KNOWN: &[&str] = &[
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
    "subscribeprocess",
    "subscribeprocesses",
    "updateexecutor",
    "version",
];

fn is_known(kind: &str) -> bool {
    kind.strip_suffix("msg").is_some_and(|name| KNOWN.contains(&name))
}

/// A call that is one transaction.
type Handler = fn(&Work<'_>, &Context, &Payload) -> Result<Value, Refused>;

/// What handlers know besides the payload.
#[derive(Clone, Debug)]
pub(super) struct Context {
    /// Who asks.
    pub(super) signer: String,
    /// How the server behaves.
    pub(super) settings: Arc<Settings>,
}

impl Context {
    /// Only the owner of the server may.
    pub(super) fn require_server_owner(&self) -> Result<(), Refused> {
        if self.signer == self.settings.owner { Ok(()) } else { Err(Refused::forbidden("Access denied, not server owner")) }
    }
}

async fn dispatch(server: &Server, call: Call) -> Result<Value, Refused> {
    let handler: Handler = match call.kind.trim_end_matches("msg") {
        "version" => return Ok(json!({ "buildversion": env!("CARGO_PKG_VERSION"), "buildtime": "", "msgtype": "versionmsg" })),
        "getserverinfo" => return Ok(server_info(server)),
        "assignprocess" => return assign::assign(server, call).await,
        "addcolony" => members::add_colony,
        "removecolony" => members::remove_colony,
        "getcolonies" => members::colonies,
        "getcolony" => members::colony,
        "getstatistics" => members::statistics,
        "getcolonystats" => members::colony_statistics,
        "getcluster" => return cluster(server, &call),
        "adduser" => members::add_user,
        "removeuser" => members::remove_user,
        "getusers" => members::users,
        "getuser" => members::user,
        "pauseassignments" => members::pause,
        "resumeassignments" => members::resume,
        "getpausestatus" => members::pause_status,
        "addexecutor" => executors::add,
        "approveexecutor" => executors::approve,
        "rejectexecutor" => executors::reject,
        "removeexecutor" => executors::remove,
        "getexecutors" => executors::list,
        "getexecutor" => executors::by_name,
        "getexecutorbyid" => executors::by_id,
        "updateexecutor" => executors::update,
        "reportallocation" => executors::report_allocation,
        "addfunction" => executors::add_function,
        "getfunctions" => executors::functions,
        "removefunction" => executors::remove_function,
        "submitfuncspec" => processes::submit,
        "getprocess" => processes::get,
        "getprocesses" => processes::list,
        "getprocesshist" => processes::history,
        "cancelprocess" => processes::cancel,
        "removeprocess" => processes::remove,
        "removeallprocesses" => processes::remove_all,
        "closesuccessful" => processes::close_successful,
        "closefailed" => processes::close_failed,
        "setoutput" => processes::set_output,
        "addattribute" => processes::add_attribute,
        "getattribute" => processes::attribute,
        "addlog" => logs::add,
        "addexecutorlog" => logs::add_of_executor,
        "getlogs" => logs::get,
        "searchlogs" => logs::search,
        "addfile" => files::add,
        "getfile" => files::get,
        "getfiles" => files::list,
        "getfilelabels" => files::labels,
        "removefile" => files::remove,
        "createsnapshot" => snapshots::create,
        "getsnapshot" => snapshots::get,
        "getsnapshots" => snapshots::list,
        "removesnapshot" => snapshots::remove,
        "removeallsnapshot" => snapshots::remove_all,
        other => return Err(Refused::forbidden(format!("invalid rpcMsg.PayloadType: {other}msg"))),
    };
    let context = server.context(call.signer);
    let payload = call.payload;
    server.database.run(move |work| handler(work, &context, &payload)).await
}

fn server_info(server: &Server) -> Value {
    let (host, port) = server.port();
    let backend = json!({ "type": "http", "port": port, "host": host });
    json!({ "buildversion": env!("CARGO_PKG_VERSION"), "buildtime": "", "backends": [backend] })
}

fn cluster(server: &Server, call: &Call) -> Result<Value, Refused> {
    server.context(call.signer.clone()).require_server_owner()?;
    let (host, port) = server.port();
    let node = json!({ "name": "local", "host": host, "port": port, "peerport": 0, "relayport": 0, "apiport": port });
    Ok(json!({ "nodes": [node.clone()], "leader": node }))
}

/// How long after the shutdown began open connections are waited for.
pub(super) const FAREWELL: Duration = Duration::from_secs(3);
