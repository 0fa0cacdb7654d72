//! Real programs change a project that is watched: each change settles into the right thing, and nothing passing is ever stored.
//!
//! What was stored is read from the colony's own books (`agency::ledger`), so that a temporary file is noticed even where it was
//! removed a moment later.

#![allow(clippy::unwrap_used, clippy::expect_used)] // A test fails by panicking.

mod agency;
mod lab;

use agency::Agency;
use agency::ledger::Ledger;
use agency::signal;
use lab::Ended;
use lab::finish;
use lab::until;
use lab::wait;
use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use std::process::Stdio;

const PRINT: &str = "print('ran')\n";

/// A project that is in step, and the books of its colony.
struct Scene {
    agency: Agency,
    project: PathBuf,
    ledger: Ledger,
}

impl Scene {
    fn new(name: &str, before: impl FnOnce(&Path)) -> Scene {
        let agency = Agency::new();
        let project = agency.lab.project(name, PRINT);
        fs::write(project.join("cfs/data/stays"), "x").unwrap();
        before(&project);
        agency.watch(&project);
        let ledger = Ledger::of(&agency.lab);
        Scene { agency, project, ledger }
    }

    fn src(&self, below: &str) -> PathBuf {
        self.project.join("cfs/src").join(below)
    }

    /// A program in an empty home of its own, in the src tree.
    fn program(&self, name: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new(name);
        command.args(arguments).env_clear().env("HOME", self.agency.lab.home()).env("LANG", "C.UTF-8").env("TERM", "dumb");
        command.env("PATH", std::env::var_os("PATH").unwrap_or_default()).current_dir(self.src("")).stdin(Stdio::null());
        command
    }

    #[track_caller]
    fn does(&self, name: &str, arguments: &[&str]) -> Ended {
        finish(self.program(name, arguments)).expect_code(0)
    }

    #[track_caller]
    fn git(&self, arguments: &[&str]) {
        let settings = ["-c", "user.name=t", "-c", "user.email=t@localhost", "-c", "gc.auto=0", "-c", "maintenance.auto=false"];
        let mut command = self.program("git", &[&settings[..], arguments].concat());
        command.env("GIT_CONFIG_NOSYSTEM", "1").current_dir(&self.project);
        finish(command).expect_code(0);
    }

    /// Waits until the agent has brought everything over, and gives what was ever stored meanwhile.
    #[track_caller]
    fn stored(&self, tree: &str) -> BTreeSet<String> {
        self.agency.until_stored(&self.project);
        self.ledger.names_since(tree)
    }
}

fn set(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

#[test]
fn editors_save_by_renames_backups_and_locks_and_only_the_file_is_stored() {
    let scene = Scene::new("editors", |_| {});
    // Backups beside the file, a swap file, and the file renamed away and written anew.
    let vim = "set nocompatible backup writebackup backupcopy=no swapfile directory=. backupdir=. backupskip=";
    let keys = ["-c", vim, "-c", "edit main.py", "-c", "%s/ran/vim/", "-c", "wq"];
    scene.does("vim", &[&["-es", "-N", "-u", "NONE", "-i", "NONE"][..], &keys].concat());
    assert_eq!(scene.stored("src"), set(&["main.py"]));
    assert!(scene.src("main.py~").exists(), "vim left its backup");
    assert!(fs::read_to_string(scene.src("main.py")).unwrap().contains("vim"));
    // A lock `.#main.py`, an auto-save file `#main.py#`, a backup `main.py~`.
    let lisp = "(progn (setq create-lockfiles t make-backup-files t backup-by-copying nil) (find-file \"main.py\") \
        (goto-char (point-max)) (insert \"# emacs\\n\") (auto-save-mode 1) (do-auto-save t) \
        (unless (and (file-symlink-p \".#main.py\") (file-exists-p \"#main.py#\")) (kill-emacs 7)) \
        (sleep-for 1) (save-buffer) (insert \"# not saved\\n\") (do-auto-save t) (set-buffer-modified-p nil))";
    scene.does("emacs", &["-Q", "--batch", "--eval", lisp]);
    assert_eq!(scene.stored("src"), set(&["main.py"]));
    assert!(fs::read_to_string(scene.src("main.py")).unwrap().ends_with("# emacs\n"));
    scene.does("sed", &["-i", "s/emacs/sed/", "main.py"]);
    assert_eq!(scene.stored("src"), set(&["main.py"]));
    // VS Code: opened with O_TRUNC, written in place.
    fs::File::create(scene.src("main.py")).unwrap().write_all(b"print('code')\n").unwrap();
    assert_eq!(scene.stored("src"), set(&["main.py"]));
    // JetBrains: the new one beside, the old one renamed away, and the backup removed.
    let (new, old) = (scene.src("main.py___jb_tmp___"), scene.src("main.py___jb_old___"));
    fs::write(&new, "print('idea')\n").unwrap();
    scene.agency.save(&scene.project, "src/meanwhile", "x");
    scene.ledger.until_stored("/src/meanwhile");
    fs::rename(scene.src("main.py"), &old).unwrap();
    fs::rename(&new, scene.src("main.py")).unwrap();
    scene.agency.save(&scene.project, "src/meanwhile", "xx");
    assert_eq!(scene.stored("src"), set(&["main.py", "meanwhile"]));
    fs::remove_file(old).unwrap();
    assert_eq!(scene.stored("src"), set(&[]));
    assert_eq!(fs::read_to_string(scene.src("main.py")).unwrap(), "print('idea')\n");
}

#[test]
fn a_checkout_of_ten_thousand_files_is_one_change_set() {
    let scene = Scene::new("branches", |_| {});
    let write = |text: &str| {
        for number in 0..10_000 {
            let folder = scene.src(&format!("d{}", number % 100));
            fs::create_dir_all(&folder).unwrap();
            fs::write(folder.join(format!("f{number}")), format!("{text} {number}")).unwrap();
        }
    };
    scene.agency.agent(["pause"]).expect_code(0);
    fs::write(scene.project.join(".gitignore"), ".pollinator\ncfs/result\n").unwrap();
    scene.git(&["init", "-q", "-b", "one"]);
    write("one");
    scene.git(&["add", "."]);
    scene.git(&["commit", "-q", "-m", "one"]);
    scene.git(&["checkout", "-q", "-b", "two"]);
    write("two");
    scene.git(&["commit", "-q", "-a", "-m", "two"]);
    scene.agency.agent(["resume"]).expect_code(0);
    assert_eq!(scene.stored("src").len(), 10_000);
    let before = scene.agency.log_lines("transferred").len();
    scene.git(&["checkout", "-q", "one"]);
    let stored = scene.ledger_after_checkout();
    let lines = scene.agency.log_lines("transferred");
    assert_eq!(lines.len() - before, 1, "one change set: {:#?}", &lines[before..]);
    assert!(lines.last().unwrap().contains("files=10000"), "{}", lines.last().unwrap());
    assert_eq!(stored, 10_000, "each file once");
    // And what git puts aside.
    fs::write(scene.src("d0/f0"), "not committed").unwrap();
    assert_eq!(scene.stored("src"), set(&["d0/f0"]));
    scene.git(&["stash", "-q"]);
    assert_eq!(scene.stored("src"), set(&["d0/f0"]));
    scene.git(&["stash", "pop", "-q"]);
    assert_eq!(scene.stored("src"), set(&["d0/f0"]));
    assert_eq!(fs::read_to_string(scene.src("d0/f0")).unwrap(), "not committed");
}

impl Scene {
    /// How many rows a big change made.
    fn ledger_after_checkout(&self) -> usize {
        self.agency.until_stored(&self.project);
        self.ledger.since("src").iter().filter(|name| !name.ends_with(".pollinator-folder")).count()
    }
}

#[test]
fn copies_into_the_tree_are_stored_when_they_are_whole() {
    let scene = Scene::new("copies", |_| {});
    let outside = scene.agency.lab.home().join("outside");
    fs::create_dir_all(outside.join("a/b/c/d/e/f")).unwrap();
    for number in 0..40 {
        fs::write(outside.join(format!("a/b/file-{number}")), format!("{number}")).unwrap();
        fs::write(outside.join(format!("a/b/c/d/e/f/{number}")), vec![number; 40_000]).unwrap();
    }
    let is_ours = |name: &String| name.starts_with("a/b/file-") || name.starts_with("a/b/c/d/e/f/");
    // Temporaries `.name.XXXXXX` beside each file, slowly enough for the agent to see them.
    let from = format!("{}/", outside.display());
    scene.does("rsync", &["-a", "--bwlimit=600", &from, "."]);
    let stored = scene.stored("src");
    assert!(stored.len() == 80 && stored.iter().all(is_ours), "{stored:?}");
    // A folder goes and comes back, as a whole.
    let away = scene.agency.lab.home().join("away");
    scene.does("mv", &["a", away.to_str().unwrap()]);
    assert_eq!(scene.stored("src"), set(&[]));
    scene.does("mv", &[away.to_str().unwrap(), "a"]);
    assert_eq!(scene.stored("src").len(), 80);
    fs::write(scene.src("a/b/c/d/e/f/0"), "it is watched").unwrap();
    assert_eq!(scene.stored("src"), set(&["a/b/c/d/e/f/0"]));
    fs::remove_dir_all(scene.src("a")).unwrap();
    assert_eq!(scene.stored("src"), set(&[]));
    let archive = outside.join("deep.tar");
    scene.does("tar", &["-cf", archive.to_str().unwrap(), "-C", outside.to_str().unwrap(), "a"]);
    scene.does("tar", &["-xf", archive.to_str().unwrap()]);
    let stored = scene.stored("src");
    assert!(stored.len() == 80 && stored.iter().all(is_ours), "{stored:?}");
}

#[test]
fn a_copy_that_pauses_in_its_middle_is_stored_whole_or_not_at_all() {
    let scene = Scene::new("slow", |_| {});
    let half = vec![7u8; 3_000_000];
    let mut command = scene.program("cp", &["/dev/stdin", "../data/big"]);
    let mut copy = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut pipe = copy.stdin.take().unwrap();
    pipe.write_all(&half).unwrap();
    let big = scene.project.join("cfs/data/big");
    until("half of it is there", || fs::metadata(&big).is_ok_and(|metadata| metadata.len() == 3_000_000));
    signal(copy.id(), 19);
    for round in 0..3 {
        // Others are brought over meanwhile, also by a look at everything.
        scene.agency.save(&scene.project, "data/beside", &format!("{round}"));
        fs::write(scene.project.join(".cfsignore"), format!("*.{round}\n")).unwrap();
        scene.ledger.until_stored("/data/beside");
        until("it is named", || scene.agency.project_status(&scene.project)["writing"][0] == "data/big");
        assert_eq!(scene.ledger.names_since("data"), set(&["beside"]));
    }
    signal(copy.id(), 18);
    pipe.write_all(&half).unwrap();
    drop(pipe);
    wait(copy).expect_code(0);
    scene.agency.until_stored(&scene.project);
    assert_eq!(scene.ledger.since("data"), ["big"], "once, when it was whole");
    assert_eq!(fs::metadata(&big).unwrap().len(), 6_000_000);
}

#[test]
fn packages_that_are_left_out_have_no_watches_and_are_not_stored() {
    let scene = Scene::new("packages", |project| fs::write(project.join(".cfsignore"), "node_modules/\n.venv/\n").unwrap());
    let watches = || scene.agency.project_status(&scene.project)["watcher"]["watches"].as_u64().unwrap();
    let before = watches();
    for number in 0..300 {
        for folder in [".venv/lib/python3/site-packages", "node_modules", "sub/node_modules"] {
            scene.agency.save(&scene.project, &format!("src/{folder}/p{number}/__init__.py"), "x");
        }
    }
    scene.does("python3", &["-m", "venv", "--without-pip", "other/.venv"]);
    scene.agency.save(&scene.project, "src/last", "x");
    assert_eq!(scene.stored("src"), set(&["last"]));
    assert_eq!(watches(), before + 2, "those of `sub` and `other`");
}
