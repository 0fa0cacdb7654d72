//! `pollinator new` as people use it: an empty folder, an existing repository, a folder where something stands already.

#![allow(clippy::unwrap_used, clippy::expect_used)] // A test fails by panicking.

mod lab;

use lab::Lab;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

const FILES: [&str; 3] = ["project.yaml", "cfs/data/hello.txt", "cfs/src/main.py"];
const FOLDERS: [&str; 3] = ["cfs/src", "cfs/data", "cfs/result"];

/// Every path below a folder.
fn below(folder: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut open = vec![folder.to_owned()];
    while let Some(next) = open.pop() {
        for entry in fs::read_dir(next).unwrap() {
            let path = entry.unwrap().path();
            found.push(path.strip_prefix(folder).unwrap().display().to_string());
            if path.is_dir() && !path.is_symlink() {
                open.push(path);
            }
        }
    }
    found.sort();
    found
}

#[test]
fn new_makes_a_project_and_says_what_it_made() {
    let lab = Lab::new();
    let made = lab.run(["new", "-n", "lumi-std"]).expect_code(0);
    for folder in FOLDERS {
        assert!(made.stderr.contains(&format!("Creating directory Dir=./{folder}")), "{}", made.stderr);
        assert!(lab.home().join(folder).is_dir());
    }
    for file in FILES {
        assert!(made.stderr.contains(&format!("Generating Filename=./{file}")), "{}", made.stderr);
        assert!(lab.home().join(file).is_file());
    }
    let text = fs::read_to_string(lab.home().join("project.yaml")).unwrap();
    let (project, warnings) = pollinator::project::load(lab.home()).unwrap();
    assert!(warnings.is_empty(), "{warnings:?}");
    assert_eq!(project.settings.executor_names, ["lumi-std"]);
    let name = &project.settings.projectname;
    assert!(name.len() == 64 && name.chars().all(|c| c.is_ascii_hexdigit()), "{name}");
    for key in ["docker:", "rebuildImage:", "cmd: python3", "source: main.py", "processesPerNode: 1", "walltime: 600"] {
        assert!(text.contains(key), "{text}");
    }
}

#[test]
fn two_projects_have_two_names() {
    let lab = Lab::new();
    let name = |folder: &str| {
        lab.run(["new", "--executorname", "local", folder]).expect_code(0);
        pollinator::project::load(&lab.home().join(folder)).unwrap().0.settings.projectname
    };
    assert_ne!(name("a"), name("deep/b"));
}

#[test]
fn the_example_program_runs_by_itself() {
    let lab = Lab::new();
    lab.run(["new", "-n", "local", "p"]).expect_code(0);
    let project = lab.home().join("p");
    let mut python = Command::new("python3");
    python.arg(project.join("cfs/src/main.py")).env("PROJECT_DIR", project.join("cfs")).env("COLONIES_PROCESS_ID", "abc");
    let ended = lab::finish(python).expect_code(0);
    assert!(ended.stdout.contains("hostname:") && ended.stdout.contains("processid: abc"), "{}", ended.stdout);
    assert!(ended.stdout.contains("Hello world!"), "{}", ended.stdout);
    assert_eq!(fs::read_to_string(project.join("cfs/result/result.txt")).unwrap(), "Hello, World!");
}

#[test]
fn new_works_inside_a_repository() {
    let lab = Lab::new();
    fs::create_dir_all(lab.home().join(".git")).unwrap();
    fs::create_dir_all(lab.home().join("src")).unwrap();
    fs::write(lab.home().join("README.md"), "mine").unwrap();
    lab.run(["new", "-n", "local"]).expect_code(0);
    assert_eq!(fs::read_to_string(lab.home().join("README.md")).unwrap(), "mine");
    assert!(below(&lab.home().join("src")).is_empty());
}

#[test]
fn new_overwrites_nothing_and_names_what_stands_there() {
    for stands in FILES.iter().chain(&FOLDERS) {
        let lab = Lab::new();
        let place = lab.home().join("p").join(stands);
        fs::create_dir_all(place.parent().unwrap()).unwrap();
        if FILES.contains(stands) {
            fs::write(&place, "mine").unwrap();
        } else {
            fs::create_dir(&place).unwrap();
        }
        let before = below(&lab.home().join("p"));
        let refused = lab.run(["new", "-n", "local", "p"]).expect_code(2);
        // What lies deeper is refused with the folder that it lies in.
        let parent = Path::new(stands).parent().unwrap().display().to_string();
        assert!(
            refused.stderr.contains(&format!("error: p/{stands} exists"))
                || refused.stderr.contains(&format!("error: p/{parent} exists")),
            "{}",
            refused.stderr
        );
        assert!(refused.stderr.contains("hint: nothing was made"), "{}", refused.stderr);
        assert_eq!(below(&lab.home().join("p")), before);
    }
    // A link that leads nowhere stands there, too.
    let lab = Lab::new();
    std::os::unix::fs::symlink("/nowhere", lab.home().join("project.yaml")).unwrap();
    assert!(lab.run(["new", "-n", "local"]).expect_code(2).stderr.contains("project.yaml exists"));
}

#[test]
fn new_leaves_nothing_half_made() {
    let lab = Lab::new();
    // A file where a folder has to be: the making fails half-way.
    fs::create_dir(lab.home().join("p")).unwrap();
    fs::write(lab.home().join("p/cfs"), "mine").unwrap();
    let failed = lab.run(["new", "-n", "local", "p"]);
    assert_ne!(failed.code, Some(0));
    assert!(failed.stderr.contains("p/cfs"), "{}", failed.stderr);
    assert_eq!(below(&lab.home().join("p")), ["cfs"]);
    assert_eq!(fs::metadata(lab.home().join("p/cfs")).unwrap().permissions().mode() & 0o170000, 0o100000);
}

#[test]
fn new_wants_an_executor() {
    let lab = Lab::new();
    assert!(lab.run(["new"]).expect_code(2).stderr.contains("--name"));
    assert!(lab.run(["new", "-n", " "]).expect_code(2).stderr.contains("empty"));
    assert!(below(lab.home()).is_empty());
}

#[test]
fn new_tells_machines_what_it_made() {
    let lab = Lab::new();
    let made = lab.run(["--json", "new", "-n", "local", "p"]).expect_code(0);
    assert_eq!(made.json()["created"].as_array().unwrap().len(), 6);
}
