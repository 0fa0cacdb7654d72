//! What commits and pushes start, with real git: trees brought over, runs, and pushes that wait for one.

#![allow(clippy::unwrap_used, clippy::expect_used)] // A test fails by panicking.

mod desk;
mod lab;

use desk::Desk;
use lab::until;
use std::fs;
use std::io::BufRead;
use std::io::BufReader;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;
use std::time::Instant;

/// Waits until it is told to go on, by a file in the data that the executor keeps.
const WAITING: &str = "import os, time\nprint('the job waits', flush=True)\nwhile not os.path.exists(os.path.join(os.environ['PROJECT_DIR'], 'data', 'go')): time.sleep(0.05)\n";

/// The lines that pollinator says, of all that git prints.
fn said(stderr: &str) -> Vec<&str> {
    let ours = |line: &&str| ["warning: ", "hint: ", "error: "].iter().any(|word| line.starts_with(word));
    // Git's own last word on a push that was refused.
    stderr.lines().filter(ours).filter(|line| !line.starts_with("error: failed to push")).collect()
}

/// A project with its hooks installed and a job, all committed.
fn installed(desk: &Desk, agent: &str, job: &str) -> PathBuf {
    let project = desk.project("p", agent);
    fs::write(project.join("cfs/src/main.py"), job).unwrap();
    desk.commit(&project, "job");
    desk.hook(&project, &["install"]).expect_code(0);
    project
}

/// The log of what hooks started in the background.
fn background_log(desk: &Desk) -> String {
    let Ok(folder) = fs::read_dir(desk.lab.state().join("logs")) else { return String::new() };
    folder.map(|file| fs::read_to_string(file.unwrap().path()).unwrap()).collect()
}

#[test]
fn a_push_brings_the_trees_over() {
    let desk = Desk::new();
    let project = installed(&desk, "", desk::JOB);
    // What is on disk is brought over, committed or not.
    fs::write(project.join("cfs/data/new.txt"), "new").unwrap();
    let pushed = desk.push(&project).expect_code(0);
    for file in ["src/main.py", "data/new.txt"] {
        assert!(pushed.stderr.contains(&format!("Uploaded {file}")), "{}", pushed.stderr);
    }
    assert_eq!(desk.pushed(&project), Some(desk.head(&project)));
    let diff = desk.lab.run_in(&project, ["diff"]).expect_code(0);
    assert!(diff.stdout.contains("in step"), "{}", diff.stdout);
    // What brings no commit to a branch starts nothing.
    fs::write(project.join("cfs/data/newer.txt"), "newer").unwrap();
    desk.git(&project, &["tag", "v1"]);
    desk.git(&project, &["push", "-q", "origin", "HEAD:refs/heads/other"]);
    fs::write(project.join("cfs/data/newest.txt"), "newest").unwrap();
    for push in [&["push", "origin", "v1"][..], &["push", "origin", ":other"], &["push", "origin", "HEAD"]] {
        let ended = desk.git(&project, push);
        assert!(!ended.stderr.contains("Uploaded"), "{push:?}: {}", ended.stderr);
    }
    // Hooks that are given the repository by variables work on the project all the same.
    let mut git = desk.command("git", desk.lab.home(), &["push", "origin", "HEAD:refs/heads/third"]);
    git.env("GIT_DIR", project.join(".git")).env("GIT_WORK_TREE", &project);
    assert!(lab::finish(git).expect_code(0).stderr.contains("Uploaded data/newest.txt"));
}

#[test]
fn without_a_colony_a_push_passes_in_two_lines_and_a_gate_refuses_in_two() {
    let desk = Desk::without_colony();
    let project = installed(&desk, "onPush: sync", desk::JOB);
    for (word, what) in [("sync", "the trees were not brought over"), ("run", "no run was started")] {
        desk.agent(&project, &format!("onPush: {word}"));
        desk.commit(&project, word);
        let passed = desk.push(&project).expect_code(0);
        let lines = said(&passed.stderr);
        assert_eq!(lines.len(), 2, "{}", passed.stderr);
        assert!(lines[0].starts_with(&format!("warning: the push goes on, but {what}: cannot reach")), "{lines:?}");
        assert!(lines[1].starts_with("hint: ") && lines[1].contains("later"), "{lines:?}");
        assert_eq!(desk.pushed(&project), Some(desk.head(&project)));
    }
    let before = desk.pushed(&project);
    desk.agent(&project, "onPush: gate");
    desk.commit(&project, "gate");
    let refused = desk.push(&project);
    assert_ne!(refused.code, Some(0));
    let lines = said(&refused.stderr);
    assert_eq!(lines.len(), 2, "{}", refused.stderr);
    assert!(lines[0].starts_with("error: the push is refused: cannot reach the Colonies server"), "{lines:?}");
    assert!(lines[1].starts_with("hint: ") && lines[1].contains("git push --no-verify"), "{lines:?}");
    assert_eq!(desk.pushed(&project), before);
    // A broken project.yaml is told, and refuses only what was installed as a gate.
    desk.agent(&project, "onPush: perhaps");
    desk.commit(&project, "broken");
    let passed = desk.push(&project).expect_code(0);
    assert!(passed.stderr.contains("`onPush` must be off, sync, run or gate, found \"perhaps\""), "{}", passed.stderr);
    desk.agent(&project, "onPush: gate");
    desk.hook(&project, &["install"]).expect_code(0);
    desk.agent(&project, "onPush: perhaps");
    desk.commit(&project, "broken again");
    assert_ne!(desk.push(&project).code, Some(0));
}

#[test]
fn a_commit_waits_for_no_server() {
    // Somebody who takes connections and says nothing.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let desk = Desk::with_colony_at(silent.local_addr().unwrap().port());
    let project = installed(&desk, "onCommit: sync\nonPush: off", desk::JOB);
    let begun = Instant::now();
    let committed = desk.commit(&project, "quick");
    // It cannot have ended while it waits for an answer, which takes a minute to be given up.
    assert!(begun.elapsed() < Duration::from_secs(30), "{:?}", begun.elapsed());
    let (note, log) = committed.stderr.split_once("its log: ").expect("it says where the log is");
    assert!(note.contains("brings the trees over in the background"), "{}", committed.stderr);
    let log = PathBuf::from(log.trim());
    assert!(log.starts_with(desk.lab.state().join("logs")), "{log:?}");
    assert!(fs::read_to_string(&log).unwrap().contains(&desk.head(&project)));
    // With nobody there any more, what was started ends before the laboratory does.
    drop(silent);
    until("the work has ended", || fs::read_to_string(&log).unwrap().contains("error: "));
}

#[test]
fn a_commit_brings_the_trees_over_in_the_background() {
    let desk = Desk::new();
    let project = installed(&desk, "onCommit: sync", desk::JOB);
    desk.commit(&project, "sync");
    until("the trees are over", || background_log(&desk).contains("Uploaded src/main.py"));
    until("they are in step", || desk.lab.run_in(&project, ["diff"]).stdout.contains("in step"));
}

#[test]
fn a_rebase_starts_once_and_an_amended_commit_too() {
    let desk = Desk::without_colony();
    let project = installed(&desk, "onCommit: sync", desk::JOB);
    let started = |stderr: &str| stderr.matches("in the background").count();
    desk.git(&project, &["config", "core.hooksPath", "/nowhere"]);
    desk.git(&project, &["checkout", "-q", "-b", "side"]);
    for name in ["a", "b", "c"] {
        fs::write(project.join(name), name).unwrap();
        desk.commit(&project, name);
    }
    desk.git(&project, &["checkout", "-q", "main"]);
    fs::write(project.join("README"), "changed\n").unwrap();
    desk.commit(&project, "main goes on");
    desk.git(&project, &["config", "--unset", "core.hooksPath"]);

    desk.git(&project, &["branch", "picks"]);
    desk.git(&project, &["checkout", "-q", "picks"]);
    let picked = desk.git(&project, &["cherry-pick", "side~3..side"]);
    assert_eq!(started(&picked.stderr), 1, "{}", picked.stderr);
    desk.git(&project, &["checkout", "-q", "side"]);
    let rebased = desk.git(&project, &["rebase", "main"]);
    assert_eq!(started(&rebased.stderr), 1, "{}", rebased.stderr);
    let amended = desk.git(&project, &["commit", "-q", "--amend", "-m", "other words"]);
    assert_eq!(started(&amended.stderr), 1, "{}", amended.stderr);
    // A merge that stops calls the hook once it is concluded.
    desk.git(&project, &["checkout", "-q", "main"]);
    fs::write(project.join("a"), "mine").unwrap();
    assert_eq!(started(&desk.commit(&project, "conflicts").stderr), 1);
    assert_ne!(desk.git_any(&project, &["merge", "side"]).code, Some(0));
    fs::write(project.join("a"), "both").unwrap();
    assert_eq!(started(&desk.commit(&project, "merged").stderr), 1);
    // What was started ends before the laboratory does.
    until("all five have ended", || background_log(&desk).lines().filter(|line| line.starts_with("error: ")).count() == 5);
}

#[test]
fn a_commit_runs_by_itself() {
    let desk = Desk::new();
    let project = installed(&desk, "onCommit: run", desk::JOB);
    let committed = desk.commit(&project, "run this");
    assert!(committed.stderr.contains("submits a run of this commit in the background"), "{}", committed.stderr);
    until("the run is submitted", || background_log(&desk).contains("Process submitted"));
    assert_eq!(newest_run(&desk, &project)["git_commit"], desk.head(&project).as_str());
    desk.lab.run_in(&project, ["logs", "-f"]).expect_code(0);
}

fn newest_run(desk: &Desk, project: &Path) -> serde_json::Value {
    desk.lab.run_in(project, ["runs", "--json"]).expect_code(0).json()[0].clone()
}

#[test]
fn a_push_starts_a_run_of_the_newest_commit_that_is_pushed() {
    let desk = Desk::new();
    let project = installed(&desk, "onPush: run", desk::JOB);
    desk.git(&project, &["branch", "older", "HEAD~"]);
    let pushed = desk.git(&project, &["push", "origin", "older", "main"]);
    assert!(pushed.stderr.contains("Process submitted"), "{}", pushed.stderr);
    assert!(!pushed.stdout.contains("Process"), "standard output is git's: {}", pushed.stdout);
    assert_eq!(newest_run(&desk, &project)["git_commit"], desk.head(&project).as_str());
    desk.lab.run_in(&project, ["logs", "-f"]).expect_code(0);
}

#[test]
fn a_gate_lets_pass_what_succeeds_and_refuses_what_fails() {
    let desktop = tempfile::tempdir().unwrap();
    let desk = Desk::with_desktop(desktop.path());
    let told = || fs::read_to_string(desktop.path().join("told")).unwrap();
    let project = installed(&desk, "onPush: gate", desk::JOB);
    let passed = desk.push(&project).expect_code(0);
    assert!(passed.stderr.contains("the job has run"), "{}", passed.stderr);
    let note = format!("p: the run of {} succeeded", &desk.head(&project)[..10]);
    assert_eq!(told(), format!("--app-name=Pollinator\n--\nPollinator\n{note}\n"));
    let before = desk.pushed(&project);
    assert_eq!(before, Some(desk.head(&project)));
    fs::write(project.join("cfs/src/main.py"), "import sys\nprint('no good')\nsys.exit(3)\n").unwrap();
    desk.commit(&project, "fails");
    desk.agent(&project, "onPush: gate\nnotify: off");
    // What counts is the commit, not what is on disk.
    fs::write(project.join("cfs/src/main.py"), desk::JOB).unwrap();
    let refused = desk.push(&project);
    assert_ne!(refused.code, Some(0));
    assert!(refused.stderr.contains("no good"), "{}", refused.stderr);
    assert!(refused.stderr.contains("error: the push is refused: the run of"), "{}", refused.stderr);
    assert!(refused.stderr.contains("failed or was cancelled") && refused.stderr.contains("--no-verify"), "{}", refused.stderr);
    assert_eq!(desk.pushed(&project), before);
    assert_eq!(told().matches("the run of").count(), 1, "who wants no notes gets none");
}

#[test]
fn a_gate_waits_no_longer_than_it_is_told_and_the_process_goes_on() {
    let desk = Desk::new();
    let project = installed(&desk, "onPush: gate\ngateTimeout: 5s", WAITING);
    let refused = desk.push(&project);
    assert_ne!(refused.code, Some(0));
    assert!(refused.stderr.contains("did not end within 5.0 s (gateTimeout in project.yaml)"), "{}", refused.stderr);
    assert!(refused.stderr.contains("pollinator logs -f") && refused.stderr.contains("--no-verify"), "{}", refused.stderr);
    assert_eq!(desk.pushed(&project), None);
    let run = newest_run(&desk, &project);
    assert!(["waiting", "running"].contains(&run["state"].as_str().unwrap()), "{run}");
    desk.lab.run_in(&project, ["cancel", "last"]).expect_code(0);
}

#[test]
fn ctrl_c_at_a_gate_refuses_the_push_and_says_how_to_cancel() {
    let desk = Desk::new();
    let project = installed(&desk, "onPush: gate", WAITING);
    let mut git = desk.command("git", &project, &["push", "origin", "HEAD"]);
    // As on a terminal: Ctrl-C reaches git, its hook, and all below.
    let mut child = git.process_group(0).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    assert!(lines.by_ref().map_while(Result::ok).any(|line| line == "the job waits"));
    // SAFETY: sends a signal to the group of a child that was not waited for yet.
    unsafe { libc::kill(-i32::try_from(child.id()).unwrap(), libc::SIGINT) };
    let rest: Vec<String> = lines.map_while(Result::ok).collect();
    let rest = rest.join("\n");
    let ended = lab::wait(child);
    assert_ne!(ended.code, Some(0));
    assert!(rest.contains("the process goes on") && rest.contains("pollinator cancel"), "{rest}");
    assert_eq!(desk.pushed(&project), None);
    let run = newest_run(&desk, &project);
    assert!(["waiting", "running"].contains(&run["state"].as_str().unwrap()), "{run}");
    desk.lab.run_in(&project, ["cancel", "last"]).expect_code(0);
}
