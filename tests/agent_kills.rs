//! The agent is killed at random moments under load, again and again. `POLLINATOR_KILLS=1000` kills it more often.

#![allow(clippy::unwrap_used, clippy::expect_used)] // A test fails by panicking.

mod agency;
mod lab;

use agency::Agency;
use lab::until;
use serde_json::Value;
use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// Kills where nothing is said.
const KILLS: u64 = 60;

/// The job tells what it saw, and fails where a file is not whole.
const JOB: &str = r#"
import os
here = os.path.dirname(__file__)
data = os.environ['PROJECT_DIR'] + '/data'
seen = []
for folder, name in [(here, 'value'), (data, 'value'), (data, 'large')]:
    words = open(folder + '/' + name).read().split()
    assert words and len(set(words)) == 1 and len(words) in (1, 40000), (name, len(words), set(words))
    seen.append(words[0])
out = os.environ['RESULT_DIR'] + '/' + os.environ['COLONIES_PROCESS_ID']
open(out, 'w').write(' '.join(seen))
"#;

struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % n
    }
}

/// Ends the writing, also where the test fails.
struct Ends<'a>(&'a AtomicBool);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Relaxed);
    }
}

/// Saves as an editor does: whole, by a rename.
fn save(path: &Path, text: &str) {
    let new = path.with_extension("new~");
    fs::write(&new, text).unwrap();
    fs::rename(new, path).unwrap();
}

fn write_all(project: &Path, number: u64) {
    save(&project.join("cfs/data/large"), &format!("{number} ").repeat(40_000));
    save(&project.join("cfs/data/value"), &number.to_string());
    save(&project.join("cfs/src/value"), &number.to_string());
}

#[test]
fn promise_4_an_agent_that_is_killed_at_any_moment_submits_each_state_once_and_brings_every_result_home() {
    let kills = std::env::var("POLLINATOR_KILLS").ok().and_then(|text| text.parse().ok()).unwrap_or(KILLS);
    let seed = u64::from(std::process::id());
    let agency = Agency::new();
    let project = agency.lab.project("killed", JOB);
    let file = project.join("project.yaml");
    let text = fs::read_to_string(&file).unwrap();
    fs::write(&file, format!("{text}agent:\n  onSave: run\n  quiet: 50ms\n  notify: false\n")).unwrap();
    write_all(&project, 0);
    agency.watch(&project);
    let writing = AtomicBool::new(true);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut random = Random(seed ^ 1);
            let mut number = 0;
            while writing.load(Ordering::Relaxed) {
                number += 1;
                write_all(&project, number);
                // People pause between saves; without a pause nothing is ever still.
                std::thread::sleep(Duration::from_millis(50 + random.below(400)));
            }
        });
        let _end = Ends(&writing);
        let mut random = Random(seed);
        for _ in 0..kills {
            // Any moment is meant: of the start, of a look, of an upload, of a submission.
            std::thread::sleep(Duration::from_millis(random.below(700)));
            agency.kill();
            agency.agent(["start"]).expect_code(0);
        }
    });
    until("all is quiet", || {
        let status = agency.project_status(&project);
        status["in_sync"] == true && status["state"] == "idle" && open_processes(&agency).is_empty()
    });
    judge(&agency, &project, seed);
}

fn processes(agency: &Agency) -> Vec<Value> {
    let runs = agency.lab.run(["runs", "--all", "--json"]).expect_code(0).json();
    runs.as_array().unwrap().clone()
}

fn open_processes(agency: &Agency) -> Vec<String> {
    let is_open = |run: &&Value| matches!(run["state"].as_str(), Some("intent" | "waiting" | "running"));
    processes(agency).iter().filter(is_open).map(|run| run["run_id"].to_string()).collect()
}

fn judge(agency: &Agency, project: &Path, seed: u64) {
    agency.agrees(project);
    let mut runs: Vec<Value> = processes(agency).into_iter().filter(|run| run["state"] != "lost").collect();
    runs.reverse();
    assert!(runs.len() > 3, "seed {seed}: {} runs", runs.len());
    let ids: BTreeSet<&str> = runs.iter().map(|run| run["process_id"].as_str().unwrap()).collect();
    assert_eq!(ids.len(), runs.len(), "seed {seed}: a process stands twice in the books");
    // The colony knows of no process that our books do not: each run was submitted once.
    let there = processes_of_colony(agency);
    assert_eq!(there.keys().map(String::as_str).collect::<BTreeSet<_>>(), ids, "seed {seed}");
    let labels: BTreeSet<&String> = there.values().collect();
    assert_eq!(labels.len(), there.len(), "seed {seed}: one run has two processes");
    for run in &runs {
        assert_eq!(run["state"], "success", "seed {seed}: {run:#}");
        assert!(!run["results_fetched"].is_null(), "seed {seed}: results that never came home: {run:#}");
    }
    let saw = |run: &Value| fs::read_to_string(project.join("cfs/result").join(run["process_id"].as_str().unwrap())).unwrap();
    for pair in runs.windows(2) {
        assert_ne!(saw(&pair[0]), saw(&pair[1]), "seed {seed}: the same inputs ran twice");
    }
    let last = fs::read_to_string(project.join("cfs/src/value")).unwrap();
    assert_eq!(saw(runs.last().unwrap()), format!("{last} {last} {last}"), "seed {seed}: the last run ran the last save");
}

/// Processes as the server knows them, with our ids of their runs.
fn processes_of_colony(agency: &Agency) -> BTreeMap<String, String> {
    use pollinator::colonies::Client;
    use pollinator::colonies::ProcessFilter;
    use pollinator::colonies::ProcessState;
    use pollinator::config::Sources;
    pollinator::net::install_crypto_provider();
    let mut environment: BTreeMap<String, String> =
        serde_json::from_value(agency.lab.run(["colony", "env", "--json"]).expect_code(0).json()).unwrap();
    environment.insert("POLLINATOR_STATE_DIR".into(), agency.lab.state().display().to_string());
    environment.insert("HOME".into(), agency.lab.home().display().to_string());
    let settings = pollinator::config::load(&Sources { environment, profile: None }).unwrap();
    let client = Client::new(settings.colony.as_ref().unwrap()).unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let mut all = BTreeMap::new();
        for number in 0..=4 {
            let Some(state) = ProcessState::from_number(number) else { continue };
            for process in client.processes(state, 100, &ProcessFilter::None).await.unwrap() {
                all.insert(process.processid, process.spec.label);
            }
        }
        assert!(all.len() < 100, "the server lists no more");
        all
    })
}
