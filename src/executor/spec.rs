//! A process's function specification, read into a typed [`Job`] or refused with the name of the field.
//!
//! Pure and total: any JSON that the protocol model can hold gives a job or a [`Refusal`], never a panic. What is
//! accepted follows `execute` and `sync` of the existing executors, and beyond them `maxexectime` -1 or above walltime,
//! `maxretries` 0, `Ki`, and CPU in plain cores.

use super::place::Inside;
use super::quantity;
use crate::colonies::Filesystem;
use crate::colonies::FunctionSpec;
use crate::colonies::Process;
use serde_json::Value;
use std::collections::BTreeMap;
use std::time::Duration;

/// Stands for the process id in `cmd`, `init-cmd`, `args`, `dir` and `label`.
pub const PROCESS_ID_MARK: &str = "{processid}";
/// Largest number of nodes, and of processes on a node: the server assigns nothing above it.
const MOST: i64 = 127;

/// Why a specification cannot be run.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {reason}")]
pub struct Refusal {
    /// The field, as it stands in the specification.
    pub field: String,
    /// What is wrong with it, and what was expected.
    pub reason: String,
}

fn refuse<T>(field: impl Into<String>, reason: impl Into<String>) -> Result<T, Refusal> {
    Err(Refusal { field: field.into(), reason: reason.into() })
}

/// What an executor is asked to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Work {
    /// Files in, command, results back.
    Execute(Command),
    /// Files in, nothing else.
    Sync,
}

/// The command of a job.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Command {
    /// Shell text.
    pub cmd: String,
    /// Literal words that follow it, byte for byte.
    pub args: Vec<String>,
    /// Shell text that runs once before; empty: none.
    pub init: String,
}

/// A process, understood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Job {
    /// Process id.
    pub process_id: String,
    /// What is to be done.
    pub work: Work,
    /// Container image; empty where none is named.
    pub image: String,
    /// Pull or build the image anew.
    pub rebuild_image: bool,
    /// Variables; every name is legal and no value holds a NUL.
    pub env: BTreeMap<String, String>,
    /// Nodes, 1 to 127.
    pub nodes: u32,
    /// Processes on each node, 1 to 127.
    pub processes_per_node: u32,
    /// CPU of one process, millicores; 0: nothing said.
    pub cpu_millis: u64,
    /// Memory of one process, MiB (rounded up); 0: nothing said.
    pub mem_mib: u64,
    /// GPUs of one node.
    pub gpu_count: u32,
    /// GPU model; empty: any.
    pub gpu_name: String,
    /// Longest time the command may take.
    pub walltime: Duration,
    /// The server takes the process away so long after its assignment; none: never.
    pub max_exec: Option<Duration>,
    /// Where the job sees the executor's file area; empty: it has no files.
    pub mount: String,
    /// Snapshots to fetch before the job.
    pub snapshots: Vec<SnapshotIn>,
    /// Labels to fetch before and send back after the job.
    pub dirs: Vec<DirSync>,
    /// What a reader of the process log should know about how the specification was read.
    pub notices: Vec<String>,
}

/// A snapshot to fetch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotIn {
    /// Id.
    pub id: String,
    /// Label it was made of; empty: the snapshot knows.
    pub label: String,
    /// Folder below the file area.
    pub dir: Inside,
    /// The files stay.
    pub keep_files: bool,
    /// The snapshot stays.
    pub keep_snapshot: bool,
}

/// A label and its folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DirSync {
    /// Label, normalised.
    pub label: String,
    /// Folder below the file area.
    pub dir: Inside,
    /// The files stay.
    pub keep_files: bool,
    /// At the start, where both sides have a file with other content: the executor's stays.
    pub start_keeps_local: bool,
    /// At the end, where both sides have a file with other content: the executor's wins.
    pub close_keeps_local: bool,
}

impl Job {
    /// Processes that run at once.
    pub fn processes(&self) -> u32 {
        self.nodes * self.processes_per_node
    }

    /// Name of the project whose files it has, as its labels or its environment tell it.
    pub fn project(&self) -> Option<&str> {
        let labels = self.snapshots.iter().map(|s| &s.label).chain(self.dirs.iter().map(|d| &d.label));
        let by_label = labels.filter_map(|label| label.trim_start_matches('/').strip_prefix("pollinator/")?.split('/').next());
        let by_label = { by_label }.find(|name| !name.is_empty());
        by_label.or_else(|| self.env.get("PROJECT_DIR")?.rsplit('/').find(|n| !n.is_empty()))
    }

    /// Reads a process. `needs_image`: the backend cannot run without an image.
    ///
    /// # Errors
    /// [`Refusal`] with the field's name; the process is then closed as failed with that text.
    pub fn read(process: &Process, needs_image: bool) -> Result<Job, Refusal> {
        let spec = &process.spec;
        let id = process_id(&process.processid)?;
        let mut notices = Vec::new();
        let execute = match spec.funcname.as_str() {
            "execute" => true,
            "sync" => false,
            other => return refuse("funcname", format!("this executor knows `execute` and `sync`, not {other:?}")),
        };
        let conditions = &spec.conditions;
        let mut job = Job {
            process_id: id.clone(),
            work: Work::Sync,
            image: text(spec, "docker-image")?.unwrap_or_default().trim().to_owned(),
            rebuild_image: spec.kwargs.get("rebuild-image").and_then(Value::as_bool).unwrap_or(false),
            env: BTreeMap::new(),
            nodes: 1,
            processes_per_node: 1,
            cpu_millis: 0,
            mem_mib: 0,
            gpu_count: u32::try_from(conditions.gpu.count).unwrap_or(0),
            gpu_name: conditions.gpu.name.clone(),
            walltime: Duration::MAX,
            max_exec: u64::try_from(spec.maxexectime).ok().filter(|s| *s > 0).map(Duration::from_secs),
            mount: mount(&spec.fs)?,
            snapshots: Vec::new(),
            dirs: Vec::new(),
            notices: Vec::new(),
        };
        files(&mut job, spec, &id, &mut notices)?;
        if execute {
            numbers(&mut job, spec)?;
            job.env = environment(&spec.env)?;
            job.work = Work::Execute(command(spec, &id, &mut notices)?);
            if needs_image && job.image.is_empty() {
                return refuse("kwargs.docker-image", "no image is named, and this executor runs containers");
            }
        }
        job.notices = notices;
        Ok(job)
    }
}

/// The id becomes part of folder names, so it is not taken on trust.
fn process_id(id: &str) -> Result<String, Refusal> {
    let fine = !id.is_empty() && id.len() <= 128 && id.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
    if fine { Ok(id.to_owned()) } else { refuse("processid", format!("{id:?} is not a process id")) }
}

fn numbers(job: &mut Job, spec: &FunctionSpec) -> Result<(), Refusal> {
    let c = &spec.conditions;
    job.processes_per_node = count("processespernode", c.processespernode)?;
    job.nodes = count("nodes", c.nodes)?;
    job.walltime = match u64::try_from(c.walltime) {
        Ok(seconds) if seconds > 0 => Duration::from_secs(seconds),
        _ => return refuse("conditions.walltime", format!("must be a number of seconds above 0, not {}", c.walltime)),
    };
    let bad = |field: &str, reason: String| Refusal { field: format!("conditions.{field}"), reason };
    job.mem_mib = quantity::memory_mib(&c.mem).map_err(|reason| bad("mem", reason))?;
    job.cpu_millis = quantity::cpu_millis(&c.cpu).map_err(|reason| bad("cpu", reason))?;
    if c.gpu.count < 0 || c.gpu.count > i64::from(u32::MAX) {
        return Err(bad("gpu.count", format!("must be 0 or more, not {}", c.gpu.count)));
    }
    Ok(())
}

fn count(field: &str, n: i64) -> Result<u32, Refusal> {
    match u32::try_from(n) {
        Ok(small) if n > 0 && n <= MOST => Ok(small),
        _ => refuse(format!("conditions.{field}"), format!("must be 1 to {MOST}, not {n}")),
    }
}

/// A kwarg that must be text; none where it is missing or null.
fn text<'a>(spec: &'a FunctionSpec, key: &str) -> Result<Option<&'a str>, Refusal> {
    match spec.kwargs.get(key) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) if text.contains('\0') => refuse(format!("kwargs.{key}"), "holds a NUL character"),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(other) => refuse(format!("kwargs.{key}"), format!("must be text, not {}", kind(other))),
    }
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

fn command(spec: &FunctionSpec, id: &str, notices: &mut Vec<String>) -> Result<Command, Refusal> {
    let cmd = text(spec, "cmd")?.unwrap_or_default().trim().to_owned();
    if cmd.is_empty() {
        return refuse("kwargs.cmd", "no command is given");
    }
    let init = text(spec, "init-cmd")?.unwrap_or_default().trim().to_owned();
    let args = match spec.kwargs.get("args") {
        None | Some(Value::Null) => Vec::new(),
        Some(Value::Array(words)) => words.iter().enumerate().map(word).collect::<Result<_, _>>()?,
        Some(other) => {
            notices.push(format!("kwargs.args is {} and not a list of words: it is left out", kind(other)));
            Vec::new()
        }
    };
    let args = args.into_iter().map(|a| with_id(&a, id)).collect();
    Ok(Command { cmd: with_id(&cmd, id), args, init: with_id(&init, id) })
}

fn word((i, value): (usize, &Value)) -> Result<String, Refusal> {
    match value {
        Value::String(text) if text.contains('\0') => refuse(format!("kwargs.args[{i}]"), "holds a NUL character"),
        Value::String(text) => Ok(text.clone()),
        Value::Number(n) => Ok(n.to_string()),
        Value::Bool(b) => Ok(b.to_string()),
        other => refuse(format!("kwargs.args[{i}]"), format!("must be text, not {}", kind(other))),
    }
}

/// Every occurrence of the mark becomes the id.
fn with_id(text: &str, id: &str) -> String {
    text.replace(PROCESS_ID_MARK, id)
}

/// Whether a name may be an environment variable in every shell.
pub fn is_variable_name(name: &str) -> bool {
    let mut bytes = name.bytes();
    bytes.next().is_some_and(|b| b.is_ascii_alphabetic() || b == b'_') && bytes.all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

fn environment(env: &BTreeMap<String, String>) -> Result<BTreeMap<String, String>, Refusal> {
    for (name, value) in env {
        if !is_variable_name(name) {
            return refuse("env", format!("{name:?} is not a variable name (letters, digits and `_`, no digit first)"));
        }
        if value.contains('\0') {
            return refuse(format!("env.{name}"), "holds a NUL character");
        }
    }
    Ok(env.clone())
}

/// Where a specification that has files wants them, though it does not say so: the older executors show them there.
const USUAL_MOUNT: &str = "/cfs";

fn mount(fs: &Filesystem) -> Result<String, Refusal> {
    let text = fs.mount.trim();
    if text.is_empty() {
        let has_files = fs.snapshots.iter().flatten().next().is_some() || fs.dirs.iter().flatten().next().is_some();
        return Ok(if has_files { USUAL_MOUNT.into() } else { String::new() });
    }
    if !text.starts_with('/') {
        return refuse("fs.mount", format!("must be an absolute path, not {text:?}"));
    }
    match Inside::read(text) {
        Ok(inside) => Ok(format!("/{inside}")),
        Err(reason) => refuse("fs.mount", reason),
    }
}

fn files(job: &mut Job, spec: &FunctionSpec, id: &str, notices: &mut Vec<String>) -> Result<(), Refusal> {
    if job.mount.is_empty() {
        return Ok(());
    }
    for (i, s) in spec.fs.snapshots.iter().flatten().enumerate() {
        if s.snapshotid.is_empty() {
            notices.push(format!("fs.snapshots[{i}] names no snapshot: it is left out"));
            continue;
        }
        let field = |name: &str| format!("fs.snapshots[{i}].{name}");
        job.snapshots.push(SnapshotIn {
            id: s.snapshotid.clone(),
            label: if s.label.is_empty() { String::new() } else { label(&field("label"), &with_id(&s.label, id))? },
            dir: inside(&field("dir"), &with_id(&s.dir, id))?,
            keep_files: s.keepfiles,
            keep_snapshot: s.keepsnapshot,
        });
    }
    for (i, d) in spec.fs.dirs.iter().flatten().enumerate() {
        if d.label.is_empty() {
            notices.push(format!("fs.dirs[{i}] names no label: it is left out"));
            continue;
        }
        let field = |name: &str| format!("fs.dirs[{i}].{name}");
        job.dirs.push(DirSync {
            label: label(&field("label"), &with_id(&d.label, id))?,
            dir: inside(&field("dir"), &with_id(&d.dir, id))?,
            keep_files: d.keepfiles,
            start_keeps_local: d.onconflicts.onstart.keeplocal,
            close_keeps_local: d.onconflicts.onclose.keeplocal,
        });
    }
    Ok(())
}

fn inside(field: &str, text: &str) -> Result<Inside, Refusal> {
    Inside::read(text).map_err(|reason| Refusal { field: field.into(), reason })
}

/// A label, normalised. The leading `/` is part of its name: the server takes labels with and without.
fn label(field: &str, text: &str) -> Result<String, Refusal> {
    let slash = if text.starts_with('/') { "/" } else { "" };
    inside(field, text).map(|inside| format!("{slash}{inside}"))
}

#[cfg(test)]
#[path = "spec_tests.rs"]
mod tests;
