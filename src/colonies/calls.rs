//! The calls of the protocol, one method each.

use super::client::Again;
use super::client::Client;
use super::envelope::Request;
use super::error::Error;
use super::files::*;
use super::members::*;
use super::model::*;
use super::time::Time;
use serde_json::Value;
use serde_json::json;
use std::time::Duration;

/// Server, colony, members.
impl Client {
    /// Build of the server; needs no membership.
    pub async fn version(&self) -> Result<Version, Error> {
        let request = Request::unsigned("versionmsg", json!({ "buildversion": "", "buildtime": "" }));
        let bytes = self.send(&request, Again::Yes, self.patience().request).await?;
        serde_json::from_slice(&bytes).map_err(|e| self.garbage("versionmsg", e))
    }

    /// Build and addresses of the server; needs no membership. Older servers do not know it.
    pub async fn server_info(&self) -> Result<Value, Error> {
        let request = Request::unsigned("getserverinfomsg", json!({}));
        let bytes = self.send(&request, Again::Yes, self.patience().request).await?;
        serde_json::from_slice(&bytes).map_err(|e| self.garbage("getserverinfomsg", e))
    }

    /// Adds a colony (server owner).
    pub async fn add_colony(&self, colony: &Colony) -> Result<Colony, Error> {
        self.call("addcolonymsg", json!({ "colony": colony }), Again::Unsent).await
    }

    /// Removes a colony with all that is in it (server owner).
    pub async fn remove_colony(&self, name: &str) -> Result<(), Error> {
        self.tell("removecolonymsg", json!({ "colonyname": name }), Again::Unsent).await
    }

    /// All colonies (server owner).
    pub async fn colonies(&self) -> Result<Vec<Colony>, Error> {
        self.list("getcoloniesmsg", json!({})).await
    }

    /// Counts over all colonies (server owner).
    pub async fn statistics(&self) -> Result<Statistics, Error> {
        self.call("getstatisticsmsg", json!({}), Again::Yes).await
    }

    /// Servers of the cluster (server owner).
    pub async fn cluster(&self) -> Result<Value, Error> {
        self.call("getclustermsg", json!({}), Again::Yes).await
    }

    /// This colony.
    pub async fn colony_info(&self) -> Result<Colony, Error> {
        self.call("getcolonymsg", json!({ "colonyname": self.colony() }), Again::Yes).await
    }

    /// Counts of this colony.
    pub async fn colony_statistics(&self) -> Result<Statistics, Error> {
        self.call("getcolonystatsmsg", json!({ "colonyname": self.colony() }), Again::Yes).await
    }

    /// Adds a user (colony owner).
    pub async fn add_user(&self, user: &User) -> Result<User, Error> {
        self.call("addusermsg", json!({ "user": user }), Again::Unsent).await
    }

    /// Removes a user (colony owner).
    pub async fn remove_user(&self, name: &str) -> Result<(), Error> {
        self.tell("removeusermsg", json!({ "colonyname": self.colony(), "name": name }), Again::Unsent).await
    }

    /// Users of the colony.
    pub async fn users(&self) -> Result<Vec<User>, Error> {
        self.list("getusersmsg", json!({ "colonyname": self.colony() })).await
    }

    /// One user.
    pub async fn user(&self, name: &str) -> Result<User, Error> {
        self.call("getusermsg", json!({ "colonyname": self.colony(), "name": name }), Again::Yes).await
    }

    /// Whether assignments are paused.
    pub async fn is_paused(&self) -> Result<bool, Error> {
        let reply: Value = self.call("getpausestatusmsg", json!({ "colonyname": self.colony() }), Again::Yes).await?;
        Ok(reply.get("ispaused").and_then(Value::as_bool).unwrap_or(false))
    }

    /// Stops assignments (colony owner).
    pub async fn pause_assignments(&self) -> Result<(), Error> {
        self.tell("pauseassignmentsmsg", json!({ "colonyname": self.colony() }), Again::Yes).await
    }

    /// Goes on with assignments (colony owner).
    pub async fn resume_assignments(&self) -> Result<(), Error> {
        self.tell("resumeassignmentsmsg", json!({ "colonyname": self.colony() }), Again::Yes).await
    }
}

/// Executors.
impl Client {
    /// Registers an executor; it is pending until it is approved (colony owner).
    pub async fn add_executor(&self, executor: &Executor) -> Result<Executor, Error> {
        self.call("addexecutormsg", json!({ "executor": executor }), Again::Unsent).await
    }

    /// Lets an executor take processes (colony owner).
    pub async fn approve_executor(&self, name: &str) -> Result<(), Error> {
        self.tell("approveexecutormsg", json!({ "colonyname": self.colony(), "executorname": name }), Again::Yes).await
    }

    /// Refuses an executor (colony owner).
    pub async fn reject_executor(&self, name: &str) -> Result<(), Error> {
        self.tell("rejectexecutormsg", json!({ "colonyname": self.colony(), "executorname": name }), Again::Yes).await
    }

    /// Removes an executor; what it runs goes back to waiting (colony owner).
    pub async fn remove_executor(&self, name: &str) -> Result<(), Error> {
        self.tell("removeexecutormsg", json!({ "colonyname": self.colony(), "executorname": name }), Again::Unsent).await
    }

    /// All executors, removed ones too: look at their state.
    pub async fn executors(&self) -> Result<Vec<Executor>, Error> {
        self.list("getexecutorsmsg", json!({ "colonyname": self.colony() })).await
    }

    /// One executor by name.
    pub async fn executor(&self, name: &str) -> Result<Executor, Error> {
        self.call("getexecutormsg", json!({ "colonyname": self.colony(), "executorname": name }), Again::Yes).await
    }

    /// One executor by id.
    pub async fn executor_by_id(&self, id: &str) -> Result<Executor, Error> {
        self.call("getexecutorbyidmsg", json!({ "colonyname": self.colony(), "executorid": id }), Again::Yes).await
    }

    /// Says anew what the executor offers (the executor itself).
    pub async fn update_executor(&self, name: &str, capabilities: &Capabilities) -> Result<(), Error> {
        let payload = json!({ "colonyname": self.colony(), "executorname": name, "capabilities": capabilities });
        self.tell("updateexecutormsg", payload, Again::Yes).await
    }

    /// Says what is taken of the executor (the executor itself).
    pub async fn report_allocation(&self, name: &str, allocations: &Allocations) -> Result<(), Error> {
        let payload = json!({ "colonyname": self.colony(), "executorname": name, "allocations": allocations });
        self.tell("reportallocationmsg", payload, Again::Yes).await
    }

    /// Adds to the executor's own log (the executor itself).
    pub async fn add_executor_log(&self, name: &str, message: &str) -> Result<(), Error> {
        let payload = json!({ "colonyname": self.colony(), "executorname": name, "message": message });
        self.tell("addexecutorlogmsg", payload, Again::Unsent).await
    }

    /// Registers a function; doing it twice makes two (executor).
    pub async fn add_function(&self, function: &Function) -> Result<Function, Error> {
        self.call("addfunctionmsg", json!({ "fun": function }), Again::Unsent).await
    }

    /// Functions of an executor.
    pub async fn functions(&self, executor: &str) -> Result<Vec<Function>, Error> {
        self.list("getfunctionsmsg", json!({ "colonyname": self.colony(), "executorname": executor })).await
    }

    /// Removes a function (executor).
    pub async fn remove_function(&self, id: &str) -> Result<(), Error> {
        self.tell("removefunctionmsg", json!({ "functionid": id }), Again::Unsent).await
    }
}

/// Processes.
impl Client {
    /// Submits. There is no idempotency key: see `run::submit` for how a lost answer is survived.
    pub async fn submit(&self, spec: &FunctionSpec) -> Result<Process, Error> {
        self.call("submitfuncspecmsg", json!({ "spec": spec }), Again::Unsent).await
    }

    /// Long poll for a process (executor). None: nothing came within `seconds`.
    /// `cpu` and `mem` say what is free; empty: no limit. Times are the server's: `execdeadline` of the reply is not set,
    /// compute it from `starttime` and `spec.maxexectime`.
    pub async fn assign(&self, seconds: u32, cpu: &str, mem: &str) -> Result<Option<Process>, Error> {
        let payload = json!({ "colonyname": self.colony(), "timeout": seconds, "availablecpu": cpu, "availablemem": mem });
        let limit = Duration::from_secs(u64::from(seconds)) + self.patience().request;
        match self.call_within("assignprocessmsg", payload, Again::Unsent, limit).await {
            Ok(process) => Ok(Some(process)),
            // 404: nothing to do. 408: the colony is paused.
            Err(Error::Refused { status: 404 | 408, .. }) => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// One process.
    pub async fn process(&self, id: &str) -> Result<Process, Error> {
        self.call("getprocessmsg", json!({ "processid": id }), Again::Yes).await
    }

    /// Processes in one state; see [`ProcessFilter`] for what can be asked for.
    pub async fn processes(&self, state: ProcessState, count: u32, filter: &ProcessFilter) -> Result<Vec<Process>, Error> {
        let (executortype, label, initiator) = match filter {
            ProcessFilter::None => ("", "", ""),
            ProcessFilter::ExecutorType(t) => (t.as_str(), "", ""),
            ProcessFilter::Label(l) => ("", l.as_str(), ""),
            ProcessFilter::Initiator(i) => ("", "", i.as_str()),
        };
        let payload = json!({ "colonyname": self.colony(), "count": count, "state": state, "executortype": executortype,
            "label": label, "initiator": initiator });
        self.list("getprocessesmsg", payload).await
    }

    /// All processes in one state that were submitted within the last `seconds`, earliest first. Empty `executor_id`: whoever
    /// has or had them.
    pub async fn process_history(&self, state: ProcessState, seconds: i64, executor_id: &str) -> Result<Vec<Process>, Error> {
        let payload = json!({ "colonyname": self.colony(), "executorid": executor_id, "seconds": seconds, "state": state });
        self.list("getprocesshistmsg", payload).await
    }

    /// Cancels a waiting or running process.
    pub async fn cancel(&self, id: &str) -> Result<(), Error> {
        self.tell("cancelprocessmsg", json!({ "processid": id }), Again::Unsent).await
    }

    /// Removes a process that is not running.
    pub async fn remove_process(&self, id: &str) -> Result<(), Error> {
        self.tell("removeprocessmsg", json!({ "processid": id, "all": false }), Again::Unsent).await
    }

    /// Removes all processes in one state, or in all (colony owner).
    pub async fn remove_all_processes(&self, state: Option<ProcessState>) -> Result<(), Error> {
        let state = state.map_or(-1, ProcessState::number);
        self.tell("removeallprocessesmsg", json!({ "colonyname": self.colony(), "state": state }), Again::Unsent).await
    }

    /// Closes as successful (the executor that holds it). Twice is taken.
    pub async fn close_successful(&self, id: &str, output: &[Value]) -> Result<(), Error> {
        self.tell("closesuccessfulmsg", json!({ "processid": id, "out": output }), Again::Yes).await
    }

    /// Closes as failed (the executor that holds it). The second time is refused with 400.
    pub async fn close_failed(&self, id: &str, errors: &[String]) -> Result<(), Error> {
        self.tell("closefailedmsg", json!({ "processid": id, "errors": errors }), Again::Unsent).await
    }

    /// Sets the output while it runs; an empty list changes nothing.
    pub async fn set_output(&self, id: &str, output: &[Value]) -> Result<(), Error> {
        self.tell("setoutputmsg", json!({ "processid": id, "out": output }), Again::Yes).await
    }

    /// Sets an attribute while it runs; the same key again is refused.
    pub async fn add_attribute(&self, attribute: &Attribute) -> Result<Attribute, Error> {
        self.call("addattributemsg", json!({ "attribute": attribute }), Again::Unsent).await
    }

    /// One attribute.
    pub async fn attribute(&self, id: &str) -> Result<Attribute, Error> {
        self.call("getattributemsg", json!({ "attributeid": id }), Again::Yes).await
    }
}

/// What `getprocesses` can be narrowed by: one of these, never two.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProcessFilter {
    /// All of the colony.
    None,
    /// Of one executor type.
    ExecutorType(String),
    /// With one label.
    Label(String),
    /// Submitted by one name.
    Initiator(String),
}

/// Logs.
impl Client {
    /// Adds to a process's log (the executor that holds it, while it runs).
    pub async fn add_log(&self, process: &str, message: &str) -> Result<(), Error> {
        self.tell("addlogmsg", json!({ "processid": process, "message": message }), Again::Unsent).await
    }

    /// Entries strictly after `since` (ns; 0: from the start), oldest first, at most `count`.
    pub async fn logs(&self, process: &str, since: i64, count: i64) -> Result<Vec<LogEntry>, Error> {
        self.list("getlogsmsg", self.log_query(process, "", since, count, false)).await
    }

    /// The last `count` entries, oldest first.
    pub async fn latest_logs(&self, process: &str, count: i64) -> Result<Vec<LogEntry>, Error> {
        self.list("getlogsmsg", self.log_query(process, "", 0, count, true)).await
    }

    /// An executor's own log.
    pub async fn executor_logs(&self, executor: &str, since: i64, count: i64) -> Result<Vec<LogEntry>, Error> {
        self.list("getlogsmsg", self.log_query("", executor, since, count, false)).await
    }

    fn log_query(&self, process: &str, executor: &str, since: i64, count: i64, latest: bool) -> Value {
        json!({ "colonyname": self.colony(), "processid": process, "executorname": executor, "count": count, "since": since,
            "latest": latest })
    }

    /// Entries that hold a text; `%` and `_` are wildcards. At most 100 entries of at most 30 days.
    pub async fn search_logs(&self, text: &str, days: i64, count: i64) -> Result<Vec<LogEntry>, Error> {
        self.list("searchlogsmsg", json!({ "colonyname": self.colony(), "text": text, "days": days, "count": count })).await
    }
}

/// Files and snapshots.
impl Client {
    /// Adds a revision of a file. The row given back is checked: the real server answers 200 and stores nothing for
    /// names it cannot store (a NUL character).
    pub async fn add_file(&self, file: &File) -> Result<File, Error> {
        let mut sent = serde_json::to_value(file).unwrap_or_default();
        leave_out_empty(&mut sent);
        let row: Option<File> = self.call("addfilemsg", json!({ "file": sent }), Again::Yes).await?;
        match row {
            Some(row) if !row.fileid.is_empty() => Ok(row),
            _ => Err(Error::Refused {
                call: "addfilemsg".into(),
                status: 200,
                message: format!("the server did not store the file {:?}", file.name),
            }),
        }
    }

    /// One revision by its id; none where there is no such file (400 or an empty list).
    pub async fn file_by_id(&self, id: &str) -> Result<Option<File>, Error> {
        let payload = json!({ "colonyname": self.colony(), "fileid": id, "label": "", "name": "", "latest": false });
        match self.list("getfilemsg", payload).await {
            Ok(rows) => Ok(rows.into_iter().next()),
            Err(Error::Refused { status: 400 | 404, .. }) => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// The latest revision of a file; none where there is no such file.
    pub async fn latest_file(&self, label: &str, name: &str) -> Result<Option<File>, Error> {
        Ok(self.file_rows(label, name, true).await?.into_iter().max_by_key(|f| f.sequencenr))
    }

    /// All revisions of a file, newest first.
    pub async fn file_revisions(&self, label: &str, name: &str) -> Result<Vec<File>, Error> {
        self.file_rows(label, name, false).await
    }

    async fn file_rows(&self, label: &str, name: &str, latest: bool) -> Result<Vec<File>, Error> {
        let payload = json!({ "colonyname": self.colony(), "fileid": "", "label": label, "name": name, "latest": latest });
        match self.list("getfilemsg", payload).await {
            Err(Error::Refused { status: 404, .. }) => Ok(Vec::new()),
            other => other,
        }
    }

    /// Latest revisions of the files of one label, not of its sub-labels, in any order.
    pub async fn files(&self, label: &str) -> Result<Vec<FileData>, Error> {
        self.list("getfilesmsg", json!({ "colonyname": self.colony(), "label": label })).await
    }

    /// Labels that begin with `name` (a text, with `_` and `%` as wildcards): the caller filters.
    pub async fn labels(&self, name: &str) -> Result<Vec<Label>, Error> {
        self.list("getfilelabelsmsg", json!({ "colonyname": self.colony(), "name": name, "exact": false })).await
    }

    /// The label and those below it; nothing at all where the label itself holds no file directly.
    pub async fn labels_exact(&self, name: &str) -> Result<Vec<Label>, Error> {
        self.list("getfilelabelsmsg", json!({ "colonyname": self.colony(), "name": name, "exact": true })).await
    }

    /// Removes one revision. The bytes stay.
    pub async fn remove_file_by_id(&self, id: &str) -> Result<(), Error> {
        let payload = json!({ "colonyname": self.colony(), "fileid": id, "label": "", "name": "" });
        self.tell("removefilemsg", payload, Again::Yes).await
    }

    /// Removes every revision of a file. The bytes stay.
    pub async fn remove_file(&self, label: &str, name: &str) -> Result<(), Error> {
        let payload = json!({ "colonyname": self.colony(), "fileid": "", "label": label, "name": name });
        self.tell("removefilemsg", payload, Again::Yes).await
    }

    /// Makes a snapshot of a label and those below it. `name` must be new in the colony and have no `:`.
    pub async fn create_snapshot(&self, label: &str, name: &str) -> Result<Snapshot, Error> {
        let payload = json!({ "colonyname": self.colony(), "label": label, "name": name });
        // 3 s for 10,000 files on the real server.
        self.call_within("createsnapshotmsg", payload, Again::Unsent, Duration::from_secs(600)).await
    }

    /// One snapshot by id.
    pub async fn snapshot(&self, id: &str) -> Result<Snapshot, Error> {
        self.call("getsnapshotmsg", json!({ "colonyname": self.colony(), "snapshotid": id, "name": "" }), Again::Yes).await
    }

    /// One snapshot by name.
    pub async fn snapshot_by_name(&self, name: &str) -> Result<Snapshot, Error> {
        self.call("getsnapshotmsg", json!({ "colonyname": self.colony(), "snapshotid": "", "name": name }), Again::Yes).await
    }

    /// All snapshots of the colony.
    pub async fn snapshots(&self) -> Result<Vec<Snapshot>, Error> {
        self.list("getsnapshotsmsg", json!({ "colonyname": self.colony() })).await
    }

    /// Removes a snapshot.
    pub async fn remove_snapshot(&self, id: &str) -> Result<(), Error> {
        self.tell("removesnapshotmsg", json!({ "colonyname": self.colony(), "snapshotid": id, "name": "" }), Again::Unsent).await
    }

    /// Removes all snapshots of the colony. Any user may.
    pub async fn remove_all_snapshots(&self) -> Result<(), Error> {
        self.tell("removeallsnapshotmsg", json!({ "colonyname": self.colony() }), Again::Unsent).await
    }
}

/// Takes out what the server fills in by itself, and takes for empty where it is missing: with many small files, rows are half of
/// what travels.
fn leave_out_empty(value: &mut Value) {
    let Some(fields) = value.as_object_mut() else { return };
    fields.values_mut().for_each(leave_out_empty);
    let zero_time = serde_json::to_value(Time::default()).unwrap_or_default();
    let empty = [zero_time, Value::from(""), Value::from(0), Value::from(false)];
    fields.retain(|_, value| !empty.contains(value));
}
