//! The Python client of ColonyOS against the embedded colony: members, files, snapshots, an executor of its own, jobs.
//!
//! Needs `.test-parts/pycolonies` (`scripts/parts.sh pycolonies`).

#![allow(clippy::unwrap_used, clippy::expect_used)] // A test fails by panicking.

mod lab;

use lab::Lab;
use std::path::Path;
use std::process::Command;

#[test]
fn the_python_client_uses_the_local_colony() {
    let python = Path::new(env!("CARGO_MANIFEST_DIR")).join(".test-parts/pycolonies/bin/python");
    assert!(python.exists(), "{} is missing: run scripts/parts.sh pycolonies (or scripts/test.sh)", python.display());
    let lab = Lab::new();
    let project = lab.project(
        "for-python",
        "import os\nopen(os.environ['PROJECT_DIR'] + '/result/out.txt', 'w').write('from pollinator\\n')\n",
    );
    lab.run_in(&project, ["run", "-f"]).expect_code(0);
    let exports = lab.run(["colony", "env"]).expect_code(0).stdout;
    let mut command = Command::new(python);
    command.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/pycolonies/client.py")).arg(lab.home()).arg("for-python");
    command.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default()).current_dir(lab.home());
    for line in exports.lines() {
        let (name, value) = line.strip_prefix("export ").and_then(|l| l.split_once('=')).expect("an export line");
        command.env(name, value.trim_matches('\''));
    }
    let ended = lab::finish(command).expect_code(0);
    let seen = ended.stdout.lines().filter(|line| line.starts_with("seen: ")).count();
    assert_eq!(seen, 9, "{}", ended.all());
}
