//! Verdicts on pods as API servers tell them.

use super::*;
use k8s_openapi::api::core::v1::Pod;
use serde_json::Value;
use serde_json::json;

/// A pod with what the server says of its state.
fn pod(name: &str, index: u32, status: Value) -> (String, PodView) {
    let pod: Pod = serde_json::from_value(json!({
        "metadata": { "name": name, "uid": name, "labels": { "pollinator/node": index.to_string() },
            "creationTimestamp": "2026-11-28T02:00:00Z" },
        "spec": { "containers": [], "nodeName": format!("node-{index}") }, "status": status,
    }))
    .unwrap();
    (name.to_owned(), PodView::read(&pod))
}

fn ended(local: u32, status: i32, reason: &str, at: &str) -> Value {
    json!({ "name": format!("process-{local}"), "image": "", "imageID": "", "ready": false, "restartCount": 0,
        "state": { "terminated": { "exitCode": status, "reason": reason, "finishedAt": format!("2026-11-28T02:{at}Z") } } })
}

fn waiting(reason: &str, message: &str) -> Value {
    json!({ "name": "process-0", "image": "", "imageID": "", "ready": false, "restartCount": 0,
        "state": { "waiting": { "reason": reason, "message": message } } })
}

fn runs(local: u32) -> Value {
    json!({ "name": format!("process-{local}"), "image": "", "imageID": "", "ready": true, "restartCount": 0,
        "state": { "running": { "startedAt": "2026-11-28T02:00:10Z" } } })
}

fn view(pods: Vec<(String, PodView)>) -> View {
    View { jobs: [("j".to_owned(), JobView::default())].into(), pods: pods.into_iter().collect() }
}

/// Two nodes with two processes each, or one of one; `left`: the statuses on the volume.
fn judged(view: &View, nodes: u32, per_node: u32, left: &[(u32, i32)]) -> State {
    let statuses = |rank| left.iter().find(|(r, _)| *r == rank).map(|(_, status)| *status);
    let (walltime, memory, now) = (60, 100, 1_800_000_000);
    let refusals = BTreeMap::from([("full".to_owned(), "FailedCreate: exceeded quota".to_owned())]);
    let began = |_: u32| true;
    let asked = Asked { nodes, per_node, walltime, memory, statuses: &statuses, began: &began, refusals: &refusals, now };
    judge(view, &asked)
}

fn exited(status: i32, rank: Option<u32>) -> Option<Ending> {
    Some(Ending::Exited { status, rank, in_init: false, because: None })
}

fn stopped(state: &State) -> &str {
    match &state.ending {
        Some(Ending::Stopped { reason }) => reason,
        other => panic!("{other:?}"),
    }
}

#[test]
fn success_is_all_processes_of_all_nodes() {
    let well = [ended(0, 0, "Completed", "01:00"), ended(1, 0, "Completed", "01:00")];
    let status = json!({ "phase": "Succeeded", "containerStatuses": well });
    let first = pod("a", 0, status.clone());
    assert_eq!(judged(&view(vec![first.clone()]), 2, 2, &[]).ending, None);
    let second = pod("b", 1, json!({ "phase": "Running", "containerStatuses": [ended(0, 0, "Completed", "01:00"), runs(1)] }));
    let state = judged(&view(vec![first.clone(), second]), 2, 2, &[(3, 0)]);
    assert_eq!((state.ending, state.nodes), (None, vec!["node-0".to_owned(), "node-1".to_owned()]));
    let state = judged(&view(vec![first, pod("b", 1, status)]), 2, 2, &[]);
    assert_eq!(state.ending, exited(0, None));
}

#[test]
fn the_first_that_failed_decides() {
    let one = pod("a", 0, json!({ "phase": "Running", "containerStatuses": [ended(0, 143, "Error", "01:09"), runs(1)] }));
    let two = pod(
        "b",
        1,
        json!({ "phase": "Failed", "containerStatuses": [ended(0, 0, "Completed", "01:01"), ended(1, 5, "Error", "01:02")] }),
    );
    assert_eq!(judged(&view(vec![one, two]), 2, 2, &[]).ending, exited(5, Some(3)));
    let single = pod("a", 0, json!({ "phase": "Failed", "containerStatuses": [ended(0, 7, "Error", "01:02")] }));
    assert_eq!(judged(&view(vec![single]), 1, 1, &[(0, 7)]).ending, exited(7, None));
}

#[test]
fn what_kubernetes_ended_is_told_in_its_words() {
    let killed = [ended(0, 137, "Error", "01:00")];
    let deadline = json!({ "phase": "Failed", "reason": "DeadlineExceeded",
        "message": "Pod was active on the node longer than the specified deadline", "containerStatuses": killed });
    assert_eq!(
        stopped(&judged(&view(vec![pod("a", 0, deadline)]), 1, 1, &[(0, 143)])),
        "TIMEOUT: the walltime of 60 s is over (DeadlineExceeded)"
    );
    let evicted = json!({ "phase": "Failed", "reason": "Evicted", "message": "The node was low on resource: memory." });
    assert_eq!(stopped(&judged(&view(vec![pod("a", 0, evicted)]), 1, 1, &[])), "Evicted: The node was low on resource: memory.");
    let preempted = json!({ "phase": "Failed", "containerStatuses": killed, "conditions": [{ "type": "DisruptionTarget",
        "status": "True", "reason": "PreemptionByScheduler", "message": "default-scheduler: preempting" }] });
    assert!(stopped(&judged(&view(vec![pod("a", 0, preempted)]), 1, 1, &[])).starts_with("PreemptionByScheduler: "));
    let memory = json!({ "phase": "Failed", "containerStatuses": [ended(0, 137, "OOMKilled", "01:00")] });
    let because = Some("OOMKilled: it used more than its 100 MiB of memory".to_owned());
    let want = Some(Ending::Exited { status: 137, rank: None, in_init: false, because });
    assert_eq!(judged(&view(vec![pod("a", 0, memory)]), 1, 1, &[]).ending, want);
    let shell = json!({ "phase": "Failed", "containerStatuses": [ended(0, 128, "StartError", "01:00")] });
    assert_eq!(stopped(&judged(&view(vec![pod("a", 0, shell)]), 1, 1, &[])), "StartError");
}

#[test]
fn lost_pods() {
    let running = json!({ "phase": "Running", "containerStatuses": [runs(0)] });
    let (uid, seen) = pod("a", 0, running);
    let gone = (uid, PodView { is_gone: true, ..seen });
    let lost = judged(&view(vec![gone.clone()]), 1, 1, &[]);
    assert_eq!(
        stopped(&lost),
        "PodDeleted: the pod a on node node-0 was deleted before the job had ended, by nobody of the colony"
    );
    assert!(stopped(&judged(&view(vec![gone.clone()]), 1, 1, &[(0, 143)])).starts_with("PodDeleted: "));
    // It had ended before, and nobody was there to see it.
    assert_eq!(judged(&view(vec![gone.clone()]), 1, 1, &[(0, 0)]).ending, exited(0, None));
    assert_eq!(judged(&view(vec![gone.clone()]), 1, 1, &[(0, 4)]).ending, exited(4, None));
    assert_eq!(judged(&view(vec![]), 1, 1, &[(0, 0)]).ending, exited(0, None));
    assert_eq!(judged(&view(vec![]), 1, 1, &[]).ending, None);
    // One that stands in for it says so, and is neither a failure nor a success of the command's.
    let mut stand_in = ended(0, 75, "Error", "02:00");
    stand_in["state"]["terminated"]["message"] = "pollinator: replacement".into();
    let other = pod("b", 0, json!({ "phase": "Failed", "containerStatuses": [stand_in] }));
    assert!(stopped(&judged(&view(vec![gone, other.clone()]), 1, 1, &[])).starts_with("PodDeleted: "));
    assert!(stopped(&judged(&view(vec![other]), 1, 1, &[])).starts_with("PodDeleted: "));
}

#[test]
fn a_pod_on_a_dead_node_is_given_up_in_the_end() {
    let (uid, seen) = pod("a", 0, json!({ "phase": "Running", "containerStatuses": [runs(0)] }));
    let deleting = |then| judged(&view(vec![(uid.clone(), PodView { deleting: Some(then), ..seen.clone() })]), 1, 1, &[]).ending;
    assert_eq!(deleting(1_800_000_000), None);
    assert!(matches!(deleting(1_799_999_000), Some(Ending::Stopped { .. })));
}

#[test]
fn waiting_is_told() {
    let full = json!({ "phase": "Pending", "conditions": [{ "type": "PodScheduled", "status": "False", "reason": "Unschedulable",
        "message": "0/3 nodes are available: 3 Insufficient cpu." }] });
    let state = judged(&view(vec![pod("a", 0, full)]), 1, 1, &[]);
    assert_eq!(state.waiting.as_deref(), Some("Unschedulable: 0/3 nodes are available: 3 Insufficient cpu."));
    assert_eq!((state.problem, state.ending, state.nodes), (None, None, vec![]));
    let pull = json!({ "phase": "Pending", "containerStatuses": [waiting("ErrImagePull", "not found")] });
    let state = judged(&view(vec![pod("a", 0, pull)]), 1, 1, &[]);
    assert_eq!(state.problem, Some(Problem { words: "ErrImagePull: not found".into(), may_pass: true }));
    let coming = json!({ "phase": "Pending", "containerStatuses": [waiting("ContainerCreating", "")] });
    assert_eq!(judged(&view(vec![pod("a", 0, coming)]), 1, 1, &[]), State::default());
}

#[test]
fn a_pod_on_its_node_is_being_created_until_it_runs() {
    let coming = json!({ "phase": "Pending", "containerStatuses": [waiting("ContainerCreating", "")] });
    let seen = view(vec![pod("a", 0, coming)]);
    assert_eq!(being_created(&seen), Some("a"));
    let (uid, pod) = seen.pods.first_key_value().unwrap();
    for other in [
        PodView { node: None, ..pod.clone() },
        PodView { phase: Phase::Running, ..pod.clone() },
        PodView { is_gone: true, ..pod.clone() },
        PodView { deleting: Some(1), ..pod.clone() },
    ] {
        assert_eq!(being_created(&view(vec![(uid.clone(), other.clone())])), None, "{other:?}");
    }
}

#[test]
fn pods_that_are_not_made_are_waited_for_with_a_reason() {
    let job = |uid: &str, suspended: Option<&str>| {
        let job = JobView { uid: uid.into(), suspended: suspended.map(str::to_owned), ..JobView::default() };
        View { jobs: [("j".to_owned(), job)].into(), pods: BTreeMap::new() }
    };
    let waiting = |view: &View, nodes: u32| judged(view, nodes, 1, &[]).waiting;
    assert_eq!(waiting(&job("full", None), 1).as_deref(), Some("FailedCreate: exceeded quota"));
    assert_eq!(waiting(&job("free", Some("JobSuspended")), 1).as_deref(), Some("JobSuspended"));
    assert_eq!(waiting(&job("free", None), 1), None);
    assert!(lacks_pods(&job("free", None), 1) && !lacks_pods(&View::default(), 1));
    // One of two is there; and both.
    let run = |name: &str, index: u32| pod(name, index, json!({ "phase": "Running", "containerStatuses": [runs(0)] }));
    let half = View { pods: [run("a", 0)].into(), ..job("full", None) };
    assert_eq!(waiting(&half, 2).as_deref(), Some("FailedCreate: exceeded quota"));
    let whole = View { pods: [run("a", 0), run("b", 1)].into(), ..job("full", None) };
    assert_eq!((waiting(&whole, 2), lacks_pods(&whole, 2)), (None, false));
}

#[test]
fn a_job_that_failed_without_a_trace() {
    let mut view = view(vec![]);
    view.jobs.insert("j".into(), JobView { failed: Some("BackoffLimitExceeded: too many".into()), ..JobView::default() });
    assert_eq!(stopped(&judged(&view, 1, 1, &[])), "BackoffLimitExceeded: too many");
    assert_eq!(judged(&view, 1, 1, &[(0, 0)]).ending, exited(0, None));
}

#[test]
fn a_pod_that_had_ended_well_is_not_refused_afterwards() {
    let refused = json!({ "phase": "Failed", "reason": "OutOfcpu", "message": "Node didn't have enough resource: cpu" });
    let view = view(vec![pod("p", 0, refused)]);
    assert_eq!(judged(&view, 1, 1, &[(0, 0)]).ending, exited(0, None));
    assert!(stopped(&judged(&view, 1, 1, &[(0, 1)])).starts_with("OutOfcpu: "));
    assert!(stopped(&judged(&view, 1, 1, &[])).starts_with("OutOfcpu: "));
    // One that was ended for its time, and left politely, was not done.
    let late = json!({ "phase": "Failed", "reason": "DeadlineExceeded" });
    let view = View { pods: [pod("p", 0, late)].into(), ..view };
    assert!(stopped(&judged(&view, 1, 1, &[(0, 0)])).starts_with("TIMEOUT: "));
}
