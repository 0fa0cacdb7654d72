//! Disks that fail while the agent runs: full, and read-only. The disks are mounts in namespaces of the tests' own.

#![allow(clippy::unwrap_used, clippy::expect_used)] // A test fails by panicking.

mod agency;
mod lab;

use agency::Agency;
use agency::apart::Apart;
use lab::until;
use serde_json::Value;
use std::fs;
use std::path::Path;

const COLONY: &str = env!("CARGO_BIN_EXE_pollinator");
const AGENT: &str = env!("CARGO_BIN_EXE_pollinatord");

/// What the agent in there says of a project; its exit status says whether all is well, which is not asked here.
fn status(apart: &mut Apart, project: &Path) -> Value {
    let said = apart.run(&format!("{AGENT} status --json {} || true", project.display()));
    let Ok(all) = serde_json::from_str::<Value>(&said) else { panic!("no status: {said}") };
    all["projects"][0].clone()
}

fn until_in_sync(apart: &mut Apart, project: &Path) {
    until("it is in step", || {
        let now = status(apart, project);
        now["in_sync"] == true && now["state"] == "idle"
    });
}

#[test]
fn a_full_disk_below_the_state_is_told_of_and_all_is_well_when_there_is_room_again() {
    let agency = Agency::without_agent();
    let project = agency.lab.project("full", "print('ran')\n");
    let state = agency.lab.state().display().to_string();
    fs::create_dir_all(&state).unwrap();
    let mut apart = Apart::new(&agency, &["-Urm"]);
    apart.run(&format!("mount -t tmpfs -o size=48m none {state} && chmod 700 {state}"));
    apart.start_agent();
    apart.run(&format!("{AGENT} add {}", project.display()));
    until_in_sync(&mut apart, &project);
    // To the last byte: files that are there may hold room of their own.
    apart.run(&format!("for size in 1M 4k 1; do dd if=/dev/zero of={state}/ballast.$size bs=$size 2>/dev/null || true; done"));
    for number in 0..300 {
        agency.save(&project, &format!("src/new/{number}"), &format!("{number} {}", "x".repeat(9000)));
    }
    until("it is told", || {
        let now = status(&mut apart, &project);
        now["state"] == "error" && now["reason"].as_str().is_some_and(|reason| !reason.is_empty())
    });
    apart.run(&format!("rm {state}/ballast.*"));
    until_in_sync(&mut apart, &project);
    let left = apart.run(&format!("{COLONY} -C {} diff --json", project.display()));
    assert!(!left.contains("new/"), "still different: {left}");
    apart.run(&format!("{AGENT} stop; {COLONY} colony stop"));
}

#[test]
fn results_that_cannot_be_written_are_told_of_and_come_home_when_they_can() {
    let agency = Agency::without_agent();
    let project =
        agency.lab.project("frozen", "import os\nopen(os.environ['PROJECT_DIR'] + '/result/made', 'w').write('made')\n");
    let result = project.join("cfs/result").display().to_string();
    let mut apart = Apart::new(&agency, &["-Urm"]);
    apart.run(&format!("mount -t tmpfs none {result}"));
    apart.start_agent();
    apart.run(&format!("{AGENT} add {}", project.display()));
    until_in_sync(&mut apart, &project);
    apart.run(&format!("mount -o remount,ro {result}"));
    apart.run(&format!("{COLONY} -C {} run", project.display()));
    until("it is told", || {
        let now = status(&mut apart, &project);
        now["reason"].as_str().is_some_and(|reason| reason.to_lowercase().contains("read-only"))
    });
    // What is saved meanwhile is brought over as ever.
    agency.save(&project, "src/meanwhile", "x");
    until("it is stored", || {
        let left = apart.run(&format!("{COLONY} -C {} diff --json || true", project.display()));
        !left.contains("meanwhile")
    });
    apart.run(&format!("mount -o remount,rw {result}"));
    until("the result is home", || apart.run(&format!("cat {result}/made || true")) == "made");
    until("and all is well", || status(&mut apart, &project)["state"] == "idle");
    apart.run(&format!("{AGENT} stop; {COLONY} colony stop"));
}
