//! `run --commit`: exactly what a git commit holds, whatever is on the disk.

#![allow(clippy::unwrap_used, clippy::expect_used)] // A test fails by panicking.

#[path = "common/git.rs"]
mod git;
mod lab;

use git::commit;
use git::git;
use git::repository;
use lab::Lab;
use serde_json::Value;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// Prints the version, the names of all files of the src tree, and what a script beside it does.
fn program(version: &str) -> String {
    format!(
        "import os, subprocess\nhere = os.path.dirname(__file__)\nprint('version {version}')\n\
         print(sorted(os.path.relpath(os.path.join(d, f), here) for d, _, fs in os.walk(here) for f in fs))\n\
         tool = os.path.join(here, 'bin', 'tool')\n\
         if os.path.exists(tool): print(subprocess.run([tool], capture_output=True, text=True).stdout, end='')\n"
    )
}

fn executable(path: &Path, text: &str) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
}

fn replace(path: &Path, from: &str, to: &str) {
    let text = fs::read_to_string(path).unwrap();
    assert!(text.contains(from), "{from} in {text}");
    fs::write(path, text.replace(from, to)).unwrap();
}

/// The newest run.
fn last(lab: &Lab, project: &Path) -> Value {
    lab.run_in(project, ["runs", "--json", "-n", "1"]).expect_code(0).json()[0].clone()
}

fn label(run: &Value) -> &str {
    run["spec"]["fs"]["snapshots"][0]["label"].as_str().unwrap()
}

/// Nothing of a commit lies about in the state folder.
#[track_caller]
fn expect_no_leftovers(lab: &Lab) {
    let folder = lab.state().join("commits");
    assert!(!folder.exists() || fs::read_dir(&folder).unwrap().count() == 0, "{}", folder.display());
}

#[test]
fn a_commit_is_run_whatever_is_on_the_disk_and_is_brought_over_once() {
    let lab = Lab::new();
    let (top, project) = git::below(&lab, &lab.project("p", &program("1")), "repository");
    let src = project.join("cfs/src");
    executable(&src.join("bin/tool"), "#!/bin/sh\necho tool 1\n");
    std::os::unix::fs::symlink("main.py", src.join("link.py")).unwrap();
    fs::write(top.join("other.txt"), "not of the project").unwrap();
    let first = repository(&lab, &top);
    git(&lab, &top, &["tag", "v1"]);
    fs::write(src.join("main.py"), program("2")).unwrap();
    executable(&src.join("bin/tool"), "#!/bin/sh\necho tool 2\n");
    fs::write(src.join("untracked.py"), "").unwrap();
    git(&lab, &project, &["add", "cfs/src/main.py"]);
    let status = git(&lab, &top, &["status", "--porcelain"]);
    let index = fs::read(top.join(".git/index")).unwrap();

    let ended = lab.run_in(&project, ["run", "-f", "--commit", "v1"]).expect_code(0);
    assert_eq!(ended.stdout, "version 1\n['bin/tool', 'link.py', 'main.py']\ntool 1\n");
    assert_eq!(fs::read(top.join(".git/index")).unwrap(), index);
    assert_eq!(git(&lab, &top, &["status", "--porcelain"]), status);
    expect_no_leftovers(&lab);
    let run = last(&lab, &project);
    assert_eq!((run["git_commit"].as_str(), &run["git_dirty"]), (Some(first.as_str()), &Value::Bool(false)));
    assert_eq!(run["revision"], "v1");
    let own = format!("/pollinator/p/runs/{}-", &run["tree_digest"].as_str().unwrap()[..16]);
    assert!(label(&run).starts_with(&own), "{}", label(&run));

    // The same tree again, by another name of it: nothing travels, and no second snapshot is made.
    let again = lab.run_in(&project, ["run", "-f", "--commit", &first[..10]]).expect_code(0);
    assert!(!again.stderr.contains("Uploaded") && again.stdout.contains("version 1"), "{}", again.all());
    assert_eq!(last(&lab, &project)["snapshot_id"], run["snapshot_id"]);

    // A folder that is gone is nothing to compare with later.
    let journal = rusqlite::Connection::open(lab.state().join("journal.db")).unwrap();
    let sql = "SELECT count(*) FROM base_tree WHERE place LIKE '%/runs/%'";
    assert_eq!(journal.query_row(sql, [], |row| row.get::<_, i64>(0)).unwrap(), 0);
    drop(journal);

    // The label of the working tree was not touched, and is not now.
    let working = lab.run_in(&project, ["run", "-f"]).expect_code(0);
    assert!(working.stdout.starts_with("version 2\n['bin/tool', 'link.py', 'main.py', 'untracked.py']\n"), "{}", working.stdout);
    let working = last(&lab, &project);
    assert_eq!((label(&working), &working["git_dirty"], &working["revision"]), ("/pollinator/p/src", &true.into(), &Value::Null));
    lab.run_in(&project, ["run", "-f", "--commit", "HEAD"]).expect_code(0);
    assert_eq!(last(&lab, &project)["snapshot_id"], run["snapshot_id"]);
    let diff = lab.run_in(&project, ["diff", "src"]).expect_code(0).stdout;
    assert!(diff.contains("nothing to do"), "{diff}");
}

#[test]
fn a_clean_checkout_and_its_commit_are_the_same_tree() {
    let lab = Lab::new();
    let project = lab.project("p", &program("1"));
    executable(&project.join("cfs/src/bin/tool"), "#!/bin/sh\necho tool\n");
    fs::write(project.join(".cfsignore"), "*.log\n").unwrap();
    fs::write(project.join("cfs/src/.gitattributes"), "secret.py export-ignore\n").unwrap();
    fs::write(project.join("cfs/src/secret.py"), "").unwrap();
    fs::write(project.join("cfs/src/run.log"), "left out").unwrap();
    repository(&lab, &project);
    fs::write(project.join("cfs/result/home.txt"), "from an earlier run").unwrap();
    lab.run_in(&project, ["run", "-f"]).expect_code(0);
    let working = last(&lab, &project);
    assert_eq!(working["git_dirty"], false, "results that came home make nothing dirty");
    let ended = lab.run_in(&project, ["run", "-f", "--commit", "HEAD"]).expect_code(0);
    assert!(ended.stdout.contains("['.gitattributes', 'bin/tool', 'main.py', 'secret.py']"), "{}", ended.stdout);
    assert_eq!(last(&lab, &project)["tree_digest"], working["tree_digest"]);
    // A snapshot of the working tree's label may break at any time; the commit's own does not, and serves both.
    let own = last(&lab, &project);
    assert_ne!(own["snapshot_id"], working["snapshot_id"]);
    lab.run_in(&project, ["run", "-f"]).expect_code(0);
    assert_eq!(last(&lab, &project)["snapshot_id"], own["snapshot_id"]);
}

#[test]
fn settings_are_those_of_the_commit_where_it_has_them() {
    let lab = Lab::new();
    let project = lab.project("p", &program("1"));
    repository(&lab, &project);
    fs::write(project.join("cfs/src/other.py"), "print('other')\n").unwrap();
    replace(&project.join("project.yaml"), "main.py", "other.py");
    let then = lab.run_in(&project, ["run", "-f", "--commit", "HEAD"]).expect_code(0);
    assert!(then.stdout.starts_with("version 1\n"), "{}", then.stdout);
    // Renamed since: the results still come home by today's name.
    replace(&project.join("project.yaml"), "projectname: p", "projectname: renamed");
    let renamed = lab.run_in(&project, ["run", "-f", "--commit", "HEAD"]).expect_code(0);
    assert!(
        renamed.stderr.contains("was called p in commit") && renamed.stderr.contains("runs as renamed"),
        "{}",
        renamed.stderr
    );
    assert_eq!(last(&lab, &project)["project_name"], "renamed");
    // Not tracked: the one in the folder holds.
    git(&lab, &project, &["rm", "-q", "--cached", "project.yaml"]);
    fs::write(project.join(".gitignore"), "project.yaml\n").unwrap();
    commit(&lab, &project, "without settings");
    let without = lab.run_in(&project, ["run", "-f", "--commit", "HEAD"]).expect_code(0);
    assert!(without.stdout.starts_with("other\n"), "{}", without.stdout);
    assert!(without.stderr.contains("project.yaml is not part of commit"), "{}", without.stderr);
    // Broken in the commit: said with its place.
    fs::remove_file(project.join(".gitignore")).unwrap();
    let good = fs::read_to_string(project.join("project.yaml")).unwrap();
    replace(&project.join("project.yaml"), "nodes: 1", "nodes: many");
    commit(&lab, &project, "broken");
    fs::write(project.join("project.yaml"), good).unwrap();
    let broken = lab.run_in(&project, ["run", "--commit", "HEAD"]).expect_code(2);
    assert!(broken.stderr.contains("`nodes` must be") && broken.stderr.contains("project.yaml in commit "), "{}", broken.stderr);
    // What the commit's settings name must be in the commit.
    let missing = lab.run_in(&project, ["run", "--commit", "HEAD~1"]);
    missing.expect_code(0);
    replace(&project.join("project.yaml"), "other.py", "new.py");
    fs::write(project.join("cfs/src/new.py"), "").unwrap();
    let missing = lab.run_in(&project, ["run", "--commit", "HEAD~1"]).expect_code(2);
    assert!(missing.stderr.contains("`source` in project.yaml is new.py, but cfs/src in commit "), "{}", missing.stderr);
    expect_no_leftovers(&lab);
}

#[test]
fn what_is_no_commit_of_the_project_is_refused_with_advice() {
    let lab = Lab::new();
    let project = lab.project("p", &program("1"));
    let refused = |revision: &str, said: &str| {
        let ended = lab.run_in(&project, ["run", &format!("--commit={revision}")]).expect_code(2);
        assert!(ended.stderr.contains(said) && ended.stderr.contains("hint:"), "{said} in {}", ended.stderr);
        expect_no_leftovers(&lab);
    };
    refused("HEAD", "is in no git repository");
    git(&lab, &project, &["init", "-q"]);
    refused("HEAD", "no commit is known by the name \"HEAD\"");
    fs::write(project.join("only.txt"), "").unwrap();
    git(&lab, &project, &["add", "only.txt"]);
    git(&lab, &project, &["commit", "-q", "-m", "without the project"]);
    refused("HEAD", "there is no folder cfs/src in commit ");
    refused("nonsense", "no commit is known by the name \"nonsense\"");
    refused("--help", "no commit is known by the name \"--help\"");
    refused("", "no commit is known by the name \"\"");
    refused(&"a".repeat(40), "no commit is known by the name");
    refused("HEAD:only.txt", "no commit is known by the name");
    fs::remove_dir_all(project.join("cfs/src")).unwrap();
    fs::write(project.join("cfs/src"), "a file").unwrap();
    commit(&lab, &project, "src is a file");
    refused("HEAD", "there is no folder cfs/src in commit ");
    assert_eq!(lab.run_in(&project, ["runs", "--json"]).expect_code(0).json(), serde_json::json!([]));
}

#[test]
fn a_dry_run_shows_what_would_be_sent_and_submitted_and_does_nothing() {
    let lab = Lab::new();
    let project = lab.project("p", &program("1"));
    let first = repository(&lab, &project);
    fs::write(project.join("cfs/src/later.py"), "").unwrap();
    let shown = lab.run_in(&project, ["run", "--commit", "HEAD", "--dry-run"]).expect_code(0).stdout;
    assert!(shown.starts_with(&format!("commit {first}\n> src/main.py")) && !shown.contains("later.py"), "{shown}");
    assert!(shown.contains("\"/cfs/pollinator/p/SNAPSHOT_ID/src/main.py\""), "{shown}");
    let shown = lab.run_in(&project, ["run", "--commit", "HEAD", "--dry-run", "--json"]).expect_code(0).json();
    assert_eq!((shown["commit"].as_str(), &shown["trees"][0]["tree"]), (Some(first.as_str()), &"src".into()));
    assert_eq!(shown["spec"]["env"]["RESULT_DIR"], "/cfs/pollinator/p/result");
    assert_eq!(lab.run_in(&project, ["runs", "--json"]).expect_code(0).json(), serde_json::json!([]));
    expect_no_leftovers(&lab);
    lab.run_in(&project, ["run", "-f", "--commit", "HEAD", "--processes", "2"]).expect_code(0);
    let runs = lab.run_in(&project, ["runs", "--json"]).expect_code(0).json();
    assert_eq!((runs.as_array().unwrap().len(), &runs[0]["snapshot_id"]), (2, &runs[1]["snapshot_id"]));
    let shown = lab.run_in(&project, ["run", "--commit", "HEAD", "--dry-run"]).expect_code(0).stdout;
    assert!(shown.contains("nothing to do"), "{shown}");
}

#[test]
fn it_works_in_a_worktree_at_a_detached_head_and_from_a_hook() {
    let lab = Lab::new();
    let (top, project) = git::below(&lab, &lab.project("p", &program("1")), "repository");
    let first = repository(&lab, &top);
    fs::write(project.join("cfs/src/main.py"), program("2")).unwrap();
    commit(&lab, &top, "second");
    git(&lab, &top, &["worktree", "add", "-q", "--detach", "../tree", "HEAD"]);
    let other = lab.home().join("tree").join(git::BELOW);
    fs::write(other.join("cfs/src/main.py"), program("3")).unwrap();
    git(&lab, &other, &["commit", "-q", "-a", "-m", "third"]);
    for (revision, version) in [("HEAD", 3), ("HEAD^", 2), (first.as_str(), 1), ("main", 2)] {
        let ended = lab.run_in(&other, ["run", "-f", "--commit", revision]).expect_code(0);
        assert!(ended.stdout.starts_with(&format!("version {version}\n")), "{revision}: {}", ended.stdout);
    }
    // Git tells its hooks of the repository in variables that mean another thing in another folder; in a worktree, most of all.
    let log = lab.home().join("log");
    let program_path = env!("CARGO_BIN_EXE_pollinator");
    let hook = format!(
        "#!/bin/sh\nPOLLINATOR_STATE_DIR='{}' '{program_path}' -C '{}' run -f --commit HEAD >'{}' 2>&1\n",
        lab.state().display(),
        git::BELOW,
        log.display()
    );
    executable(&top.join(".git/hooks/post-commit"), &hook);
    fs::write(other.join("cfs/src/main.py"), program("4")).unwrap();
    let fourth = commit(&lab, &other, "fourth");
    let said = fs::read_to_string(&log).unwrap();
    assert!(said.contains("version 4\n"), "{said}");
    assert_eq!(last(&lab, &other)["git_commit"], fourth);
    assert_eq!(git(&lab, &other, &["status", "--porcelain"]), "");
}

#[test]
fn filters_are_applied_and_what_git_cannot_give_is_refused_by_name() {
    let lab = Lab::new();
    let project = lab.project("p", "print(open(__file__.replace('main.py', 'word.up')).read(), end='')\n");
    let src = project.join("cfs/src");
    fs::write(project.join(".gitattributes"), "*.up filter=up\n*.bin filter=lfs -text\n").unwrap();
    fs::write(src.join("word.up"), "quiet\n").unwrap();
    git(&lab, &project, &["init", "-q"]);
    git(&lab, &project, &["config", "filter.up.smudge", "tr a-z A-Z"]);
    git(&lab, &project, &["config", "filter.up.clean", "tr A-Z a-z"]);
    commit(&lab, &project, "first");
    // Attributes of today say nothing about the commit.
    fs::remove_file(project.join(".gitattributes")).unwrap();
    let ended = lab.run_in(&project, ["run", "-f", "--commit", "HEAD"]).expect_code(0);
    assert_eq!(ended.stdout, "QUIET\n");
    git(&lab, &project, &["checkout", "-q", "--", "."]);

    let pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:0123\nsize 7\n";
    fs::write(src.join("model.bin"), pointer).unwrap();
    fs::write(src.join("about-lfs.txt"), pointer).unwrap();
    commit(&lab, &project, "a pointer");
    let refused = lab.run_in(&project, ["run", "--commit", "HEAD"]).expect_code(2);
    assert!(
        refused.stderr.contains("1 file of commit") && refused.stderr.contains("model.bin (its content is in Git LFS"),
        "{}",
        refused.stderr
    );
    fs::remove_file(src.join("model.bin")).unwrap();

    let library = lab.home().join("library");
    fs::create_dir(&library).unwrap();
    fs::write(library.join("x.py"), "").unwrap();
    repository(&lab, &library);
    git(&lab, &project, &["submodule", "--quiet", "add", library.to_str().unwrap(), "cfs/src/library"]);
    commit(&lab, &project, "a submodule");
    let refused = lab.run_in(&project, ["run", "--commit", "HEAD"]).expect_code(2);
    assert!(refused.stderr.contains("cfs/src/library (is a submodule"), "{}", refused.stderr);
    fs::write(src.join(".cfsignore"), "/library\n").unwrap();
    commit(&lab, &project, "the submodule is left out");
    lab.run_in(&project, ["run", "-f", "--commit", "HEAD"]).expect_code(0);
    expect_no_leftovers(&lab);
}

#[test]
fn gc_removes_what_a_commit_took_when_it_is_old_and_the_commit_runs_again() {
    let lab = Lab::new();
    let project = lab.project("p", &program("1"));
    repository(&lab, &project);
    lab.run_in(&project, ["run", "-f", "--commit", "HEAD"]).expect_code(0);
    let first = last(&lab, &project);
    let young = lab.run_in(&project, ["gc", "--json"]).expect_code(0).json();
    assert_eq!((young["snapshots"].as_array().unwrap().len(), young["frozen"].as_array().unwrap().len()), (0, 0), "{young}");
    let gone = lab.run_in(&project, ["gc", "--older-than", "0s", "--keep", "0", "--json"]).expect_code(0).json();
    assert_eq!((gone["snapshots"].as_array().unwrap().len(), gone["frozen"].as_array().unwrap().len()), (1, 1), "{gone}");
    assert_eq!(gone["objects"].as_array().unwrap().len(), 1, "{gone}");
    let again = lab.run_in(&project, ["run", "-f", "--commit", "HEAD"]).expect_code(0);
    assert!(again.stdout.starts_with("version 1\n"), "{}", again.stdout);
    assert_ne!(last(&lab, &project)["snapshot_id"], first["snapshot_id"]);
}

#[test]
fn what_a_killed_call_left_behind_is_in_nobodys_way() {
    let lab = Lab::new();
    let project = lab.project("p", &program("1"));
    repository(&lab, &project);
    lab.run_in(&project, ["run", "-f", "--commit", "HEAD"]).expect_code(0);
    let lock = fs::read_dir(lab.state().join("locks")).unwrap().next().unwrap().unwrap().path();
    let left = lab.state().join("commits").join(lock.file_stem().unwrap());
    fs::create_dir_all(left.join("tree/cfs/src")).unwrap();
    fs::write(left.join("tree/cfs/src/half.py"), "").unwrap();
    fs::write(left.join("index.lock"), "").unwrap();
    fs::write(project.join("cfs/src/main.py"), program("2")).unwrap();
    commit(&lab, &project, "second");
    let ended = lab.run_in(&project, ["run", "-f", "--commit", "HEAD"]).expect_code(0);
    assert!(ended.stdout.starts_with("version 2\n['main.py']\n"), "{}", ended.stdout);
    expect_no_leftovers(&lab);
}
