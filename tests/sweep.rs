//! Sweeps and arrays, black box: one process for each point, their results apart, all of them as one.

#![allow(clippy::unwrap_used, clippy::expect_used)] // A test fails by panicking.

mod agency;
mod chaos;
mod lab;

use agency::Agency;
use chaos::Colony;
use lab::Lab;
use lab::until;
use serde_json::Value;
use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::io::BufRead;
use std::io::BufReader;
use std::path::Path;
use std::path::PathBuf;
use std::process::Stdio;

/// A project with more lines in `project.yaml`.
fn project(lab: &Lab, name: &str, environment: &str, python: &str, more: &str) -> PathBuf {
    let folder = lab.project_with(name, environment, python);
    let file = folder.join("project.yaml");
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(file, format!("{text}{more}\n")).unwrap();
    folder
}

/// Files below `cfs/result`, with their texts.
fn results(folder: &Path) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    let mut folders = vec![folder.join("cfs/result")];
    while let Some(at) = folders.pop() {
        for entry in std::fs::read_dir(&at).unwrap().flatten() {
            match entry.file_type().unwrap().is_dir() {
                true => folders.push(entry.path()),
                false => {
                    let name = entry.path().strip_prefix(folder.join("cfs/result")).unwrap().to_str().unwrap().to_owned();
                    found.insert(name, std::fs::read_to_string(entry.path()).unwrap());
                }
            }
        }
    }
    found
}

fn runs(lab: &Lab, folder: &Path) -> Vec<Value> {
    lab.run_in(folder, ["runs", "--json"]).expect_code(0).json().as_array().unwrap().clone()
}

const TRAIN: &str = "\
import os, sys
lr, seed, name = sys.argv[2], sys.argv[3], sys.argv[4]
env = [os.environ['POLLINATOR_PARAM_' + key] for key in ('LR', 'SEED', 'NAME')]
assert env == [lr, seed, name], (env, sys.argv)
print('begins')
print(f'lr {lr} seed {seed} name <{name}>', end='')
open(os.path.join(os.environ['RESULT_DIR'], 'out.txt'), 'w').write(f'{lr} {seed} {name}')
sys.exit(7 if (lr, seed) == ('0.01', '2') else 0)
";

#[test]
fn a_sweep_is_one_process_for_each_point_with_results_apart_and_one_name_for_all() {
    let lab = Lab::new();
    let environment = "cmd: sh -c 'exec python3 \"$0\" run \"$@\"' \"$PROJECT_SRC/main.py\" {lr} {seed} {name}\n  init-cmd: 'export PROJECT_SRC=$(ls -d $PROJECT_DIR/*/src); echo \"init {lr} {unknown}\"'";
    let more = "sweep:\n  lr: [0.10, 0.01]\n  seed: [1, 2]\n  name: [\"it's $HOME `id` \\\"so\\\"\"]";
    let folder = project(&lab, "p", environment, TRAIN, more);
    let dry = lab.run_in(&folder, ["run", "--dry-run"]).expect_code(0);
    assert!(dry.stdout.contains("a sweep of 4 processes"), "{}", dry.all());
    let ended = lab.run_in(&folder, ["run", "--follow"]).expect_code(3);
    let name = "it's $HOME `id` \"so\"";
    for (lr, seed) in [("0.10", "1"), ("0.10", "2"), ("0.01", "1"), ("0.01", "2")] {
        let prefix = format!("[lr={lr} seed={seed} name={name}] ");
        for line in ["begins", &format!("lr {lr} seed {seed} name <{name}>"), &format!("init {lr} {{unknown}}")] {
            assert!(ended.stdout.lines().any(|seen| seen == format!("{prefix}{line}")), "{prefix}{line}\n{}", ended.all());
        }
    }
    assert!(ended.stderr.contains("Sweep of 4 processes SweepID="), "{}", ended.stderr);
    assert!(ended.stderr.contains("3 of 4 processes succeeded, 1 failed"), "{}", ended.stderr);
    assert!(ended.stderr.contains("1 of 4 processes did not succeed"), "{}", ended.stderr);
    let rows = |text: &str| text.lines().filter(|line| line.starts_with("lr=")).count();
    assert_eq!(rows(&ended.stdout), 4, "the final table: {}", ended.stdout);

    // Results apart, under names that tell the values.
    let found = results(&folder);
    assert_eq!(found.len(), 4, "{found:?}");
    for (file, text) in &found {
        let (lr, rest) = text.split_once(' ').unwrap();
        let seed = rest.split(' ').next().unwrap();
        assert!(file.starts_with("sweep-") && file.contains(&format!("/lr={lr},seed={seed},name=it-s")), "{file}: {text}");
    }

    // One snapshot, one group.
    let all = runs(&lab, &folder);
    let unique = |key: &str| all.iter().map(|run| run[key].as_str().unwrap_or_default().to_owned()).collect::<BTreeSet<_>>();
    assert_eq!((all.len(), unique("snapshot_id").len(), unique("sweep").len(), unique("run_id").len()), (4, 1, 1, 4));
    assert_eq!(all[3]["params"], serde_json::json!({ "lr": "0.01", "seed": "2", "name": name }));
    assert!(all.iter().all(|run| run["results_fetched"].is_number()), "{all:?}");
    let sweep = all[0]["sweep"].as_str().unwrap();
    let listed = lab.run_in(&folder, ["runs"]).expect_code(0).stdout;
    assert_eq!(listed.lines().count(), 2, "one row for the sweep: {listed}");
    assert!(listed.contains(&sweep[..12]) && listed.contains("sweep of 4: 3 success, 1 failed"), "{listed}");
    let opened = lab.run_in(&folder, ["runs", "--sweep", &sweep[..8]]).expect_code(0).stdout;
    assert_eq!((rows(&opened), opened.matches(" failed").count()), (4, 1), "{opened}");
    let shown = lab.run_in(&folder, ["show", sweep]).expect_code(0).stdout;
    assert!(shown.contains("3 success, 1 failed") && rows(&shown) == 4, "{shown}");
    let one = all[1]["process_id"].as_str().unwrap();
    assert!(lab.run_in(&folder, ["show", one]).expect_code(0).stdout.contains(&format!("{sweep} (lr=0.10 seed=2")), "of one");

    // The log of all, again; and results that were deleted come back.
    let logs = lab.run_in(&folder, ["logs", "last"]).expect_code(0).stdout;
    assert_eq!(logs.lines().filter(|line| line.ends_with(">")).count(), 4, "{logs}");
    lab.run_in(&folder, ["logs", "-f", sweep]).expect_code(3);
    let refused = lab.run_in(&folder, ["cancel", sweep]).expect_code(1);
    assert!(refused.stderr.contains("has ended"), "{}", refused.stderr);
    lab.run_in(&folder, ["results", sweep]).expect_code(0);
    lab.run_in(&folder, ["checkout", sweep, "source"]).expect_code(0);
    assert_eq!(std::fs::read_to_string(folder.join("source/main.py")).unwrap(), TRAIN);
}

#[test]
fn an_array_gives_each_process_its_index_and_ends_well_with_all_of_them() {
    let lab = Lab::new();
    let python = "import os, sys\nprint(sys.argv[1], os.environ['POLLINATOR_ARRAY_INDEX'], os.environ['SLURM_ARRAY_TASK_ID'], os.environ['SLURM_ARRAY_TASK_COUNT'])\n";
    let folder = lab.project_with("a", "cmd: sh -c 'python3 \"$1\" {index}' sh\n  source: main.py", python);
    let file = folder.join("project.yaml");
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, text.replace("  walltime", "  array: 1,3-4\n  walltime")).unwrap();
    let ended = lab.run_in(&folder, ["run", "-f", "--json"]).expect_code(0);
    let events: Vec<Value> = ended.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let of = |name: &str| events.iter().filter(|event| event["event"] == name).collect::<Vec<_>>();
    let said: BTreeSet<&str> = of("log").into_iter().map(|event| event["message"].as_str().unwrap()).collect();
    assert_eq!(said, ["1 1 1 3\n", "3 3 3 3\n", "4 4 4 3\n"].into());
    assert_eq!((of("sweep")[0]["points"].as_u64(), of("sweep-finished")[0]["success"].as_u64()), (Some(3), Some(3)));
    let specs = lab.run_in(&folder, ["funcspec", "--dry-run"]).expect_code(0).json();
    assert_eq!(specs.as_array().unwrap().len(), 3);

    // What cannot be: too many, several of each, a limit that nobody holds.
    std::fs::write(&file, text.replace("  walltime", "  array: 0-1000\n  walltime")).unwrap();
    let refused = lab.run_in(&folder, ["run"]).expect_code(2);
    assert!(refused.stderr.contains("1001 processes") && refused.stderr.contains("--max-points 1001"), "{}", refused.stderr);
    std::fs::write(&file, text.replace("  walltime", "  array: 0-99%10\n  walltime")).unwrap();
    let refused = lab.run_in(&folder, ["run"]).expect_code(2);
    assert!(refused.stderr.contains("project.yaml:9:10") && refused.stderr.contains("`%`"), "{}", refused.stderr);
    std::fs::write(&file, text.replace("  walltime", "  array: 0-9\n  walltime")).unwrap();
    lab.run_in(&folder, ["run", "--processes", "2"]).expect_code(2);
    assert_eq!(runs(&lab, &folder).len(), 3);
}

#[test]
fn a_whole_sweep_is_cancelled_by_its_id() {
    let lab = Lab::new();
    let folder = project(&lab, "c", "cmd: sleep 100{n}", "", "sweep:\n- n: 1\n- n: 2\n- n: 3");
    let mut command = lab.command(["run", "--follow"]);
    let mut child = command.current_dir(&folder).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut said = BufReader::new(child.stderr.take().unwrap());
    let (mut line, mut running) = (String::new(), 0);
    while running == 0 {
        line.clear();
        assert!(said.read_line(&mut line).unwrap() > 0, "it ended");
        running += usize::from(line.contains(" runs on local"));
    }
    let rest = std::thread::spawn(move || {
        let mut rest = String::new();
        std::io::Read::read_to_string(&mut said, &mut rest).unwrap();
        rest
    });
    let sweep = runs(&lab, &folder)[0]["sweep"].as_str().unwrap().to_owned();
    let cancelled = lab.run_in(&folder, ["cancel", &sweep[..10], "--json"]).expect_code(0).json();
    assert_eq!(cancelled["cancelled"].as_array().unwrap().len(), 3, "{cancelled}");
    lab::wait(child).expect_code(3);
    let said = rest.join().unwrap();
    assert!(said.contains("0 of 3 processes succeeded, 3 were cancelled"), "{said}");
}

/// The indices of all processes that the colony ever had, those of waiting and running ones apart from those that are cancelled.
fn indices(colony: &Colony, project: &str) -> Vec<String> {
    let of = |process: pollinator::colonies::Process| process.spec.env["POLLINATOR_ARRAY_INDEX"].clone();
    let mut all: Vec<String> = colony.processes(project).into_iter().map(of).collect();
    all.sort_by_key(|index| index.parse::<u32>().unwrap());
    all
}

#[test]
fn promise_4_a_sweep_that_was_cut_off_is_completed_and_none_of_it_submitted_twice() {
    let lab = Lab::new();
    let folder = lab.project_with("k", "cmd: sleep 1000", "");
    let file = folder.join("project.yaml");
    let text = std::fs::read_to_string(&file).unwrap();
    let settings =
        |array: &str| std::fs::write(&file, text.replace("  walltime", &format!("  array: {array}\n  walltime"))).unwrap();
    settings("0-39");
    lab.run_in(&folder, ["sync"]).expect_code(0);
    let colony = Colony::of(&lab);
    for seen in [0, 1, 9, 30] {
        // Killed when so many processes were told of.
        let mut command = lab.command(["run", "--json"]);
        let mut child = command.current_dir(&folder).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
        let mut told = lines.filter(|line| line.contains("\"event\":\"submitted\"") || line.contains("\"event\":\"sweep\""));
        told.nth(seen).unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        let open = runs(&lab, &folder);
        assert!(open.len() == 40, "all of them are in the books before the first is sent: {}", open.len());
        let ended = lab.run_in(&folder, ["run"]).expect_code(0);
        let again: Vec<Value> = runs(&lab, &folder);
        assert!(again.iter().all(|run| run["process_id"].is_string()), "{seen}");
        // All were submitted when it died: then it was no interrupted call, and this is a new one.
        let completed = ended.stderr.contains("taking sweep");
        assert!(completed || seen == 30, "{seen}: {}", ended.all());
        assert_eq!(again.len(), if completed { 40 } else { 80 });
        assert_eq!(colony.no_intent_twice("k"), again.len());
        let expected: Vec<String> = (0..40).map(|n: u32| n.to_string()).collect();
        if completed {
            assert_eq!(indices(&colony, "k"), expected, "after a kill at {seen}");
        }
        lab.run_in(&folder, ["cancel", "last"]).expect_code(0);
        let journal = rusqlite::Connection::open(lab.state().join("journal.db")).unwrap();
        journal.execute("DELETE FROM run", []).unwrap();
        let database = rusqlite::Connection::open(lab.state().join("colony/colony.db")).unwrap();
        database.execute("DELETE FROM process", []).unwrap();
    }
    // Another sweep than the one that was cut off: what that one lacks is given up, and said.
    let mut command = lab.command(["run", "--json"]);
    let mut child = command.current_dir(&folder).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
    lines.find(|line| line.contains("\"event\":\"sweep\"")).unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    settings("0-1");
    let ended = lab.run_in(&folder, ["run"]).expect_code(0);
    assert!(ended.stderr.contains("of 40 processes of sweep"), "{}", ended.stderr);
    let all = runs(&lab, &folder);
    assert!(all.iter().any(|run| run["state"] == "lost") && all.iter().all(|run| run["state"] != "intent"), "{all:?}");
    lab.run_in(&folder, ["cancel", "last"]).expect_code(0);
}

#[test]
fn the_agent_takes_a_sweep_over_and_brings_all_results_home() {
    let agency = Agency::new();
    let lab = &agency.lab;
    let python = "import os\nopen(os.environ['RESULT_DIR'] + '/n', 'w').write(os.environ['POLLINATOR_PARAM_N'])\n";
    let folder = project(lab, "g", "cmd: python3\n  source: main.py", python, "sweep:\n  n: [1, 2, 3]");
    agency.watch(&folder);
    lab.run_in(&folder, ["run"]).expect_code(0);
    let values = || results(&folder).into_values().collect::<BTreeSet<String>>();
    until("the results of all are home", || values() == ["1", "2", "3"].map(str::to_owned).into());
    let followed = lab.run_in(&folder, ["run", "-f"]).expect_code(0);
    assert!(followed.stderr.contains("3 of 3 processes succeeded"), "{}", followed.stderr);
    assert_eq!(results(&folder).len(), 6);
}

/// Processes that the colony was ever given, from its own books: its protocol lists no more than a hundred.
fn count(lab: &Lab) -> usize {
    let flags = rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY;
    let database = rusqlite::Connection::open_with_flags(lab.state().join("colony/colony.db"), flags).unwrap();
    database.query_row("SELECT COUNT(*) FROM process WHERE label <> ''", [], |row| row.get::<_, i64>(0)).unwrap() as usize
}

/// Kills the agent in the sweep of a save when so many of its processes are submitted, and starts another; gives how many were.
fn kill_in_a_sweep(agency: &Agency, folder: &Path, cut: usize) -> usize {
    let pid = agency.pid();
    agency.save(folder, "src/value", &format!("{cut}"));
    let end = std::time::Instant::now() + lab::PATIENCE;
    // At once: the sweep does not wait.
    while count(&agency.lab) < cut {
        assert!(std::time::Instant::now() < end, "the save starts no sweep");
    }
    agency::signal(pid, 9);
    until("it is dead", || agency.agent(["status"]).code == Some(4));
    let there = count(&agency.lab);
    agency.agent(["start"]).expect_code(0);
    there
}

#[test]
fn the_agent_killed_in_a_sweep_on_save_completes_it_and_submits_none_of_it_twice() {
    const POINTS: usize = 90;
    let agency = Agency::without_agent();
    let lab = &agency.lab;
    // It lives on when the agent is killed.
    let colony = Colony::of(lab);
    let folder = lab.project_with("s", "cmd: sleep 1000", "");
    let file = folder.join("project.yaml");
    let text = std::fs::read_to_string(&file).unwrap().replace("  walltime", "  array: 0-89\n  walltime");
    let mut cut_off = 0;
    for busy in ["queue", "replace"] {
        std::fs::write(&file, format!("{text}agent:\n  onSave: run\n  quiet: 50ms\n  whenBusy: {busy}\n")).unwrap();
        lab.run_in(&folder, ["sync"]).expect_code(0);
        agency.agent(["start"]).expect_code(0);
        agency.watch(&folder);
        for cut in [1, 9, 30] {
            cut_off += usize::from(kill_in_a_sweep(&agency, &folder, cut) < POINTS);
            let whole = || {
                let all = runs(lab, &folder);
                all.len() == POINTS && all.iter().all(|run| run["process_id"].is_string())
            };
            until("the sweep is whole", whole);
            agency.until_in_sync(&folder);
            let expected: Vec<String> = (0..POINTS).map(|n| n.to_string()).collect();
            assert_eq!(indices(&colony, "s"), expected, "{busy}: after a kill at {cut}");
            assert_eq!(colony.no_intent_twice("s"), POINTS);
            let cancelled = runs(lab, &folder).iter().filter(|run| run["state"] == "cancelled").count();
            assert_eq!(cancelled, 0, "{busy}: a sweep does not replace itself");
            agency.agent(["stop"]).expect_code(0);
            lab.run_in(&folder, ["cancel", "last"]).expect_code(0);
            let database = rusqlite::Connection::open(lab.state().join("colony/colony.db")).unwrap();
            database.execute("DELETE FROM process", []).unwrap();
            let journal = rusqlite::Connection::open(lab.state().join("journal.db")).unwrap();
            journal.execute("DELETE FROM run", []).unwrap();
            agency.agent(["start"]).expect_code(0);
            agency.until_in_sync(&folder);
        }
        agency.agent(["stop"]).expect_code(0);
    }
    assert!(cut_off >= 3, "only {cut_off} of six sweeps were cut off");
}

/// Adds an executor to the colony that never asks for work.
fn add_idler(colony: &Colony, name: &str) {
    let mut access = colony.client().access().clone();
    access.key = pollinator::config::Secret::new(colony.variables["COLONIES_COLONY_PRVKEY"].clone());
    let owner = pollinator::colonies::Client::new(&access).unwrap();
    let (identity, _) = pollinator::colonies::Identity::generate().unwrap();
    let executor = serde_json::json!({
        "executorid": identity.id(), "executortype": "container-executor", "executorname": name, "colonyname": access.colony,
    });
    chaos::wait_for(owner.add_executor(&serde_json::from_value(executor).unwrap())).unwrap();
    chaos::wait_for(owner.approve_executor(name)).unwrap();
}

#[test]
fn a_thousand_points_are_submitted_listed_and_cancelled_as_one() {
    let lab = Lab::new();
    add_idler(&Colony::of(&lab), "idler");
    let folder = lab.project_with("m", "cmd: sleep 1000", "");
    let file = folder.join("project.yaml");
    let text = std::fs::read_to_string(&file).unwrap();
    let text = text.replace("- local", "- idler").replace("  walltime", "  array: 0-999\n  walltime");
    std::fs::write(&file, text).unwrap();
    lab.run_in(&folder, ["run"]).expect_code(0);
    assert_eq!(count(&lab), 1000);
    let listed = lab.run_in(&folder, ["runs"]).expect_code(0).stdout;
    assert_eq!(listed.lines().count(), 2, "one row for the sweep: {listed}");
    assert!(listed.contains("sweep of 1000: 1000 waiting"), "{listed}");
    let cancelled = lab.run_in(&folder, ["cancel", "last", "--json"]).expect_code(0).json();
    assert_eq!(cancelled["cancelled"].as_array().unwrap().len(), 1000);
    let shown = lab.run_in(&folder, ["runs"]).expect_code(0).stdout;
    assert!(shown.contains("sweep of 1000: 1000 cancelled"), "{shown}");
}
