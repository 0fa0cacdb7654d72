//! What made a result: results of one run apart from another's, what `show` tells, and the source brought back.

#![allow(clippy::unwrap_used, clippy::expect_used)] // A test fails by panicking.

#[path = "common/git.rs"]
mod git;
mod lab;

use git::commit;
use git::repository;
use lab::Lab;
use lab::until;
use serde_json::Value;
use sha2::Digest;
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::path::PathBuf;

/// Writes its run's id where results belong, and waits for a sign.
const WAITING: &str = "import os, time\nwith open(os.environ['RESULT_DIR'] + '/id.txt', 'w') as out: out.write(os.environ['POLLINATOR_RUN_ID'])\nprint('written', flush=True)\ngo = os.path.join(os.environ['PROJECT_DIR'], 'data', 'go')\nwhile not os.path.exists(go): time.sleep(0.05)\n";
/// Writes what it got.
const WRITES: &str = "import os\nfor name in ['a.txt', 'sub/b.txt']:\n    path = os.path.join(os.environ['RESULT_DIR'], name)\n    os.makedirs(os.path.dirname(path), exist_ok=True)\n    with open(path, 'w') as out: out.write(name)\n";

fn sha256(text: &str) -> String {
    hex::encode(sha2::Sha256::digest(text))
}

/// The project's results are apart for each run.
fn apart(project: &Path) {
    let path = project.join("project.yaml");
    let text = fs::read_to_string(&path).unwrap();
    fs::write(path, format!("{text}results: perRun\n")).unwrap();
}

fn show(lab: &Lab, project: &Path, run: &str) -> Value {
    lab.run_in(project, ["show", run, "--json"]).expect_code(0).json()
}

/// Paths and digests of the files that a run brought.
fn brought(shown: &Value) -> BTreeMap<String, String> {
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    shown["results"].as_array().unwrap().iter().map(|file| (text(&file["path"]), text(&file["sha256"]))).collect()
}

fn expected(names: &[(&str, &str)]) -> BTreeMap<String, String> {
    names.iter().map(|(name, content)| ((*name).to_owned(), sha256(content))).collect()
}

/// All files below a folder: content, and whether it can be executed.
fn files(folder: &Path) -> BTreeMap<PathBuf, (Vec<u8>, bool)> {
    let mut all = BTreeMap::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        for entry in fs::read_dir(next).unwrap().map(Result::unwrap) {
            let path = entry.path();
            if entry.file_type().unwrap().is_dir() {
                folders.push(path);
            } else {
                let mode = fs::metadata(&path).unwrap().permissions().mode();
                let name = path.strip_prefix(folder).unwrap().to_owned();
                all.insert(name, (fs::read(&path).unwrap(), mode & 0o111 != 0));
            }
        }
    }
    all
}

fn change_journal(lab: &Lab, sql: &str) {
    rusqlite::Connection::open(lab.state().join("journal.db")).unwrap().execute(sql, []).unwrap();
}

#[test]
fn two_runs_at_the_same_time_do_not_mix_their_results() {
    let lab = Lab::new();
    let project = lab.project("p", WAITING);
    apart(&project);
    lab.run_in(&project, ["run", "--processes", "2"]).expect_code(0);
    let runs = lab.run_in(&project, ["runs", "--json"]).expect_code(0).json();
    let ids: Vec<(String, String)> = (0..2)
        .map(|n| (runs[n]["run_id"].as_str().unwrap().to_owned(), runs[n]["process_id"].as_str().unwrap().to_owned()))
        .collect();
    for (_, process) in &ids {
        until("both have written", || lab.run_in(&project, ["logs", process]).stdout == "written\n");
        assert_eq!(show(&lab, &project, process)["process"]["state"], 1, "both run at the same time");
    }
    fs::write(lab.state().join("colony/files/pollinator/p/data/go"), "").unwrap();
    for (run, process) in &ids {
        lab.run_in(&project, ["logs", "-f", process]).expect_code(0);
        lab.run_in(&project, ["results", process]).expect_code(0);
        let own = &run[..12];
        assert_eq!(fs::read_to_string(project.join("cfs/result").join(own).join("id.txt")).unwrap(), *run);
        let shown = show(&lab, &project, process);
        assert_eq!(brought(&shown), expected(&[(&format!("{own}/id.txt"), run)]));
        assert_eq!(shown["result_folder"], own);
        let mount = &shown["run"]["spec"]["fs"]["dirs"][0];
        assert_eq!((&mount["label"], &mount["dir"]), (&format!("/pollinator/p/result/{own}").into(), &mount["label"]));
    }
    assert_eq!(fs::read_dir(project.join("cfs/result")).unwrap().count(), 2);
}

#[test]
fn the_folder_for_results_is_there_and_named_in_either_way() {
    let lab = Lab::new();
    let job = "import os\nopen(os.environ['RESULT_DIR'] + '/x', 'w').write('x')\nprint(os.path.relpath(os.environ['RESULT_DIR'], os.environ['PROJECT_DIR']))\n";
    let project = lab.project("p", job);
    let shared = lab.run_in(&project, ["run", "-f"]).expect_code(0);
    assert_eq!(shared.stdout, "result\n");
    assert_eq!(fs::read_to_string(project.join("cfs/result/x")).unwrap(), "x");
    apart(&project);
    let own = lab.run_in(&project, ["run", "-f"]).expect_code(0);
    let folder = show(&lab, &project, "last")["run"]["run_id"].as_str().unwrap()[..12].to_owned();
    assert_eq!(own.stdout, format!("result/{folder}\n"));
    assert_eq!(fs::read_to_string(project.join("cfs/result").join(folder).join("x")).unwrap(), "x");
    let spec = lab.run_in(&project, ["funcspec", "--dry-run"]).expect_code(0).json();
    assert_eq!((&spec["env"]["RESULT_DIR"], &spec["label"]), (&"/cfs/pollinator/p/result/RUN_ID".into(), &"".into()));
    fs::write(project.join("project.yaml"), "results: each\n").unwrap();
    let refused = lab.run_in(&project, ["run"]).expect_code(2);
    assert!(refused.stderr.contains("project.yaml:1"), "{}", refused.stderr);
}

#[test]
fn an_interrupted_submission_with_results_of_its_own_is_found_again() {
    let lab = Lab::new();
    let project = lab.project("p", "import time\ntime.sleep(600)\n");
    apart(&project);
    lab.run_in(&project, ["run"]).expect_code(0);
    // As after a kill between submission and the note of it.
    change_journal(&lab, "UPDATE run SET state = 'intent', process_id = NULL");
    let again = lab.run_in(&project, ["run"]).expect_code(0);
    assert!(again.stderr.contains("had submitted this run already"), "{}", again.stderr);
    assert_eq!(lab.run_in(&project, ["runs", "--json"]).json().as_array().unwrap().len(), 1);
    lab.run_in(&project, ["cancel", "last"]).expect_code(0);
}

#[test]
fn show_tells_what_made_a_result_and_what_came_home() {
    let lab = Lab::new();
    let project = lab.project("p", WRITES);
    let first = repository(&lab, &project);
    lab.run_in(&project, ["run", "-f"]).expect_code(0);
    let shown = show(&lab, &project, "last");
    assert_eq!(brought(&shown), expected(&[("a.txt", "a.txt"), ("sub/b.txt", "sub/b.txt")]));
    assert_eq!((&shown["results"][1]["size"], &shown["exit_status"]), (&9.into(), &Value::Null));
    assert!(shown["run"]["nodes"].is_string(), "{}", shown["run"]);
    let text = lab.run_in(&project, ["show"]).expect_code(0).stdout;
    let line = |name: &str| text.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(' ')).map(str::trim).unwrap_or("");
    assert_eq!(line("commit"), format!("{first} (without changes)"));
    assert_eq!((line("image"), line("cmd"), line("executor")), ("python:3.12", "python3", "local"));
    assert_eq!((line("exit"), line("tree")), ("closed as successful", shown["run"]["tree_digest"].as_str().unwrap()));
    assert_eq!(
        (line("node"), line("snapshot")),
        (shown["run"]["nodes"].as_str().unwrap(), shown["run"]["snapshot_id"].as_str().unwrap())
    );
    assert!(line("args").contains("main.py") && !line("started").is_empty() && !line("ended").is_empty(), "{text}");
    assert!(text.contains(&format!("result       a.txt  5 B  sha256:{}\n", sha256("a.txt"))), "{text}");
    // What did not change does not come again, and stays noted; what a later run changed is noted with that run.
    lab.run_in(&project, ["results", "last"]).expect_code(0);
    let main = project.join("cfs/src/main.py");
    fs::write(&main, WRITES.replace("out.write(name)", "out.write(name[0])")).unwrap();
    lab.run_in(&project, ["run", "-f"]).expect_code(0);
    assert_eq!(brought(&show(&lab, &project, "last")), expected(&[("a.txt", "a"), ("sub/b.txt", "s")]));
    let runs = lab.run_in(&project, ["runs", "--json"]).expect_code(0).json();
    let earlier = runs[1]["run_id"].as_str().unwrap();
    assert_eq!(brought(&show(&lab, &project, earlier)), expected(&[("a.txt", "a.txt"), ("sub/b.txt", "sub/b.txt")]));
    assert!(lab.run_in(&project, ["show"]).expect_code(0).stdout.contains(&format!("{first} (with changes)")));
    // A failure, told with its status; in the commit's name.
    fs::write(&main, "import sys\nsys.exit(7)\n").unwrap();
    git::git(&lab, &project, &["add", "cfs/src"]);
    git::git(&lab, &project, &["commit", "-q", "-m", "fails"]);
    git::git(&lab, &project, &["tag", "bad"]);
    lab.run_in(&project, ["run", "-f", "--commit", "bad"]).expect_code(3);
    let failed = show(&lab, &project, "last");
    assert_eq!((&failed["exit_status"], &failed["results"]), (&7.into(), &serde_json::json!([])));
    let text = lab.run_in(&project, ["show"]).expect_code(0).stdout;
    assert!(text.contains("(run --commit bad)\n") && text.contains("exit         exit status 7\n"), "{text}");
    // Our books tell all of it when nobody else is there.
    let mut alone = lab.command(["show", earlier]);
    for (name, value) in [
        ("COLONIES_SERVER_HOST", "127.0.0.1"),
        ("COLONIES_SERVER_PORT", "1"),
        ("COLONIES_TLS", "false"),
        ("COLONIES_COLONY_NAME", "elsewhere"),
        ("COLONIES_PRVKEY", &"1".repeat(64)),
        ("AWS_S3_ENDPOINT", "127.0.0.1:1"),
        ("AWS_S3_TLS", "false"),
        ("AWS_S3_BUCKET", "bucket"),
        ("AWS_S3_ACCESSKEY", "key"),
        ("AWS_S3_SECRETKEY", "secret"),
    ] {
        alone.env(name, value);
    }
    let text = lab::finish(alone).expect_code(0).stdout;
    assert!(text.contains("image        python:3.12") && text.contains(&sha256("a.txt")), "{text}");
}

#[test]
fn the_source_of_a_run_comes_back_as_it_was() {
    let lab = Lab::new();
    let project = lab.project("p", "print('first')\n");
    let src = project.join("cfs/src");
    fs::create_dir_all(src.join("bin")).unwrap();
    fs::create_dir_all(src.join("empty/folder")).unwrap();
    for (name, text, mode) in
        [("bin/tool", "#!/bin/sh\n", 0o755), ("none", "", 0o644), ("bin/also-none", "", 0o644), ("ä b", "x", 0o600)]
    {
        fs::write(src.join(name), text).unwrap();
        fs::set_permissions(src.join(name), fs::Permissions::from_mode(mode)).unwrap();
    }
    let then = files(&src);
    lab.run_in(&project, ["run", "-f"]).expect_code(0);
    let run = show(&lab, &project, "last")["run"]["run_id"].as_str().unwrap().to_owned();
    fs::write(src.join("main.py"), "print('second')\n").unwrap();
    // Removing a file breaks the snapshots that list it.
    fs::remove_file(src.join("bin/tool")).unwrap();
    fs::rename(src.join("ä b"), src.join("renamed")).unwrap();
    // Every file executable, as on file systems that know no permissions.
    for (name, _) in files(&src) {
        fs::set_permissions(src.join(name), fs::Permissions::from_mode(0o755)).unwrap();
    }
    let now = files(&src);
    lab.run_in(&project, ["run", "-f", "--executor", "local"]).expect_code(0);

    let brought = lab.run_in(&project, ["checkout", "last", "../now"]).expect_code(0);
    assert!(brought.stdout.contains("it is what was run"), "{}", brought.all());
    assert_eq!(files(&lab.home().join("now")), now);

    let kept = lab.home().join("kept");
    fs::create_dir(&kept).unwrap();
    let document = lab.run(["checkout", &run, "kept", "--json"]).expect_code(0).json();
    assert_eq!((&document["is_what_ran"], &document["from"], &document["files"]), (&true.into(), &"snapshot".into(), &5.into()));
    assert_eq!(files(&kept), then);
    assert!(kept.join("empty/folder").is_dir());
    let umask = fs::metadata(lab.home().join("now")).unwrap().permissions().mode() & 0o777;
    assert_ne!(umask, 0o700, "a new folder is one as others");

    for (target, said) in
        [("kept", "kept is not empty"), ("p/project.yaml", "is a file"), ("no/where", "does not exist"), (".", "is not empty")]
    {
        let refused = lab.run(["checkout", &run, target]).expect_code(2);
        assert!(refused.stderr.contains(said), "{}", refused.stderr);
    }
    lab.run(["checkout", "abcdef", "new"]).expect_code(2);
    change_journal(&lab, "UPDATE run SET tree_digest = 'another'");
    let other = lab.run(["checkout", &run, "other"]).expect_code(1);
    assert!(other.stderr.contains("is NOT what was run") && other.stderr.contains("another"), "{}", other.stderr);
    assert_eq!(files(&lab.home().join("other")), then);
    let names = fs::read_dir(lab.home()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let hidden: Vec<String> = names.filter(|name| name.contains(".pollinator-") || name == "new").collect();
    assert!(hidden.is_empty(), "{hidden:?}");
}

#[test]
fn gc_keeps_removed_files_for_as_long_as_a_snapshot_lists_them() {
    let lab = Lab::new();
    let project = lab.project("p", "print()\n");
    let helper = project.join("cfs/src/helper.py");
    fs::write(&helper, "a helper").unwrap();
    lab.run_in(&project, ["run", "-f"]).expect_code(0);
    let run = show(&lab, &project, "last")["run"]["run_id"].as_str().unwrap().to_owned();
    fs::remove_file(&helper).unwrap();
    lab.run_in(&project, ["run", "-f"]).expect_code(0);
    lab.run_in(&project, ["gc", "--older-than", "0s"]).expect_code(0);
    lab.run_in(&project, ["checkout", &run, "../then"]).expect_code(0);
    assert_eq!(fs::read_to_string(lab.home().join("then/helper.py")).unwrap(), "a helper");
    let objects = |done: Value| done["objects"].as_array().unwrap().len();
    // The snapshot goes first, and what only it knew with the next call.
    assert_eq!(objects(lab.run_in(&project, ["gc", "--older-than", "0s", "--keep", "0", "--json"]).expect_code(0).json()), 0);
    assert_eq!(objects(lab.run_in(&project, ["gc", "--older-than", "0s", "--keep", "0", "--json"]).expect_code(0).json()), 1);
    lab.run_in(&project, ["checkout", &run, "../gone"]).expect_code(1);
}

#[test]
fn where_the_snapshot_is_gone_the_source_comes_from_git_or_what_is_known_is_told() {
    let lab = Lab::new();
    let (top, project) = git::below(&lab, &lab.project("p", "print('first')\n"), "repository");
    let src = project.join("cfs/src");
    fs::write(src.join("run.sh"), "#!/bin/sh\n").unwrap();
    fs::set_permissions(src.join("run.sh"), fs::Permissions::from_mode(0o755)).unwrap();
    fs::write(src.join("empty.sh"), "").unwrap();
    fs::set_permissions(src.join("empty.sh"), fs::Permissions::from_mode(0o755)).unwrap();
    fs::write(project.join(".cfsignore"), "*.log\n").unwrap();
    fs::write(src.join("tracked.log"), "left out").unwrap();
    let clean = repository(&lab, &top);
    let then: BTreeMap<_, _> = files(&src).into_iter().filter(|(name, _)| !name.ends_with("tracked.log")).collect();
    lab.run_in(&project, ["run", "-f"]).expect_code(0);
    fs::write(project.join("cfs/data/more"), "dirty, but not in src").unwrap();
    lab.run_in(&project, ["run", "-f"]).expect_code(0);
    fs::write(src.join("main.py"), "print('second')\n").unwrap();
    lab.run_in(&project, ["run", "-f"]).expect_code(0);
    commit(&lab, &top, "second");
    lab.run_in(&project, ["gc", "--older-than", "0s", "--keep", "0"]).expect_code(0);
    let runs = lab.run_in(&project, ["runs", "--json"]).expect_code(0).json();
    let id = |n: usize| runs[n]["run_id"].as_str().unwrap().to_owned();
    assert_eq!([&runs[0], &runs[1], &runs[2]].map(|run| run["git_dirty"].as_bool().unwrap()), [true, true, false]);

    let brought = lab.run_in(&project, ["checkout", &id(2), "../first"]).expect_code(0);
    assert!(brought.stderr.contains("taken from git, since the snapshot is gone"), "{}", brought.stderr);
    assert!(
        brought.stdout.contains(&format!("from commit {clean}")) && brought.stdout.contains("it is what was run"),
        "{}",
        brought.stdout
    );
    assert_eq!(files(&project.parent().unwrap().join("first")), then);
    // Dirty, and yet the very same src: its digest says so.
    let document = lab.run_in(&project, ["checkout", &id(1), "../same", "--json"]).expect_code(0).json();
    assert_eq!((&document["is_what_ran"], &document["from"]), (&true.into(), &"git".into()));

    let lost = lab.run_in(&project, ["checkout", &id(0), "../lost"]).expect_code(1);
    for said in ["has no snapshot", "with changes that were not committed", &clean] {
        assert!(lost.stderr.contains(said), "{said} in {}", lost.stderr);
    }
    // Clean, but no longer the same: brought, and said loudly.
    change_journal(&lab, "UPDATE run SET tree_digest = 'another', git_dirty = 0");
    let other = lab.run_in(&project, ["checkout", &id(2), "../other"]).expect_code(1);
    assert!(other.stderr.contains("is NOT what was run"), "{}", other.stderr);
    change_journal(&lab, "UPDATE run SET git_commit = NULL");
    let unknown = lab.run_in(&project, ["checkout", &id(2), "../unknown"]).expect_code(1);
    assert!(unknown.stderr.contains("in no git repository"), "{}", unknown.stderr);
    let mut names: Vec<String> =
        fs::read_dir(project.parent().unwrap()).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    assert_eq!(names, ["first", "other", "pro*ject", "same"]);
}
