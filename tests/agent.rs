//! The agent, as people live with it: against the local colony.

#![allow(clippy::unwrap_used, clippy::expect_used)] // A test fails by panicking.

mod agency;
mod lab;

use agency::Agency;
use agency::ended;
use agency::signal;
use lab::until;
use lab::wait;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Stdio;
use std::time::Duration;
use std::time::Instant;

const PRINT: &str = "import os\nfor n in sorted(os.listdir(os.path.dirname(__file__))): print(n)\nprint('ran')\n";

#[test]
fn what_is_saved_is_stored_without_a_word_said() {
    let agency = Agency::new();
    let project = agency.lab.project("saved", PRINT);
    agency.save(&project, "data/stays", "x");
    agency.watch(&project);
    agency.agrees(&project);
    let save = |path: &str, text: &str| {
        agency.save(&project, path, text);
        until("it is noticed and stored", || agency.project_status(&project)["in_sync"] == true && stored(&agency, &project));
    };
    save("src/a.txt", "one");
    save("src/a.txt", "two");
    save("data/deep/er/b", "three");
    fs::rename(project.join("cfs/data/deep"), project.join("cfs/data/moved")).unwrap();
    until("a folder that moved is stored", || stored(&agency, &project));
    fs::remove_dir_all(project.join("cfs/data/moved")).unwrap();
    fs::remove_file(project.join("cfs/src/a.txt")).unwrap();
    until("removals arrive", || stored(&agency, &project));
    agency.until_in_sync(&project);
    agency.agrees(&project);
}

/// Whether nothing is left to do, asked of the colony.
fn stored(agency: &Agency, project: &std::path::Path) -> bool {
    let diff = agency.lab.run_in(project, ["diff", "src", "data"]).expect_code(0);
    !diff.all().contains("upload") && !diff.all().contains("remove")
}

#[test]
fn promise_2_a_run_sees_every_save_that_was_finished_before_its_command_began() {
    let agency = Agency::new();
    let python = "import os\nhere = os.path.dirname(__file__)\n\
        print(open(here + '/value').read(), open(os.environ['PROJECT_DIR'] + '/data/d/e/value').read(), sep='-')\n";
    let project = agency.lab.project("barrier", python);
    agency.save(&project, "src/value", "none");
    agency.save(&project, "data/d/e/value", "none");
    agency.watch(&project);
    for round in 0..12 {
        let value = format!("{round}");
        // At once before the command, in places that are watched and in ones that are new.
        fs::remove_dir_all(project.join("cfs/data/d")).unwrap();
        agency.save(&project, "data/d/e/value", &value);
        let new = project.join("cfs/src/.value.new");
        fs::write(&new, &value).unwrap();
        fs::rename(&new, project.join("cfs/src/value")).unwrap();
        let ran = agency.lab.run_in(&project, ["run", "--follow"]).expect_code(0);
        assert!(ran.stdout.contains(&format!("{round}-{round}\n")), "round {round}: {}", ran.all());
    }
}

#[test]
fn a_run_of_what_is_in_step_asks_the_store_nothing() {
    let agency = Agency::new();
    let project = agency.lab.project("fresh", PRINT);
    agency.watch(&project);
    agency.lab.run_in(&project, ["run", "--follow"]).expect_code(0);
    agency.until_in_sync(&project);
    let first = agency.lab.run_in(&project, ["run", "--json"]).expect_code(0);
    let events: Vec<&str> = first.stdout.lines().filter(|line| line.contains("\"event\"")).collect();
    assert_eq!(events.len(), 1, "{events:?}");
    assert!(events[0].contains("submitted"));
    let runs = agency.lab.run_in(&project, ["runs", "--json"]).expect_code(0).json();
    let snapshots: Vec<&str> = runs.as_array().unwrap().iter().map(|run| run["snapshot_id"].as_str().unwrap()).collect();
    assert_eq!(snapshots[0], snapshots[1], "the snapshot serves again");
}

#[test]
fn results_come_home_by_themselves() {
    let agency = Agency::new();
    let python = "import os\nopen(os.environ['PROJECT_DIR'] + '/result/' + open(os.path.dirname(__file__) + '/name').read(), 'w').write('home')\n";
    let project = agency.lab.project("home", python);
    agency.save(&project, "src/name", "first");
    agency.watch(&project);
    agency.lab.run_in(&project, ["run"]).expect_code(0);
    let is_home = |name: &str| fs::read_to_string(project.join("cfs/result").join(name)).is_ok_and(|text| text == "home");
    until("the first is home", || is_home("first"));
    // While the agent was down, and of a command that worked alone.
    agency.agent(["stop"]).expect_code(0);
    agency.save(&project, "src/name", "second");
    let alone = agency.lab.run_in(&project, ["run"]).expect_code(0);
    assert!(!alone.all().contains("agent"), "{}", alone.all());
    until("the process has ended", || {
        let shown = agency.lab.run_in(&project, ["show", "last", "--json"]).expect_code(0).json();
        shown["run"]["state"] == "success"
    });
    assert!(!is_home("second"));
    agency.agent(["start"]).expect_code(0);
    until("the second is home", || is_home("second"));
    let runs = agency.lab.run_in(&project, ["runs", "--json"]).expect_code(0).json();
    until("both are in the books", || {
        let runs = agency.lab.run_in(&project, ["runs", "--json"]).expect_code(0).json();
        runs.as_array().unwrap().iter().all(|run| !run["results_fetched"].is_null())
    });
    assert_eq!(runs.as_array().unwrap().len(), 2);
}

#[test]
fn who_follows_brings_his_results_home_himself_and_what_he_leaves_the_agent_does() {
    let agency = Agency::new();
    let python = "import os, time\nwhile not os.path.exists(os.environ['GATE']): time.sleep(0.02)\nopen(os.environ['PROJECT_DIR'] + '/result/out', 'w').write('x')\n";
    let gate = agency.lab.home().join("gate");
    let python = python.replace("os.environ['GATE']", &format!("{:?}", gate.display().to_string()));
    let project = agency.lab.project("claims", &python);
    agency.watch(&project);
    fs::write(&gate, "").unwrap();
    let followed = agency.lab.run_in(&project, ["run", "--follow"]).expect_code(0);
    assert!(followed.all().contains("Downloaded result/out"), "{}", followed.all());
    fs::remove_file(&gate).unwrap();
    fs::remove_file(project.join("cfs/result/out")).unwrap();
    let mut command = agency.lab.command(["run", "--follow"]);
    let child = command.current_dir(&project).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    until("it runs", || agency.project_status(&project)["runs"][0]["state"] == "running");
    signal(child.id(), 9);
    wait(child);
    fs::write(&gate, "").unwrap();
    until("the agent brought it home", || agency.project_status(&project)["runs"][0]["fetched"] == true);
}

#[test]
fn there_is_one_agent_and_it_ends_when_told() {
    let agency = Agency::without_agent();
    assert!(agency.agent(["status"]).expect_code(4).stderr.contains("pollinatord start"));
    let mut first = agency.foreground();
    let second = agency.agent(Vec::<&str>::new()).expect_code(1);
    assert!(second.stderr.contains(&format!("process {}", first.id())), "{}", second.all());
    assert!(agency.agent(["start"]).expect_code(0).stdout.contains("already"));
    let mode = |name: &str| fs::metadata(agency.lab.state().join(name)).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode("agent.sock"), mode("agent.lock"), mode("")), (0o600, 0o600, 0o700));
    signal(first.id(), 1);
    assert_eq!(agency.status()["agent"]["pid"], first.id());
    let began = Instant::now();
    signal(first.id(), 15);
    assert_eq!(ended(&mut first), Some(0));
    assert!(began.elapsed() < Duration::from_secs(5));
    assert!(!agency.lab.state().join("agent.sock").exists());
    // One that was killed leaves a socket behind, and the next one starts all the same.
    agency.agent(["start"]).expect_code(0);
    agency.kill();
    assert!(agency.lab.state().join("agent.sock").exists());
    assert_eq!(agency.agent(["status"]).code, Some(4));
    agency.agent(["start"]).expect_code(0);
    agency.agent(["restart"]).expect_code(0);
    agency.agent(["stop"]).expect_code(0);
    assert!(agency.agent(["stop"]).expect_code(0).stdout.contains("no agent ran"));
}

#[test]
fn projects_and_pauses_survive_restarts() {
    let agency = Agency::new();
    let project = agency.lab.project("kept", PRINT);
    agency.watch(&project);
    agency.agent(["pause", project.to_str().unwrap(), "--for", "1h"]).expect_code(0);
    agency.save(&project, "src/later", "x");
    until("the save is noticed", || agency.project_status(&project)["pending"]["files"] == 1);
    let status = agency.project_status(&project);
    assert_eq!((status["state"].as_str(), status["in_sync"].as_bool()), (Some("paused"), Some(false)));
    assert!(!status["paused_until"].is_null());
    agency.agent(["restart"]).expect_code(0);
    until("it is paused again", || agency.project_status(&project)["state"] == "paused");
    agency.agent(["resume"]).expect_code(0);
    agency.until_in_sync(&project);
    agency.agrees(&project);
    // Its folder goes and comes back.
    let aside = agency.lab.home().join("aside");
    fs::rename(&project, &aside).unwrap();
    until("it is missed", || agency.project_status(&project)["state"] == "missing");
    assert_eq!(agency.agent(["status"]).code, Some(1));
    fs::rename(&aside, &project).unwrap();
    agency.save(&project, "src/back", "x");
    until("it is found", || agency.project_status(&project)["in_sync"] == true);
    agency.agrees(&project);
    agency.agent(["remove", project.to_str().unwrap()]).expect_code(0);
    assert!(agency.status()["projects"].as_array().unwrap().is_empty());
    let unknown = agency.agent(["flush", project.to_str().unwrap()]).expect_code(2);
    assert!(unknown.stderr.contains("pollinatord add"), "{}", unknown.all());
}

#[test]
fn flush_returns_when_all_is_stored_and_says_what_is_not() {
    let agency = Agency::new();
    let project = agency.lab.project("flush", PRINT);
    agency.watch(&project);
    for round in 0..10 {
        agency.save(&project, &format!("src/new-{round}/f"), "x");
        agency.save(&project, "data/same", &round.to_string());
        agency.agent(["flush", project.to_str().unwrap()]).expect_code(0);
        agency.agrees(&project);
    }
    use std::os::unix::ffi::OsStrExt;
    let bad = project.join("cfs/src").join(std::ffi::OsStr::from_bytes(b"bad\xff"));
    fs::write(&bad, "x").unwrap();
    agency.save(&project, "src/good", "x");
    let flushed = agency.agent(["flush", project.to_str().unwrap()]).expect_code(1);
    assert!(flushed.stderr.contains("not UTF-8"), "{}", flushed.all());
    let status = agency.project_status(&project);
    assert_eq!((status["state"].as_str(), status["in_sync"].as_bool()), (Some("error"), Some(false)));
    fs::remove_file(&bad).unwrap();
    agency.until_in_sync(&project);
    agency.agrees(&project);
}

#[test]
fn what_is_being_written_is_not_stored_by_halves() {
    use std::io::Write;
    let agency = Agency::new();
    let project = agency.lab.project("halves", PRINT);
    agency.watch(&project);
    let path = project.join("cfs/data/big");
    let mut file = fs::File::create(&path).unwrap();
    file.write_all(&[b'a'; 100_000]).unwrap();
    agency.save(&project, "data/other", "x");
    until("the other is stored", || {
        let status = agency.project_status(&project);
        status["pending"]["files"] == 1 && !status["last_sync"].is_null() && status["state"] == "settling"
    });
    let status = agency.project_status(&project);
    assert_eq!((status["writing"][0].as_str(), status["in_sync"].as_bool()), (Some("data/big"), Some(false)));
    let diff = agency.lab.run_in(&project, ["diff", "data"]).expect_code(0);
    assert!(diff.stdout.contains("big") && !diff.stdout.contains("other"), "{}", diff.all());
    file.write_all(&[b'b'; 100_000]).unwrap();
    drop(file);
    agency.until_in_sync(&project);
    agency.agrees(&project);
}

#[test]
fn a_colony_that_is_gone_for_a_while_is_told_of_and_nothing_is_lost() {
    let agency = Agency::new();
    let project = agency.lab.project("gone", PRINT);
    agency.watch(&project);
    agency.lab.run(["colony", "stop"]).expect_code(0);
    agency.save(&project, "src/meanwhile", "x");
    until("it is told of", || agency.project_status(&project)["state"] == "offline");
    let status = agency.project_status(&project);
    assert!(status["reason"].is_string() && status["next_try"].is_string(), "{status:#}");
    assert_eq!(agency.agent(["status"]).code, Some(1));
    agency.lab.run(["colony", "start"]).expect_code(0);
    agency.until_in_sync(&project);
    agency.agrees(&project);
}

#[test]
fn status_is_told_as_it_changes() {
    use std::io::BufRead;
    let agency = Agency::new();
    let project = agency.lab.project("live", PRINT);
    agency.watch(&project);
    let mut command = agency.agent_command(["status", "--watch", "--json"]);
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = std::io::BufReader::new(child.stdout.take().unwrap()).lines();
    let mut next = || -> serde_json::Value { serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap() };
    assert_eq!(next()["projects"][0]["in_sync"], true);
    agency.save(&project, "src/new", "x");
    while next()["projects"][0]["in_sync"] != false {}
    while next()["projects"][0]["in_sync"] != true {}
    child.kill().unwrap();
    child.wait().unwrap();
}
