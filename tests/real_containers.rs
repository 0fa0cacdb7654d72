//! The container backend with real engines: podman, and a docker daemon of the test's own.

#![allow(clippy::unwrap_used, clippy::expect_used)] // A test fails by panicking.

mod cabin;
#[path = "common/image.rs"]
mod image;
mod lab;
#[path = "cabin/pulls.rs"]
mod pulls;
#[path = "common/registry.rs"]
mod registry;
#[path = "common/rig.rs"]
mod rig;

use cabin::Engine;
use cabin::IMAGE;
use pollinator::colonies::ProcessState;
use pollinator::event::Tree;
use pollinator::executor::Backend;
use rig::*;
use serde_json::Value;
use serde_json::json;
use std::time::Duration;
use std::time::Instant;

/// A rig whose executor runs containers.
struct Yard {
    rig: Rig,
    engine: Engine,
    /// For a registry that does not answer.
    patience: Duration,
}

impl Yard {
    async fn new(engine: &Engine) -> Yard {
        let rig = Rig::new().await;
        rig.write("src", "x", "x");
        Yard { rig, engine: engine.clone(), patience: PATIENCE }
    }

    fn start(&self) -> Running {
        let settings = self.engine.settings.clone();
        self.rig.start_with(|options| {
            options.backend = Backend::Container(Box::new(settings));
            options.prepare_patience = self.patience;
        })
    }

    async fn submit(&self, cmd: &str, args: &[&str]) -> String {
        self.submit_with(cmd, args, |_| {}).await
    }

    async fn submit_with(&self, cmd: &str, args: &[&str], change: impl FnOnce(&mut Value)) -> String {
        let image = |spec: &mut Value| {
            spec["kwargs"]["docker-image"] = json!(IMAGE);
            change(spec);
        };
        self.rig.submit_with(cmd, args, image).await
    }

    /// Waits for the removal of a process's containers: that comes before the close, or with a cancellation after it.
    async fn no_container_is_left(&self, id: &str) {
        let end = Instant::now() + PATIENCE;
        while !self.engine.containers(id).is_empty() {
            assert!(Instant::now() < end, "a container is left: {:?}", self.engine.containers(id));
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
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
    "tab\tand",
    "&#34;&lt;&amp;%s%d",
];

async fn a_project_runs(engine: &Engine) {
    let yard = Yard::new(engine).await;
    let rig = &yard.rig;
    rig.write(
        "src",
        "main.sh",
        "cat $PROJECT_DIR/data/in.txt; echo anew > /dev/stderr; cat $1/lib/more; echo out > $PROJECT_DIR/result/out.txt; pwd\n",
    );
    rig.write("src", "lib/more", "more\n");
    rig.write("data", "in.txt", "input\n");
    let running = yard.start();
    let src = "/cfs/pollinator/p/snapshot/src";
    let id = yard.submit("sh", &[&format!("{src}/main.sh"), src]).await;
    let (process, log) = rig.ended(&id).await;
    assert_eq!((process.state, &process.errors), (ProcessState::Success, &vec![]), "{log}");
    assert!(log.ends_with("input\nanew\nmore\n/cfs/pollinator/p\n"), "{log}");
    assert!(log.contains("the image is localhost/pollinator-test:1"), "{log}");
    assert!(process.attribute("NODES").is_some());
    rig.sync(Tree::Result).await;
    assert_eq!(read(rig.tree("result").join("out.txt")), "out\n");
    yard.no_container_is_left(&id).await;
    running.stop().await;
}

/// Words and values arrive as they are, and nothing of the executor's or the engine's arrives beside them.
async fn values_arrive_byte_for_byte(engine: &Engine) {
    let yard = Yard::new(engine).await;
    let running = yard.start();
    let env: serde_json::Map<String, Value> = NASTY.iter().enumerate().map(|(i, v)| (format!("V{i}"), json!(v))).collect();
    let cmd: String = (0..NASTY.len()).map(|i| format!("printf '[%s]' \"$V{i}\";")).collect();
    let id = yard.submit_with(&format!("{cmd} printf '<%s>'"), &NASTY, |spec| spec["env"] = Value::Object(env)).await;
    let (process, log) = yard.rig.ended(&id).await;
    assert_eq!(process.state, ProcessState::Success, "{:?}", process.errors);
    let want: String = NASTY.iter().map(|v| format!("[{v}]")).chain(NASTY.iter().map(|v| format!("<{v}>"))).collect();
    assert!(log.ends_with(&want), "{log}");
    let id = yard.submit("env | sed 's/=.*//' | sort | tr '\\n' ' '; echo; ls /cfs /cfs/pollinator", &[]).await;
    let (_, log) = yard.rig.ended(&id).await;
    let names: Vec<&str> = log.lines().rev().nth(5).unwrap_or_default().split(' ').collect();
    for name in ["COLONIES_PROCESS_ID", "PROJECT_DIR", "POLLINATOR_RANK", "POLLINATOR_SIZE"] {
        assert!(names.contains(&name), "{log}");
    }
    let ours = [
        "COLONIES_PROCESS_ID",
        "POLLINATOR_LOCAL_RANK",
        "POLLINATOR_NODES",
        "POLLINATOR_NODE_RANK",
        "POLLINATOR_RANK",
        "POLLINATOR_SIZE",
    ];
    let usual =
        ["", "HOME", "HOSTNAME", "OLDPWD", "PATH", "PROJECT_DIR", "PWD", "PYTHONUNBUFFERED", "SHLVL", "TERM", "container"];
    assert!(names.iter().all(|n| ours.contains(n) || usual.contains(n)), "{names:?}");
    running.stop().await;
}

async fn failures_are_told(engine: &Engine) {
    let yard = Yard::new(engine).await;
    let running = yard.start();
    let id = yard.submit("echo part > /cfs/pollinator/p/result/part.txt; echo why >&2; exit 3", &[]).await;
    let (process, _) = yard.rig.ended(&id).await;
    assert_eq!((process.state, process.errors[0].as_str()), (ProcessState::Failed, "exit status 3"));
    assert!(process.errors[1].ends_with("why"), "{:?}", process.errors);
    yard.rig.sync(Tree::Result).await;
    assert_eq!(read(yard.rig.tree("result").join("part.txt")), "part\n");
    let id = yard.submit_with("echo never", &[], |spec| spec["kwargs"]["init-cmd"] = json!("echo first; exit 4")).await;
    let (process, log) = yard.rig.ended(&id).await;
    assert_eq!(process.errors[0], "init-cmd failed with exit status 4");
    assert!(log.contains("first") && !log.contains("never"), "{log}");
    for (name, value, want) in [
        (
            "docker-image",
            json!("localhost/not-there:1"),
            "the image localhost/not-there:1 cannot be had: it is not on this machine",
        ),
        ("docker-image", json!("-v=/:/host"), "kwargs.docker-image: \"-v=/:/host\" is no name of an image"),
        ("docker-image", json!(""), "kwargs.docker-image: no image is named"),
    ] {
        let id = yard.submit_with("echo never", &[], |spec| spec["kwargs"][name] = value).await;
        let (process, _) = yard.rig.ended(&id).await;
        assert!(process.errors[0].contains(want), "{:?}", process.errors);
    }
    let id = yard.submit_with("echo never", &[], |spec| spec["conditions"]["nodes"] = json!(2)).await;
    let (process, _) = yard.rig.ended(&id).await;
    assert!(process.errors[0].starts_with("conditions.nodes: 2 nodes are asked for"), "{:?}", process.errors);
    running.stop().await;
}

async fn processes_have_ranks(engine: &Engine) {
    let yard = Yard::new(engine).await;
    let running = yard.start();
    let two = |spec: &mut Value| spec["conditions"]["processespernode"] = json!(2);
    let id = yard
        .submit_with("echo $POLLINATOR_RANK of $POLLINATOR_SIZE > result/$POLLINATOR_RANK; cat result/$POLLINATOR_RANK", &[], two)
        .await;
    let (process, log) = yard.rig.ended(&id).await;
    assert_eq!(process.state, ProcessState::Success, "{:?}", process.errors);
    for rank in 0..2 {
        assert!(log.contains(&format!("[{rank}] {rank} of 2\n")), "{log}");
    }
    // The first that fails decides, and the other is ended.
    let id = yard.submit_with("test $POLLINATOR_RANK = 1 && echo bad luck && exit 5; sleep 300", &[], two).await;
    let (process, _) = yard.rig.ended(&id).await;
    assert_eq!(process.errors, ["process 1 ended with exit status 5", "bad luck"]);
    yard.no_container_is_left(&id).await;
    running.stop().await;
}

async fn limits_hold(engine: &Engine) {
    let yard = Yard::new(engine).await;
    let running = yard.start();
    let small = |spec: &mut Value| {
        spec["conditions"]["mem"] = json!("32Mi");
        spec["conditions"]["cpu"] = json!("500m");
    };
    let cmd = "echo ready; until test -e result/go; do sleep 0.1; done; head -c 200000000 /dev/zero | tail";
    let id = yard.submit_with(cmd, &[], small).await;
    yard.rig.until(&id, "ready", |_, log| log.contains("ready")).await;
    let name = &yard.engine.containers(&id)[0];
    let format = "{{.HostConfig.Memory}} {{.HostConfig.MemorySwap}} {{.HostConfig.NanoCpus}} {{.HostConfig.Privileged}} {{.HostConfig.SecurityOpt}}";
    let limits = yard.engine.call(&["inspect", "--format", format, name]);
    assert!(limits.starts_with("33554432 33554432 500000000 false") && limits.contains("no-new-privileges"), "{limits}");
    std::fs::write(yard.rig.fs("pollinator/p/result/go"), "").unwrap();
    let (process, _) = yard.rig.ended(&id).await;
    let want = "OUT_OF_MEMORY: the kernel killed a process of it at the limit of 32 MiB (conditions.mem); exit status 137";
    assert!(process.errors[0].starts_with(want), "{:?}", process.errors);
    running.stop().await;
}

async fn what_is_not_held_is_said(engine: &Engine, cpu: bool, memory: bool) {
    let yard = Yard::new(engine).await;
    let running = yard.start();
    let (process, log) = yard.rig.ended(&yard.submit("echo done", &[]).await).await;
    assert_eq!(process.state, ProcessState::Success, "{:?}", process.errors);
    let said = log.lines().find(|line| line.starts_with("pollinator: the job is not held to its ")).expect(&log);
    assert_eq!((said.contains("CPUs (conditions.cpu)"), said.contains("memory (conditions.mem)")), (!cpu, !memory), "{said}");
    assert!(!log.contains("podman: "), "podman has nothing to say of it: {log}");
    running.stop().await;
}

/// Cancelled while it runs: one that ends when it is asked to, and one that does not listen.
async fn a_cancelled_job_is_dead(engine: &Engine) {
    let yard = Yard::new(engine).await;
    let running = yard.start();
    let cmd = "trap 'echo saved > result/saved; exit 9' TERM; echo ready; while :; do sleep 0.1; done";
    let polite = yard.submit(cmd, &[]).await;
    let stubborn = yard.submit("trap '' TERM; echo ready; while :; do sleep 1; done", &[]).await;
    for id in [&polite, &stubborn] {
        yard.rig.until(id, "ready", |_, log| log.contains("ready")).await;
        yard.rig.user.cancel(id).await.unwrap();
        yard.no_container_is_left(id).await;
    }
    let end = Instant::now() + PATIENCE;
    while yard.rig.cfs().list("/pollinator/p/result").await.unwrap().files.is_empty() {
        assert!(Instant::now() < end, "no results");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    running.stop().await;
}

async fn the_walltime_ends_a_job(engine: &Engine) {
    let yard = Yard::new(engine).await;
    let running = yard.start();
    let cmd = "echo part > result/part; sleep 300";
    let id = yard.submit_with(cmd, &[], |spec| spec["conditions"]["walltime"] = json!(2)).await;
    let (process, _) = yard.rig.ended(&id).await;
    assert_eq!(process.errors[0], "TIMEOUT: the walltime of 2 s is over");
    yard.no_container_is_left(&id).await;
    yard.rig.sync(Tree::Result).await;
    assert_eq!(read(yard.rig.tree("result").join("part")), "part\n");
    running.stop().await;
}

async fn killed_twice_nothing_is_lost_or_done_twice(engine: &Engine) {
    let yard = Yard::new(engine).await;
    let rig = &yard.rig;
    let running = yard.start();
    let gate = |name: &str| format!("until test -e result/{name}; do sleep 0.1; done");
    let lines = |from: u32, to: u32| format!("for i in $(seq {from} {to}); do echo line $i; done");
    let parts = [lines(1, 10), gate("middle"), lines(11, 30), gate("end"), lines(31, 60)];
    let cmd = format!("echo x >> result/count; {}; echo > result/done", parts.join("; "));
    let open = |name: &str| std::fs::write(rig.fs(&format!("pollinator/p/result/{name}")), "").unwrap();
    let id = yard.submit(&cmd, &[]).await;
    rig.until(&id, "line 10", |_, log| log.contains("line 10\n")).await;
    running.kill();
    open("middle");
    let running = yard.start();
    rig.until(&id, "line 30", |_, log| log.contains("line 30\n")).await;
    running.kill();
    open("end");
    let done = rig.fs("pollinator/p/result/done");
    lab::until("the job's end", || done.exists());
    let running = yard.start();
    let (process, log) = rig.ended(&id).await;
    assert_eq!((process.state, process.retries), (ProcessState::Success, 0), "{:?}", process.errors);
    let want: String = (1..=60).map(|i| format!("line {i}\n")).collect();
    let from = log.find("line 1\n").unwrap();
    assert_eq!(log[from..], want);
    assert_eq!(log.matches("the image is").count(), 1, "{log}");
    rig.sync(Tree::Result).await;
    assert_eq!(read(rig.tree("result").join("count")), "x\n");
    yard.no_container_is_left(&id).await;
    running.stop().await;
}

#[tokio::test]
async fn podman_a_project_runs() {
    a_project_runs(&cabin::podman()).await;
}

#[tokio::test]
async fn podman_values_arrive_byte_for_byte() {
    values_arrive_byte_for_byte(&cabin::podman()).await;
}

#[tokio::test]
async fn podman_failures_are_told() {
    failures_are_told(&cabin::podman()).await;
}

#[tokio::test]
async fn podman_processes_have_ranks() {
    processes_have_ranks(&cabin::podman()).await;
}

#[tokio::test]
async fn podman_limits_hold() {
    let engine = cabin::podman();
    let (cpu, memory) = engine.is_held_to();
    if cpu && memory { limits_hold(&engine).await } else { what_is_not_held_is_said(&engine, cpu, memory).await }
}

#[tokio::test]
async fn podman_a_cancelled_job_is_dead() {
    a_cancelled_job_is_dead(&cabin::podman()).await;
}

#[tokio::test]
async fn podman_the_walltime_ends_a_job() {
    the_walltime_ends_a_job(&cabin::podman()).await;
}

#[tokio::test]
async fn podman_killed_twice_nothing_is_lost_or_done_twice() {
    killed_twice_nothing_is_lost_or_done_twice(&cabin::podman()).await;
}

/// Podman of a user who has nothing but subordinate ids: root in a container is that user.
#[test]
fn the_same_without_root() {
    let user = cabin::user::User::named("pollinator-tests");
    let done = user.runs(&[
        "podman_",
        "jobs_are_kept_apart",
        "killed_from_outside",
        "--skip",
        "docker",
        "--skip",
        "pulls::",
        "--skip",
        "walltime",
    ]);
    assert!(done.contains("test result: ok. 9 passed"), "{done}");
}

/// A daemon that lets containers live is away for a while: not knowing is no end.
async fn the_daemon_is_restarted_during_a_job(docker: &mut cabin::Docker) {
    let yard = Yard::new(&docker.engine).await;
    let running = yard.start();
    let id = yard.submit("echo ready; until test -e result/go; do sleep 0.1; done; echo done; exit 7", &[]).await;
    yard.rig.until(&id, "ready", |_, log| log.contains("ready")).await;
    docker.stop_daemon();
    // Long enough to be asked about, and not be answered.
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(yard.rig.user.process(&id).await.unwrap().state, ProcessState::Running);
    docker.start_daemon();
    std::fs::write(yard.rig.fs("pollinator/p/result/go"), "").unwrap();
    let (process, log) = yard.rig.ended(&id).await;
    assert_eq!(process.errors.first().map(String::as_str), Some("exit status 7"), "{log}");
    assert_eq!(log.matches("done\n").count(), 1, "{log}");
    yard.no_container_is_left(&id).await;
    running.stop().await;
}

/// One daemon for all of them: it takes seconds to start.
#[tokio::test]
async fn docker_runs_jobs_as_podman_does() {
    let mut docker = cabin::Docker::start();
    the_daemon_is_restarted_during_a_job(&mut docker).await;
    let engine = &docker.engine;
    a_project_runs(engine).await;
    values_arrive_byte_for_byte(engine).await;
    failures_are_told(engine).await;
    processes_have_ranks(engine).await;
    limits_hold(engine).await;
    a_cancelled_job_is_dead(engine).await;
    the_walltime_ends_a_job(engine).await;
    killed_twice_nothing_is_lost_or_done_twice(engine).await;
}

/// Whenever the executor is killed around the start of a job, the job runs once.
#[tokio::test]
async fn killed_at_any_moment_of_a_start_a_job_runs_once() {
    let yard = Yard::new(&cabin::podman()).await;
    let two = |spec: &mut Value| spec["conditions"]["processespernode"] = json!(2);
    for round in 0..8u64 {
        let id = yard.submit_with(&format!("echo x >> result/count.{round}.$POLLINATOR_RANK"), &[], two).await;
        let running = yard.start();
        yard.rig.until(&id, "the assignment", |p, _| p.state != ProcessState::Waiting).await;
        // Not a wait for something: the moment of the kill.
        tokio::time::sleep(Duration::from_millis(100 + 170 * round)).await;
        running.kill();
        let running = yard.start();
        let (process, _) = yard.rig.ended(&id).await;
        assert_eq!((process.state, process.retries), (ProcessState::Success, 0), "{round}: {:?}", process.errors);
        running.stop().await;
    }
    yard.rig.sync(Tree::Result).await;
    for round in 0..8 {
        for rank in 0..2 {
            assert_eq!(read(yard.rig.tree("result").join(format!("count.{round}.{rank}"))), "x\n", "round {round}");
        }
    }
}

#[tokio::test]
async fn jobs_are_kept_apart() {
    let yard = Yard::new(&cabin::podman()).await;
    std::fs::create_dir_all(yard.rig.fs("pollinator/other/data")).unwrap();
    std::fs::write(yard.rig.fs("pollinator/other/data/secret"), "secret").unwrap();
    let running = yard.start();
    let cmd = "ls /cfs/pollinator; cat /cfs/pollinator/other/data/secret; \
               echo y > /cfs/pollinator/p/snapshot/src/x; rm /cfs/pollinator/p/snapshot/src/x; touch /cfs/pollinator/p/data/fine && echo fine";
    let id = yard.submit(cmd, &[]).await;
    let (process, log) = yard.rig.ended(&id).await;
    assert_eq!(process.state, ProcessState::Success, "{:?}", process.errors);
    assert!(log.contains("p\ncat: can't open '/cfs/pollinator/other/data/secret'"), "{log}");
    assert_eq!(log.matches("Read-only file system").count(), 2, "{log}");
    assert!(log.ends_with("fine\n"), "{log}");
    assert_eq!(read(yard.rig.fs("pollinator/p/snapshot/src/x")), "x");
    running.stop().await;
}

#[tokio::test]
async fn a_container_that_is_killed_from_outside_is_told() {
    let yard = Yard::new(&cabin::podman()).await;
    let running = yard.start();
    let id = yard.submit("echo ready; sleep 300", &[]).await;
    yard.rig.until(&id, "ready", |_, log| log.contains("ready")).await;
    yard.engine.call(&["kill", "--signal", "KILL", &yard.engine.containers(&id)[0]]);
    let (process, _) = yard.rig.ended(&id).await;
    assert_eq!(process.errors[0], "the job ended without an exit status: its container was killed from outside");
    let id = yard.submit("echo ready; sleep 300", &[]).await;
    yard.rig.until(&id, "ready", |_, log| log.contains("ready")).await;
    yard.engine.call(&["rm", "--force", "--time", "0", &yard.engine.containers(&id)[0]]);
    let (process, _) = yard.rig.ended(&id).await;
    assert!(process.errors[0].starts_with("the job ended without an exit status: its container "), "{:?}", process.errors);
    running.stop().await;
}

#[tokio::test]
async fn containers_of_a_job_that_is_gone_are_swept() {
    let yard = Yard::new(&cabin::podman()).await;
    let running = yard.start();
    let id = yard.submit("echo ready; sleep 300", &[]).await;
    yard.rig.until(&id, "ready", |_, log| log.contains("ready")).await;
    running.kill();
    // All that the executor knows is lost.
    std::fs::remove_dir_all(yard.rig.folder.path().join("executor")).unwrap();
    yard.rig.user.cancel(&id).await.unwrap();
    let running = yard.start();
    yard.no_container_is_left(&id).await;
    running.stop().await;
}
