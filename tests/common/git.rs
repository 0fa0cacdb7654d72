//! Real git in a hermetic environment.

#![allow(dead_code)] // Each test program uses a part of it.

use crate::lab;
use crate::lab::Lab;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;

/// Runs git in a folder, as somebody with no settings of their own.
#[track_caller]
pub fn git(lab: &Lab, folder: &Path, arguments: &[&str]) -> String {
    let mut command = Command::new("git");
    command
        .args(["-c", "init.defaultBranch=main", "-c", "protocol.file.allow=always"])
        .args(arguments)
        .current_dir(folder)
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .env("HOME", lab.home())
        .env("GIT_CONFIG_NOSYSTEM", "1");
    for who in ["AUTHOR", "COMMITTER"] {
        command
            .env(format!("GIT_{who}_NAME"), "Somebody")
            .env(format!("GIT_{who}_EMAIL"), "somebody@example.org")
            .env(format!("GIT_{who}_DATE"), "2026-11-23T12:00:00Z");
    }
    lab::finish(command).expect_code(0).stdout
}

/// Makes a repository of a folder, with all that is in it committed. Gives the commit.
#[track_caller]
pub fn repository(lab: &Lab, folder: &Path) -> String {
    git(lab, folder, &["init", "-q"]);
    commit(lab, folder, "first")
}

/// Commits all that is in a folder. Gives the commit.
#[track_caller]
pub fn commit(lab: &Lab, folder: &Path, message: &str) -> String {
    git(lab, folder, &["add", "-A", "."]);
    git(lab, folder, &["commit", "-q", "-m", message]);
    git(lab, folder, &["rev-parse", "HEAD"]).trim().to_owned()
}

/// Where a project lies in a repository, with characters that mean something else in patterns.
pub const BELOW: &str = "deep [in]side/pro*ject";

/// Moves a project into a folder of a repository that is yet to be made; gives both.
pub fn below(lab: &Lab, project: &Path, name: &str) -> (PathBuf, PathBuf) {
    let repository = lab.home().join(name);
    let moved = repository.join(BELOW);
    std::fs::create_dir_all(moved.parent().unwrap()).unwrap();
    std::fs::rename(project, &moved).unwrap();
    (repository, moved)
}
