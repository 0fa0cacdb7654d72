//! What the process backend limits and hides by control groups and mount namespaces, which the machine must allow.

#![allow(clippy::unwrap_used, clippy::expect_used)] // A test fails by panicking.

mod lab;
#[path = "common/rig.rs"]
mod rig;

use pollinator::colonies::ProcessState;
use pollinator::event::Tree;
use pollinator::executor::Backend;
use pollinator::executor::backend::process;
use rig::*;
use serde_json::Value;
use serde_json::json;
use std::path::Path;
use std::path::PathBuf;

fn start(rig: &Rig, change: impl FnOnce(&mut process::Settings)) -> Running {
    let mut settings = process::Settings::plain();
    change(&mut settings);
    rig.start_with(|options| options.backend = Backend::Process(Box::new(settings)))
}

/// The folder that the executor keeps for the one job it has.
fn job_folder(rig: &Rig) -> PathBuf {
    let jobs = rig.folder.path().join("executor/jobs");
    std::fs::read_dir(jobs).unwrap().next().unwrap().unwrap().path()
}

fn groups(rig: &Rig) -> Vec<PathBuf> {
    read(job_folder(rig).join("groups")).lines().map(PathBuf::from).collect()
}

#[tokio::test]
async fn control_groups_limit_a_job_as_a_whole() {
    let rig = Rig::new().await;
    rig.write("src", "x", "x");
    let running = start(&rig, |settings| {
        settings.limits = process::Limits::Cgroups;
        settings.pids_limit = 50;
    });
    let limits = |spec: &mut Value| {
        spec["conditions"]["mem"] = json!("48Mi");
        spec["conditions"]["cpu"] = json!("500m");
    };
    // Two processes of 40 MiB fit each by itself, and not together.
    let hog = "head -c 40000000 /dev/zero | tail -c 40000000 | sleep 3";
    let cmd = format!("echo ready; until test -e result/go; do sleep 0.1; done; ({hog}) & ({hog}) & wait; sleep 0.2; exit 9");
    let id = rig.submit_with(&cmd, &[], limits).await;
    rig.until(&id, "ready", |_, log| log.contains("ready")).await;
    let groups = groups(&rig);
    let value = |names: &[&str]| {
        let files = groups.iter().flat_map(|g| names.iter().map(|n| g.join(n)));
        files.filter_map(|f| std::fs::read_to_string(f).ok()).collect::<String>()
    };
    assert_eq!(value(&["memory.max", "memory.limit_in_bytes"]).trim(), "50331648");
    assert!(value(&["cpu.max", "cpu.cfs_quota_us"]).starts_with("50000"), "{groups:?}");
    assert_eq!(value(&["pids.max"]).trim(), "50");
    std::fs::write(rig.fs("pollinator/p/result/go"), "").unwrap();
    let (process, log) = rig.ended(&id).await;
    let want = "OUT_OF_MEMORY: the kernel killed a process of it at the limit of 48 MiB (conditions.mem); exit status 9";
    assert_eq!(process.errors.first().map(String::as_str), Some(want), "{log}");
    assert!(groups.iter().all(|g| !g.exists()), "they go with the job");
    running.stop().await;
}

/// A process that leaves the session of its job is ended all the same.
#[tokio::test]
async fn nobody_escapes_from_a_group() {
    let rig = Rig::new().await;
    rig.write("src", "x", "x");
    let running = start(&rig, |settings| settings.limits = process::Limits::Cgroups);
    let id = rig
        .submit("setsid sleep 301 & echo $! > result/pid; until test -s result/pid; do :; done; sleep 0.3; echo ready", &[])
        .await;
    let (process, log) = rig.ended(&id).await;
    assert_eq!(process.state, ProcessState::Success, "{log}");
    rig.sync(Tree::Result).await;
    let pid = read(rig.tree("result").join("pid"));
    // One that is dead may still wait to be noticed by the machine's first process.
    let alive = |stat: String| stat.contains("(sleep)") && !stat.contains(") Z ");
    assert!(!std::fs::read_to_string(format!("/proc/{}/stat", pid.trim())).is_ok_and(alive), "{pid} is left");
    running.stop().await;
}

#[tokio::test]
async fn a_job_sees_its_files_at_the_mount_point() {
    let rig = Rig::new().await;
    rig.write(
        "src",
        "main.sh",
        "cat /cfs/pollinator/p/data/in.txt $PROJECT_DIR/data/in.txt; echo out > /cfs/pollinator/p/result/out.txt\n",
    );
    rig.write("data", "in.txt", "input\n");
    std::fs::create_dir_all(rig.fs("pollinator/other/data")).unwrap();
    let running = start(&rig, |settings| settings.mount_namespace = process::MountNamespace::Always);
    let cmd = "pwd; ls /cfs/pollinator; echo y > /cfs/pollinator/p/snapshot/src/main.sh; echo '/cfs' \"$A\"; test -e /proc/self/stat && \
               test -x /bin/sh && echo whole; sh";
    let a = |spec: &mut Value| spec["env"]["A"] = json!("/cfs");
    let id = rig.submit_with(cmd, &["/cfs/pollinator/p/snapshot/src/main.sh"], a).await;
    let (process, log) = rig.ended(&id).await;
    assert_eq!((process.state, &process.errors), (ProcessState::Success, &vec![]), "{log}");
    assert!(log.starts_with("/cfs/pollinator/p\np\n"), "{log}");
    assert!(log.contains("Read-only file system"), "{log}");
    assert!(log.ends_with("/cfs /cfs\nwhole\ninput\ninput\n"), "nothing is replaced in texts: {log}");
    rig.sync(Tree::Result).await;
    assert_eq!(read(rig.tree("result").join("out.txt")), "out\n");
    running.stop().await;
    assert!(!Path::new("/cfs").exists(), "nothing of the machine is changed");
}

/// Killed and started again, the executor finds a job in its namespace and its groups.
#[tokio::test]
async fn a_confined_job_survives_its_executor() {
    let rig = Rig::new().await;
    rig.write("src", "x", "x");
    let both = |settings: &mut process::Settings| {
        settings.limits = process::Limits::Cgroups;
        settings.mount_namespace = process::MountNamespace::Always;
    };
    let running = start(&rig, both);
    let cmd = "echo ready; until test -e /cfs/pollinator/p/result/go; do sleep 0.1; done; echo done; exit 6";
    let id = rig.submit(cmd, &[]).await;
    rig.until(&id, "ready", |_, log| log.contains("ready")).await;
    let groups = groups(&rig);
    running.kill();
    let running = start(&rig, both);
    std::fs::write(rig.fs("pollinator/p/result/go"), "").unwrap();
    let (process, log) = rig.ended(&id).await;
    assert_eq!(process.errors.first().map(String::as_str), Some("exit status 6"), "{log}");
    assert_eq!(log.matches("done\n").count(), 1, "{log}");
    assert!(groups.iter().all(|g| !g.exists()), "{groups:?}");
    running.stop().await;
}
