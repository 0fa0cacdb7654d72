//! What the process backend limits with the rights that every user has.

#![allow(clippy::unwrap_used, clippy::expect_used)] // A test fails by panicking.

#[path = "common/rig.rs"]
mod rig;

use pollinator::colonies::ProcessState;
use pollinator::executor::Backend;
use pollinator::executor::backend::process;
use rig::*;
use serde_json::json;

fn start(rig: &Rig, settings: process::Settings) -> Running {
    rig.start_with(|options| options.backend = Backend::Process(Box::new(settings)))
}

/// Memory of each process by itself, and how far it stands back.
#[tokio::test]
async fn limits_of_a_process() {
    let rig = Rig::new().await;
    rig.write("src", "x", "x");
    let mut settings = process::Settings::plain();
    settings.limits = process::Limits::Rlimits;
    settings.niceness = 7;
    let running = start(&rig, settings);
    // The shell's own words for it: in KiB.
    let cmd = "ulimit -d; cat /proc/self/stat | cut -d ' ' -f 19; head -c 300000000 /dev/zero | tail -c 200000000 | wc -c";
    let id = rig.submit_with(cmd, &[], |spec| spec["conditions"]["mem"] = json!("64Mi")).await;
    let (process, log) = rig.ended(&id).await;
    assert_eq!(process.state, ProcessState::Success, "a pipe's status is that of its last: {:?}", process.errors);
    assert!(log.contains("\n65536\n7\n"), "{log}");
    assert!(log.contains("memory"), "what allocates too much is told so: {log}");
    assert!(log.starts_with("pollinator: CPU is not limited here, and memory of each process by itself"), "{log}");
    running.stop().await;
}

/// As the local colony has it: what a project asks for is no limit.
#[tokio::test]
async fn without_settings_nothing_is_limited() {
    let rig = Rig::new().await;
    rig.write("src", "x", "x");
    let running = rig.start();
    let id = rig.submit_with("ulimit -d; ls -d /cfs", &[], |spec| spec["conditions"]["mem"] = json!("1Mi")).await;
    let (process, log) = rig.ended(&id).await;
    assert_eq!(process.state, ProcessState::Success, "{:?}", process.errors);
    assert_eq!(log, format!("unlimited\n{}\n", rig.fs("").to_string_lossy().trim_end_matches('/')));
    running.stop().await;
}
