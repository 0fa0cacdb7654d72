//! Watching where the system gives little: too few watches, none at all, file systems that come and go.
//!
//! Limits and mounts are those of namespaces of the tests' own (`agency::apart`), so the machine's stay as they are. This needs
//! user namespaces, which `scripts/test.sh` looks for before it begins.

#![allow(clippy::unwrap_used, clippy::expect_used)] // A test fails by panicking.

mod agency;
mod lab;

use agency::Agency;
use agency::apart::Apart;
use agency::ledger::Ledger;
use lab::until;
use serde_json::Value;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::path::PathBuf;

const PRINT: &str = "print('ran')\n";

/// A project with thirty folders, and a colony that runs; no agent.
fn project(agency: &Agency) -> PathBuf {
    agency.lab.run(["colony", "start"]).expect_code(0);
    let project = agency.lab.project("scarce", PRINT);
    for number in 0..30 {
        agency.save(&project, &format!("data/d{number:02}/deep/file"), "x");
    }
    project
}

fn add(agency: &Agency, project: &Path) {
    agency.agent(["add", project.to_str().unwrap()]).expect_code(0);
    until("it is stored", || agency.is_stored(project));
}

fn watcher(agency: &Agency, project: &Path) -> Value {
    agency.project_status(project)["watcher"].clone()
}

fn reason(agency: &Agency, project: &Path) -> String {
    watcher(agency, project)["reason"].as_str().unwrap_or_default().to_owned()
}

#[test]
fn beyond_the_limit_of_watches_folders_are_looked_at_and_a_higher_limit_is_made_use_of() {
    let agency = Agency::without_agent();
    let project = project(&agency);
    let mut apart = Apart::new(&agency, &["-Ur"]);
    apart.run("echo 20 > /proc/sys/user/max_inotify_watches");
    apart.start_agent();
    add(&agency, &project);
    until("it says so", || watcher(&agency, &project)["kind"] == "partial");
    let said = reason(&agency, &project);
    assert!(said.contains("user.max_inotify_watches is 20"), "{said}");
    assert!(said.contains("sudo sysctl user.max_inotify_watches="), "{said}");
    assert!(watcher(&agency, &project)["watches"].as_u64().unwrap() <= 20);
    for folder in ["d00", "d29", "d31"] {
        agency.save(&project, &format!("data/{folder}/deep/file"), "changed");
        until("it is stored", || agency.is_stored(&project));
    }
    fs::remove_dir_all(project.join("cfs/data/d29")).unwrap();
    until("its removal arrives", || agency.is_stored(&project));
    apart.run("echo 20000 > /proc/sys/user/max_inotify_watches");
    agency.agent(["reload"]).expect_code(0);
    until("it is told of everything", || watcher(&agency, &project)["kind"] == "events");
    assert_eq!(watcher(&agency, &project)["reason"], Value::Null);
    agency.until_in_sync(&project);
    let ledger = Ledger::of(&agency.lab);
    agency.save(&project, "data/d28/deep/file", "told of");
    ledger.until_stored("/data/d28/deep/file");
    agency.until_stored(&project);
}

#[test]
fn without_any_events_everything_is_looked_at_and_that_is_said() {
    let agency = Agency::without_agent();
    let project = project(&agency);
    let mut apart = Apart::new(&agency, &["-Ur"]);
    apart.run("echo 0 > /proc/sys/user/max_inotify_instances");
    apart.start_agent();
    add(&agency, &project);
    assert_eq!(watcher(&agency, &project)["kind"], "polling");
    let said = reason(&agency, &project);
    assert!(said.contains("max_user_instances"), "{said}");
    agency.save(&project, "data/d07/deep/file", "changed");
    until("it is stored", || agency.is_stored(&project));
    // A run sees it, though nothing can tell of it.
    agency.save(&project, "src/main.py", "print('changed too')\n");
    let ran = agency.lab.run_in(&project, ["run", "--follow"]).expect_code(0);
    assert!(ran.stdout.contains("changed too"), "{}", ran.all());
    apart.run("echo 10 > /proc/sys/user/max_inotify_instances");
    agency.agent(["reload"]).expect_code(0);
    agency.until_in_sync(&project);
}

#[test]
fn a_folder_that_cannot_be_read_is_told_of_and_takes_nothing_else_with_it() {
    let agency = Agency::without_agent();
    let project = project(&agency);
    // In a user namespace where nobody is anybody, root is bound by modes as all others are.
    let mut apart = Apart::new(&agency, &["-U"]);
    apart.start_agent();
    add(&agency, &project);
    agency.until_in_sync(&project);
    let (ledger, folder) = (Ledger::of(&agency.lab), project.join("cfs/data/d05"));
    let mode = |mode: u32| {
        fs::set_permissions(&folder, fs::Permissions::from_mode(mode)).unwrap();
    };
    let held = ledger.held();
    mode(0);
    agency.agent(["stop"]).expect_code(0);
    apart.start_agent();
    until("it is told", || agency.project_status(&project)["problems"][0]["path"] == "data/d05");
    until("the watcher says it, too", || reason(&agency, &project).contains("d05 cannot be watched"));
    agency.save(&project, "data/d29/deep/file", "changed");
    ledger.until_stored("/data/d29/deep/file");
    assert_eq!(ledger.held(), held, "nothing that cannot be seen is taken for removed");
    mode(0o755);
    agency.until_in_sync(&project);
    assert_eq!(watcher(&agency, &project)["kind"], "events");
    agency.save(&project, "data/d05/deep/file", "changed");
    ledger.until_stored("/data/d05/deep/file");
    agency.until_stored(&project);
    // The tree itself.
    let root = project.join("cfs/data");
    fs::set_permissions(&root, fs::Permissions::from_mode(0o000)).unwrap();
    agency.agent(["stop"]).expect_code(0);
    apart.start_agent();
    until("the watcher says it", || reason(&agency, &project).contains("data cannot be watched"));
    let status = agency.agent(["status", project.to_str().unwrap()]).expect_code(1);
    assert!(status.stdout.contains("cannot be"), "{}", status.all());
    agency.agent(["flush", project.to_str().unwrap()]).expect_code(1);
    assert_eq!(ledger.held().len(), held.len(), "nothing that cannot be seen is taken for removed");
    fs::set_permissions(&root, fs::Permissions::from_mode(0o755)).unwrap();
    until("it is watched again", || watcher(&agency, &project)["kind"] == "events");
    agency.until_in_sync(&project);
}

#[test]
fn a_disk_that_is_unmounted_is_an_error_and_never_a_removal() {
    let agency = Agency::without_agent();
    agency.lab.run(["colony", "start"]).expect_code(0);
    let project = agency.lab.project("mounted", PRINT);
    let disk = agency.lab.home().join("disk");
    fs::create_dir(&disk).unwrap();
    let mut apart = Apart::new(&agency, &["-Urm"]);
    let (disk, data) = (disk.display().to_string(), project.join("cfs/data").display().to_string());
    apart.run(&format!("mount -t tmpfs none {disk} && mkdir {disk}/d && echo x > {disk}/d/a && echo y > {disk}/b"));
    apart.run(&format!("mount --bind {disk} {data}"));
    apart.start_agent();
    agency.agent(["add", project.to_str().unwrap()]).expect_code(0);
    agency.until_in_sync(&project);
    let ledger = Ledger::of(&agency.lab);
    let held = ledger.held();
    assert!(held.iter().any(|name| name.ends_with("/data/d/a")) && held.iter().any(|name| name.ends_with("/data/b")), "{held:?}");
    apart.run(&format!("umount {data}"));
    until("it is told", || {
        let status = agency.project_status(&project);
        status["in_sync"] == false && status["state"] == "error" && status["reason"].as_str().is_some_and(|r| r.contains("data"))
    });
    // And somebody writes below the mount point meanwhile, or has it looked at again.
    agency.save(&project, "src/more", "x");
    agency.agent(["flush", project.to_str().unwrap()]).expect_code(1);
    let now = ledger.held();
    assert!(held.iter().all(|name| now.contains(name)), "{held:?} {now:?}");
    apart.run(&format!("mount --bind {disk} {data}"));
    agency.until_in_sync(&project);
    apart.run(&format!("echo z > {data}/d/new"));
    ledger.until_stored("/data/d/new");
    agency.until_in_sync(&project);
}

#[test]
fn a_file_system_of_a_program_is_looked_at_from_time_to_time_where_it_may_be_a_network() {
    let agency = Agency::without_agent();
    agency.lab.run(["colony", "start"]).expect_code(0);
    let project = agency.lab.project("fuse", PRINT);
    let below = agency.lab.home().join("below");
    fs::create_dir(&below).unwrap();
    let mut apart = Apart::new(&agency, &["-Urm"]);
    let data = project.join("cfs/data").display().to_string();
    apart.run(&format!("bindfs --no-allow-other {} {data}", below.display()));
    apart.run(&format!("echo one > {data}/a"));
    apart.start_agent();
    agency.agent(["add", project.to_str().unwrap()]).expect_code(0);
    until("the watcher says it", || watcher(&agency, &project)["kind"] == "polling");
    assert!(reason(&agency, &project).contains("network"), "{}", reason(&agency, &project));
    until("it is stored", || agency.project_status(&project)["pending"]["files"] == 0);
    let ledger = Ledger::of(&agency.lab);
    // As another machine would: nobody here is told of it.
    fs::write(below.join("b"), "two").unwrap();
    ledger.until_stored("/data/b");
    agency.agent(["stop"]).expect_code(0);
    apart.run(&format!("umount {data}"));
}
