//! A run, black box: from an empty home folder to a result in `cfs/result`, with nothing configured.

#![allow(clippy::unwrap_used, clippy::expect_used)] // A test fails by panicking.

mod lab;

use lab::Lab;
use lab::until;
use serde_json::Value;
use std::fs;
use std::io::BufRead;
use std::io::BufReader;
use std::path::Path;
use std::process::Stdio;

/// Runs one of the examples as the README says.
fn example(lab: &Lab, name: &str) -> std::path::PathBuf {
    let (from, to) = (Path::new(env!("CARGO_MANIFEST_DIR")).join("examples").join(name), lab.home().join(name));
    copy(&from, &to);
    to
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

#[test]
fn the_readmes_first_command_runs_and_brings_the_result_home() {
    let lab = Lab::new();
    let project = example(&lab, "hello");
    let ended = lab.run(["run", "--follow", "--project", project.to_str().unwrap()]).expect_code(0);
    assert!(ended.stdout.contains("hostname: ") && ended.stdout.contains("Hello world!\n"), "{}", ended.stdout);
    assert!(ended.stderr.contains("started the local colony"), "{}", ended.stderr);
    assert!(ended.stderr.contains("Process finished successfully ProcessID="), "{}", ended.stderr);
    assert!(!ended.all().contains('\u{1b}'), "escape codes on what is no terminal: {:?}", ended.all());
    assert_eq!(fs::read_to_string(project.join("cfs/result/result.txt")).unwrap(), "Hello, World!\n");
    // Unchanged, it is run again without a byte being sent.
    let again = lab.run_in(&project, ["run", "-f"]).expect_code(0);
    assert!(!again.stderr.contains("Uploaded") && !again.stderr.contains("started the local colony"), "{}", again.stderr);
    let runs = lab.run_in(&project, ["runs", "--json"]).expect_code(0).json();
    let (newest, oldest) = (&runs[0], &runs[1]);
    assert_eq!(newest["snapshot_id"], oldest["snapshot_id"], "an unchanged tree makes no new snapshot");
    assert_eq!(newest["state"], "success");
    assert!(newest["results_fetched"].is_number());
}

#[test]
fn several_processes_bring_a_result_each() {
    let lab = Lab::new();
    let project = example(&lab, "monte-carlo");
    let ended = lab.run_in(&project, ["run", "-f", "--processes", "3"]).expect_code(0);
    assert_eq!(ended.stdout.matches("pi is about").count(), 3, "{}", ended.stdout);
    assert_eq!(fs::read_dir(project.join("cfs/result/estimates")).unwrap().count(), 3);
}

#[test]
fn a_failing_job_gives_its_partial_result_and_exit_code_3() {
    let lab = Lab::new();
    let project = example(&lab, "failing");
    let ended = lab.run_in(&project, ["run", "-f"]).expect_code(3);
    assert!(ended.stdout.contains("step 3 cannot be done"), "{}", ended.stdout);
    assert!(ended.stderr.contains("exit status 7"), "{}", ended.stderr);
    assert_eq!(fs::read_to_string(project.join("cfs/result/partial.txt")).unwrap(), "steps 1 and 2 are done\n");
}

#[test]
fn a_file_deleted_here_is_not_there_in_the_next_run_and_does_not_come_back() {
    let lab = Lab::new();
    let project = lab.project("p", "import os\nprint(sorted(os.listdir(os.path.dirname(__file__))))\n");
    fs::write(project.join("cfs/src/old.py"), "pass\n").unwrap();
    let first = lab.run_in(&project, ["run", "-f"]).expect_code(0);
    assert!(first.stdout.contains("['main.py', 'old.py']"), "{}", first.stdout);
    fs::remove_file(project.join("cfs/src/old.py")).unwrap();
    let second = lab.run_in(&project, ["run", "-f"]).expect_code(0);
    assert!(second.stdout.contains("['main.py']"), "{}", second.stdout);
    assert!(!project.join("cfs/src/old.py").exists());
    // The same tree as at first, whose snapshot lists a file that was removed since: it must not be used again.
    fs::write(project.join("cfs/src/old.py"), "pass\n").unwrap();
    let third = lab.run_in(&project, ["run", "-f"]).expect_code(0);
    assert!(third.stdout.contains("['main.py', 'old.py']"), "{}", third.stdout);
}

#[test]
fn a_run_that_waits_keeps_a_file_that_is_deleted_meanwhile() {
    let lab = Lab::new();
    let project = lab.project("p", "import os, time\nhere = os.path.dirname(__file__)\nprint(sorted(os.listdir(here)))\nwhile not os.path.exists(os.path.join(os.environ['PROJECT_DIR'], 'data', 'go')): time.sleep(0.05)\n");
    fs::write(project.join("cfs/src/old.py"), "pass\n").unwrap();
    let go = lab.state().join("colony/files/pollinator/p/data/go");
    lab.run_in(&project, ["run"]).expect_code(0);
    until("the first process runs", || lab.run_in(&project, ["show", "last", "--json"]).json()["process"]["state"] == 1);
    fs::remove_file(project.join("cfs/src/old.py")).unwrap();
    // The second sees no old.py, though the first one's snapshot still lists it.
    lab.run_in(&project, ["run"]).expect_code(0);
    let second = || lab.run_in(&project, ["logs", "last"]).stdout;
    until("the second process has listed its src", || second().contains(']'));
    assert!(second().contains("['main.py']"), "{}", second());
    fs::write(&go, "").unwrap();
    lab.run_in(&project, ["logs", "-f", "last"]).expect_code(0);
    let runs = lab.run_in(&project, ["runs", "--json"]).json();
    let first = runs[1]["process_id"].as_str().unwrap().to_owned();
    lab.run_in(&project, ["logs", "-f", &first]).expect_code(0);
    // With both ended, the row goes with the next synchronization.
    let ended = lab.run_in(&project, ["sync", "src"]).expect_code(0);
    assert!(ended.stderr.contains("Removed src/old.py from the colony"), "{}", ended.stderr);
}

#[test]
fn an_executor_that_nobody_has_is_refused_before_anything_is_sent() {
    let lab = Lab::new();
    let project = lab.project("p", "print()\n");
    let settings = fs::read_to_string(project.join("project.yaml")).unwrap().replace("- local", "- lumi-std");
    fs::write(project.join("project.yaml"), settings).unwrap();
    let refused = lab.run_in(&project, ["run", "-f"]).expect_code(2);
    assert!(
        refused.stderr.contains("no executor named lumi-std") && refused.stderr.contains("there are: local"),
        "{}",
        refused.stderr
    );
    assert!(!refused.stderr.contains("Uploaded"), "{}", refused.stderr);
    lab.run_in(&project, ["run", "-f", "--executor", "local"]).expect_code(0);
}

#[test]
fn json_output_is_one_event_a_line() {
    let lab = Lab::new();
    let project = lab.project("p", "print('said')\n");
    let ended = lab.run_in(&project, ["run", "-f", "--json"]).expect_code(0);
    let events: Vec<Value> =
        ended.stdout.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"))).collect();
    let names: Vec<&str> = events.iter().map(|e| e["event"].as_str().unwrap()).collect();
    for wanted in ["colony-started", "transfer-started", "file-done", "submitted", "process-state", "log", "finished"] {
        assert!(names.contains(&wanted), "{wanted} is missing in {names:?}");
    }
    let log: String = events.iter().filter(|e| e["event"] == "log").map(|e| e["message"].as_str().unwrap()).collect();
    assert_eq!(log, "said\n");
}

#[test]
fn ctrl_c_stops_following_and_the_process_goes_on() {
    let lab = Lab::new();
    let project = lab.project("p", "import os, time\nprint('begun', flush=True)\nwhile not os.path.exists(os.path.join(os.environ['PROJECT_DIR'], 'data', 'go')): time.sleep(0.05)\nprint('ended')\n");
    let mut command = lab.command(["run", "--follow"]);
    let mut child = command.current_dir(&project).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert_eq!(lines.next().unwrap().unwrap(), "begun");
    // SAFETY: sends a signal to a child that was not waited for yet.
    unsafe { libc::kill(i32::try_from(child.id()).unwrap(), libc::SIGINT) };
    let ended = lab::wait(child).expect_code(130);
    assert!(ended.stderr.contains("the process goes on") && ended.stderr.contains("pollinator logs -f"), "{}", ended.stderr);
    fs::write(lab.state().join("colony/files/pollinator/p/data/go"), "").unwrap();
    let followed = lab.run_in(&project, ["logs", "-f"]).expect_code(0);
    assert_eq!(followed.stdout, "begun\nended\n");
}

#[test]
fn a_cancelled_process_ends_its_follower_with_exit_code_3() {
    let lab = Lab::new();
    let project = lab.project("p", "import time\nprint('begun', flush=True)\ntime.sleep(1000)\n");
    let mut command = lab.command(["run", "--follow"]);
    let mut child = command.current_dir(&project).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert_eq!(lines.next().unwrap().unwrap(), "begun");
    lab.run_in(&project, ["cancel", "last"]).expect_code(0);
    let ended = lab::wait(child).expect_code(3);
    assert!(ended.stderr.contains("was cancelled"), "{}", ended.stderr);
    let again = lab.run_in(&project, ["cancel", "last"]).expect_code(1);
    assert!(again.stderr.contains("already cancelled"), "{}", again.stderr);
}

#[test]
fn promise_7_the_last_line_of_a_log_is_shown_and_the_exit_code_is_the_processs_fate() {
    let lab = Lab::new();
    for (name, exit, code) in [("good", 0, 0), ("bad", 9, 3)] {
        let python = format!(
            "import os, sys\nfor n in range(3000): print('line', n)\nprint('the last', end='')\nsys.stdout.flush()\nos._exit({exit})\n"
        );
        let project = lab.project(name, &python);
        let ended = lab.run_in(&project, ["run", "-f"]).expect_code(code);
        let expected: String = (0..3000).map(|n| format!("line {n}\n")).chain(["the last".to_owned()]).collect();
        assert_eq!(ended.stdout, expected);
        let shown = lab.run_in(&project, ["logs", "last"]).expect_code(0);
        assert_eq!(shown.stdout, expected);
    }
}

#[test]
fn an_interrupted_submission_is_found_again_instead_of_submitted_twice() {
    let lab = Lab::new();
    let project = lab.project("p", "import time\ntime.sleep(600)\n");
    lab.run_in(&project, ["run"]).expect_code(0);
    // As after a kill between submission and the note of it.
    let journal = rusqlite::Connection::open(lab.state().join("journal.db")).unwrap();
    journal.execute("UPDATE run SET state = 'intent', process_id = NULL", []).unwrap();
    drop(journal);
    let again = lab.run_in(&project, ["run"]).expect_code(0);
    assert!(again.stderr.contains("had submitted this run already"), "{}", again.stderr);
    let runs = lab.run_in(&project, ["runs", "--json"]).json();
    assert_eq!(runs.as_array().unwrap().len(), 1, "{runs}");
    lab.run_in(&project, ["cancel", "last"]).expect_code(0);
}

#[test]
fn two_commands_on_one_project_take_turns_and_the_second_says_so() {
    use std::io::BufRead;
    let lab = Lab::new();
    let project = lab.project("turns", "print('x')\n");
    lab.run_in(&project, ["sync"]).expect_code(0);
    let locks: Vec<_> = fs::read_dir(lab.state().join("locks")).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert_eq!(locks.len(), 1);
    let first = fs::File::options().write(true).open(&locks[0]).unwrap();
    first.lock().unwrap();
    let mut command = lab.command(["sync"]);
    let mut second = command.current_dir(&project).stderr(std::process::Stdio::piped()).spawn().unwrap();
    let mut said = std::io::BufReader::new(second.stderr.take().unwrap()).lines();
    assert!(said.next().unwrap().unwrap().contains("another pollinator works on this project"));
    assert!(second.try_wait().unwrap().is_none(), "it waits");
    first.unlock().unwrap();
    assert!(second.wait().unwrap().success());
}
