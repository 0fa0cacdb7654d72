//! The nouns of the protocol. Field names are the wire's; times are [`Time`]s; unknown fields are dropped;
//! lists and maps that may come as `null` are read as empty.

use super::time::Time;
use serde::Deserialize;
use serde::Deserializer;
use serde::Serialize;
use serde_json::Map;
use serde_json::Value;
use std::collections::BTreeMap;

/// Reads `null` as the default: servers and clients write it for empty lists, maps and texts.
pub fn nullable<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(d: D) -> Result<T, D::Error> {
    Ok(Option::<T>::deserialize(d)?.unwrap_or_default())
}

/// State of a process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ProcessState {
    /// In the queue.
    #[default]
    Waiting,
    /// Held by an executor.
    Running,
    /// Closed as successful.
    Success,
    /// Closed as failed, or out of time and retries.
    Failed,
    /// Cancelled by a member.
    Cancelled,
}

impl ProcessState {
    /// The wire's number.
    pub fn number(self) -> i64 {
        self as i64
    }

    /// From the wire's number.
    pub fn from_number(n: i64) -> Option<ProcessState> {
        use ProcessState::*;
        [Waiting, Running, Success, Failed, Cancelled].into_iter().find(|s| s.number() == n)
    }

    /// Whether nothing more will happen to it.
    pub fn is_final(self) -> bool {
        matches!(self, ProcessState::Success | ProcessState::Failed | ProcessState::Cancelled)
    }

    /// The word used in listings and events.
    pub fn word(self) -> &'static str {
        match self {
            ProcessState::Waiting => "waiting",
            ProcessState::Running => "running",
            ProcessState::Success => "success",
            ProcessState::Failed => "failed",
            ProcessState::Cancelled => "cancelled",
        }
    }
}

impl Serialize for ProcessState {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_i64(self.number())
    }
}

impl<'de> Deserialize<'de> for ProcessState {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<ProcessState, D::Error> {
        let n = i64::deserialize(d)?;
        ProcessState::from_number(n).ok_or_else(|| serde::de::Error::custom(format!("{n} is no process state")))
    }
}

/// GPU part of [`Conditions`] and [`Hardware`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[allow(missing_docs)]
pub struct Gpu {
    #[serde(deserialize_with = "nullable")]
    pub name: String,
    #[serde(deserialize_with = "nullable")]
    pub mem: String,
    #[serde(deserialize_with = "nullable")]
    pub count: i64,
    #[serde(deserialize_with = "nullable")]
    pub nodecount: i64,
}

/// What an executor must be, and have free, to get a process.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Conditions {
    /// The colony.
    #[serde(deserialize_with = "nullable")]
    pub colonyname: String,
    /// Names of executors that may take it; none: any of the type.
    pub executornames: Option<Vec<String>>,
    /// Type of the executor; must be equal.
    #[serde(deserialize_with = "nullable")]
    pub executortype: String,
    /// Where the executor must stand.
    #[serde(deserialize_with = "nullable", skip_serializing_if = "String::is_empty")]
    pub locationname: String,
    /// Names of earlier functions of a workflow.
    #[serde(deserialize_with = "nullable")]
    pub dependencies: Vec<String>,
    /// Nodes, 1 to 127.
    #[serde(deserialize_with = "nullable")]
    pub nodes: i64,
    /// CPU, in millicores: `1000m`.
    #[serde(deserialize_with = "nullable")]
    pub cpu: String,
    /// Ignored by every executor.
    #[serde(deserialize_with = "nullable")]
    pub processes: i64,
    /// Processes on each node.
    #[serde(deserialize_with = "nullable")]
    pub processespernode: i64,
    /// Memory: an integer with `Mi` or `Gi`.
    #[serde(deserialize_with = "nullable")]
    pub mem: String,
    /// Must be empty or 0 for the process to be assigned.
    #[serde(deserialize_with = "nullable")]
    pub storage: String,
    /// GPUs.
    #[serde(deserialize_with = "nullable")]
    pub gpu: Gpu,
    /// Seconds.
    #[serde(deserialize_with = "nullable")]
    pub walltime: i64,
}

/// A snapshot that the executor downloads before the job.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SnapshotMount {
    /// Id of the snapshot.
    #[serde(deserialize_with = "nullable")]
    pub snapshotid: String,
    /// Label it was made of.
    #[serde(deserialize_with = "nullable")]
    pub label: String,
    /// Folder below the executor's file area.
    #[serde(deserialize_with = "nullable")]
    pub dir: String,
    /// Leave the files on the executor.
    #[serde(deserialize_with = "nullable")]
    pub keepfiles: bool,
    /// Leave the snapshot on the server. Published examples misspell it, and are understood.
    #[serde(deserialize_with = "nullable", alias = "keepsnaphot")]
    pub keepsnapshot: bool,
}

/// Who wins where both sides have a file with other content. "Local" is the side that synchronizes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct KeepLocal {
    /// True: the synchronizing side's copy is uploaded. False: the stored one is downloaded.
    #[serde(deserialize_with = "nullable")]
    pub keeplocal: bool,
}

/// Conflict rules at the start and the end of a process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct OnConflicts {
    /// Before the job.
    #[serde(deserialize_with = "nullable")]
    pub onstart: KeepLocal,
    /// After the job.
    #[serde(deserialize_with = "nullable")]
    pub onclose: KeepLocal,
}

/// A label that the executor keeps in step with a folder.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct DirMount {
    /// The label.
    #[serde(deserialize_with = "nullable")]
    pub label: String,
    /// Folder below the executor's file area.
    #[serde(deserialize_with = "nullable")]
    pub dir: String,
    /// Leave the files on the executor.
    #[serde(deserialize_with = "nullable")]
    pub keepfiles: bool,
    /// Conflict rules.
    #[serde(deserialize_with = "nullable")]
    pub onconflicts: OnConflicts,
}

/// Files of a process.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Filesystem {
    /// Where the job sees the executor's file area; empty: no files.
    #[serde(deserialize_with = "nullable")]
    pub mount: String,
    /// Snapshots to fetch.
    pub snapshots: Option<Vec<SnapshotMount>>,
    /// Labels to keep in step.
    pub dirs: Option<Vec<DirMount>>,
}

/// What is to be run, where and with what files.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct FunctionSpec {
    /// Name within a workflow.
    #[serde(deserialize_with = "nullable")]
    pub nodename: String,
    /// `execute` for containers.
    #[serde(deserialize_with = "nullable")]
    pub funcname: String,
    /// Positional arguments (ignored by container executors).
    #[serde(deserialize_with = "nullable")]
    pub args: Vec<Value>,
    /// Named arguments: `docker-image`, `cmd`, `args`…
    #[serde(deserialize_with = "nullable")]
    pub kwargs: Map<String, Value>,
    /// -50000 to 50000; one step is worth one day of waiting.
    #[serde(deserialize_with = "nullable")]
    pub priority: i64,
    /// Seconds; -1 or 0: no limit.
    #[serde(deserialize_with = "nullable")]
    pub maxwaittime: i64,
    /// Seconds from assignment; -1: no limit; 0: taken away at once.
    #[serde(deserialize_with = "nullable")]
    pub maxexectime: i64,
    /// How often it may be taken away; -1: for ever.
    #[serde(deserialize_with = "nullable")]
    pub maxretries: i64,
    /// Who may take it.
    #[serde(deserialize_with = "nullable")]
    pub conditions: Conditions,
    /// Free text to find it again.
    #[serde(deserialize_with = "nullable")]
    pub label: String,
    /// Files.
    #[serde(deserialize_with = "nullable")]
    pub fs: Filesystem,
    /// Environment of the job.
    #[serde(deserialize_with = "nullable")]
    pub env: BTreeMap<String, String>,
    /// Channels (passed through).
    #[serde(deserialize_with = "nullable", skip_serializing_if = "Vec::is_empty")]
    pub channels: Vec<Value>,
}

/// Attribute type of entries that the server makes from `env`.
pub const ATTRIBUTE_ENV: i64 = 3;
/// Attribute type of entries that an executor sets.
pub const ATTRIBUTE_SET: i64 = 4;

/// A key and value on a process.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Attribute {
    /// Set by the server.
    #[serde(deserialize_with = "nullable")]
    pub attributeid: String,
    /// The process.
    #[serde(deserialize_with = "nullable")]
    pub targetid: String,
    /// Its colony.
    #[serde(deserialize_with = "nullable")]
    pub targetcolonyname: String,
    /// Its workflow.
    #[serde(deserialize_with = "nullable")]
    pub targetprocessgraphid: String,
    /// State of the process.
    #[serde(deserialize_with = "nullable")]
    pub state: i64,
    /// [`ATTRIBUTE_ENV`] or [`ATTRIBUTE_SET`].
    #[serde(deserialize_with = "nullable")]
    pub attributetype: i64,
    /// Key.
    #[serde(deserialize_with = "nullable")]
    pub key: String,
    /// Value.
    #[serde(deserialize_with = "nullable")]
    pub value: String,
}

/// A submitted function specification and what became of it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Process {
    /// Set by the server, 64 hex digits.
    #[serde(deserialize_with = "nullable")]
    pub processid: String,
    /// Id of who submitted it.
    #[serde(deserialize_with = "nullable")]
    pub initiatorid: String,
    /// Name of who submitted it.
    #[serde(deserialize_with = "nullable")]
    pub initiatorname: String,
    /// Id of the executor that holds it, or held it last.
    #[serde(deserialize_with = "nullable")]
    pub assignedexecutorid: String,
    /// Whether an executor has it (stays true after it is closed).
    #[serde(deserialize_with = "nullable")]
    pub isassigned: bool,
    /// State.
    pub state: ProcessState,
    /// Order in the queue: submission time in ns minus priority in days.
    #[serde(deserialize_with = "nullable")]
    pub prioritytime: i64,
    /// When it came.
    pub submissiontime: Time,
    /// When it was (last) assigned.
    pub starttime: Time,
    /// When it was closed.
    pub endtime: Time,
    /// Failed when still waiting then.
    pub waitdeadline: Time,
    /// Taken away when still running then.
    pub execdeadline: Time,
    /// How often it was taken away.
    #[serde(deserialize_with = "nullable")]
    pub retries: i64,
    /// Attributes.
    #[serde(deserialize_with = "nullable")]
    pub attributes: Vec<Attribute>,
    /// What was submitted, numbers normalised by the server.
    #[serde(deserialize_with = "nullable")]
    pub spec: FunctionSpec,
    /// Workflow: waits for its parents.
    #[serde(deserialize_with = "nullable")]
    pub waitforparents: bool,
    /// Workflow.
    #[serde(deserialize_with = "nullable")]
    pub parents: Vec<String>,
    /// Workflow.
    #[serde(deserialize_with = "nullable")]
    pub children: Vec<String>,
    /// Workflow.
    #[serde(deserialize_with = "nullable")]
    pub processgraphid: String,
    /// Input from parents.
    #[serde(rename = "in", deserialize_with = "nullable")]
    pub input: Vec<Value>,
    /// Output.
    #[serde(rename = "out", deserialize_with = "nullable")]
    pub output: Vec<Value>,
    /// Reasons of a failure.
    #[serde(deserialize_with = "nullable")]
    pub errors: Vec<String>,
}

impl Process {
    /// Value of an attribute, by key.
    pub fn attribute(&self, key: &str) -> Option<&str> {
        self.attributes.iter().find(|a| a.key == key).map(|a| a.value.as_str())
    }
}

/// Executor state: waits for approval.
pub const EXECUTOR_PENDING: i64 = 0;
/// Executor state: may take processes.
pub const EXECUTOR_APPROVED: i64 = 1;
/// Executor state: refused by the colony's owner.
pub const EXECUTOR_REJECTED: i64 = 2;
/// Executor state: removed, or silent for too long.
pub const EXECUTOR_UNREGISTERED: i64 = 3;

/// One kind of machine an executor has.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[allow(missing_docs)]
pub struct Hardware {
    #[serde(deserialize_with = "nullable")]
    pub model: String,
    #[serde(deserialize_with = "nullable")]
    pub nodes: i64,
    #[serde(deserialize_with = "nullable")]
    pub cpu: String,
    #[serde(deserialize_with = "nullable")]
    pub cores: i64,
    #[serde(deserialize_with = "nullable")]
    pub mem: String,
    #[serde(deserialize_with = "nullable")]
    pub storage: String,
    #[serde(deserialize_with = "nullable")]
    pub gpu: Gpu,
    #[serde(deserialize_with = "nullable")]
    pub platform: String,
    #[serde(deserialize_with = "nullable")]
    pub architecture: String,
    #[serde(deserialize_with = "nullable")]
    pub network: Vec<String>,
}

/// One program an executor has.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[allow(missing_docs)]
pub struct Software {
    #[serde(deserialize_with = "nullable")]
    pub name: String,
    #[serde(rename = "type", deserialize_with = "nullable")]
    pub kind: String,
    #[serde(deserialize_with = "nullable")]
    pub version: String,
}

/// Reads a list, one object alone (clients of the 1.8 line), or null.
fn list_or_one<'de, D: Deserializer<'de>, T: serde::de::DeserializeOwned>(d: D) -> Result<Vec<T>, D::Error> {
    let value = Value::deserialize(d)?;
    let read = match value {
        Value::Null => Ok(Vec::new()),
        Value::Array(_) => serde_json::from_value(value),
        one => serde_json::from_value(one).map(|one| vec![one]),
    };
    read.map_err(serde::de::Error::custom)
}

/// Writes an empty list as `null`, as servers do where nothing was said.
fn empty_as_null<S: serde::Serializer, T: Serialize>(list: &[T], s: S) -> Result<S::Ok, S::Error> {
    if list.is_empty() { s.serialize_none() } else { s.collect_seq(list) }
}

/// What an executor offers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Capabilities {
    /// Machines.
    #[serde(deserialize_with = "list_or_one", serialize_with = "empty_as_null")]
    pub hardware: Vec<Hardware>,
    /// Programs.
    #[serde(deserialize_with = "list_or_one", serialize_with = "empty_as_null")]
    pub software: Vec<Software>,
}

/// What is allocated to projects on an executor.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Allocations {
    /// Project name to its numbers; `null` where nothing was ever said.
    pub projects: Option<BTreeMap<String, Value>>,
}

/// A member that takes processes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Executor {
    /// Id of its key.
    #[serde(deserialize_with = "nullable")]
    pub executorid: String,
    /// Type; processes name it.
    #[serde(deserialize_with = "nullable")]
    pub executortype: String,
    /// Name, unique in the colony.
    #[serde(deserialize_with = "nullable")]
    pub executorname: String,
    /// The colony.
    #[serde(deserialize_with = "nullable")]
    pub colonyname: String,
    /// [`EXECUTOR_PENDING`]…
    #[serde(deserialize_with = "nullable")]
    pub state: i64,
    /// Not used here.
    #[serde(deserialize_with = "nullable")]
    pub requirefuncreg: bool,
    /// When it was added.
    pub commissiontime: Time,
    /// Last call of assign. Send "never" at registration.
    pub lastheardfromtime: Time,
    /// Place.
    #[serde(deserialize_with = "nullable", skip_serializing_if = "String::is_empty")]
    pub locationname: String,
    /// What it offers.
    #[serde(deserialize_with = "nullable")]
    pub capabilities: Capabilities,
    /// What is taken of it.
    #[serde(deserialize_with = "nullable")]
    pub allocations: Allocations,
}

impl Executor {
    /// The state as a word.
    pub fn state_word(&self) -> &'static str {
        match self.state {
            EXECUTOR_PENDING => "pending",
            EXECUTOR_APPROVED => "approved",
            EXECUTOR_REJECTED => "rejected",
            EXECUTOR_UNREGISTERED => "unregistered",
            _ => "unknown",
        }
    }
}

/// A function that an executor offers.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[allow(missing_docs)]
pub struct Function {
    #[serde(deserialize_with = "nullable")]
    pub functionid: String,
    #[serde(deserialize_with = "nullable")]
    pub executorname: String,
    #[serde(deserialize_with = "nullable")]
    pub executortype: String,
    #[serde(deserialize_with = "nullable")]
    pub colonyname: String,
    #[serde(deserialize_with = "nullable")]
    pub funcname: String,
    #[serde(deserialize_with = "nullable")]
    pub counter: i64,
    #[serde(deserialize_with = "nullable")]
    pub minwaittime: f64,
    #[serde(deserialize_with = "nullable")]
    pub maxwaittime: f64,
    #[serde(deserialize_with = "nullable")]
    pub minexectime: f64,
    #[serde(deserialize_with = "nullable")]
    pub maxexectime: f64,
    #[serde(deserialize_with = "nullable")]
    pub avgwaittime: f64,
    #[serde(deserialize_with = "nullable")]
    pub avgexectime: f64,
}

/// A person (or program) that may submit.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[allow(missing_docs)]
pub struct User {
    #[serde(deserialize_with = "nullable")]
    pub colonyname: String,
    #[serde(deserialize_with = "nullable")]
    pub userid: String,
    #[serde(deserialize_with = "nullable")]
    pub name: String,
    #[serde(deserialize_with = "nullable")]
    pub email: String,
    #[serde(deserialize_with = "nullable")]
    pub phone: String,
}

/// A colony.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Colony {
    /// Id of its owner's key.
    #[serde(deserialize_with = "nullable")]
    pub colonyid: String,
    /// Name.
    #[serde(deserialize_with = "nullable")]
    pub name: String,
}

/// Counts of a colony.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[allow(missing_docs)]
pub struct Statistics {
    pub colonies: i64,
    pub executors: i64,
    pub activeexecutors: i64,
    pub unregisteredexecutors: i64,
    pub waitingprocesses: i64,
    pub runningprocesses: i64,
    pub successfulprocesses: i64,
    pub failedprocesses: i64,
    pub cancelledprocesses: i64,
    pub waitingworkflows: i64,
    pub runningworkflows: i64,
    pub successfulworkflows: i64,
    pub failedworkflows: i64,
    pub cancelledworkflows: i64,
}

/// Where the bytes of a file are. Keys stay empty: readers use their own, and every member can read this.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct S3Object {
    /// Endpoint as the writer knew it (readers use their own settings).
    #[serde(deserialize_with = "nullable")]
    pub server: String,
    /// -1 by convention of other clients: it stands in `server`.
    #[serde(deserialize_with = "nullable")]
    pub port: i64,
    /// TLS.
    #[serde(deserialize_with = "nullable")]
    pub tls: bool,
    /// Never filled by us.
    #[serde(deserialize_with = "nullable")]
    pub accesskey: String,
    /// Never filled by us.
    #[serde(deserialize_with = "nullable")]
    pub secretkey: String,
    /// Region.
    #[serde(deserialize_with = "nullable")]
    pub region: String,
    /// Not used.
    #[serde(deserialize_with = "nullable")]
    pub encryptionkey: String,
    /// Not used.
    #[serde(deserialize_with = "nullable")]
    pub encryptionalg: String,
    /// Object key.
    #[serde(deserialize_with = "nullable")]
    pub object: String,
    /// Bucket.
    #[serde(deserialize_with = "nullable")]
    pub bucket: String,
}

/// Reference to the bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct FileRef {
    /// `s3`.
    #[serde(deserialize_with = "nullable")]
    pub protocol: String,
    /// Where.
    #[serde(deserialize_with = "nullable")]
    pub s3object: S3Object,
}

/// A row of CFS: one revision of `(label, name)`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct File {
    /// Set by the server.
    #[serde(deserialize_with = "nullable")]
    pub fileid: String,
    /// The colony.
    #[serde(deserialize_with = "nullable")]
    pub colonyname: String,
    /// Folder in CFS. Never to be trusted as a path.
    #[serde(deserialize_with = "nullable")]
    pub label: String,
    /// File name. Never to be trusted as a path.
    #[serde(deserialize_with = "nullable")]
    pub name: String,
    /// Bytes.
    #[serde(deserialize_with = "nullable")]
    pub size: i64,
    /// Set by the server; the highest is the latest revision.
    #[serde(deserialize_with = "nullable")]
    pub sequencenr: i64,
    /// SHA-256, hex.
    #[serde(deserialize_with = "nullable")]
    pub checksum: String,
    /// `SHA256`.
    #[serde(deserialize_with = "nullable")]
    pub checksumalg: String,
    /// Where the bytes are.
    #[serde(rename = "ref", deserialize_with = "nullable")]
    pub reference: FileRef,
    /// Set by the server.
    pub added: Time,
}

/// What `getfiles` tells of the latest revision of a file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct FileData {
    /// Name.
    #[serde(deserialize_with = "nullable")]
    pub name: String,
    /// SHA-256, hex.
    #[serde(deserialize_with = "nullable")]
    pub checksum: String,
    /// Bytes.
    #[serde(deserialize_with = "nullable")]
    pub size: i64,
    /// Object key.
    #[serde(deserialize_with = "nullable")]
    pub s3filename: String,
}

/// A label and how many names and revisions it holds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Label {
    /// The label.
    #[serde(deserialize_with = "nullable")]
    pub name: String,
    /// Count.
    #[serde(deserialize_with = "nullable")]
    pub files: i64,
}

/// A list of file ids under a name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Snapshot {
    /// Set by the server.
    #[serde(deserialize_with = "nullable")]
    pub snapshotid: String,
    /// The colony.
    #[serde(deserialize_with = "nullable")]
    pub colonyname: String,
    /// Label it was made of.
    #[serde(deserialize_with = "nullable")]
    pub label: String,
    /// Name, unique in the colony; must not contain `:`.
    #[serde(deserialize_with = "nullable")]
    pub name: String,
    /// Ids; `null` where empty.
    pub fileids: Option<Vec<String>>,
    /// When it was made.
    pub added: Time,
}

/// One message of a log.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct LogEntry {
    /// The process; empty for an executor's log.
    #[serde(deserialize_with = "nullable")]
    pub processid: String,
    /// The colony.
    #[serde(deserialize_with = "nullable")]
    pub colonyname: String,
    /// Who wrote it.
    #[serde(deserialize_with = "nullable")]
    pub executorname: String,
    /// Text with its own newlines: not one line.
    #[serde(deserialize_with = "nullable")]
    pub message: String,
    /// Server time, ns since 1970.
    #[serde(deserialize_with = "nullable")]
    pub timestamp: i64,
}

/// Build of a server.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[allow(missing_docs)]
pub struct Version {
    #[serde(deserialize_with = "nullable")]
    pub buildversion: String,
    #[serde(deserialize_with = "nullable")]
    pub buildtime: String,
}
