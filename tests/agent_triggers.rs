//! The `agent` section of project.yaml, as people live with it.

#![allow(clippy::unwrap_used, clippy::expect_used)] // A test fails by panicking.

mod agency;
mod lab;

use agency::Agency;
use lab::until;
use serde_json::Value;
use std::fs;
use std::path::Path;
use std::path::PathBuf;

/// Brings home what it saw, once its gate is open.
const JOB: &str = "import os, time
here = os.path.dirname(__file__)
value = open(here + '/value').read()
while not os.path.exists(open(here + '/gate').read()): time.sleep(0.02)
open(os.environ['RESULT_DIR'] + '/saw-' + value, 'w').write(value)
";

/// A project with wishes, its gate, and its agent.
struct Site {
    agency: Agency,
    project: PathBuf,
    gate: PathBuf,
    settings: String,
}

impl Site {
    fn new(wishes: &str) -> Site {
        let agency = Agency::new();
        let project = agency.lab.project("wishes", JOB);
        let gate = agency.lab.home().join("gate");
        agency.save(&project, "src/gate", gate.to_str().unwrap());
        agency.save(&project, "src/value", "0");
        let settings = fs::read_to_string(project.join("project.yaml")).unwrap();
        let site = Site { agency, project, gate, settings };
        site.wish(wishes);
        site.agency.agent(["add", site.project.to_str().unwrap()]).expect_code(0);
        site
    }

    fn in_sync(wishes: &str) -> Site {
        let site = Site::new(wishes);
        site.agency.until_in_sync(&site.project);
        site
    }

    fn wish(&self, wishes: &str) {
        fs::write(self.project.join("project.yaml"), format!("{}{wishes}", self.settings)).unwrap();
    }

    fn save(&self, value: u32) {
        self.agency.save(&self.project, "src/value", &value.to_string());
    }

    /// All that was saved before is stored, and what it is to start was started.
    fn settled(&self) {
        self.agency.agent(["flush", self.project.to_str().unwrap()]).expect_code(0);
        self.agency.until_in_sync(&self.project);
    }

    fn open_gate(&self) {
        fs::write(&self.gate, "").unwrap();
    }

    fn status(&self) -> Value {
        self.agency.project_status(&self.project)
    }

    /// Runs, newest first.
    fn runs(&self) -> Vec<Value> {
        let runs = self.agency.lab.run_in(&self.project, ["runs", "--json"]).expect_code(0).json();
        runs.as_array().unwrap().clone()
    }

    #[track_caller]
    fn until_runs(&self, states: &[&str]) {
        until(&format!("runs are {states:?}"), || {
            let runs = self.runs();
            runs.iter().map(|run| run["state"].as_str().unwrap()).eq(states.iter().copied())
        });
    }

    fn is_home(&self, value: u32) -> bool {
        let path = self.project.join(format!("cfs/result/saw-{value}"));
        fs::read_to_string(path).is_ok_and(|text| text == value.to_string())
    }

    #[track_caller]
    fn until_home(&self, value: u32) {
        until(&format!("{value} is home"), || self.is_home(value));
    }
}

const RUN: &str = "agent:\n  onSave: run\n";

#[test]
fn a_save_starts_one_run_of_the_newest_state_and_nothing_else_starts_any() {
    let site = Site::in_sync(RUN);
    site.open_gate();
    site.settled();
    assert_eq!(site.runs().len(), 0, "it was only added");
    let file = fs::File::options().append(true).open(site.project.join("cfs/src/value")).unwrap();
    file.set_modified(std::time::SystemTime::now()).unwrap();
    drop(file);
    site.save(0);
    site.settled();
    (1..=5).for_each(|value| site.save(value));
    site.until_home(5);
    site.settled();
    site.until_runs(&["success"]);
    site.agency.agent(["restart"]).expect_code(0);
    site.settled();
    site.save(6);
    site.until_home(6);
    site.until_runs(&["success", "success"]);
}

#[test]
fn queue_makes_one_run_of_the_newest_state_when_the_one_under_way_has_ended() {
    let site = Site::in_sync(RUN);
    site.save(1);
    site.until_runs(&["running"]);
    for value in 2..=4 {
        site.save(value);
        site.settled();
    }
    site.until_runs(&["running"]);
    site.open_gate();
    site.until_home(4);
    site.until_runs(&["success", "success"]);
    assert!(site.is_home(1) && !site.is_home(2) && !site.is_home(3));
}

#[test]
fn replace_cancels_the_run_under_way() {
    let site = Site::in_sync(&format!("{RUN}  whenBusy: replace\n"));
    site.save(1);
    site.until_runs(&["running"]);
    site.save(2);
    site.until_runs(&["running", "cancelled"]);
    site.open_gate();
    site.until_home(2);
    site.until_runs(&["success", "cancelled"]);
    assert!(!site.is_home(1));
}

#[test]
fn skip_starts_nothing_while_a_run_is_under_way() {
    let site = Site::in_sync(&format!("{RUN}  whenBusy: skip\n"));
    site.save(1);
    site.until_runs(&["running"]);
    site.save(2);
    site.settled();
    site.open_gate();
    site.until_home(1);
    site.settled();
    site.until_runs(&["success"]);
    site.save(3);
    site.until_home(3);
    site.until_runs(&["success", "success"]);
}

#[test]
fn off_brings_nothing_over_until_the_settings_say_otherwise() {
    let site = Site::new("agent:\n  onSave: off\n");
    until("it is watched", || site.status()["watcher"]["kind"] == "events");
    site.save(1);
    let diff = || site.agency.lab.run_in(&site.project, ["diff", "src"]).expect_code(0).all();
    until("the save is noticed", || site.status()["in_sync"] == false);
    assert!(diff().contains("src/value"), "{}", diff());
    assert_eq!((site.status()["in_sync"].as_bool(), site.runs().len()), (Some(false), 0));
    site.wish("agent:\n  onSave: sync\n");
    site.agency.until_in_sync(&site.project);
    site.agency.agrees(&site.project);
    site.wish("agent:\n  onSave: off\n");
    until("it is read", || site.status()["in_sync"] == false);
    site.save(2);
    assert!(diff().contains("src/value"), "{}", diff());
}

#[test]
fn results_that_are_to_be_asked_for_wait() {
    let site = Site::in_sync("agent:\n  results: ask\n");
    site.save(1);
    site.open_gate();
    site.agency.lab.run_in(&site.project, ["run"]).expect_code(0);
    until("they wait", || site.status()["results_waiting"].as_array().is_some_and(|runs| runs.len() == 1));
    assert!(!site.is_home(1));
    site.agency.lab.run_in(&site.project, ["results"]).expect_code(0);
    assert!(site.is_home(1));
    until("they wait no more", || site.status()["results_waiting"].as_array().is_none_or(Vec::is_empty));
}

#[test]
fn runs_with_folders_of_their_own_come_home_into_these() {
    let site = Site::in_sync("results: perRun\n");
    site.save(1);
    site.agency.lab.run_in(&site.project, ["run"]).expect_code(0);
    site.save(2);
    site.agency.lab.run_in(&site.project, ["run"]).expect_code(0);
    site.open_gate();
    until("both are home", || site.runs().iter().all(|run| !run["results_fetched"].is_null()));
    for (run, value) in site.runs().iter().zip(["2", "1"]) {
        let folder = site.project.join("cfs/result").join(&run["run_id"].as_str().unwrap()[..12]);
        assert_eq!(fs::read_to_string(folder.join(format!("saw-{value}"))).unwrap(), value);
    }
}

#[test]
fn a_broken_project_yaml_is_told_of_by_its_line_and_starts_nothing_until_it_is_mended() {
    let site = Site::in_sync(RUN);
    site.open_gate();
    site.wish("agent:\n  onSave: rnu\n");
    until("it is told of", || site.status()["state"] == "error");
    let status = site.status();
    let line = site.settings.lines().count() + 2;
    assert!(status["reason"].as_str().unwrap().contains(&format!("project.yaml:{line}")), "{status:#}");
    site.save(1);
    until("the save is noticed", || site.status()["pending"]["files"] != 0);
    assert_eq!(site.status()["in_sync"], false);
    assert_eq!(site.status()["runs"].as_array().unwrap().len(), 0);
    site.wish(RUN);
    site.until_home(1);
    site.until_runs(&["success"]);
    assert!(Path::new(&site.gate).exists());
}
