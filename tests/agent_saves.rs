//! Saves in quick succession while a run is under way, against the local colony.

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
