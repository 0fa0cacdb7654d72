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

/// GPU part of [`Conditions`] and of an executor's hardware.
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

/// Key of the attribute in which an executor names the machines of a job, with commas between.
pub const NODES: &str = "NODES";

/// Keys of the attributes in which an executor of ours says why a job does not run yet begin so; a number follows, and the
/// last one counts until [`NODES`] is set.
pub const WAITING: &str = "WAITING";

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

    /// Why it was assigned and does not run yet, as its executor says (see [`WAITING`]); none where it does, or nobody says.
    pub fn waiting(&self) -> Option<&str> {
        if self.state != ProcessState::Running || self.attribute(NODES).is_some() {
            return None;
        }
        let number = |a: &&Attribute| a.key.strip_prefix(WAITING)?.strip_prefix('-')?.parse::<u32>().ok();
        let last = self.attributes.iter().filter(|a| number(a).is_some()).max_by_key(number);
        last.map(|a| a.value.as_str())
    }
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
