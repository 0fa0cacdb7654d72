//! kill -9 of the agent at random moments, while somebody saves all the time and every save is a run.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)] // In tests a panic is the message, and seeds are printed.

mod agency;
mod chaos;
mod lab;

use agency::Agency;
use chaos::Colony;
use lab::until;
use serde_json::Value;
use std::collections::BTreeSet;
use std::path::Path;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// A file that holds a number is whole where it holds it so many times.
const TIMES: usize = 2000;
/// Every so many saves of src, data is saved as well.
const DATA_EVERY: usize = 20;

/// Fails where what it sees is not whole; tells what it saw.
const JOB: &str = "import os, sys
def whole(path):
    words = open(path).read().split()
    if len(words) != 2000 or len(set(words)) != 1: sys.exit('torn: ' + path)
    return words[0]
src = whole(os.path.dirname(__file__) + '/value')
data = whole(os.environ['PROJECT_DIR'] + '/data/value')
open(os.environ['RESULT_DIR'] + '/seen', 'w').write(src + ' ' + data)
";

/// Saves as careful editors do: beside the trees, then in its place.
fn save(project: &Path, below: &str, number: usize) {
    let aside = project.join("aside");
    std::fs::write(&aside, format!("{number} ").repeat(TIMES)).unwrap();
    std::fs::rename(&aside, project.join("cfs").join(below)).unwrap();
}

/// Somebody who saves without end.
struct Writer {
    stop: Arc<AtomicBool>,
    saved: Arc<AtomicUsize>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Writer {
    fn start(project: PathBuf) -> Writer {
        let (stop, saved) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let (is_over, count) = (Arc::clone(&stop), Arc::clone(&saved));
        let thread = std::thread::spawn(move || {
            while !is_over.load(Ordering::SeqCst) {
                let number = count.fetch_add(1, Ordering::SeqCst) + 1;
                save(&project, "src/value", number);
                if number % DATA_EVERY == 0 {
                    save(&project, "data/value", number);
                }
                // The pace of the load.
                std::thread::sleep(Duration::from_millis(40 + (number as u64 * 37) % 400));
            }
        });
        Writer { stop, saved, thread: Some(thread) }
    }

    fn end(mut self) -> usize {
        self.stop.store(true, Ordering::SeqCst);
        self.thread.take().unwrap().join().unwrap();
        self.saved.load(Ordering::SeqCst)
    }
}

fn kills() -> usize {
    std::env::var("POLLINATOR_KILLS").map_or(150, |number| number.parse().expect("POLLINATOR_KILLS is a number"))
}

/// Starts the agent and kills it, again and again, at moments that the seed says.
fn kill_again_and_again(agency: &Agency, kills: usize, seed: u64) {
    let mut random = seed;
    for _ in 0..kills {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let mut command = agency.agent_command(Vec::<&str>::new());
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        // The moment of the kill: from before it answers to the middle of what it does.
        std::thread::sleep(Duration::from_millis((random >> 33) % 1000));
        assert!(child.try_wait().unwrap().is_none(), "it ended by itself");
        child.kill().unwrap();
        child.wait().unwrap();
    }
}

fn runs(agency: &Agency, project: &Path) -> Vec<Value> {
    let mut runs = agency.lab.run_in(project, ["runs", "--json", "--limit", "100000"]).expect_code(0).json();
    let mut runs = runs.as_array_mut().unwrap().split_off(0);
    runs.sort_by_key(|run| run["created"].as_i64());
    runs
}

/// Labels of all processes, from the colony's own books: its protocol lists no more than a hundred.
fn processes(agency: &Agency) -> Vec<String> {
    let colony = agency.lab.state().join("colony");
    let path = [colony.join("colony.db"), colony.join("server/colony.db")].into_iter().find(|path| path.exists()).unwrap();
    let flags = rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY;
    let db = rusqlite::Connection::open_with_flags(path, flags).unwrap();
    let mut query = db.prepare("SELECT label FROM process WHERE label <> ''").unwrap();
    query.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect()
}

#[test]
fn promise_4_kill_9_of_the_agent_at_random_moments_converges() {
    let seed = std::env::var("POLLINATOR_SEED").map_or(4, |seed| seed.parse().expect("POLLINATOR_SEED is a number"));
    println!("seed {seed}");
    let agency = Agency::new();
    // It lives on when the agent is killed.
    Colony::of(&agency.lab);
    let project = agency.lab.project("killed", JOB);
    let settings = std::fs::read_to_string(project.join("project.yaml")).unwrap();
    let wishes = "results: perRun\nagent:\n  onSave: run\n  quiet: 50ms\n";
    std::fs::write(project.join("project.yaml"), format!("{settings}{wishes}")).unwrap();
    save(&project, "src/value", 0);
    save(&project, "data/value", 0);
    agency.watch(&project);
    agency.agent(["stop"]).expect_code(0);

    let writer = Writer::start(project.clone());
    kill_again_and_again(&agency, kills(), seed);
    let saved = writer.end() + 1;
    agency.agent(["start"]).expect_code(0);
    save(&project, "data/value", saved);
    save(&project, "src/value", saved);
    let seen = |run: &Value| {
        let path = project.join("cfs/result").join(&run["run_id"].as_str().unwrap()[..12]).join("seen");
        std::fs::read_to_string(path).unwrap_or_default()
    };
    let is_over = |run: &Value| run["state"] == "lost" || !run["results_fetched"].is_null();
    until("the last content has run, and all is home", || {
        let runs = runs(&agency, &project);
        runs.iter().all(is_over) && runs.last().is_some_and(|run| seen(run) == format!("{saved} {saved}"))
    });
    agency.until_in_sync(&project);
    agency.agrees(&project);
    expect_each_once(&agency, &project, saved / DATA_EVERY + 2, seen);
}

/// Every run that is in the books was submitted once, ended well, and ran something else than the one before.
fn expect_each_once(agency: &Agency, project: &Path, saves_of_data: usize, seen: impl Fn(&Value) -> String) {
    let runs = runs(agency, project);
    let made: Vec<&Value> = runs.iter().filter(|run| run["state"] != "lost").collect();
    let labels = processes(agency);
    let once: BTreeSet<&str> = labels.iter().map(String::as_str).collect();
    assert_eq!(once.len(), labels.len(), "a run has two processes");
    let in_books: BTreeSet<&str> = made.iter().map(|run| run["run_id"].as_str().unwrap()).collect();
    assert_eq!(once, in_books, "the books and the colony");
    for run in &made {
        assert_eq!(run["state"], "success", "{run:#}");
        assert!(!seen(run).is_empty(), "its result is not home: {run:#}");
    }
    let same = made.windows(2).filter(|pair| pair[0]["tree_digest"] == pair[1]["tree_digest"]).count();
    // The same src ran twice in a row only where data is another: as often as that was saved.
    assert!(same <= saves_of_data, "{same} runs of what had just run, {saves_of_data} saves of data");
    println!("{} runs, {same} of them for data", made.len());
    assert!(made.len() > 5, "{} runs are no load", made.len());
}
