//! A run of a commit, by `pollinator run --commit`, as a process of its own: it is followed, interrupted and left alone as a
//! person would do it.

use crate::agent::hooks::repository;
use crate::cli::CliError;
use crate::cli::Context;
use std::os::fd::AsFd;
use std::path::Path;
use std::process::Command;
use std::process::Stdio;
use std::time::Duration;
use tokio::process::Child;

/// How long a follower may take to say how to go on, after it was interrupted.
const LAST_WORDS: Duration = Duration::from_secs(10);

/// Whether it is followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    /// Submitted only.
    Detached,
    /// Followed to its end, or for so long.
    Followed(Duration),
}

/// How it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// With this exit code; 0: all went well.
    Code(u8),
    /// Following ended with its time; the process goes on.
    TimedOut,
    /// Following was interrupted; the process goes on.
    Interrupted,
}

/// This program with these arguments, for a project.
pub fn program(context: &Context, project_folder: &Path, arguments: &[&str]) -> Result<Command, CliError> {
    let program = std::env::current_exe().map_err(|e| CliError::failed(format!("this program does not know its path: {e}")))?;
    let mut command = Command::new(program);
    command.args(arguments).arg("--project").arg(project_folder).stdin(Stdio::null());
    if let Some(profile) = context.profile() {
        command.args(["--profile", profile]);
    }
    repository::leave(&mut command);
    Ok(command)
}

/// The command that runs a commit.
pub fn command(context: &Context, project_folder: &Path, commit: &str, how: How) -> Result<Command, CliError> {
    let follow = if how == How::Detached { "--detach" } else { "--follow" };
    program(context, project_folder, &["run", "--commit", commit, follow])
}

/// Runs a commit. Its output goes to standard error: standard output is that of git.
pub async fn run_commit(context: &Context, project_folder: &Path, commit: &str, how: How) -> Result<Ended, CliError> {
    let mut command = command(context, project_folder, commit, how)?;
    let failed = |e: std::io::Error| CliError::failed(format!("cannot start a run of {commit}: {e}"));
    command.stdout(std::io::stderr().as_fd().try_clone_to_owned().map_err(failed)?);
    let mut child = tokio::process::Command::from(command).spawn().map_err(failed)?;
    let limit = async {
        match how {
            How::Detached => std::future::pending().await,
            How::Followed(limit) => tokio::time::sleep(limit).await,
        }
    };
    let ended = tokio::select! {
        status = child.wait() => return Ok(Ended::Code(code(status.map_err(failed)?))),
        () = limit => Ended::TimedOut,
        heard = tokio::signal::ctrl_c() => match heard {
            Ok(()) => Ended::Interrupted,
            Err(error) => return Err(CliError::failed(format!("Ctrl-C cannot be listened for: {error}"))),
        },
    };
    stop(&mut child).await;
    Ok(ended)
}

/// As Ctrl-C does, which may have reached it already: it says how to follow on and how to cancel.
async fn stop(child: &mut Child) {
    if let Some(pid) = child.id().and_then(|pid| libc::pid_t::try_from(pid).ok()) {
        // SAFETY: sends a signal to a child that was not waited for yet, so the number is still its own.
        unsafe { libc::kill(pid, libc::SIGINT) };
    }
    if tokio::time::timeout(LAST_WORDS, child.wait()).await.is_err() {
        tracing::warn!("the follower of the run does not end; it is killed");
        let _ = child.kill().await;
    }
}

/// What ended by a signal has failed.
fn code(status: std::process::ExitStatus) -> u8 {
    status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(crate::cli::error::FAILED)
}
