//! What made a run: the commit that was checked out, and whether the folder differed from it.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;
use tokio::process::Command;

/// Git's word on a folder.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Provenance {
    /// The commit, where the folder is in a repository that has one.
    pub commit: Option<String>,
    /// Whether anything below the folder differs from it.
    pub dirty: bool,
}

/// Asks git. No git, no repository, or a git that hangs means: nothing known; a run does not fail for that.
pub async fn of(folder: &Path) -> Provenance {
    let Some(commit) = git(folder, &["rev-parse", "--verify", "HEAD"]).await else { return Provenance::default() };
    let status = git(folder, &["status", "--porcelain", "--untracked-files=normal", "--", "."]).await;
    Provenance { commit: Some(commit.trim().to_owned()), dirty: status.is_none_or(|s| !s.trim().is_empty()) }
}

async fn git(folder: &Path, arguments: &[&str]) -> Option<String> {
    let command = Command::new("git")
        .arg("-C")
        .arg(folder)
        .args(["--no-optional-locks"])
        .args(arguments)
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .output();
    let output = match tokio::time::timeout(Duration::from_secs(20), command).await {
        Ok(Ok(output)) => output,
        Ok(Err(error)) => {
            tracing::debug!(%error, "git cannot be started");
            return None;
        }
        Err(_) => {
            tracing::debug!("git did not answer in time");
            return None;
        }
    };
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}
