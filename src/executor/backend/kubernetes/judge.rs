//! What a job's pods and statuses say: where it runs, what it waits for, how it ended. Pure.

use super::view::Container;
use super::view::Ended;
use super::view::JobView;
use super::view::Phase;
use super::view::PodView;
use super::view::View;
use crate::executor::backend::Ending;
use std::collections::BTreeMap;

/// How much later than announced a pod may go, s.
const OVERDUE: i64 = 120;

/// What a job is, apart from its state in the cluster.
pub struct Asked<'a> {
    /// Nodes.
    pub nodes: u32,
    /// Processes on each.
    pub per_node: u32,
    /// Its walltime, s.
    pub walltime: u64,
    /// Memory of a process, MiB.
    pub memory: u64,
    /// The statuses that its processes left on the volume.
    pub statuses: &'a dyn Fn(u32) -> Option<i32>,
    /// Whether the command of a process began.
    pub began: &'a dyn Fn(u32) -> bool,
    /// Why Jobs get no pods, where somebody says so, by their unique ids.
    pub refusals: &'a BTreeMap<String, String>,
    /// Seconds since 1970.
    pub now: i64,
}

/// Why a container does not come up, though its pod has a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Kubernetes' words.
    pub words: String,
    /// Whether it may go away by itself.
    pub may_pass: bool,
}

/// The state of a job.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct State {
    /// Names of the nodes it runs on, in order; all of them, or none.
    pub nodes: Vec<String>,
    /// Why it does not run yet.
    pub waiting: Option<String>,
    /// What keeps a container from coming up.
    pub problem: Option<Problem>,
    /// Its end.
    pub ending: Option<Ending>,
}

/// The pod that runs each node's processes: the first. Later ones stand in for it, and do nothing.
pub fn originals(view: &View) -> BTreeMap<u32, &PodView> {
    let mut first: BTreeMap<u32, &PodView> = BTreeMap::new();
    for pod in view.pods.values() {
        let place = first.entry(pod.index).or_insert(pod);
        let order = |pod: &PodView| (pod.is_replacement(), pod.created, pod.name.clone());
        if order(pod) < order(place) {
            *place = pod;
        }
    }
    first
}

/// Judges a job.
pub fn judge(view: &View, asked: &Asked<'_>) -> State {
    let pods = originals(view);
    let named = |pod: &&PodView| pod.node.clone();
    let nodes: Option<Vec<String>> =
        (0..asked.nodes).map(|index| pods.get(&index).filter(|p| p.phase != Phase::Pending).and_then(named)).collect();
    let problem = pods.values().find_map(|pod| problem(pod));
    State {
        waiting: match (&nodes, &problem) {
            (Some(_), None) => None,
            (_, Some(problem)) => Some(problem.words.clone()),
            _ => pods.values().find_map(|pod| pod.unschedulable.clone()).or_else(|| withheld(view, asked)),
        },
        nodes: nodes.unwrap_or_default(),
        problem,
        ending: ending(view, &pods, asked),
    }
}

/// Whether pods of a job are missing that were there at no time.
pub fn lacks_pods(view: &View, nodes: u32) -> bool {
    let there = originals(view);
    !view.jobs.is_empty() && (0..nodes).any(|index| !there.contains_key(&index))
}

/// A pod that has its node and is not begun there, by its unique id: volumes are mounted, images pulled, sandboxes made.
pub fn being_created(view: &View) -> Option<&str> {
    let coming = |pod: &PodView| pod.phase == Phase::Pending && pod.node.is_some() && !pod.is_over() && pod.deleting.is_none();
    view.pods.iter().find(|(_, pod)| coming(pod)).map(|(uid, _)| uid.as_str())
}

/// Why its pods are not made.
fn withheld(view: &View, asked: &Asked<'_>) -> Option<String> {
    if !lacks_pods(view, asked.nodes) {
        return None;
    }
    let why = |job: &JobView| job.suspended.clone().or_else(|| asked.refusals.get(&job.uid).cloned());
    view.jobs.values().find_map(why)
}

/// Words of containers that cannot come up. The rest (`ContainerCreating`) is on its way.
fn problem(pod: &PodView) -> Option<Problem> {
    const PASSING: [&str; 8] = [
        "ErrImagePull",
        "ImagePullBackOff",
        "ErrImageNeverPull",
        "RegistryUnavailable",
        "ImageInspectError",
        "CreateContainerConfigError",
        "CreateContainerError",
        "RunContainerError",
    ];
    if pod.is_over() {
        return None;
    }
    pod.containers.values().find_map(|container| match container {
        Container::Waiting { reason, message } if PASSING.contains(&reason.as_str()) || reason == "InvalidImageName" => {
            let words = if message.is_empty() { reason.clone() } else { format!("{reason}: {message}") };
            Some(Problem { words, may_pass: reason != "InvalidImageName" })
        }
        _ => None,
    })
}

fn ending(view: &View, pods: &BTreeMap<u32, &PodView>, asked: &Asked<'_>) -> Option<Ending> {
    let stopped = |reason: String| Some(Ending::Stopped { reason });
    // Kubernetes ended it.
    let by_kubernetes = |(index, pod): (&u32, &&PodView)| {
        let reason = pod.reason.as_ref().filter(|_| pod.phase == Phase::Failed)?;
        let mut ranks = index * asked.per_node..(index + 1) * asked.per_node;
        let had_ended_well = is_refusal(reason) && ranks.all(|rank| (asked.statuses)(rank) == Some(0));
        (!had_ended_well).then(|| told(reason, asked))
    };
    if let Some(reason) = pods.iter().find_map(by_kubernetes) {
        return stopped(reason);
    }
    if let Some(ending) = failure(pods, asked) {
        return Some(ending);
    }
    let size = asked.nodes * asked.per_node;
    let ends: Vec<Option<i32>> = (0..size).map(|rank| status(pods, asked, rank)).collect();
    if ends.iter().all(|end| *end == Some(0)) {
        return Some(Ending::Exited { status: 0, rank: None, in_init: false, because: None });
    }
    let lost = |(index, pod): (&u32, &&PodView)| {
        let ranks = index * asked.per_node..(index + 1) * asked.per_node;
        let whole = ranks.into_iter().all(|rank| ends.get(rank as usize).is_some_and(Option::is_some));
        // The node does not answer, and nobody knows whether it still runs there.
        let overdue = pod.deleting.is_some_and(|then| asked.now > then + OVERDUE);
        (!whole && (pod.is_gone || pod.is_replacement() || overdue)).then(|| lost_pod(pod))
    };
    if let Some(reason) = pods.iter().find_map(lost) {
        return stopped(reason);
    }
    // Nothing of it can be seen to have failed, but Kubernetes says so: its pods are removed.
    let failed = view.jobs.values().find_map(|job| job.failed.clone())?;
    let over = pods.values().all(|pod| pod.is_over());
    if over { stopped(told(&failed, asked)) } else { None }
}

/// The first process that failed.
fn failure(pods: &BTreeMap<u32, &PodView>, asked: &Asked<'_>) -> Option<Ending> {
    let ended = pods.values().filter(|pod| !pod.is_replacement()).flat_map(|&pod| {
        pod.containers.iter().filter_map(move |(local, container)| match container {
            Container::Ended(end) if end.status != 0 => Some((pod.index * asked.per_node + local, end.clone(), pod)),
            _ => None,
        })
    });
    // The others may have been ended because of it.
    let first = ended.min_by_key(|(rank, end, _)| (end.at, *rank));
    let single = asked.nodes * asked.per_node == 1;
    let exited = |rank: u32, status: i32, because: Option<String>| Ending::Exited {
        status,
        rank: (!single).then_some(rank),
        in_init: !(asked.began)(rank),
        because,
    };
    if let Some((rank, end, pod)) = first {
        return Some(match end.reason.as_str() {
            // A polite end on behalf of whoever deletes the pod.
            _ if pod.deleting.is_some() => Ending::Stopped { reason: pod.reason.clone().unwrap_or_else(|| lost_pod(pod)) },
            "OOMKilled" => Ending::Exited {
                status: end.status,
                rank: (!single).then_some(rank),
                in_init: false,
                because: Some(out_of_memory(asked)),
            },
            "" | "Error" | "Completed" => exited(rank, end.status, None),
            _ => Ending::Stopped { reason: plain(&end) },
        });
    }
    let size = asked.nodes * asked.per_node;
    let left = |rank: u32| (asked.statuses)(rank).filter(|status| *status != 0).map(|status| (rank, status));
    let alive = |rank: u32| pods.get(&(rank / asked.per_node)).is_some_and(|pod| !pod.is_gone && pod.deleting.is_none());
    // Where the pod is there, its container is about to say so, and says more.
    let (rank, status) = (0..size).filter(|rank| !alive(*rank)).find_map(left)?;
    let gone = pods.get(&(rank / asked.per_node));
    // Status of a process that was asked to end: the pod's loss is the reason.
    match gone {
        Some(pod) if status == 128 + libc::SIGTERM => Some(Ending::Stopped { reason: lost_pod(pod) }),
        _ => Some(exited(rank, status, None)),
    }
}

/// The exit status of a process, as its container tells it, or as it left it on the volume.
fn status(pods: &BTreeMap<u32, &PodView>, asked: &Asked<'_>, rank: u32) -> Option<i32> {
    let pod = pods.get(&(rank / asked.per_node));
    let container = pod.filter(|pod| !pod.is_replacement()).and_then(|pod| pod.containers.get(&(rank % asked.per_node)));
    match container {
        Some(Container::Ended(end)) => Some(end.status),
        Some(_) if pod.is_some_and(|pod| !pod.is_gone) => None,
        _ => (asked.statuses)(rank),
    }
}

fn lost_pod(pod: &PodView) -> String {
    let node = pod.node.as_ref().map(|node| format!(" on node {node}")).unwrap_or_default();
    match &pod.reason {
        Some(reason) => format!("{reason} (pod {}{node})", pod.name),
        None => format!("PodDeleted: the pod {}{node} was deleted before the job had ended, by nobody of the colony", pod.name),
    }
}

/// Whether that is what a kubelet says of pods that it does not let in. When it was started anew it may say so of one that had ended
/// well before (kubernetes/kubernetes#117955): what the pod left on the volume is the truth then.
fn is_refusal(reason: &str) -> bool {
    ["OutOf", "UnexpectedAdmissionError", "NodeAffinity"].iter().any(|word| reason.starts_with(word))
}

/// Kubernetes' words for the end of a pod, so that they can be understood.
fn told(reason: &str, asked: &Asked<'_>) -> String {
    if reason.starts_with("DeadlineExceeded") {
        return format!("TIMEOUT: the walltime of {} s is over (DeadlineExceeded)", asked.walltime);
    }
    reason.to_owned()
}

fn out_of_memory(asked: &Asked<'_>) -> String {
    match asked.memory {
        0 => "OOMKilled: the node had no memory left for it".into(),
        limit => format!("OOMKilled: it used more than its {limit} MiB of memory"),
    }
}

fn plain(end: &Ended) -> String {
    if end.message.is_empty() { end.reason.clone() } else { format!("{}: {}", end.reason, end.message) }
}

#[cfg(test)]
#[path = "judge_tests.rs"]
mod tests;
