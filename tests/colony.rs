//! The local colony as a program in the background: started once, found again, killed, stopped, removed.

#![allow(clippy::unwrap_used, clippy::expect_used)] // A test fails by panicking.

mod lab;

use lab::Lab;
use lab::until;
use std::fs;
use std::io::BufRead;
use std::io::BufReader;
use std::process::Stdio;

/// The process that serves.
fn pid(lab: &Lab) -> i32 {
    let text = fs::read_to_string(lab.state().join("colony/running.json")).unwrap();
    let value: serde_json::Value = serde_json::from_str(&text).unwrap();
    i32::try_from(value["pid"].as_i64().unwrap()).unwrap()
}

fn kill(pid: i32) {
    // SAFETY: sends a signal to the colony of this test.
    assert_eq!(unsafe { libc::kill(pid, libc::SIGKILL) }, 0);
}

fn is_alive(pid: i32) -> bool {
    // SAFETY: signal 0 only asks.
    unsafe { libc::kill(pid, 0) == 0 }
}

#[test]
fn it_is_started_once_found_again_and_stopped() {
    let lab = Lab::new();
    assert!(lab.run(["colony", "status"]).expect_code(0).stdout.contains("does not run"));
    let starters: Vec<_> =
        (0..6).map(|_| lab.command(["colony", "start"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()).collect();
    let told: Vec<String> = starters.into_iter().map(|child| lab::wait(child).expect_code(0).stdout).collect();
    assert_eq!(told.iter().filter(|text| text.contains("started")).count(), 1, "{told:?}");
    let before = lab.run(["colony", "status", "--json"]).expect_code(0).json();
    assert_eq!(before["running"], true);
    lab.run(["colony", "stop"]).expect_code(0);
    assert!(lab.run(["colony", "stop"]).expect_code(0).stdout.contains("was not running"));
    lab.run(["colony", "start"]).expect_code(0);
    assert_eq!(lab.run(["colony", "status", "--json"]).json(), before, "the ports are kept");
}

#[test]
fn a_port_that_somebody_else_has_now_is_replaced() {
    let lab = Lab::new();
    lab.run(["colony", "start"]).expect_code(0);
    let before = lab.run(["colony", "status", "--json"]).json();
    lab.run(["colony", "stop"]).expect_code(0);
    let address = before["server"].as_str().unwrap();
    let taken = std::net::TcpListener::bind(address).unwrap();
    lab.run(["colony", "start"]).expect_code(0);
    let after = lab.run(["colony", "status", "--json"]).json();
    assert_ne!(after["server"], before["server"]);
    drop(taken);
    let project = lab.project("p", "print('runs')\n");
    lab.run_in(&project, ["run", "-f"]).expect_code(0);
}

#[test]
fn killed_during_a_job_it_starts_again_and_nothing_is_lost_or_doubled() {
    let lab = Lab::new();
    let python = "import os, time\nresult = os.environ['PROJECT_DIR'] + '/result/'\nopen(result + 'times', 'a').write('once\\n')\nfor n in range(60):\n    print('line', n, flush=True)\n    time.sleep(0.05)\nopen(result + 'done', 'w').write('done')\n";
    let project = lab.project("p", python);
    let mut command = lab.command(["run", "--follow"]);
    let mut child = command.current_dir(&project).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert_eq!(lines.next().unwrap().unwrap(), "line 0");
    kill(pid(&lab));
    // The follower sees to it that the colony comes back, and misses nothing.
    let rest: Vec<String> = lines.map(Result::unwrap).collect();
    let expected: Vec<String> = (1..60).map(|n| format!("line {n}")).collect();
    assert_eq!(rest, expected);
    lab::wait(child).expect_code(0);
    assert_eq!(fs::read_to_string(project.join("cfs/result/times")).unwrap(), "once\n");
    assert_eq!(fs::read_to_string(project.join("cfs/result/done")).unwrap(), "done");
    let runs = lab.run_in(&project, ["runs", "--json"]).expect_code(0).json();
    assert_eq!((runs.as_array().unwrap().len(), runs[0]["state"].as_str()), (1, Some("success")));
}

#[test]
fn reset_is_refused_while_a_process_runs_and_ends_it_when_forced() {
    let lab = Lab::new();
    let project = lab.project("p", "import os, time\nprint('pid', os.getpid(), flush=True)\ntime.sleep(600)\n");
    lab.run_in(&project, ["run"]).expect_code(0);
    let log = || lab.run_in(&project, ["logs", "last"]).stdout;
    until("the job has said its process id", || log().starts_with("pid "));
    let job: i32 = log().trim().trim_start_matches("pid ").parse().unwrap();
    let refused = lab.run(["colony", "reset"]).expect_code(1);
    assert!(refused.stderr.contains("1 process(es) still run") && refused.stderr.contains("--force"), "{}", refused.stderr);
    lab.run(["colony", "reset", "--force"]).expect_code(0);
    until("the job has ended", || !is_alive(job));
    assert!(!lab.state().join("colony").exists());
    // A new colony knows nothing of the old one, and the project runs there as it is.
    fs::write(project.join("cfs/src/main.py"), "print('anew')\n").unwrap();
    assert_eq!(lab.run_in(&project, ["run", "-f"]).expect_code(0).stdout, "anew\n");
}

#[test]
fn a_colony_that_cannot_start_says_why() {
    let lab = Lab::new();
    fs::create_dir_all(lab.state().join("colony")).unwrap();
    fs::write(lab.state().join("colony/colony.db"), vec![7u8; 8192]).unwrap();
    let failed = lab.run(["colony", "start"]).expect_code(1);
    assert!(failed.stderr.contains("did not start") && failed.stderr.contains("not a database"), "{}", failed.stderr);
    fs::remove_dir_all(lab.state().join("colony")).unwrap();
}

#[test]
fn its_keys_are_for_their_owner_only_and_in_no_log() {
    use std::os::unix::fs::PermissionsExt;
    let lab = Lab::new();
    let project = lab.project("p", "import os\nprint(sorted(os.environ))\n");
    let ended = lab.run_in(&project, ["-v", "run", "-f"]).expect_code(0);
    assert!(!ended.stdout.contains("AWS_S3") && !ended.stdout.contains("PRVKEY"), "{}", ended.stdout);
    let settings = lab.state().join("colony/colony.json");
    assert_eq!(fs::metadata(&settings).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(fs::metadata(lab.state().join("colony")).unwrap().permissions().mode() & 0o777, 0o700);
    let keys: serde_json::Value = serde_json::from_str(&fs::read_to_string(settings).unwrap()).unwrap();
    let log = fs::read_to_string(lab.state().join("colony/colony.log")).unwrap();
    for (name, key) in keys.as_object().unwrap().iter().filter(|(name, _)| name.ends_with("_key") && *name != "access_key") {
        let key = key.as_str().unwrap();
        assert!(!ended.all().contains(key) && !log.contains(key), "{name} was printed");
    }
}
