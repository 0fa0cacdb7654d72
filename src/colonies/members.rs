//! Members of a colony: executors and what they offer, users, the colony itself; and its server's build.

use super::model::Gpu;
use super::model::nullable;
use super::time::Time;
use serde::Deserialize;
use serde::Deserializer;
use serde::Serialize;
use serde_json::Value;
use std::collections::BTreeMap;

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
