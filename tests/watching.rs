//! A watched tree where people do what nobody thought of. Against the local colony, with the file system as it is.

#![allow(clippy::unwrap_used, clippy::expect_used)] // A test fails by panicking.

mod agency;
mod lab;

use agency::Agency;
use agency::ledger::Ledger;
use agency::signal;
use lab::until;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::fs::symlink;
use std::path::Path;

const PRINT: &str = "print('ran')\n";

/// Waits until all is stored, and sees that the colony holds exactly these files of a tree (and markers of folders).
#[track_caller]
fn holds(agency: &Agency, ledger: &Ledger, project: &Path, tree: &str, names: &[&str]) {
    agency.until_stored(project);
    let start = format!("/{tree}/");
    let held: Vec<String> = ledger.held().iter().filter_map(|place| Some(place.split_once(&start)?.1.to_owned())).collect();
    let mut held: Vec<&str> = held.iter().map(String::as_str).filter(|name| !name.ends_with(".pollinator-folder")).collect();
    let mut names = names.to_vec();
    held.sort_unstable();
    names.sort_unstable();
    assert_eq!(held, names);
}

#[test]
fn a_tree_that_is_a_link_to_another_disk_is_watched_where_it_is() {
    let agency = Agency::new();
    let (disk, other) = (agency.lab.home().join("disk/of data"), agency.lab.home().join("other"));
    for folder in [&disk, &other] {
        fs::create_dir_all(folder.join("deep")).unwrap();
        fs::write(folder.join("deep/a"), "x").unwrap();
    }
    // Two projects with the same data, as people on a cluster have them.
    let projects = ["one", "two"].map(|name| {
        let project = agency.lab.project(name, PRINT);
        fs::remove_dir(project.join("cfs/data")).unwrap();
        symlink(&disk, project.join("cfs/data")).unwrap();
        fs::write(project.join(".cfsignore"), "*.ckpt\n").unwrap();
        agency.watch(&project);
        project
    });
    let [one, two] = &projects;
    let ledger = Ledger::of(&agency.lab);
    let in_both = |ending: &str| {
        ledger.until_stored(&format!("one/data/{ending}"));
        ledger.until_stored(&format!("two/data/{ending}"));
    };
    fs::write(disk.join("deep/b"), "told of at its real place").unwrap();
    in_both("deep/b");
    agency.save(one, "data/new/er/c", "by the other name");
    in_both("new/er/c");
    fs::write(disk.join("model.ckpt"), "left out by the rules above the tree").unwrap();
    // One of them goes: the watches of the other stay.
    agency.agent(["remove", one.to_str().unwrap()]).expect_code(0);
    fs::write(disk.join("new/er/d"), "x").unwrap();
    ledger.until_stored("two/data/new/er/d");
    fs::write(disk.join("deep/.cfsignore"), "e\n").unwrap();
    fs::write(disk.join("deep/e"), "x").unwrap();
    agency.until_stored(two);
    assert!(!ledger.has("model.ckpt") && !ledger.has("deep/e") && ledger.has("deep/.cfsignore"));
    assert_eq!(agency.project_status(two)["watcher"]["kind"], "events");
    // The link leads elsewhere: what is not there is not taken for removed.
    fs::remove_file(two.join("cfs/data")).unwrap();
    symlink(&other, two.join("cfs/data")).unwrap();
    fs::write(other.join("f"), "x").unwrap();
    ledger.until_stored("two/data/f");
    agency.until_stored(two);
    fs::write(other.join("deep/g"), "x").unwrap();
    ledger.until_stored("two/data/deep/g");
}

#[test]
fn rules_that_come_and_go_in_deep_folders_count_at_once() {
    let agency = Agency::new();
    let project = agency.lab.project("rules", PRINT);
    agency.save(&project, "src/a/b/c/x.o", "x");
    agency.watch(&project);
    let ledger = Ledger::of(&agency.lab);
    let holds = |names: &[&str]| holds(&agency, &ledger, &project, "src", names);
    let main = "main.py";
    holds(&[main, "a/b/c/x.o"]);
    agency.save(&project, "src/a/b/.cfsignore", "*.o\n");
    holds(&[main, "a/b/.cfsignore"]);
    agency.save(&project, "src/a/b/c/y.o", "x");
    agency.save(&project, "src/a/b/c/.cfsignore", "!y.o\n");
    holds(&[main, "a/b/.cfsignore", "a/b/c/.cfsignore", "a/b/c/y.o"]);
    // With the folder that holds it, by a rename.
    fs::rename(project.join("cfs/src/a/b"), project.join("cfs/src/moved")).unwrap();
    agency.save(&project, "src/moved/z.o", "x");
    holds(&[main, "moved/.cfsignore", "moved/c/.cfsignore", "moved/c/y.o"]);
    fs::remove_file(project.join("cfs/src/moved/.cfsignore")).unwrap();
    holds(&[main, "moved/c/.cfsignore", "moved/c/x.o", "moved/c/y.o", "moved/z.o"]);
    // A whole folder is left out, filled, and let in again.
    agency.save(&project, "src/.cfsignore", "build/\n");
    agency.save(&project, "src/build/deep/f", "x");
    holds(&[main, ".cfsignore", "moved/c/.cfsignore", "moved/c/x.o", "moved/c/y.o", "moved/z.o"]);
    fs::remove_file(project.join("cfs/src/.cfsignore")).unwrap();
    holds(&[main, "build/deep/f", "moved/c/.cfsignore", "moved/c/x.o", "moved/c/y.o", "moved/z.o"]);
    fs::write(project.join("cfs/src/build/deep/f"), "it is watched").unwrap();
    holds(&[main, "build/deep/f", "moved/c/.cfsignore", "moved/c/x.o", "moved/c/y.o", "moved/z.o"]);
}

#[test]
fn what_stands_at_a_path_may_become_something_else() {
    let agency = Agency::new();
    let project = agency.lab.project("changing", PRINT);
    agency.watch(&project);
    let ledger = Ledger::of(&agency.lab);
    let src = project.join("cfs/src");
    let holds = |names: &[&str]| holds(&agency, &ledger, &project, "src", &[names, &["main.py"]].concat());
    agency.save(&project, "src/x", "a file");
    holds(&["x"]);
    fs::remove_file(src.join("x")).unwrap();
    agency.save(&project, "src/x/y/z", "in a folder");
    holds(&["x/y/z"]);
    fs::remove_dir_all(src.join("x")).unwrap();
    agency.save(&project, "src/x", "a file again");
    holds(&["x"]);
    // Links: to a file inside, to a folder, out of the tree, to nothing.
    agency.save(&project, "src/d/in", "x");
    symlink("d/in", src.join("to-file")).unwrap();
    symlink("d", src.join("to-folder")).unwrap();
    symlink("/etc", src.join("out")).unwrap();
    symlink("nothing", src.join("dangling")).unwrap();
    holds(&["x", "d/in", "to-file"]);
    fs::remove_file(src.join("to-folder")).unwrap();
    fs::rename(src.join("d"), src.join("to-folder")).unwrap();
    fs::remove_file(src.join("to-file")).unwrap();
    holds(&["x", "to-folder/in"]);
    // Names that differ in case only, and one that changes only in it.
    fs::rename(src.join("x"), src.join("X")).unwrap();
    agency.save(&project, "src/Readme", "1");
    agency.save(&project, "src/README", "2");
    holds(&["X", "Readme", "README", "to-folder/in"]);
    // A hard link: one file under two names, written through one of them.
    fs::hard_link(src.join("X"), src.join("twin")).unwrap();
    holds(&["X", "twin", "Readme", "README", "to-folder/in"]);
}

#[test]
fn names_may_hold_whatever_a_file_system_lets_them() {
    let agency = Agency::new();
    let project = agency.lab.project("names", PRINT);
    agency.watch(&project);
    let ledger = Ledger::of(&agency.lab);
    // é in both of its normal forms, which are two files here.
    let names = [
        "two words",
        "\"quoted\" 'too'",
        "back\\slash",
        "caf\u{e9}",
        "cafe\u{301}",
        "-rf",
        "a&b<c>",
        "100%",
        "?q#f",
        "$(id)",
        "日本",
    ];
    for name in names {
        agency.save(&project, &format!("src/{name}/{name}"), name);
    }
    let inside: Vec<String> = names.iter().map(|name| format!("{name}/{name}")).collect();
    let all: Vec<&str> = inside.iter().map(String::as_str).chain(["main.py"]).collect();
    holds(&agency, &ledger, &project, "src", &all);
    fs::write(project.join("cfs/src/caf\u{e9}/caf\u{e9}"), "changed").unwrap();
    holds(&agency, &ledger, &project, "src", &all);
    // What cannot be brought over is named, and everything else is brought over all the same.
    agency.save(&project, "src/line\nbreak", "x");
    let odd = std::ffi::OsString::from(<std::ffi::OsStr as std::os::unix::ffi::OsStrExt>::from_bytes(b"not-\xff-text"));
    fs::write(project.join("cfs/src").join(odd), "x").unwrap();
    agency.save(&project, "src/after", "x");
    ledger.until_stored("/src/after");
    until("they are named", || {
        let status = agency.project_status(&project);
        let problems = status["problems"].as_array().unwrap().clone();
        let is_named = |part: &str| problems.iter().any(|problem| problem["path"].as_str().unwrap().contains(part));
        is_named("not-") && (is_named("line") || ledger.has("line\nbreak"))
    });
}

#[test]
fn a_mode_travels_without_a_byte_written() {
    let agency = Agency::new();
    let python = "import os\nprint('mode', oct(os.stat(os.path.dirname(os.path.abspath(__file__)) + '/tool').st_mode & 0o777))\n";
    // Executors take the right to write from what several snapshots share.
    let shared = 0o555;
    let project = agency.lab.project("modes", python);
    let tool = agency.save(&project, "src/tool", "#!/bin/sh\n");
    agency.watch(&project);
    for mode in [0o755, 0o644] {
        fs::set_permissions(&tool, fs::Permissions::from_mode(mode)).unwrap();
        agency.agent(["flush", project.to_str().unwrap()]).expect_code(0);
        agency.agrees(&project);
        let ran = agency.lab.run_in(&project, ["run", "--follow"]).expect_code(0);
        assert!(ran.stdout.contains(&format!("mode {:#o}\n", mode & shared)), "{mode:o}: {}", ran.all());
    }
}

#[test]
fn polling_serves_from_end_to_end() {
    let agency = Agency::without_agent();
    let mut command = agency.agent_command(["start"]);
    command.env("POLLINATOR_WATCH", "poll");
    lab::finish(command).expect_code(0);
    let project = agency.lab.project("polled", PRINT);
    agency.save(&project, "data/stays", "x");
    agency.agent(["add", project.to_str().unwrap()]).expect_code(0);
    until("it is stored", || agency.is_stored(&project));
    let watcher = agency.project_status(&project)["watcher"].clone();
    assert_eq!((watcher["kind"].as_str(), watcher["watches"].as_u64()), (Some("polling"), Some(0)));
    agency.save(&project, "data/new/deep/file", "x");
    until("it is stored", || agency.is_stored(&project));
    fs::remove_dir_all(project.join("cfs/data/new")).unwrap();
    agency.save(&project, "src/main.py", "print('polled')\n");
    let ran = agency.lab.run_in(&project, ["run", "--follow"]).expect_code(0);
    assert!(ran.stdout.contains("polled"), "{}", ran.all());
    until("the removal arrives", || agency.is_stored(&project));
}

#[test]
fn an_agent_that_slept_sees_what_happened_meanwhile() {
    let agency = Agency::new();
    let project = agency.lab.project("asleep", PRINT);
    for number in 0..20 {
        agency.save(&project, &format!("data/d{number}/f"), "x");
    }
    agency.watch(&project);
    let (pid, ledger) = (agency.pid(), Ledger::of(&agency.lab));
    signal(pid, 19);
    for number in 0..20 {
        agency.save(&project, &format!("data/d{number}/f"), "changed");
        agency.save(&project, &format!("data/new{number}/a/b/f"), "new");
    }
    fs::rename(project.join("cfs/data/d0"), project.join("cfs/data/moved")).unwrap();
    fs::remove_dir_all(project.join("cfs/data/d1")).unwrap();
    signal(pid, 18);
    agency.until_stored(&project);
    assert_eq!(ledger.names_since("data").len(), 20 + 19, "{:?}", ledger.held());
    agency.save(&project, "data/new7/a/b/f", "told of");
    ledger.until_stored("/data/new7/a/b/f");
    agency.until_stored(&project);
}
