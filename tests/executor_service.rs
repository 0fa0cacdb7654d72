//! `pollinator executor`: the real program beside the local colony, with real jobs.

#![allow(clippy::unwrap_used, clippy::expect_used)] // A test fails by panicking.

mod lab;
#[path = "common/rig.rs"]
mod rig;

use lab::Ended;
use lab::Lab;
use lab::finish;
use pollinator::colonies::Executor;
use pollinator::colonies::ProcessState;
use pollinator::colony;
use pollinator::event::Tree;
use pollinator::executor::journal::Journal;
use pollinator::executor::journal::Stage;
use rig::NAME;
use rig::Rig;
use rig::read;
use serde_json::Value;
use serde_json::json;
use std::path::PathBuf;
use std::process::Child;
use std::process::Stdio;
use std::time::Duration;
use std::time::Instant;

/// A colony with a project, and a home folder for an executor that is a program of its own.
struct Site {
    rig: Rig,
    lab: Lab,
}

/// The program; killed when it is dropped.
struct Program(Child);

impl Drop for Program {
    fn drop(&mut self) {
        self.kill();
    }
}

impl Program {
    fn kill(&mut self) {
        // One that has ended cannot be killed.
        let _ = self.0.kill();
        self.0.wait().unwrap();
    }

    fn signal(&self, signal: i32) {
        // SAFETY: a signal to a child that nobody has waited for.
        assert_eq!(unsafe { libc::kill(self.0.id() as i32, signal) }, 0);
    }

    #[track_caller]
    fn ended(&mut self) -> Option<i32> {
        let mut status = None;
        lab::until("the executor's end", || {
            status = self.0.try_wait().unwrap();
            status.is_some()
        });
        status.unwrap().code()
    }
}

impl Site {
    async fn new() -> Site {
        let rig = Rig::new().await;
        rig.write("src", "x", "x");
        let mut lab = Lab::new();
        for (name, value) in colony::environment(rig.folder.path()).await.unwrap() {
            // That of a person.
            if name != "COLONIES_PRVKEY" {
                lab = lab.with(name, value);
            }
        }
        let fs = rig.folder.path().join("fs");
        Site { lab: lab.with("EXECUTOR_FS_DIR", fs.to_str().unwrap()), rig }
    }

    fn with(mut self, name: &str, value: &str) -> Site {
        self.lab = self.lab.with(name, value);
        self
    }

    fn log(&self) -> PathBuf {
        self.lab.home().join("log")
    }

    /// Starts the executor, and waits until it can be asked.
    #[track_caller]
    fn start(&self) -> Program {
        let program = self.start_with(&[]);
        lab::until("it serves", || self.status()["answers"] == true);
        program
    }

    fn start_with(&self, variables: &[(&str, &str)]) -> Program {
        let words = ["executor", "start", "--backend", "process", "--name", NAME];
        let log = std::fs::File::options().create(true).append(true).open(self.log()).unwrap();
        let mut command = self.lab.command(words);
        command.envs(variables.iter().copied()).stdout(Stdio::null()).stderr(log);
        Program(command.spawn().unwrap())
    }

    #[track_caller]
    fn executor(&self, words: &[&str]) -> Ended {
        self.lab.run(["executor"].iter().chain(words))
    }

    /// Whatever is said, also by one that does not run.
    fn status(&self) -> Value {
        let ended = self.executor(&["status", "--name", NAME, "--json"]);
        ended.stdout.lines().next().map_or(Value::Null, |_| serde_json::from_str(&first_document(&ended.stdout)).unwrap())
    }

    fn state(&self) -> PathBuf {
        self.lab.state().join("executors").join(NAME)
    }

    /// As the server knows it.
    async fn member(&self) -> Option<Executor> {
        self.rig.user.executors().await.unwrap().into_iter().find(|e| e.executorname == NAME && e.state == 1)
    }

    /// A job that says `begun`, and ends when the gate is opened; in any case after a while.
    async fn gated(&self, name: &str) -> String {
        let cmd = format!(
            "echo x >> result/count-{name}; echo $$ > result/pid-{name}; echo begun; \
             for i in $(seq 1 6000); do test -e result/gate-{name} && break; sleep 0.05; done; seq -f 'line %g' 1 50"
        );
        self.rig.submit(&cmd, &[]).await
    }

    async fn begun(&self, id: &str) {
        self.rig.until(id, "begun", |_, log| log.contains("begun")).await;
    }

    fn open(&self, name: &str) {
        std::fs::write(self.rig.fs(&format!("pollinator/p/result/gate-{name}")), "").unwrap();
    }

    /// It has run once, and its log is there once.
    async fn has_run_once(&self, name: &str, id: &str) {
        let (process, log) = self.rig.ended(id).await;
        assert_eq!((process.state, process.retries), (ProcessState::Success, 0), "{:?}\n{}", process.errors, read(self.log()));
        let want: String = std::iter::once("begun\n".to_owned()).chain((1..=50).map(|i| format!("line {i}\n"))).collect();
        assert_eq!(log, want);
        self.rig.sync(Tree::Result).await;
        assert_eq!(read(self.rig.tree("result").join(format!("count-{name}"))), "x\n");
    }
}

/// The first of the documents, where an error stands behind it.
fn first_document(text: &str) -> String {
    let mut documents = serde_json::Deserializer::from_str(text).into_iter::<Value>();
    documents.next().unwrap().unwrap().to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_at_any_stage_a_job_runs_once_and_is_told_of_once() {
    let site = Site::new().await;
    let mut program = site.start();
    let id = site.status()["executor_id"].as_str().unwrap().to_owned();
    let journal = Journal::open(&site.state(), &id).unwrap();
    for stage in [Stage::Assigned, Stage::FilesIn, Stage::Starting, Stage::Running, Stage::Ended, Stage::SentBack] {
        let name = format!("{stage:?}");
        let process = site.gated(&name).await;
        let is_there = || journal.open_jobs().unwrap().iter().any(|e| e.process.processid == process && e.stage >= stage);
        let is_over = || {
            let found = site.rig.fs(&format!("pollinator/p/result/count-{name}")).exists();
            if found {
                site.open(&name);
            }
            is_there()
        };
        let end = Instant::now() + rig::PATIENCE;
        while !(if stage > Stage::Running { is_over() } else { is_there() }) {
            // It may have gone past it between two looks.
            let closed =
                journal.open_jobs().unwrap().is_empty() && site.rig.user.process(&process).await.unwrap().state.is_final();
            assert!(Instant::now() < end, "never {name}\n{}", read(site.log()));
            if closed {
                break;
            }
        }
        program.kill();
        program = site.start();
        assert_eq!(site.status()["executor_id"], *id, "the key is kept");
        lab::until("the job begins", || {
            let count = site.rig.fs(&format!("pollinator/p/result/count-{name}")).exists();
            count || journal.open_jobs().unwrap().is_empty()
        });
        if site.rig.fs("pollinator/p/result").exists() {
            site.open(&name);
        }
        site.has_run_once(&name, &process).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn drained_it_takes_nothing_new_also_after_a_restart_and_goes_on_with_what_it_has() {
    let site = Site::new().await;
    let mut program = site.start();
    let first = site.gated("a").await;
    site.begun(&first).await;
    let drained = site.executor(&["drain"]).expect_code(0);
    assert!(drained.stdout.contains("takes no new work"), "{}", drained.all());
    lab::until("it is drained", || site.status()["draining"] == true);
    // An offer that was made before may still be open: it runs out first.
    lab::until("no offer is open", || site.status()["room"]["slots"]["used"] == 1);
    program.kill();
    let mut program = site.start();
    let status = site.status();
    assert_eq!((&status["draining"], &status["drained"]), (&json!(true), &json!(false)));
    let second = site.gated("b").await;
    let waiting =
        site.lab.command(["executor", "drain", "--wait"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    site.open("a");
    site.has_run_once("a", &first).await;
    let waited = lab::wait(waiting).expect_code(0);
    assert!(waited.stdout.contains("its last job is closed"), "{}", waited.all());
    assert_eq!(site.status()["drained"], true);
    assert_eq!(site.rig.user.process(&second).await.unwrap().state, ProcessState::Waiting);
    site.executor(&["drain", "--undo"]).expect_code(0);
    site.begun(&second).await;
    let stopping = site.lab.command(["executor", "stop", "--when-drained"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let stopping = stopping.unwrap();
    lab::until("it says so", || site.status()["stopping"] == "when-drained");
    site.open("b");
    lab::wait(stopping).expect_code(0);
    assert_eq!(program.ended(), Some(0));
    site.has_run_once("b", &second).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn stopped_its_jobs_go_on_or_are_cancelled_as_it_is_wished() {
    let site = Site::new().await;
    let mut program = site.start();
    let process = site.gated("a").await;
    site.begun(&process).await;
    program.signal(libc::SIGTERM);
    assert_eq!(program.ended(), Some(0), "{}", read(site.log()));
    let down = site.executor(&["status", "--json"]).expect_code(4);
    let told: Value = serde_json::from_str(&first_document(&down.stdout)).unwrap();
    assert_eq!((&told["running"], &told["processes"][0]["stage"]), (&json!(false), &json!("running")), "{told}");
    assert_eq!((&told["processes"][0]["process"], &told["processes"][0]["project"]), (&json!(process), &json!("p")));
    let shown = site.executor(&["status"]).expect_code(4);
    assert!(shown.stdout.contains(&process) && shown.stderr.contains("does not run"), "{}", shown.all());
    site.executor(&["stop"]).expect_code(0);
    site.open("a");
    let mut program = site.start();
    site.has_run_once("a", &process).await;
    let other = site.gated("b").await;
    site.begun(&other).await;
    let pid: i32 = read(site.rig.fs("pollinator/p/result/pid-b")).trim().parse().unwrap();
    let stopped = site.executor(&["stop", "--cancel-jobs"]).expect_code(0);
    assert!(stopped.stdout.contains("no job is left"), "{}", stopped.all());
    assert_eq!(program.ended(), Some(0));
    assert_eq!(site.rig.user.process(&other).await.unwrap().state, ProcessState::Cancelled);
    let alive = std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|s| !s.contains(") Z "));
    assert!(!alive, "its job is dead");
    assert!(!site.executor(&["stop"]).expect_code(0).stdout.contains("has ended"));
    // And by the plain command.
    let mut program = site.start();
    let stopped = site.executor(&["stop", "--name", NAME]).expect_code(0);
    assert!(stopped.stdout.contains("jobs go on"), "{}", stopped.all());
    assert_eq!(program.ended(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_it_offers_is_told_and_told_anew_and_what_is_taken_is_reported() {
    let site = Site::new().await.with("EXECUTOR_HW_GPU_NAME", "test").with("EXECUTOR_HW_GPU_COUNT", "2");
    let site = site.with("EXECUTOR_HW_TOTAL_CPU", "4000m").with("EXECUTOR_SW_NAME", "sw").with("EXECUTOR_LOCATION_DESC", "here");
    let mut program = site.start();
    let process = site.gated("a").await;
    site.begun(&process).await;
    let member = site.member().await.unwrap();
    let hardware = &member.capabilities.hardware[0];
    assert_eq!((hardware.gpu.count, hardware.gpu.name.as_str(), hardware.cpu.as_str()), (2, "test", "4000m"));
    assert!(member.capabilities.software.iter().any(|s| s.name == "sw"));
    assert_eq!(member.locationname, "here");
    let end = Instant::now() + rig::PATIENCE;
    let projects = loop {
        let projects = site.member().await.unwrap().allocations.projects.unwrap_or_default();
        if projects.get("p").is_some_and(|p| p["usedcpu"] == 1000) {
            break projects;
        }
        assert!(Instant::now() < end, "{projects:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    assert_eq!(projects["p"]["allocatedcpu"], 1000);
    let status = site.status();
    assert_eq!(status["room"]["cpu_millis"], json!({ "used": 1000, "all": 4000 }));
    let shown = site.executor(&["status"]).expect_code(0).stdout;
    assert!(shown.contains("slots 1 of 4, CPU 1 of 4") && shown.contains(&process) && shown.contains("running"), "{shown}");
    program.kill();
    let _program = site.start_with(&[("EXECUTOR_HW_GPU_NAME", "newer")]);
    let end = Instant::now() + rig::PATIENCE;
    while site.member().await.unwrap().capabilities.hardware[0].gpu.name != "newer" {
        assert!(Instant::now() < end, "never told anew\n{}", read(site.log()));
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    site.open("a");
    site.has_run_once("a", &process).await;
    let end = Instant::now() + rig::PATIENCE;
    while !site.member().await.unwrap().allocations.projects.unwrap_or_default().is_empty() {
        assert!(Instant::now() < end, "never given back");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_one_and_one_that_the_colony_does_not_want_are_refused_with_the_reason() {
    let site = Site::new().await;
    let mut program = site.start();
    let id = site.rig.submit("true", &[]).await;
    site.rig.ended(&id).await;
    let words = ["executor", "start", "--backend", "process", "--name", NAME];
    let second = site.lab.run(words).expect_code(1);
    assert!(second.stderr.contains(&format!("process {} on ", program.0.id())), "{}", second.stderr);
    // The same name with another key.
    let elsewhere = site.lab.home().join("elsewhere");
    let taken = |variables: &[(&str, &str)]| {
        let mut command = site.lab.command(words);
        command.arg("--state-dir").arg(&elsewhere).envs(variables.iter().copied());
        command
    };
    // This server lets the owner's key take a name over; two that would take it from each other for ever do not.
    let log = std::fs::File::options().create(true).append(true).open(site.log()).unwrap();
    let mut other = Program(taken(&[]).stdout(Stdio::null()).stderr(log).spawn().unwrap());
    let mut codes = (None, None);
    lab::until("one gives up", || {
        codes = (program.0.try_wait().unwrap(), other.0.try_wait().unwrap());
        codes.0.is_some() || codes.1.is_some()
    });
    assert_eq!(codes.0.or(codes.1).unwrap().code(), Some(2), "{}", read(site.log()));
    assert!(read(site.log()).contains("belongs to another executor"), "{}", read(site.log()));
    other.kill();
    program.kill();
    let taken = |variables: &[(&str, &str)]| finish(taken(variables));
    // Somebody who is not the owner.
    let wrong = "3".repeat(64);
    let not_owner = taken(&[("COLONIES_COLONY_PRVKEY", &wrong)]);
    let not_owner = not_owner.expect_code(2);
    assert!(
        not_owner.stderr.contains("is not: the Colonies server refused") && !not_owner.stderr.contains(&wrong),
        "{}",
        not_owner.stderr
    );
    // No owner's key, and not added by hand: the id to add is told.
    let by_hand = taken(&[("COLONIES_COLONY_PRVKEY", "")]).expect_code(2);
    let key = pollinator::config::Secret::new(read(elsewhere.join("executor.key")));
    let own = pollinator::colonies::Identity::from_key(&key).unwrap();
    assert!(by_hand.stderr.contains(own.id()) && by_hand.stderr.contains("COLONIES_COLONY_PRVKEY"), "{}", by_hand.stderr);
    // Another type under the same key.
    let mut program = site.start();
    let id = site.rig.submit("true", &[]).await;
    site.rig.ended(&id).await;
    program.kill();
    let mut other = site.lab.command(words);
    other.env("EXECUTOR_TYPE", "other");
    let other = finish(other).expect_code(2);
    assert!(other.stderr.contains("of type container-executor, not other"), "{}", other.stderr);
    // The owner's key is needed once only.
    let _again = site.start_with(&[("COLONIES_COLONY_PRVKEY", "")]);
    let id = site.rig.submit("true", &[]).await;
    assert_eq!(site.rig.ended(&id).await.0.state, ProcessState::Success);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_server_it_waits_and_can_be_asked_and_stopped() {
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port().to_string();
    let site = Site::new().await.with("COLONIES_SERVER_PORT", &port);
    let nobody = site.executor(&["status"]).expect_code(4);
    assert!(nobody.stderr.contains("no executor was started"), "{}", nobody.stderr);
    let mut program = site.start();
    lab::until("it says why", || site.status()["problem"].as_str().is_some_and(|text| text.contains(&port)));
    assert_eq!(site.status()["heard"], Value::Null);
    let shown = site.executor(&["status"]).expect_code(0).stdout;
    assert!(shown.contains("problem"), "{shown}");
    site.executor(&["stop"]).expect_code(0);
    assert_eq!(program.ended(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_manager_is_told_of_its_life() {
    let site = Site::new().await;
    let path = site.lab.home().join("notify");
    let manager = std::os::unix::net::UnixDatagram::bind(&path).unwrap();
    manager.set_read_timeout(Some(rig::PATIENCE)).unwrap();
    let hears = || {
        let mut text = [0; 4096];
        let length = manager.recv(&mut text).expect("it is told something");
        String::from_utf8_lossy(&text[..length]).trim_end().to_owned()
    };
    let end = Instant::now() + rig::PATIENCE;
    let hears_at_last = |wanted: &str| {
        while hears() != wanted {
            assert!(Instant::now() < end, "never {wanted}");
        }
    };
    let mut program = site.start_with(&[("NOTIFY_SOCKET", path.to_str().unwrap()), ("WATCHDOG_USEC", "900000")]);
    let (mut heard, mut beats) = (Vec::new(), 0);
    while !heard.iter().any(|text: &String| text.contains("takes work")) || beats < 3 {
        match hears() {
            text if text == "WATCHDOG=1" => beats += 1,
            text => heard.push(text),
        }
        assert!(Instant::now() < end, "{heard:?}, {beats} beats");
    }
    assert_eq!(heard[0], "READY=1", "{heard:?}");
    assert_eq!(site.executor(&["status"]).code, Some(0), "it can be asked");
    assert!(heard[1..].iter().all(|text| text.starts_with("STATUS=0 of 4 slots taken; ")), "{heard:?}");
    let process = site.gated("a").await;
    site.begun(&process).await;
    hears_at_last("STATUS=1 of 4 slots taken; takes work");
    program.signal(libc::SIGTERM);
    hears_at_last("STOPPING=1");
    assert_eq!(program.ended(), Some(0));
    site.open("a");
    let mut program = site.start();
    site.has_run_once("a", &process).await;
    program.kill();
}

#[tokio::test(flavor = "multi_thread")]
async fn settings_are_checked_and_secrets_are_nowhere_to_be_seen() {
    let site = Site::new().await;
    let file = site.lab.home().join("e.toml");
    let check = |text: &str| {
        std::fs::write(&file, text).unwrap();
        site.executor(&["start", "--check", "--config", file.to_str().unwrap()])
    };
    let slip = check("backend = \"process\"\n[limits]\nslot = 3\n").expect_code(2);
    assert!(slip.stderr.contains("e.toml: line 3, column 1") && slip.stderr.contains("did you mean `slots`"), "{}", slip.stderr);
    assert!(check("").expect_code(2).stderr.contains("it is not said where jobs run"));
    let good = check("backend = \"process\"\nname = \"lab\"\n[limits]\nslots = 3\n").expect_code(0);
    assert!(good.stdout.contains("limits.slots") && good.stdout.contains("e.toml"), "{}", good.stdout);
    assert!(!site.state().exists(), "nothing is made by looking");
    let program = site.start();
    let id = site.rig.submit("env", &[]).await;
    let (_, log) = site.rig.ended(&id).await;
    let variables = colony::environment(site.rig.folder.path()).await.unwrap();
    let secrets = variables.iter().filter(|(name, _)| name.ends_with("PRVKEY") || name.ends_with("SECRETKEY"));
    let mut secrets: Vec<String> = secrets.map(|(_, value)| value.clone()).collect();
    secrets.push(read(site.state().join("executor.key")));
    let arguments = std::fs::read(format!("/proc/{}/cmdline", program.0.id())).unwrap();
    let status = site.executor(&["status"]).all() + &site.executor(&["status", "--json"]).all();
    let places = [
        good.all(),
        status,
        read(site.log()),
        log,
        String::from_utf8_lossy(&arguments).into_owned(),
        read(site.state().join("executor.json")),
    ];
    assert!(secrets.len() > 3 && secrets.iter().all(|secret| secret.len() > 20));
    for (secret, place) in secrets.iter().flat_map(|s| places.iter().map(move |p| (s, p))) {
        assert!(!place.contains(secret.as_str()), "a secret in {place}");
    }
    use std::os::unix::fs::PermissionsExt;
    for file in ["executor.key", "executor.db", "executor.json", "executor.sock", "executor.lock"] {
        let mode = std::fs::metadata(site.state().join(file)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{file}");
    }
}
