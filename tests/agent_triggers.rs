//! What the `agent` section of project.yaml has the agent do, against the local colony.

#![allow(clippy::unwrap_used, clippy::expect_used)] // A test fails by panicking.

mod agency;
mod lab;

use agency::Agency;
use lab::until;
use serde_json::Value;
use std::fs;
use std::path::Path;
use std::path::PathBuf;

/// A project whose job writes what it saw into its results.
fn project(agency: &Agency, name: &str, section: &str) -> PathBuf {
    let python = "import os\nhere = os.path.dirname(__file__)\nvalue = open(here + '/value').read()\n\
        open(os.environ['RESULT_DIR'] + '/saw-' + value, 'w').write(value)\nprint(value)\n";
    let folder = agency.lab.project(name, python);
    agency.save(&folder, "src/value", "0");
    let file = folder.join("project.yaml");
    let text = fs::read_to_string(&file).unwrap();
    fs::write(&file, format!("{text}agent:\n  notify: false\n{section}")).unwrap();
    folder
}

fn runs(agency: &Agency, project: &Path) -> Vec<Value> {
    agency.lab.run_in(project, ["runs", "--json"]).expect_code(0).json().as_array().unwrap().clone()
}

fn states(agency: &Agency, project: &Path) -> Vec<String> {
    runs(agency, project).iter().map(|run| run["state"].as_str().unwrap().to_owned()).collect()
}

/// Until nothing is under way: in step, and all runs over.
fn quiet(agency: &Agency, project: &Path) {
    until("all is quiet", || {
        let status = agency.project_status(project);
        let over = |run: &Value| !matches!(run["state"].as_str(), Some("intent" | "waiting" | "running"));
        status["in_sync"] == true && status["state"] == "idle" && status["runs"].as_array().unwrap().iter().all(over)
    });
}

#[test]
fn a_save_runs_once_and_only_what_is_new() {
    let agency = Agency::new();
    let project = project(&agency, "once", "  onSave: run\n");
    agency.watch(&project);
    quiet(&agency, &project);
    assert!(runs(&agency, &project).is_empty(), "what is there when a project is added is no save");
    for value in ["1", "2", "3"] {
        agency.save(&project, "src/value", value);
        until("it ran", || project.join(format!("cfs/result/saw-{value}")).exists());
    }
    quiet(&agency, &project);
    assert_eq!(runs(&agency, &project).len(), 3);
    // A save of the same is none, nor is a restart.
    agency.save(&project, "src/value", "3");
    agency.agent(["flush", project.to_str().unwrap()]).expect_code(0);
    agency.agent(["restart"]).expect_code(0);
    quiet(&agency, &project);
    assert_eq!(runs(&agency, &project).len(), 3);
    // What was saved while nobody was there is.
    agency.agent(["stop"]).expect_code(0);
    agency.save(&project, "data/input", "new");
    agency.agent(["start"]).expect_code(0);
    until("it ran", || runs(&agency, &project).len() == 4);
    quiet(&agency, &project);
}

#[test]
fn saves_during_a_run_wait_replace_or_are_left() {
    for (wish, expected) in
        [("queue", vec!["success", "success"]), ("replace", vec!["success", "cancelled"]), ("skip", vec!["success"])]
    {
        let agency = Agency::new();
        let gate = agency.lab.home().join("gate");
        let folder = project(&agency, wish, &format!("  onSave: run\n  whenBusy: {wish}\n"));
        let waits = format!(
            "import os, time\nvalue = open(os.path.dirname(__file__) + '/value').read()\n\
             while value == '1' and not os.path.exists({:?}): time.sleep(0.02)\n\
             open(os.environ['RESULT_DIR'] + '/saw-' + value, 'w').write(value)\n",
            gate.display().to_string()
        );
        fs::write(folder.join("cfs/src/main.py"), waits).unwrap();
        agency.watch(&folder);
        quiet(&agency, &folder);
        agency.save(&folder, "src/value", "1");
        until("the first runs", || states(&agency, &folder) == ["running"]);
        for value in ["2", "3", "4"] {
            agency.save(&folder, "src/value", value);
            agency.agent(["flush", folder.to_str().unwrap()]).expect_code(0);
        }
        if wish == "replace" {
            until("the newest ran instead", || states(&agency, &folder).first().is_some_and(|state| state == "success"));
        }
        fs::write(&gate, "").unwrap();
        quiet(&agency, &folder);
        let mut seen = states(&agency, &folder);
        if wish == "replace" {
            // Each save replaced what ran before; how many of them came to run is a matter of time.
            assert!(seen.len() >= 2 && seen[1..].iter().all(|state| state == "cancelled"), "{seen:?}");
            seen = vec![seen[0].clone(), seen.last().unwrap().clone()];
        }
        assert_eq!(seen, expected, "{wish}");
        let last = if wish == "skip" { "1" } else { "4" };
        until("the results are home", || folder.join(format!("cfs/result/saw-{last}")).exists());
    }
}

#[test]
fn nothing_is_done_on_a_save_where_that_is_the_wish() {
    let agency = Agency::new();
    let folder = project(&agency, "off", "  onSave: off\n");
    agency.agent(["add", folder.to_str().unwrap()]).expect_code(0);
    until("it is watched", || agency.project_status(&folder)["watcher"]["kind"] == "events");
    agency.save(&folder, "src/value", "1");
    let status = agency.project_status(&folder);
    assert_eq!((status["in_sync"].as_bool(), status["state"].as_str()), (Some(false), Some("idle")), "{status:#}");
    let asked = agency.lab.run_in(&folder, ["run", "--follow"]).expect_code(0);
    assert!(asked.stdout.contains('1'), "{}", asked.all());
    // The wish changes, and counts from then on.
    let file = folder.join("project.yaml");
    let text = fs::read_to_string(&file).unwrap();
    fs::write(&file, text.replace("onSave: off", "onSave: sync")).unwrap();
    agency.save(&folder, "src/later", "x");
    agency.until_in_sync(&folder);
    agency.agrees(&folder);
}

#[test]
fn a_project_file_that_is_broken_starts_nothing_and_is_told_of() {
    let agency = Agency::new();
    let folder = project(&agency, "broken", "  onSave: run\n");
    agency.watch(&folder);
    quiet(&agency, &folder);
    let file = folder.join("project.yaml");
    let text = fs::read_to_string(&file).unwrap();
    fs::write(&file, text.replace("walltime: 100", "walltime: ten")).unwrap();
    until("it is told of", || agency.project_status(&folder)["state"] == "error");
    let status = agency.project_status(&folder);
    assert!(status["reason"].as_str().unwrap().contains("project.yaml:"), "{status:#}");
    agency.save(&folder, "src/value", "1");
    fs::write(&file, &text).unwrap();
    until("it runs when it is mended", || folder.join("cfs/result/saw-1").exists());
    quiet(&agency, &folder);
    assert_eq!(runs(&agency, &folder).len(), 1);
}

#[test]
fn results_wait_to_be_asked_for_where_that_is_the_wish() {
    let agency = Agency::new();
    let folder = project(&agency, "ask", "  results: ask\n");
    agency.watch(&folder);
    agency.lab.run_in(&folder, ["run"]).expect_code(0);
    until("they wait", || agency.project_status(&folder)["results_waiting"].as_array().unwrap().len() == 1);
    assert!(!folder.join("cfs/result/saw-0").exists());
    agency.lab.run_in(&folder, ["results", "last"]).expect_code(0);
    assert!(folder.join("cfs/result/saw-0").exists());
    until("they wait no more", || agency.project_status(&folder)["results_waiting"].as_array().unwrap().is_empty());
}

#[test]
fn results_of_runs_at_the_same_time_have_folders_of_their_own() {
    let agency = Agency::new();
    let folder = project(&agency, "apart", "  onSave: sync\nresults: perRun\n");
    agency.watch(&folder);
    agency.lab.run_in(&folder, ["run", "--processes", "3"]).expect_code(0);
    let homes = || {
        let entries = fs::read_dir(folder.join("cfs/result")).unwrap();
        entries.filter(|entry| entry.as_ref().unwrap().path().join("saw-0").exists()).count()
    };
    until("each has its own", || homes() == 3);
}
