//! The executor against the local colony: a real server, a real object store, real jobs.

#![allow(clippy::unwrap_used, clippy::expect_used)] // A test fails by panicking.

mod lab;

use pollinator::cfs;
use pollinator::cfs::Cfs;
use pollinator::cfs::Policy;
use pollinator::cfs::SyncOptions;
use pollinator::colonies::Client;
use pollinator::colonies::FunctionSpec;
use pollinator::colonies::Identity;
use pollinator::colonies::Process;
use pollinator::colonies::ProcessState;
use pollinator::colony;
use pollinator::config::ColonyAccess;
use pollinator::config::Secret;
use pollinator::config::StoreAccess;
use pollinator::event::Events;
use pollinator::event::Tree;
use pollinator::executor;
use pollinator::executor::Options;
use pollinator::index::Index;
use pollinator::journal::Journal;
use pollinator::store::Store;
use serde_json::Value;
use serde_json::json;
use std::path::Path;
use std::path::PathBuf;
use std::time::Duration;
use std::time::Instant;
use tokio_util::sync::CancellationToken;

/// How long anything may take before it has hung.
const PATIENCE: Duration = Duration::from_secs(120);

/// The name of the executor of these tests; the colony has one of its own besides.
const NAME: &str = "lab";

/// A colony, a user with a project, and what an executor needs.
struct Rig {
    folder: tempfile::TempDir,
    colony: Option<Served>,
    store: StoreAccess,
    user: Client,
    owner_key: Secret,
    executor_key: Secret,
    index: Index,
    journal: Journal,
}

/// The local colony in a runtime of its own; dropped it is as suddenly gone as by a kill.
struct Served(Option<tokio::runtime::Runtime>);

impl Drop for Served {
    fn drop(&mut self) {
        self.0.take().unwrap().shutdown_background();
    }
}

/// Serves the colony of a state folder, as soon as nobody else does any more.
async fn serve(state: &Path) -> (Served, ColonyAccess) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let (tell, told) = tokio::sync::oneshot::channel();
    let folder = state.join("colony");
    runtime.spawn(async move {
        let tell = std::sync::Mutex::new(Some(tell));
        let end = Instant::now() + PATIENCE;
        loop {
            let ready = |access: &ColonyAccess| tell.lock().unwrap().take().unwrap().send(access.clone()).unwrap();
            match colony::serve(colony::Options { folder: folder.clone() }, CancellationToken::new(), ready).await {
                Err(colony::Error::Running { .. }) if Instant::now() < end => tokio::time::sleep(Duration::from_millis(50)).await,
                ended => return ended,
            }
        }
    });
    (Served(Some(runtime)), told.await.unwrap())
}

/// A running executor; dropped without being stopped it is as suddenly gone as by a kill.
struct Running {
    runtime: Option<tokio::runtime::Runtime>,
    shutdown: CancellationToken,
    ended: Option<tokio::task::JoinHandle<Result<(), executor::Error>>>,
}

impl Running {
    async fn stop(mut self) {
        self.shutdown.cancel();
        self.ended.take().unwrap().await.unwrap().unwrap();
    }

    fn kill(self) {}
}

impl Drop for Running {
    fn drop(&mut self) {
        self.runtime.take().unwrap().shutdown_background();
    }
}

impl Rig {
    async fn new() -> Rig {
        let folder = tempfile::tempdir().unwrap();
        let (served, access) = serve(folder.path()).await;
        let variables = colony::environment(folder.path()).await.unwrap();
        let owner_key = variables.iter().find(|(name, _)| *name == "COLONIES_COLONY_PRVKEY").unwrap().1.clone();
        let store = colony::status(folder.path()).await.unwrap().unwrap().store;
        let (_, executor_key) = Identity::generate().unwrap();
        let mine = folder.path().join("mine");
        Rig {
            colony: Some(served),
            store,
            user: Client::new(&access).unwrap(),
            owner_key: Secret::new(owner_key),
            executor_key,
            index: Index::open(&mine).unwrap(),
            journal: Journal::open(&mine).unwrap(),
            folder,
        }
    }

    fn cfs(&self) -> Cfs {
        Cfs { client: self.user.clone(), store: Store::new(&self.store).unwrap() }
    }

    fn start(&self) -> Running {
        let access = ColonyAccess { key: self.executor_key.clone(), ..self.user.access().clone() };
        let at = self.folder.path();
        let mut options = Options::new(NAME, access, self.store.clone(), at.join("fs"), at.join("executor"));
        options.owner_key = Some(self.owner_key.clone());
        options.poll_seconds = 2;
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let shutdown = CancellationToken::new();
        let ended = runtime.spawn(executor::run(options, shutdown.clone()));
        Running { runtime: Some(runtime), shutdown, ended: Some(ended) }
    }

    fn tree(&self, name: &str) -> PathBuf {
        let folder = self.folder.path().join("project").join(name);
        std::fs::create_dir_all(&folder).unwrap();
        folder
    }

    fn write(&self, tree: &str, path: &str, content: &str) {
        let file = self.tree(tree).join(path);
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(file, content).unwrap();
    }

    /// As `run` does before and after a process.
    async fn sync(&self, tree: Tree) -> cfs::SyncReport {
        let (name, policy) = match tree {
            Tree::Src => ("src", Policy::Mirror),
            Tree::Data => ("data", Policy::LocalWins),
            Tree::Result => ("result", Policy::RemoteWins),
        };
        let options = SyncOptions {
            tree,
            label: format!("/pollinator/p/{name}"),
            folder: self.tree(name),
            rules_from: None,
            policy,
            jobs: 4,
            allow_deletes: false,
            dry_run: false,
            leave_open: false,
        };
        cfs::sync(&self.cfs(), &self.index, &self.journal, &options, &Events::none()).await.unwrap()
    }

    /// Brings all trees over, freezes src and submits what a project submits.
    async fn submit(&self, cmd: &str, args: &[&str]) -> String {
        self.submit_with(cmd, args, |_| {}).await
    }

    async fn submit_with(&self, cmd: &str, args: &[&str], change: impl FnOnce(&mut Value)) -> String {
        let src = self.sync(Tree::Src).await;
        self.sync(Tree::Data).await;
        self.sync(Tree::Result).await;
        let snapshot = cfs::snapshot(&self.cfs(), "/pollinator/p/src", &src, None).await.unwrap().snapshotid;
        let mut spec = json!({
            "funcname": "execute", "maxexectime": 599, "maxretries": 3, "maxwaittime": -1, "priority": 5,
            "kwargs": { "docker-image": "python:3.12", "rebuild-image": false, "init-cmd": "", "cmd": cmd, "args": args },
            "conditions": { "colonyname": self.user.colony(), "executortype": "container-executor", "executornames": [NAME],
                "nodes": 1, "processespernode": 1, "cpu": "1000m", "mem": "100Mi", "walltime": 600 },
            "env": { "PROJECT_DIR": "/cfs/pollinator/p" },
            "fs": { "mount": "/cfs",
                "snapshots": [{ "snapshotid": snapshot, "label": "/pollinator/p/src", "keepfiles": true, "keepsnapshot": true,
                    "dir": "/pollinator/p/snapshot/src" }],
                "dirs": [
                    { "label": "/pollinator/p/result", "dir": "/pollinator/p/result", "keepfiles": false,
                        "onconflicts": { "onstart": { "keeplocal": false }, "onclose": { "keeplocal": true } } },
                    { "label": "/pollinator/p/data", "dir": "/pollinator/p/data", "keepfiles": true,
                        "onconflicts": { "onstart": { "keeplocal": false }, "onclose": { "keeplocal": false } } } ] }
        });
        change(&mut spec);
        let spec: FunctionSpec = serde_json::from_value(spec).unwrap();
        self.user.submit(&spec).await.unwrap().processid
    }

    async fn until(&self, id: &str, what: &str, holds: impl Fn(&Process, &str) -> bool) -> (Process, String) {
        let end = Instant::now() + PATIENCE;
        loop {
            // State first and log after it: then the log of an ended process is whole.
            let process = self.user.process(id).await.unwrap();
            let log = self.log(id).await;
            if holds(&process, &log) {
                return (process, log);
            }
            assert!(Instant::now() < end, "never: {what}; {:?} {:?}\n{log}", process.state, process.errors);
            tokio::time::sleep(Duration::from_millis(30)).await;
        }
    }

    async fn ended(&self, id: &str) -> (Process, String) {
        self.until(id, "the end", |p, _| p.state.is_final()).await
    }

    async fn log(&self, id: &str) -> String {
        let mut all = String::new();
        let mut since = 0;
        loop {
            let page = self.user.logs(id, since, 500).await.unwrap();
            let Some(last) = page.last() else { return all };
            since = last.timestamp;
            all.extend(page.iter().map(|e| e.message.as_str()));
        }
    }

    fn fs(&self, path: &str) -> PathBuf {
        self.folder.path().canonicalize().unwrap().join("fs").join(path)
    }
}

fn read(path: impl AsRef<Path>) -> String {
    std::fs::read_to_string(path).unwrap()
}

#[tokio::test]
async fn a_project_runs_and_its_results_come_back() {
    let rig = Rig::new().await;
    rig.write("src", "main.sh", "cat $PROJECT_DIR/data/in.txt; cat $1/lib/more; echo out > $PROJECT_DIR/result/out.txt\n");
    rig.write("src", "lib/more", "more\n");
    rig.write("data", "in.txt", "input\n");
    let running = rig.start();
    let src = "/cfs/pollinator/p/snapshot/src";
    let id = rig.submit("sh", &[&format!("{src}/main.sh"), src]).await;
    let (process, log) = rig.ended(&id).await;
    assert_eq!((process.state, &process.errors), (ProcessState::Success, &vec![]), "{log}");
    assert_eq!(log, "input\nmore\n");
    assert!(process.attribute("NODES").is_some());
    rig.sync(Tree::Result).await;
    assert_eq!(read(rig.tree("result").join("out.txt")), "out\n");
    running.stop().await;
    assert!(!rig.fs("pollinator/p/result").exists(), "keepfiles false");
    assert!(rig.fs("pollinator/p/data/in.txt").exists(), "keepfiles true");
}

#[tokio::test]
async fn results_of_a_failed_job_come_back() {
    let rig = Rig::new().await;
    rig.write("src", "x", "x");
    let running = rig.start();
    let id = rig.submit("echo part > /cfs/pollinator/p/result/part.txt; echo why >&2; exit 3", &[]).await;
    let (process, _) = rig.ended(&id).await;
    assert_eq!(process.state, ProcessState::Failed);
    assert_eq!(process.errors[0], "exit status 3");
    assert!(process.errors[1].ends_with("why"), "{:?}", process.errors);
    rig.sync(Tree::Result).await;
    assert_eq!(read(rig.tree("result").join("part.txt")), "part\n");
    running.stop().await;
}

#[tokio::test]
async fn a_cancelled_job_is_dead_within_seconds_and_its_results_come_back() {
    let rig = Rig::new().await;
    rig.write("src", "x", "x");
    let running = rig.start();
    let id = rig.submit("sleep 300 & echo $! > result/pid; echo ready; wait", &[]).await;
    rig.until(&id, "ready", |_, log| log.contains("ready")).await;
    let pid: i32 = read(rig.fs("pollinator/p/result/pid")).trim().parse().unwrap();
    let begun = Instant::now();
    rig.user.cancel(&id).await.unwrap();
    let alive = || std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|s| !s.contains(") Z "));
    while alive() {
        assert!(begun.elapsed() < PATIENCE, "still alive");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let end = Instant::now() + PATIENCE;
    while rig.cfs().list("/pollinator/p/result").await.unwrap().files.is_empty() {
        assert!(Instant::now() < end, "no results");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    running.stop().await;
}

#[tokio::test]
async fn killed_twice_during_a_job_nothing_is_lost_or_done_twice() {
    let rig = Rig::new().await;
    rig.write("src", "x", "x");
    let running = rig.start();
    // Each part of the job waits until the test lets it go on.
    let gate = |name: &str| format!("until test -e result/{name}; do sleep 0.05; done");
    let cmd = format!(
        "echo x >> result/count; seq -f 'line %g' 1 10; {}; seq -f 'line %g' 11 30; {}; seq -f 'line %g' 31 60; echo > result/done",
        gate("middle"),
        gate("end")
    );
    let open = |name: &str| std::fs::write(rig.fs(&format!("pollinator/p/result/{name}")), "").unwrap();
    let id = rig.submit(&cmd, &[]).await;
    rig.until(&id, "line 10", |_, log| log.contains("line 10\n")).await;
    running.kill();
    open("middle");
    let running = rig.start();
    rig.until(&id, "line 30", |_, log| log.contains("line 30\n")).await;
    running.kill();
    // The job ends while nobody is there.
    open("end");
    let done = rig.fs("pollinator/p/result/done");
    lab::until("the job's end", || done.exists());
    assert_eq!(rig.user.process(&id).await.unwrap().state, ProcessState::Running);
    let running = rig.start();
    let (process, log) = rig.ended(&id).await;
    assert_eq!((process.state, process.retries), (ProcessState::Success, 0), "{:?}", process.errors);
    let want: String = (1..=60).map(|i| format!("line {i}\n")).collect();
    assert_eq!(log, want);
    rig.sync(Tree::Result).await;
    assert_eq!(read(rig.tree("result").join("count")), "x\n");
    running.stop().await;
}

/// The whole colony is killed: server, store and executor together.
#[tokio::test]
async fn the_colony_is_killed_during_a_job_and_the_job_goes_on() {
    let mut rig = Rig::new().await;
    rig.write("src", "x", "x");
    let cmd = "echo x >> result/count; for i in $(seq 1 40); do echo line $i; sleep 0.1; done";
    let id = rig.submit_with(cmd, &[], |spec| spec["conditions"]["executornames"] = json!(["local"])).await;
    rig.until(&id, "line 10", |_, log| log.contains("line 10\n")).await;
    drop(rig.colony.take());
    let (served, access) = serve(rig.folder.path()).await;
    assert_eq!(&access, rig.user.access(), "ports and keys are kept");
    rig.colony = Some(served);
    let (process, log) = rig.ended(&id).await;
    assert_eq!((process.state, process.retries), (ProcessState::Success, 0), "{:?}", process.errors);
    let want: String = (1..=40).map(|i| format!("line {i}\n")).collect();
    assert_eq!(log, want);
    rig.sync(Tree::Result).await;
    assert_eq!(read(rig.tree("result").join("count")), "x\n");
}

#[tokio::test]
async fn concurrent_processes_of_one_project_keep_each_others_results() {
    let rig = Rig::new().await;
    rig.write("src", "x", "x");
    let running = rig.start();
    let mut ids = Vec::new();
    for n in 0..4 {
        let cmd = format!("sleep 0.{n}; echo {n} > result/{n}.txt; sleep 0.{}", 5 - n);
        ids.push(rig.submit(&cmd, &[]).await);
    }
    for id in &ids {
        assert_eq!(rig.ended(id).await.0.state, ProcessState::Success);
    }
    rig.sync(Tree::Result).await;
    for n in 0..4 {
        assert_eq!(read(rig.tree("result").join(format!("{n}.txt"))), format!("{n}\n"));
    }
    running.stop().await;
    assert!(!rig.fs("pollinator/p/result").exists());
}

#[tokio::test]
async fn deletions_by_the_job_and_by_the_user_are_kept_apart() {
    let rig = Rig::new().await;
    rig.write("src", "x", "x");
    let running = rig.start();
    let id = rig.submit("for f in a b c; do echo $f > result/$f; done", &[]).await;
    rig.ended(&id).await;
    rig.sync(Tree::Result).await;
    std::fs::remove_file(rig.tree("result").join("b")).unwrap();
    // The job removes one result, the user removed another before; the third stays.
    let id = rig.submit("ls result; rm result/a; echo d > result/d", &[]).await;
    let (process, log) = rig.ended(&id).await;
    assert_eq!(process.state, ProcessState::Success, "{:?}", process.errors);
    assert_eq!(log, "a\nc\n");
    rig.sync(Tree::Result).await;
    let mut left: Vec<_> = std::fs::read_dir(rig.tree("result")).unwrap().map(|e| e.unwrap().file_name()).collect();
    left.sort();
    assert_eq!(left, ["c", "d"]);
    running.stop().await;
}

#[tokio::test]
async fn a_broken_snapshot_fails_the_process_and_names_the_reason() {
    let rig = Rig::new().await;
    rig.write("src", "main.sh", "echo never\n");
    let id = rig.submit("sh", &["/cfs/pollinator/p/snapshot/src/main.sh"]).await;
    rig.user.remove_file("/pollinator/p/src", "main.sh").await.unwrap();
    let running = rig.start();
    let (process, _) = rig.ended(&id).await;
    assert_eq!(process.state, ProcessState::Failed);
    assert!(process.errors[0].contains("could not be brought in: snapshot"), "{:?}", process.errors);
    running.stop().await;
}

/// A second run of a snapshot asks for none of its rows again: they are gone here, and it runs. What changed in its folder meanwhile
/// is put right from the store.
#[tokio::test]
async fn a_snapshot_that_was_here_before_is_not_asked_for_again() {
    let rig = Rig::new().await;
    rig.write(
        "src",
        "main.sh",
        "cat /cfs/pollinator/p/snapshot/src/deep/word\n".replace("/cfs", &rig.fs("").to_string_lossy()).as_str(),
    );
    rig.write("src", "deep/word", "the very word\n");
    let first = rig.submit("sh", &["/cfs/pollinator/p/snapshot/src/main.sh"]).await;
    let running = rig.start();
    let (process, log) = rig.ended(&first).await;
    assert_eq!((process.state, log.as_str()), (ProcessState::Success, "the very word\n"));
    std::fs::write(rig.fs("pollinator/p/snapshot/src/deep/word"), "another one\n").unwrap();
    let again = process.spec.clone();
    rig.user.remove_file("/pollinator/p/src", "main.sh").await.unwrap();
    rig.user.remove_file("/pollinator/p/src/deep", "word").await.unwrap();
    let second = rig.user.submit(&again).await.unwrap().processid;
    let (process, log) = rig.ended(&second).await;
    assert_eq!((process.state, log.as_str()), (ProcessState::Success, "the very word\n"), "{:?}", process.errors);
    running.stop().await;
}

#[tokio::test]
async fn refused_specifications_name_the_field() {
    let rig = Rig::new().await;
    rig.write("src", "x", "x");
    let running = rig.start();
    for (pointer, value, field) in [
        ("/fs/dirs/0/dir", json!("/../outside"), "fs.dirs[0].dir"),
        ("/conditions/walltime", json!(0), "conditions.walltime"),
        ("/kwargs/cmd", json!(""), "kwargs.cmd"),
        ("/kwargs/args", json!([["x"]]), "kwargs.args[0]"),
        ("/env", json!({ "A B": "x" }), "env"),
    ] {
        let id = rig.submit_with("true", &[], |spec| *spec.pointer_mut(pointer).unwrap() = value).await;
        let (process, _) = rig.ended(&id).await;
        assert_eq!(process.state, ProcessState::Failed);
        assert!(process.errors[0].contains(&format!("{field}:")), "{:?}", process.errors);
    }
    running.stop().await;
}

#[tokio::test]
async fn the_walltime_ends_a_job_and_its_results_come_back() {
    let rig = Rig::new().await;
    rig.write("src", "x", "x");
    let running = rig.start();
    let cmd = "echo part > result/part; sleep 300";
    let id = rig.submit_with(cmd, &[], |spec| spec["conditions"]["walltime"] = json!(1)).await;
    let (process, _) = rig.ended(&id).await;
    assert_eq!(process.errors[0], "TIMEOUT: the walltime of 1 s is over");
    // As the Go tool asks for it: a second less than the walltime, from the assignment.
    let id = rig.submit_with(cmd, &[], |spec| spec["maxexectime"] = json!(4)).await;
    let (process, _) = rig.ended(&id).await;
    assert!(process.errors[0].starts_with("TIMEOUT: maxexectime of 4 s"), "{:?}", process.errors);
    assert_eq!(process.retries, 0);
    rig.sync(Tree::Result).await;
    assert_eq!(read(rig.tree("result").join("part")), "part\n");
    running.stop().await;
}

#[tokio::test]
async fn binary_output_arrives_as_text() {
    let rig = Rig::new().await;
    rig.write("src", "x", "x");
    let running = rig.start();
    let id = rig.submit("printf 'a\\0b\\377\\303'; sleep 0.6; printf '\\251 end\\n'", &[]).await;
    let (process, log) = rig.ended(&id).await;
    assert_eq!(process.state, ProcessState::Success);
    assert_eq!(log, format!("a\u{FFFD}b\u{FFFD}é end\n"));
    running.stop().await;
}

#[tokio::test]
async fn a_log_of_100_mb_arrives_whole() {
    let rig = Rig::new().await;
    rig.write("src", "x", "x");
    let running = rig.start();
    let id = rig.submit("head -c 100000000 /dev/zero | tr '\\0' x; echo; echo last", &[]).await;
    let end = Instant::now() + Duration::from_secs(600);
    let process = loop {
        let process = rig.user.process(&id).await.unwrap();
        if process.state.is_final() {
            break process;
        }
        assert!(Instant::now() < end, "never ended");
        tokio::time::sleep(Duration::from_millis(200)).await;
    };
    assert_eq!(process.state, ProcessState::Success, "{:?}", process.errors);
    let (mut length, mut since, mut last) = (0, 0, String::new());
    loop {
        let page = rig.user.logs(&id, since, 100).await.unwrap();
        let Some(entry) = page.last() else { break };
        since = entry.timestamp;
        last = entry.message.clone();
        assert!(page.iter().all(|e| e.message.len() <= 65536));
        length += page.iter().map(|e| e.message.len()).sum::<usize>();
    }
    assert_eq!(length, 100_000_000 + "\nlast\n".len());
    assert!(last.ends_with("\nlast\n"), "the last line comes last");
    running.stop().await;
}

/// SIGKILL to the program that serves the colony and its executor, as often as there are rounds.
#[test]
fn kill_9_at_any_moment_loses_and_doubles_nothing() {
    let lab = lab::Lab::new();
    let python = "import os, time\nresult = os.environ['PROJECT_DIR'] + '/result/'\nopen(result + 'count', 'a').write('x')\n\
                  for i in range(80):\n    print('line', i)\n    time.sleep(0.1)\n";
    let project = lab.project("killed", python);
    lab.run_in(&project, ["run", "--detach"]).expect_code(0);
    for round in 1..=3 {
        let seen = format!("line {}\n", round * 15);
        lab::until(&seen, || lab.run_in(&project, ["logs", "last"]).stdout.contains(&seen));
        let serving = std::fs::read(lab.state().join("colony/running.json")).unwrap();
        let pid = serde_json::from_slice::<Value>(&serving).unwrap()["pid"].as_i64().unwrap();
        // SAFETY: kill takes two numbers; the process is the colony of this test.
        assert_eq!(unsafe { libc::kill(pid as i32, libc::SIGKILL) }, 0);
        // A program that is asked while the old one still dies takes it for alive.
        let dead = || std::fs::read_to_string(format!("/proc/{pid}/stat")).map_or(true, |stat| stat.contains(") Z "));
        lab::until("the end of the colony", dead);
    }
    let followed = lab.run_in(&project, ["logs", "last", "-f"]).expect_code(0);
    let want: String = (0..80).map(|i| format!("line {i}\n")).collect();
    assert_eq!(followed.stdout, want);
    lab.run_in(&project, ["results", "last"]).expect_code(0);
    assert_eq!(read(project.join("cfs/result/count")), "x");
}
