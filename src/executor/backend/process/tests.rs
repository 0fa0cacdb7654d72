//! The process backend, with real processes.

use super::*;
use crate::executor::spec::Job;
use serde_json::Value;
use serde_json::json;
use std::sync::Arc;
use std::time::Instant;

/// A job in a folder of its own; the file area is `fs` beside it.
pub(crate) fn task(root: &Path, cmd: &str, args: &[&str], env: Value) -> Task {
    let spec = json!({ "processid": "ab12", "spec": { "funcname": "execute", "env": env,
        "kwargs": { "cmd": cmd, "args": args },
        "conditions": { "nodes": 1, "processespernode": 1, "walltime": 60 }, "fs": { "mount": "/cfs" } } });
    of_spec(root, spec)
}

fn of_spec(root: &Path, spec: Value) -> Task {
    let job = Job::read(&serde_json::from_value(spec).unwrap(), false).unwrap();
    let root = root.canonicalize().unwrap();
    let (folder, fs_dir) = (root.join("job"), root.join("fs"));
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::create_dir_all(&fs_dir).unwrap();
    Task { job: Arc::new(job), folder, fs_dir }
}

fn several(root: &Path, cmd: &str, nodes: u32, per_node: u32) -> Task {
    let mut task = task(root, cmd, &[], json!({}));
    let mut job = (*task.job).clone();
    (job.nodes, job.processes_per_node) = (nodes, per_node);
    task.job = Arc::new(job);
    task
}

fn with_init(root: &Path, init: &str, cmd: &str) -> Task {
    let mut task = task(root, cmd, &[], json!({}));
    let mut job = (*task.job).clone();
    let Work::Execute(command) = &mut job.work else { panic!() };
    command.init = init.into();
    task.job = Arc::new(job);
    task
}

/// The backend as the local colony has it.
fn plain() -> ProcessEngine {
    ProcessEngine { confine: Arc::new(Confine::new(Settings::plain(), Path::new("/")).unwrap()) }
}

async fn run(task: &Task) -> Ending {
    let handle = plain().start(task).await.unwrap();
    tokio::time::timeout(Duration::from_secs(60), plain().watch(task, &handle, &facts())).await.unwrap().unwrap()
}

fn facts() -> watch::Sender<Facts> {
    watch::Sender::new(Facts::default())
}

fn exited(status: i32) -> Ending {
    Ending::Exited { status, rank: None, in_init: false, because: None }
}

fn log(task: &Task) -> String {
    String::from_utf8(std::fs::read(task.log()).unwrap()).unwrap()
}

const NASTY: [&str; 14] = [
    "two words",
    "quote\"s and 'single'",
    "$HOME ${PATH} $(id) `id`",
    "a;b&c|d>e<f(g)h",
    "line\nbreak\n",
    "ünïcödé 日本 🦀",
    "*?[a-z]{a,b}",
    "back\\slash\\n",
    "",
    " leading and trailing ",
    "-n",
    "!history#comment",
    "tab\tand\rreturn",
    "&#34;&lt;&amp;%s%d",
];

#[tokio::test]
async fn arguments_arrive_byte_for_byte() {
    let root = tempfile::tempdir().unwrap();
    let task = task(root.path(), "printf '%s\\0'", &NASTY, json!({}));
    assert_eq!(run(&task).await, exited(0));
    let want: Vec<u8> = NASTY.iter().flat_map(|a| a.bytes().chain([0])).collect();
    assert_eq!(std::fs::read(task.log()).unwrap(), want);
}

#[tokio::test]
async fn every_printable_character_arrives() {
    let root = tempfile::tempdir().unwrap();
    let all: String = (1u8..=126).map(char::from).collect();
    let task = task(root.path(), "printf %s", &[&all], json!({ "ALL": all }));
    assert_eq!(run(&task).await, exited(0));
    assert_eq!(log(&task), all);
}

#[tokio::test]
async fn values_of_variables_are_data() {
    let root = tempfile::tempdir().unwrap();
    let env: serde_json::Map<String, Value> = NASTY.iter().enumerate().map(|(i, v)| (format!("V{i}"), json!(v))).collect();
    let cmd: String = (0..NASTY.len()).map(|i| format!("printf '%s\\0' \"$V{i}\";")).collect();
    let task = task(root.path(), &cmd, &[], Value::Object(env));
    assert_eq!(run(&task).await, exited(0));
    let want: Vec<u8> = NASTY.iter().flat_map(|a| a.bytes().chain([0])).collect();
    assert_eq!(std::fs::read(task.log()).unwrap(), want);
}

#[tokio::test]
async fn the_job_is_told_who_and_where_it_is() {
    let root = tempfile::tempdir().unwrap();
    let cmd = "echo $COLONIES_PROCESS_ID; echo $PROJECT_DIR; pwd; echo /cfs/a; env | grep -c -E 'AWS_|PRVKEY|CARGO' || true";
    let task = task(root.path(), cmd, &[], json!({ "PROJECT_DIR": "/cfs/pollinator/p" }));
    assert_eq!(run(&task).await, exited(0));
    let fs = task.fs_dir.display();
    assert_eq!(log(&task), format!("ab12\n{fs}/pollinator/p\n{fs}/pollinator/p\n{fs}/a\n0\n"));
}

#[tokio::test]
async fn exit_statuses_and_signals() {
    for (cmd, status) in [
        ("exit 3", 3),
        ("true", 0),
        ("false | true", 0),
        ("ls / -l >/dev/null", 0),
        ("kill -SEGV $$", 139),
        ("sh -c 'kill -KILL $$'", 137),
        ("no-such-program-here", 127),
        ("/etc/passwd", 126),
        ("if then", 2),
        ("true; # comment", 0),
    ] {
        let root = tempfile::tempdir().unwrap();
        assert_eq!(run(&task(root.path(), cmd, &[], json!({}))).await, exited(status), "{cmd}");
    }
}

#[tokio::test]
async fn a_failing_command_is_not_masked_by_having_no_arguments() {
    let root = tempfile::tempdir().unwrap();
    assert_eq!(run(&task(root.path(), "sh -c 'exit 4'\n\n", &[], json!({}))).await, exited(4));
}

#[tokio::test]
async fn init_runs_once_before_and_its_failure_ends_the_job() {
    let root = tempfile::tempdir().unwrap();
    let task = with_init(root.path(), "echo init; export A='x y'", "echo \"$A\"");
    assert_eq!(run(&task).await, exited(0));
    assert_eq!(log(&task), "init\nx y\n");
    for init in ["echo no; false", "exit 1", "sh -c 'exit 1'"] {
        let root = tempfile::tempdir().unwrap();
        let task = with_init(root.path(), init, "echo never");
        assert_eq!(run(&task).await, Ending::Exited { status: 1, rank: None, in_init: true, because: None }, "{init}");
        assert!(!log(&task).contains("never"));
    }
}

#[tokio::test]
async fn several_processes_know_their_numbers() {
    let root = tempfile::tempdir().unwrap();
    let mut task = several(root.path(), "echo $POLLINATOR_RANK of $POLLINATOR_SIZE $A", 2, 2);
    let mut job = (*task.job).clone();
    let Work::Execute(command) = &mut job.work else { panic!() };
    command.init = "echo once; export A=a".into();
    task.job = Arc::new(job);
    assert_eq!(run(&task).await, exited(0));
    let outputs = plain().outputs(&task);
    assert_eq!(outputs.len(), 5);
    assert_eq!(outputs[3].prefix.as_deref(), Some("[2] "));
    assert_eq!(std::fs::read_to_string(&outputs[3].path).unwrap(), "2 of 4 a\n");
    assert_eq!(log(&task), "once\n");
}

/// `set -e` of `init-cmd` holds for the command, and the status is told all the same.
#[tokio::test]
async fn several_processes_fail_at_the_first_command_where_init_says_so() {
    let root = tempfile::tempdir().unwrap();
    let mut task = several(root.path(), "false; echo never", 1, 2);
    let mut job = (*task.job).clone();
    let Work::Execute(command) = &mut job.work else { panic!() };
    command.init = "set -e; IFS=0123456789".into();
    task.job = Arc::new(job);
    let ending = run(&task).await;
    assert!(matches!(ending, Ending::Exited { status: 1, rank: Some(_), in_init: false, .. }), "{ending:?}");
    assert_eq!(std::fs::read_to_string(task.folder.join("log.0")).unwrap(), "");
}

#[tokio::test]
async fn the_first_failure_of_several_decides() {
    let root = tempfile::tempdir().unwrap();
    let task = several(root.path(), "test $POLLINATOR_RANK = 1 && exit 5; sleep 300", 3, 1);
    let handle = plain().start(&task).await.unwrap();
    let ending = tokio::time::timeout(Duration::from_secs(120), plain().watch(&task, &handle, &facts())).await.unwrap().unwrap();
    assert_eq!(ending, Ending::Exited { status: 5, rank: Some(1), in_init: false, because: None });
    plain().kill(&task, &handle, Duration::from_secs(2)).await.unwrap();
    assert!(!Session::read(&handle).leader_is_alive());
}

/// Waits until the job has said something.
async fn until_said(task: &Task, word: &str) {
    let end = Instant::now() + Duration::from_secs(120);
    while !log(task).contains(word) {
        assert!(Instant::now() < end, "the job never said {word:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn the_whole_session_is_killed() {
    let root = tempfile::tempdir().unwrap();
    // One that ignores TERM, and one in a process group of its own.
    let cmd = "(trap '' TERM; echo $$ stubborn; exec sleep 301) & timeout 302 sleep 303 & echo ready; wait";
    let task = task(root.path(), cmd, &[], json!({}));
    let handle = plain().start(&task).await.unwrap();
    until_said(&task, "ready").await;
    until_said(&task, "stubborn").await;
    plain().kill(&task, &handle, Duration::from_secs(1)).await.unwrap();
    let leader: i32 = handle.0.split(':').next().unwrap().parse().unwrap();
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let Ok(stat) = std::fs::read_to_string(entry.path().join("stat")) else { continue };
        let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
        assert!(fields[3] != leader.to_string() || fields[0] == "Z", "left: {stat}");
    }
}

#[tokio::test]
async fn a_polite_end_leaves_its_status() {
    let root = tempfile::tempdir().unwrap();
    let task = task(root.path(), "trap 'echo saved; exit 9' TERM; echo ready; while :; do sleep 0.1; done", &[], json!({}));
    let handle = plain().start(&task).await.unwrap();
    until_said(&task, "ready").await;
    plain().kill(&task, &handle, Duration::from_secs(10)).await.unwrap();
    assert_eq!(plain().watch(&task, &handle, &facts()).await.unwrap(), exited(9));
    assert!(log(&task).contains("saved"));
}

#[tokio::test]
async fn a_job_that_leaves_no_status_has_vanished() {
    let root = tempfile::tempdir().unwrap();
    let task = task(root.path(), "echo ready; sleep 300", &[], json!({}));
    let handle = plain().start(&task).await.unwrap();
    until_said(&task, "ready").await;
    plain().kill(&task, &handle, Duration::ZERO).await.unwrap();
    // KILL may be faster than the wrapper's note, or slower.
    let ending = plain().watch(&task, &handle, &facts()).await.unwrap();
    assert!(matches!(ending, Ending::Vanished { .. } | Ending::Exited { status: 143 | 137, .. }), "{ending:?}");
    assert!(matches!(
        plain().watch(&task, &Session::nobody().handle(), &facts()).await.unwrap(),
        Ending::Vanished { .. } | Ending::Exited { .. }
    ));
}

#[tokio::test]
async fn a_job_is_found_again_without_its_handle() {
    let root = tempfile::tempdir().unwrap();
    let task = task(root.path(), "echo ready; sleep 1; exit 6", &[], json!({}));
    assert_eq!(plain().adopt(&task, None).await.unwrap(), Adopted::Never, "nothing was tried");
    let handle = plain().start(&task).await.unwrap();
    until_said(&task, "ready").await;
    assert_eq!(plain().adopt(&task, None).await.unwrap(), Adopted::Started(handle.clone()));
    assert_eq!(plain().watch(&task, &handle, &facts()).await.unwrap(), exited(6));
}

#[tokio::test]
async fn a_start_that_never_began_never_will() {
    let root = tempfile::tempdir().unwrap();
    let task = task(root.path(), "echo ran", &[], json!({}));
    // The executor died after writing down the try: whoever claims it first decides.
    assert_eq!(tries::next(&task.folder).unwrap(), 0);
    assert_eq!(plain().adopt(&task, None).await.unwrap(), Adopted::Never);
    assert_eq!(run(&task).await, exited(0));
    assert_eq!(log(&task), "ran\n");
}

#[tokio::test]
async fn much_output_and_binary_output_reach_the_file() {
    let root = tempfile::tempdir().unwrap();
    let task = task(root.path(), "head -c 100000000 /dev/zero; printf '\\377\\0end'", &[], json!({}));
    assert_eq!(run(&task).await, exited(0));
    assert_eq!(std::fs::metadata(task.log()).unwrap().len(), 100_000_005);
    use std::os::unix::fs::PermissionsExt;
    assert_eq!(std::fs::metadata(task.log()).unwrap().permissions().mode() & 0o777, 0o600);
}

#[tokio::test]
async fn a_file_area_with_a_strange_name() {
    let root = tempfile::tempdir().unwrap();
    let strange = root.path().join("it's a \"$HOME\" `x`; & folder");
    std::fs::create_dir(&strange).unwrap();
    let task = task(&strange, "echo hi > /cfs/f && cat \"/cfs/f\" '/cfs/f' && cat", &["/cfs/f"], json!({}));
    assert_eq!(run(&task).await, exited(0));
    assert_eq!(log(&task), "hi\nhi\nhi\n");
}
