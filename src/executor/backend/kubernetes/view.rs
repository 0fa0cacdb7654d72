//! What is known of a job in a cluster: the little of Kubernetes' objects that matters. Pure.

use super::manifest;
use super::names;
use super::script;
use k8s_openapi::api::batch::v1 as batch;
use k8s_openapi::api::core::v1 as core;
use kube::ResourceExt;
use std::collections::BTreeMap;

/// Everything known of one job.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct View {
    /// Its Jobs, by name.
    pub jobs: BTreeMap<String, JobView>,
    /// Their pods, by unique id; lost ones stay until the job is forgotten.
    pub pods: BTreeMap<String, PodView>,
}

/// A Job.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct JobView {
    /// Its unique id.
    pub uid: String,
    /// Why it failed, where it did.
    pub failed: Option<String>,
    /// Why it makes no pods, where somebody suspended it.
    pub suspended: Option<String>,
    /// Name of the job's folder.
    pub folder: Option<String>,
}

/// How far a pod is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Phase {
    /// It waits for a node, or for its images.
    #[default]
    Pending,
    /// It runs, or ran when its node was last heard of.
    Running,
    /// All its containers have ended well.
    Succeeded,
    /// They have ended, and not all of them well.
    Failed,
}

/// A pod.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PodView {
    /// Its name.
    pub name: String,
    /// Number of the node among the job's.
    pub index: u32,
    /// Name of the node it was given to.
    pub node: Option<String>,
    /// How far it is.
    pub phase: Phase,
    /// Why Kubernetes ended it, or would not run it, in its words.
    pub reason: Option<String>,
    /// Why no node takes it.
    pub unschedulable: Option<String>,
    /// It is being deleted, and should be gone by then, seconds since 1970.
    pub deleting: Option<i64>,
    /// It is deleted.
    pub is_gone: bool,
    /// When it was made, seconds since 1970.
    pub created: i64,
    /// Its containers, by their number.
    pub containers: BTreeMap<u32, Container>,
}

/// A container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Container {
    /// It is not begun.
    Waiting {
        /// Why, in one word.
        reason: String,
        /// More of it.
        message: String,
    },
    /// It runs.
    Running,
    /// It has ended.
    Ended(Ended),
}

/// The end of a container.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ended {
    /// Its exit status.
    pub status: i32,
    /// Why, in one word: `Completed`, `Error`, `OOMKilled`.
    pub reason: String,
    /// More of it.
    pub message: String,
    /// When, seconds since 1970.
    pub at: i64,
}

impl PodView {
    /// Whether none of its processes runs any more, or will.
    pub fn is_over(&self) -> bool {
        self.is_gone || matches!(self.phase, Phase::Succeeded | Phase::Failed)
    }

    /// Whether it was started in place of a lost one, and did nothing.
    pub fn is_replacement(&self) -> bool {
        let stands_in = |c: &Container| matches!(c, Container::Ended(end) if end.message.starts_with(script::REPLACEMENT));
        self.containers.values().any(stands_in)
    }

    /// A pod as the server tells it.
    pub fn read(pod: &core::Pod) -> PodView {
        let status = pod.status.clone().unwrap_or_default();
        let spec = pod.spec.clone().unwrap_or_default();
        let statuses = status.container_statuses.iter().flatten();
        let container = |s: &core::ContainerStatus| Some((manifest::local_rank(&s.name)?, container(s.state.as_ref())));
        PodView {
            name: pod.name_any(),
            index: index(pod),
            node: spec.node_name.filter(|node| !node.is_empty()),
            phase: match status.phase.as_deref() {
                Some("Running" | "Unknown") => Phase::Running,
                Some("Succeeded") => Phase::Succeeded,
                Some("Failed") => Phase::Failed,
                _ => Phase::Pending,
            },
            reason: why(&status),
            unschedulable: unschedulable(&status),
            deleting: pod.metadata.deletion_timestamp.as_ref().map(|time| time.0.as_second()),
            is_gone: false,
            created: pod.metadata.creation_timestamp.as_ref().map_or(0, |time| time.0.as_second()),
            containers: statuses.filter_map(container).collect(),
        }
    }
}

impl JobView {
    /// A Job as the server tells it.
    pub fn read(job: &batch::Job) -> JobView {
        let condition = |kind: &str| {
            let mut conditions = job.status.iter().flat_map(|s| s.conditions.iter().flatten());
            let found = conditions.find(|c| c.type_ == kind && c.status == "True")?;
            Some(words(found.reason.as_deref(), found.message.as_deref()))
        };
        JobView {
            uid: job.metadata.uid.clone().unwrap_or_default(),
            failed: condition("Failed"),
            suspended: condition("Suspended"),
            folder: job.annotations().get(names::FOLDER).cloned(),
        }
    }
}

/// Reason of events that tell that a pod was not made.
pub const NOT_MADE: &str = "FailedCreate";

/// Why Jobs get no pods, as events with [`NOT_MADE`] tell it: the latest words, by the unique id of the Job.
pub fn refusals(events: &[core::Event]) -> BTreeMap<String, String> {
    let mut events: Vec<&core::Event> = events.iter().collect();
    events.sort_by_key(|event| seen(event));
    let told = |event: &core::Event| Some((event.involved_object.uid.clone()?, refusal(event.message.as_deref()?)));
    events.into_iter().filter_map(told).collect()
}

/// What keeps a pod from being begun, of its warnings: the latest failure that is not about finding a node.
pub fn trouble(events: &[core::Event]) -> Option<String> {
    let is_trouble =
        |event: &&core::Event| event.reason.as_ref().is_some_and(|r| r.starts_with("Failed") && r != "FailedScheduling");
    let latest = events.iter().filter(is_trouble).max_by_key(|event| seen(event))?;
    Some(words(latest.reason.as_deref(), latest.message.as_deref()))
}

/// When it happened last, seconds since 1970.
fn seen(event: &core::Event) -> Option<i64> {
    let last = event.last_timestamp.as_ref().map(|time| time.0.as_second());
    last.or(event.event_time.as_ref().map(|time| time.0.as_second()))
}

/// `Error creating: pods "p-x7k2p" is forbidden: exceeded quota: …`: the pod has another name each time, and says nothing.
fn refusal(message: &str) -> String {
    let why = message.rsplit_once("is forbidden: ").map_or(message, |(_, why)| why);
    let why = why.trim_start_matches("(combined from similar events): ").trim_start_matches("Error creating: ");
    words(Some(NOT_MADE), Some(why))
}

/// Number of the node that a pod is of the job's.
fn index(pod: &core::Pod) -> u32 {
    let told = pod.annotations().get(names::COMPLETION_INDEX).or_else(|| pod.labels().get(names::NODE));
    told.and_then(|text| text.parse().ok()).unwrap_or(0)
}

/// What Kubernetes says of a pod that it ended.
fn why(status: &core::PodStatus) -> Option<String> {
    let disrupted = status.conditions.iter().flatten().find(|c| c.type_ == "DisruptionTarget" && c.status == "True");
    match (&status.reason, disrupted) {
        (Some(reason), _) if !reason.is_empty() => Some(words(Some(reason), status.message.as_deref())),
        (_, Some(condition)) => Some(words(condition.reason.as_deref(), condition.message.as_deref())),
        _ => None,
    }
}

fn unschedulable(status: &core::PodStatus) -> Option<String> {
    let scheduled = status.conditions.iter().flatten().find(|c| c.type_ == "PodScheduled" && c.status == "False")?;
    Some(words(scheduled.reason.as_deref(), scheduled.message.as_deref()))
}

fn container(state: Option<&core::ContainerState>) -> Container {
    let Some(state) = state else { return Container::Waiting { reason: String::new(), message: String::new() } };
    if let Some(end) = &state.terminated {
        return Container::Ended(Ended {
            status: end.exit_code,
            reason: end.reason.clone().unwrap_or_default(),
            message: end.message.clone().unwrap_or_default(),
            at: end.finished_at.as_ref().map_or(0, |time| time.0.as_second()),
        });
    }
    if state.running.is_some() {
        return Container::Running;
    }
    let waiting = state.waiting.clone().unwrap_or_default();
    Container::Waiting { reason: waiting.reason.unwrap_or_default(), message: waiting.message.unwrap_or_default() }
}

/// A reason and what it means: `Evicted: The node was low on resource: memory.`
fn words(reason: Option<&str>, message: Option<&str>) -> String {
    match (reason.unwrap_or_default(), message.unwrap_or_default()) {
        ("", message) => message.to_owned(),
        (reason, "") => reason.to_owned(),
        (reason, message) => format!("{reason}: {message}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn event(uid: &str, at: u32, message: &str) -> core::Event {
        let event = json!({ "metadata": { "name": "e" }, "reason": "FailedCreate", "message": message,
            "involvedObject": { "kind": "Job", "uid": uid }, "lastTimestamp": format!("2026-11-28T02:00:{at:02}Z") });
        serde_json::from_value(event).unwrap()
    }

    #[test]
    fn a_full_quota_is_told_in_the_latest_words() {
        let quota = |used: u32| {
            let why = format!("exceeded quota: q, requested: pods=1, used: pods={used}, limited: pods=1");
            format!("Error creating: pods \"p-ab12-0-x7k{used}\" is forbidden: {why}")
        };
        let other = "Error creating: Internal error occurred: failed calling webhook \"x\"";
        let combined = format!("(combined from similar events): {}", quota(0));
        let events = [event("a", 9, &quota(1)), event("a", 3, &quota(2)), event("b", 1, other), event("c", 1, &combined)];
        let told = refusals(&events);
        assert_eq!(told["a"], "FailedCreate: exceeded quota: q, requested: pods=1, used: pods=1, limited: pods=1");
        assert_eq!(told["b"], "FailedCreate: Internal error occurred: failed calling webhook \"x\"");
        assert_eq!(told["c"], "FailedCreate: exceeded quota: q, requested: pods=1, used: pods=0, limited: pods=1");
        assert_eq!((told.len(), refusals(&[]).len()), (3, 0));
    }

    #[test]
    fn what_keeps_a_pod_is_its_latest_failure_after_it_has_a_node() {
        let warning =
            |reason: &str, at: u32, message: &str| core::Event { reason: Some(reason.into()), ..event("p", at, message) };
        let events = [
            warning("FailedScheduling", 9, "0/1 nodes"),
            warning("FailedMount", 3, "not found"),
            warning("FailedMount", 5, "timed out"),
            warning("MissingClusterDNS", 8, "falling back"),
        ];
        assert_eq!(trouble(&events).as_deref(), Some("FailedMount: timed out"));
        assert_eq!((trouble(&events[..1]), trouble(&[])), (None, None));
    }

    #[test]
    fn a_suspended_job_says_so() {
        let job = |status: &str| {
            let condition = json!({ "type": "Suspended", "status": status, "reason": "JobSuspended", "message": "as asked" });
            let job = json!({ "metadata": { "uid": "u" }, "status": { "conditions": [condition] } });
            JobView::read(&serde_json::from_value(job).unwrap())
        };
        assert_eq!(job("True").suspended.as_deref(), Some("JobSuspended: as asked"));
        assert_eq!((job("False").suspended, job("True").failed), (None, None));
    }
}
