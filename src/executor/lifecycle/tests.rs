//! Lives of processes with real jobs and a server that misbehaves.

#[path = "../../../tests/common/life.rs"]
mod life;

use super::test_server::TestServer;
use super::*;
use crate::colonies::Process;
use crate::colonies::ProcessState;
use crate::config::StoreAccess;
use crate::executor::files::FilesError;
use crate::executor::spec::Job;
use async_trait::async_trait;
use serde_json::Value;
use serde_json::json;
use std::sync::PoisonError;

/// Notes what is asked of it.
#[derive(Default)]
struct Noting {
    notes: Mutex<Vec<String>>,
    missing: Vec<String>,
}

impl Noting {
    fn note(&self, what: &str, job: &Job) {
        self.notes.lock().unwrap_or_else(PoisonError::into_inner).push(format!("{what} {}", job.process_id));
    }

    fn notes(&self) -> Vec<String> {
        self.notes.lock().unwrap().clone()
    }
}

#[async_trait]
impl Files for Noting {
    async fn bring_in(&self, job: &Job) -> Result<Vec<String>, FilesError> {
        self.note("in", job);
        assert!(!job.env.contains_key("PANIC"), "a test panics here on purpose");
        Ok(Vec::new())
    }

    async fn send_back(&self, job: &Job) -> Result<Vec<String>, FilesError> {
        self.note("back", job);
        Ok(self.missing.clone())
    }

    async fn clean_up(&self, job: &Job) -> Result<(), FilesError> {
        self.note("clean", job);
        if job.env.contains_key("HANG") {
            let _dropped = CallOnDrop(|| self.note("given up", job));
            std::future::pending::<()>().await;
        }
        Ok(())
    }
}

struct CallOnDrop<F: Fn()>(F);

impl<F: Fn()> Drop for CallOnDrop<F> {
    fn drop(&mut self) {
        self.0();
    }
}

struct Rig {
    server: TestServer,
    folder: tempfile::TempDir,
    files: Arc<Noting>,
    capacity: Capacity,
}

impl Rig {
    fn new() -> Rig {
        Rig {
            server: TestServer::start(),
            folder: tempfile::tempdir().unwrap(),
            files: Arc::default(),
            capacity: Capacity::default(),
        }
    }

    fn options(&self) -> Options {
        let path = self.folder.path();
        let mut options =
            Options::new("local", self.server.access.clone(), StoreAccess::of_nobody(), path.join("fs"), path.join("state"));
        options.owner_key = Some(self.server.owner_key.clone());
        options.poll_seconds = 2;
        options.capacity = self.capacity;
        options
    }

    fn start(&self) -> life::Life<Error> {
        let shutdown = CancellationToken::new();
        life::Life::of(run(self.options(), self.files.clone(), Arc::default(), shutdown.clone(), None), shutdown)
    }

    /// A shell command that waits for the file of this name, and the file.
    fn gate(&self, name: &str) -> (String, PathBuf) {
        let file = self.folder.path().join(name);
        (format!("until test -e {}; do sleep 0.05; done", file.display()), file)
    }

    fn jobs_left(&self) -> usize {
        std::fs::read_dir(self.folder.path().join("state/jobs")).map_or(0, |d| d.count())
    }
}

fn spec(cmd: &str) -> Value {
    json!({ "funcname": "execute", "kwargs": { "cmd": cmd, "docker-image": "python:3" }, "maxexectime": -1,
        "conditions": { "nodes": 1, "processespernode": 1, "walltime": 600, "cpu": "1000m", "mem": "10Mi" },
        "fs": { "mount": "/cfs" } })
}

fn with(cmd: &str, pointer: &str, value: Value) -> Value {
    let mut spec = spec(cmd);
    *spec.pointer_mut(pointer).unwrap() = value;
    spec
}

#[tokio::test]
async fn the_whole_life_of_a_process() {
    let rig = Rig::new();
    let life = rig.start();
    rig.server.submit("p1", spec("echo hello; printf '\\377\\0x'; echo error >&2"));
    rig.server.until_state("p1", ProcessState::Success).await;
    assert_eq!(rig.server.log("p1").concat(), format!("hello\n\u{FFFD}\u{FFFD}xerror\n"));
    rig.server.until("clean up", |_| rig.files.notes() == ["in p1", "back p1", "clean p1"] && rig.jobs_left() == 0).await;
    let process = rig.server.process("p1");
    assert!(process.attribute("NODES").is_some());
    assert!(process.attributes.iter().all(|a| a.attributetype == 4));
    let functions = rig.server.state.lock().unwrap().functions.clone();
    let names: Vec<&str> = functions.iter().map(|f| f["funcname"].as_str().unwrap()).collect();
    assert_eq!(names, ["execute", "sync"]);
    life.stop().await;
    // The next life goes on with its key: no second registration, no second function.
    let life = rig.start();
    rig.server.submit("p2", spec("true"));
    rig.server.until_state("p2", ProcessState::Success).await;
    assert_eq!(rig.server.calls("addexecutormsg"), 1);
    assert_eq!(rig.server.calls("addfunctionmsg"), 2);
    life.stop().await;
}

#[tokio::test]
async fn failures_tell_why() {
    let rig = Rig::new();
    let life = rig.start();
    rig.server.submit("a", spec("echo working; echo oh no >&2; exit 3"));
    rig.server.submit("b", with("x", "/conditions/walltime", json!(0)));
    rig.server.submit("c", with("x", "/funcname", json!("dance")));
    rig.server.submit("d", spec("no-such-program-anywhere"));
    let a = rig.server.until_state("a", ProcessState::Failed).await;
    assert_eq!(a.errors[0], "exit status 3");
    assert!(a.errors[1].ends_with("working\noh no"), "{:?}", a.errors);
    let b = rig.server.until_state("b", ProcessState::Failed).await;
    assert!(b.errors[0].contains("conditions.walltime"), "{:?}", b.errors);
    let c = rig.server.until_state("c", ProcessState::Failed).await;
    assert!(c.errors[0].contains("funcname"), "{:?}", c.errors);
    let d = rig.server.until_state("d", ProcessState::Failed).await;
    assert!(d.errors[0].contains("exit status 127 (command not found"), "{:?}", d.errors);
    assert!(rig.files.notes().contains(&"back a".to_owned()), "results of a failed job come back");
    life.stop().await;
}

#[tokio::test]
async fn results_that_are_missing_fail_the_process() {
    let mut rig = Rig::new();
    rig.files = Arc::new(Noting { missing: vec!["x.bin: no space".into()], ..Noting::default() });
    let life = rig.start();
    rig.server.submit("a", spec("true"));
    let a = rig.server.until_state("a", ProcessState::Failed).await;
    assert_eq!(a.errors[1], "x.bin: no space");
    life.stop().await;
}

#[tokio::test]
async fn walltime_and_deadline_end_the_job_with_their_reason() {
    let rig = Rig::new();
    let life = rig.start();
    rig.server.submit("a", with("echo begun; sleep 300", "/conditions/walltime", json!(1)));
    rig.server.submit("b", with("sleep 300", "/maxexectime", json!(2)));
    let a = rig.server.until_state("a", ProcessState::Failed).await;
    assert_eq!(a.errors[0], "TIMEOUT: the walltime of 1 s is over");
    assert!(rig.server.log("a").concat().contains("begun\npollinator: TIMEOUT: the walltime of 1 s is over\n"));
    let b = rig.server.until_state("b", ProcessState::Failed).await;
    assert!(b.errors[0].starts_with("TIMEOUT: maxexectime of 2 s"), "{:?}", b.errors);
    assert!(rig.files.notes().contains(&"back a".to_owned()));
    life.stop().await;
}

fn is_alive(pid_file: &std::path::Path) -> bool {
    let pid: i32 = std::fs::read_to_string(pid_file).unwrap().trim().parse().unwrap();
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    !stat.is_empty() && !stat.contains(") Z ")
}

#[tokio::test]
async fn a_cancelled_process_is_killed_within_seconds() {
    let rig = Rig::new();
    let life = rig.start();
    let pid_file = rig.folder.path().join("pid");
    rig.server.submit("a", spec(&format!("sleep 300 & echo $! > {}; echo ready; wait", pid_file.display())));
    rig.server.until("ready", |s| s.logs.get("a").is_some_and(|l| l.concat().contains("ready"))).await;
    rig.server.state.lock().unwrap().processes.get_mut("a").unwrap().state = ProcessState::Cancelled;
    rig.server.until("dead", |_| !is_alive(&pid_file)).await;
    rig.server.until("results", |_| rig.files.notes() == ["in a", "back a", "clean a"]).await;
    assert_eq!(rig.server.calls("closefailedmsg") + rig.server.calls("closesuccessfulmsg"), 0);
    life.stop().await;
}

#[tokio::test]
async fn killed_and_started_again_it_goes_on_where_it_was() {
    let rig = Rig::new();
    let life = rig.start();
    let count = rig.folder.path().join("count");
    let (middle, open_middle) = rig.gate("middle");
    let (end, open_end) = rig.gate("end");
    let done = rig.folder.path().join("done");
    let cmd = format!(
        "echo x >> {}; seq -f 'line %g' 1 10; {middle}; seq -f 'line %g' 11 40; {end}; seq -f 'line %g' 41 60; touch {}",
        count.display(),
        done.display()
    );
    rig.server.submit("a", spec(&cmd));
    rig.server.until("line 10", |s| s.logs.get("a").is_some_and(|l| l.concat().contains("line 10\n"))).await;
    life.kill();
    std::fs::write(&open_middle, "").unwrap();
    let life = rig.start();
    rig.server.until("line 40", |s| s.logs["a"].concat().contains("line 40\n")).await;
    life.kill();
    // The job ends while nobody is there.
    std::fs::write(&open_end, "").unwrap();
    rig.server.until("the job's end", |_| done.exists()).await;
    let life = rig.start();
    rig.server.until_state("a", ProcessState::Success).await;
    let want: String = (1..=60).map(|i| format!("line {i}\n")).collect();
    assert_eq!(rig.server.log("a").concat(), want.to_string());
    assert_eq!(std::fs::read_to_string(&count).unwrap(), "x\n", "run once");
    assert_eq!(rig.server.calls("closesuccessfulmsg"), 1);
    life.stop().await;
}

#[tokio::test]
async fn lost_answers_double_nothing_and_lose_nothing() {
    let rig = Rig::new();
    for (call, times) in [("addlogmsg", 5), ("closesuccessfulmsg", 2), ("assignprocessmsg", 1), ("addattributemsg", 1)] {
        rig.server.state.lock().unwrap().lose.insert(call.into(), times);
    }
    let life = rig.start();
    rig.server.submit("a", spec("for i in 1 2 3 4 5 6; do echo same; sleep 0.4; done"));
    rig.server.until_state("a", ProcessState::Success).await;
    assert_eq!(rig.server.log("a").concat(), "same\n".repeat(6));
    life.stop().await;
}

#[tokio::test]
async fn a_refused_log_message_decides_nothing() {
    let rig = Rig::new();
    rig.server.state.lock().unwrap().refuse.insert("addlogmsg".into(), 1);
    let life = rig.start();
    let (wait, open) = rig.gate("go");
    rig.server.submit("a", spec(&format!("echo refused; {wait}; echo later")));
    rig.server.until("refused", |s| s.refuse["addlogmsg"] == 0).await;
    std::fs::write(open, "").unwrap();
    rig.server.until_state("a", ProcessState::Success).await;
    assert_eq!(rig.server.log("a").concat(), "later\n");
    life.stop().await;
}

#[tokio::test]
async fn a_panic_fails_that_process_only() {
    let rig = Rig::new();
    let life = rig.start();
    let mut bad = spec("true");
    bad["env"] = json!({ "PANIC": "1" });
    rig.server.submit("a", bad);
    rig.server.submit("b", spec("true"));
    let a = rig.server.until_state("a", ProcessState::Failed).await;
    assert!(a.errors[0].contains("internal error"), "{:?}", a.errors);
    rig.server.until_state("b", ProcessState::Success).await;
    life.stop().await;
}

#[tokio::test]
async fn a_full_executor_polls_on_and_takes_no_more() {
    let mut rig = Rig::new();
    rig.capacity = Capacity { slots: 1, ..Capacity::default() };
    let life = rig.start();
    let (wait, open) = rig.gate("go");
    rig.server.submit("a", spec(&wait));
    rig.server.until("a", |s| s.processes["a"].state == ProcessState::Running).await;
    rig.server.submit("b", spec("true"));
    let polls = rig.server.calls("assignprocessmsg");
    rig.server.until("polls", |s| s.calls["assignprocessmsg"] > polls + 1).await;
    assert_eq!(rig.server.process("b").state, ProcessState::Waiting);
    std::fs::write(open, "").unwrap();
    rig.server.until_state("b", ProcessState::Success).await;
    life.stop().await;
}

/// The executor was silent for too long: it is no member any more, and its process waits.
#[tokio::test]
async fn forgotten_by_the_server_it_registers_again_and_goes_on_with_its_job() {
    forgotten_it_goes_on(Capacity::default()).await;
}

/// What its own jobs take is offered as long as their processes wait.
#[tokio::test]
async fn forgotten_while_it_is_full_it_goes_on_with_its_job() {
    forgotten_it_goes_on(Capacity { slots: 1, ..Capacity::default() }).await;
}

/// The verdict of a job that ended meanwhile is told when its process is back.
#[tokio::test]
async fn a_job_that_ended_while_its_executor_was_forgotten_is_not_run_again() {
    let mut rig = Rig::new();
    rig.capacity = Capacity { slots: 1, ..Capacity::default() };
    let life = rig.start();
    let count = rig.folder.path().join("count");
    rig.server.state.lock().unwrap().forgets = true;
    rig.server.submit("a", spec(&format!("echo x >> {}", count.display())));
    rig.server.until("told twice", |s| s.calls.get("closesuccessfulmsg") == Some(&2)).await;
    rig.server.until_state("a", ProcessState::Success).await;
    assert_eq!(std::fs::read_to_string(&count).unwrap(), "x\n", "run once");
    life.stop().await;
}

async fn forgotten_it_goes_on(capacity: Capacity) {
    let rig = Rig { capacity, ..Rig::new() };
    let life = rig.start();
    let count = rig.folder.path().join("count");
    let (wait, open) = rig.gate("go");
    rig.server.submit("a", spec(&format!("echo x >> {}; echo ready; {wait}; echo done", count.display())));
    rig.server.until("ready", |s| s.logs.get("a").is_some_and(|l| l.concat().contains("ready"))).await;
    {
        let mut state = rig.server.state.lock().unwrap();
        state.executors.clear();
        let process = state.processes.get_mut("a").unwrap();
        process.state = ProcessState::Waiting;
        process.assignedexecutorid.clear();
    }
    rig.server.until("registered again", |s| s.calls["addexecutormsg"] == 2).await;
    rig.server.until("taken again", |s| s.processes["a"].state == ProcessState::Running).await;
    std::fs::write(open, "").unwrap();
    rig.server.until_state("a", ProcessState::Success).await;
    assert_eq!(std::fs::read_to_string(&count).unwrap(), "x\n", "run once");
    assert_eq!(rig.server.log("a").concat(), "ready\ndone\n");
    assert_eq!(rig.server.calls("addexecutormsg"), 2);
    life.stop().await;
}

/// Taken away by the server's clock: the old job ends, and the new attempt is another job.
#[tokio::test]
async fn a_retried_process_is_a_new_job() {
    let rig = Rig::new();
    let life = rig.start();
    let count = rig.folder.path().join("count");
    let cmd = format!("echo x >> {}; echo ready; test $(wc -l < {}) = 2 || sleep 300", count.display(), count.display());
    rig.server.submit("a", spec(&cmd));
    rig.server.until("ready", |s| s.logs.get("a").is_some_and(|l| l.concat().contains("ready"))).await;
    {
        let mut state = rig.server.state.lock().unwrap();
        let process = state.processes.get_mut("a").unwrap();
        process.state = ProcessState::Waiting;
        process.retries = 1;
    }
    rig.server.changed.notify_waiters();
    rig.server.until_state("a", ProcessState::Success).await;
    assert_eq!(std::fs::read_to_string(&count).unwrap(), "x\nx\n");
    life.stop().await;
}

#[tokio::test]
async fn stopping_leaves_jobs_running() {
    let rig = Rig::new();
    let life = rig.start();
    let (wait, open) = rig.gate("go");
    rig.server.submit("a", spec(&format!("echo ready; {wait}; echo done")));
    rig.server.until("ready", |s| s.logs.get("a").is_some_and(|l| l.concat().contains("ready"))).await;
    life.stop().await;
    assert_eq!(rig.server.process("a").state, ProcessState::Running);
    std::fs::write(open, "").unwrap();
    let life = rig.start();
    rig.server.until_state("a", ProcessState::Success).await;
    assert_eq!(rig.server.log("a").concat(), "ready\ndone\n");
    life.stop().await;
}

#[tokio::test]
async fn what_does_not_come_to_a_stop_is_left_where_it_is() {
    let rig = Rig::new();
    let shutdown = CancellationToken::new();
    // In this runtime, which does not end with it: whatever is dropped, the executor has given up itself.
    let life = tokio::spawn(run(rig.options(), rig.files.clone(), Arc::default(), shutdown.clone(), None));
    let mut hangs = spec("true");
    hangs["env"] = json!({ "HANG": "yes" });
    rig.server.submit("p1", hangs);
    rig.server.until("clean up", |_| rig.files.notes().contains(&"clean p1".to_owned())).await;
    shutdown.cancel();
    life.await.unwrap().unwrap();
    assert_eq!(rig.files.notes().last().unwrap(), "given up p1");
}

#[tokio::test]
async fn without_the_owners_key_a_stranger_is_told_so() {
    let rig = Rig::new();
    let mut options = rig.options();
    options.owner_key = None;
    let error = run(options, rig.files.clone(), Arc::default(), CancellationToken::new(), None).await.unwrap_err();
    assert!(matches!(error, Error::NotMember { .. }), "{error}");
    assert!(error.hint().is_some());
}

#[tokio::test]
async fn several_processes_are_told_apart_in_the_log() {
    let rig = Rig::new();
    let life = rig.start();
    let cmd = "echo one; printf two; test $POLLINATOR_RANK != 2 || { echo bad; exit 7; }; sleep 300";
    rig.server.submit("a", with(cmd, "/conditions/nodes", json!(3)));
    let a = rig.server.until_state("a", ProcessState::Failed).await;
    assert_eq!(a.errors[0], "process 2 ended with exit status 7");
    assert!(a.errors[1].ends_with("one\ntwobad"), "{:?}", a.errors);
    let log = rig.server.log("a").concat();
    for line in ["[0] one\n", "[1] one\n", "[2] one\n", "[2] twobad\n"] {
        assert_eq!(log.matches(line).count(), 1, "{line:?} in {log:?}");
    }
    life.stop().await;
}

#[tokio::test]
async fn sync_brings_files_and_runs_nothing() {
    let rig = Rig::new();
    let life = rig.start();
    rig.server.submit("a", json!({ "funcname": "sync", "maxexectime": -1, "fs": { "mount": "/cfs" } }));
    rig.server.until_state("a", ProcessState::Success).await;
    rig.server.until("clean", |_| rig.files.notes() == ["in a", "clean a"]).await;
    life.stop().await;
}

#[tokio::test]
async fn a_large_log_arrives_in_messages_of_bounded_size() {
    let rig = Rig::new();
    let life = rig.start();
    rig.server.submit("a", spec("i=0; while [ $i -lt 40 ]; do head -c 500000 /dev/zero | tr '\\0' x; echo; i=$((i+1)); done"));
    rig.server.until_state("a", ProcessState::Success).await;
    let log = rig.server.log("a");
    assert!(log.iter().all(|m| m.len() <= 65536));
    assert_eq!(log.concat().len(), 40 * 500_001);
    assert!(log.len() < 400, "full messages are sent at once: {}", log.len());
    life.stop().await;
}

#[tokio::test]
async fn two_executors_cannot_share_their_state() {
    let rig = Rig::new();
    let life = rig.start();
    rig.server.until("registered", |s| s.executors.len() == 1).await;
    let second = run(rig.options(), rig.files.clone(), Arc::default(), CancellationToken::new(), None).await.unwrap_err();
    assert!(matches!(second, Error::InUse { .. }), "{second}");
    life.stop().await;
}

/// A database without space, say: nothing is done, and the words name no cause that passes.
#[tokio::test]
async fn faults_of_the_server_lose_neither_the_log_nor_the_verdict() {
    let rig = Rig::new();
    for call in ["addlogmsg", "closefailedmsg"] {
        rig.server.state.lock().unwrap().fault.insert(call.into(), 4);
    }
    let life = rig.start();
    rig.server.submit("a", spec("echo one; printf 'tw\\303\\266\\n'; exit 3"));
    let a = rig.server.until_state("a", ProcessState::Failed).await;
    assert_eq!(a.errors, ["exit status 3"], "in case that it was the words that it could not bear");
    assert_eq!(rig.server.log("a").concat(), "one\ntw?\n");
    life.stop().await;
}

#[tokio::test]
async fn a_verdict_that_cannot_be_borne_is_told_plainly() {
    let rig = Rig::new();
    rig.server.state.lock().unwrap().refuse.insert("closesuccessfulmsg".into(), 1);
    let life = rig.start();
    rig.server.submit("a", spec("true"));
    let a = rig.server.until_state("a", ProcessState::Failed).await;
    assert!(a.errors[0].starts_with("the server did not take the verdict: "), "{:?}", a.errors);
    life.stop().await;
}

#[tokio::test]
async fn a_verdict_that_comes_too_late_leaves_the_files_to_the_next_attempt() {
    let rig = Rig::new();
    rig.server.state.lock().unwrap().too_late = true;
    let life = rig.start();
    rig.server.submit("a", spec("true"));
    rig.server.until_state("a", ProcessState::Success).await;
    rig.server.until("clean up", |_| rig.files.notes().last().is_some_and(|note| note == "clean a")).await;
    assert_eq!(rig.files.notes(), ["in a", "back a", "in a", "back a", "clean a"]);
    life.stop().await;
}

/// The server lists a hundred running processes at most, the oldest.
#[tokio::test]
async fn an_assignment_whose_answer_was_lost_is_found_among_many() {
    let rig = Rig::new();
    {
        let mut state = rig.server.state.lock().unwrap();
        for n in 0..150 {
            let of_others = Process {
                processid: format!("0-{n}"),
                state: ProcessState::Running,
                assignedexecutorid: "x".into(),
                ..Process::default()
            };
            state.processes.insert(of_others.processid.clone(), of_others);
        }
        state.lose.insert("assignprocessmsg".into(), 1);
    }
    let life = rig.start();
    rig.server.submit("a", spec("true"));
    rig.server.until_state("a", ProcessState::Success).await;
    assert_eq!(rig.server.calls("getprocessesmsg"), 0);
    life.stop().await;
}

/// The server gave it to another executor while we could not hear of it: neither its state nor its count of retries changed.
#[tokio::test]
async fn a_process_that_another_executor_has_is_not_run_here_any_more() {
    let rig = Rig::new();
    let life = rig.start();
    let pid_file = rig.folder.path().join("pid");
    rig.server.submit("a", spec(&format!("echo $$ > {}.tmp; mv {0}.tmp {0}; sleep 300", pid_file.display())));
    rig.server.until("it runs", |_| pid_file.exists()).await;
    rig.server.state.lock().unwrap().processes.get_mut("a").unwrap().assignedexecutorid = "other".into();
    rig.server.until("dead", |_| !is_alive(&pid_file)).await;
    rig.server.until("its end here", |_| rig.jobs_left() == 0).await;
    assert_eq!(rig.files.notes(), ["in a"], "nothing of it goes back");
    life.stop().await;
}

#[tokio::test]
async fn a_journal_that_cannot_be_written_for_a_while_loses_nothing() {
    let rig = Rig::new();
    let life = rig.start();
    let (wait, open) = rig.gate("go");
    let done = rig.folder.path().join("done");
    rig.server.submit("a", spec(&format!("echo one; {wait}; echo two; touch {}", done.display())));
    rig.server.until("one", |s| s.logs.get("a").is_some_and(|l| l.concat() == "one\n")).await;
    let journal = rig.folder.path().join("state/executor.db");
    assert!(journal.exists());
    // As good as a full disk, and it can be undone.
    let other = rusqlite::Connection::open(journal).unwrap();
    other.execute_batch("ALTER TABLE log_position RENAME TO away").unwrap();
    std::fs::write(open, "").unwrap();
    rig.server.until("the job's end", |_| done.exists()).await;
    let asked = rig.server.calls("assignprocessmsg");
    rig.server.until("some time", |s| s.calls["assignprocessmsg"] > asked + 1).await;
    assert_eq!(rig.server.process("a").state, ProcessState::Running);
    other.execute_batch("ALTER TABLE away RENAME TO log_position").unwrap();
    rig.server.until_state("a", ProcessState::Success).await;
    assert_eq!(rig.server.log("a").concat(), "one\ntwo\n");
    life.stop().await;
}

#[tokio::test]
async fn folders_beside_those_of_jobs_stay() {
    let rig = Rig::new();
    let life = rig.start();
    rig.server.submit("a", spec("true"));
    rig.server.until_state("a", ProcessState::Success).await;
    rig.server.until("clean up", |_| rig.jobs_left() == 0).await;
    life.stop().await;
    let jobs = rig.folder.path().join("state/jobs");
    // A closed job's that was left behind, one of another process, and what is nothing of ours.
    for name in ["a-1", "b-1", "a-2", "thesis", "thesis-1"] {
        std::fs::create_dir_all(jobs.join(name).join("x")).unwrap();
    }
    let life = rig.start();
    rig.server.submit("c", spec("true"));
    rig.server.until_state("c", ProcessState::Success).await;
    rig.server.until("clean up", |_| rig.jobs_left() == 4).await;
    assert!(!jobs.join("a-1").exists());
    life.stop().await;
}
