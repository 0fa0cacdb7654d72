//! Starting the agent in the background, and ending it: for people without a service manager.

use super::Error;
use super::control::client::Agent;
use super::lock;
use crate::blocking;
use std::io::BufRead;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use std::process::Stdio;
use std::time::Duration;
use std::time::Instant;

/// What the agent says on its standard output when it answers.
pub const READY: &str = "ready";
/// The variable that has it say so.
pub const TELL_READY: &str = "POLLINATOR_TELL_READY";
/// How long the agent may take to end.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often it is looked whether it has ended: a lock held by a process that is no child tells of its end in no other way.
const LOOK: Duration = Duration::from_millis(20);
/// Lines of its log that are shown when it does not start.
const TAIL: usize = 15;

/// Where the agent writes its log when it was started in the background.
pub fn log_path(state: &Path) -> PathBuf {
    state.join("logs").join("agent.log")
}

/// The agent's program: this one, or the one beside it.
pub fn program() -> Result<PathBuf, Error> {
    let own = std::env::current_exe()
        .map_err(|e| Error::Life { reason: format!("it cannot be seen where this program is: {e}"), tail: Vec::new() })?;
    if own.file_stem().is_some_and(|name| name == "pollinatord") {
        return Ok(own);
    }
    let beside = own.with_file_name("pollinatord");
    Ok(if beside.is_file() { beside } else { PathBuf::from("pollinatord") })
}

/// Starts an agent in a session of its own, and waits until it answers. Says whether it was started: where one runs, that one serves.
pub async fn start(state: &Path, profile: Option<&str>) -> Result<bool, Error> {
    let end = Instant::now() + PATIENCE;
    loop {
        match Agent::find(state).await {
            Ok(Some(_)) => return Ok(false),
            Ok(None) => {}
            // It is ending, perhaps.
            Err(Error::Garbled { .. }) if Instant::now() < end => {
                tokio::time::sleep(LOOK).await;
                continue;
            }
            Err(error) => return Err(error),
        }
        let (state, profile) = (state.to_owned(), profile.map(str::to_owned));
        match blocking::run(move || spawn(&state, profile.as_deref())).await {
            // One that holds the lock is about to answer, or about to end.
            Err(Error::Running { .. }) if Instant::now() < end => tokio::time::sleep(LOOK).await,
            other => return other.map(|()| true),
        }
    }
}

fn spawn(state: &Path, profile: Option<&str>) -> Result<(), Error> {
    let path = log_path(state);
    let failed = |source| Error::Folder { what: "the agent's log", path: path.clone(), source };
    if let Some(folder) = path.parent() {
        crate::sqlite::private_folder(folder).map_err(failed)?;
    }
    let log = std::fs::OpenOptions::new().create(true).append(true).mode(0o600).open(&path).map_err(failed)?;
    let program = program()?;
    let mut command = Command::new(&program);
    if let Some(profile) = profile {
        command.arg("--profile").arg(profile);
    }
    command.env(TELL_READY, "1").stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log).current_dir("/");
    // SAFETY: setsid is async-signal-safe and touches nothing of ours.
    unsafe {
        command.pre_exec(|| if libc::setsid() < 0 { Err(std::io::Error::last_os_error()) } else { Ok(()) });
    }
    let broken = |reason: String| Error::Life { reason, tail: tail(&path) };
    let mut child = command.spawn().map_err(|e| broken(format!("{} cannot be started: {e}", program.display())))?;
    let said =
        child.stdout.take().map(|out| std::io::BufReader::new(out).lines().map_while(Result::ok).any(|line| line == READY));
    if said == Some(true) {
        return Ok(());
    }
    let status = child.wait().map_err(|e| broken(e.to_string()))?;
    if let Some(holder) = lock::holder(state) {
        return Err(Error::Running { holder: holder.map_or_else(|who| who, |holder| holder.to_string()) });
    }
    Err(broken(format!("the agent did not start: it ended with {status}; its log is {}", path.display())))
}

fn tail(path: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(TAIL)..].iter().map(|line| (*line).to_owned()).collect()
}

/// Ends the agent, and waits until it has ended. Says whether there was one.
pub async fn stop(state: &Path) -> Result<bool, Error> {
    let Some(holder) = lock::holder(state) else { return Ok(false) };
    let asked = match Agent::find(state).await {
        Ok(Some(agent)) => agent.tell("/v1/stop", &serde_json::json!({})).await,
        Ok(None) => Err(Error::NotRunning),
        Err(error) => Err(error),
    };
    if let Err(error) = asked {
        // It does not answer, or speaks another protocol: a signal is understood by every version.
        terminate(&holder, &error)?;
    }
    let end = Instant::now() + PATIENCE;
    while lock::holder(state).is_some() {
        if Instant::now() > end {
            return Err(Error::Life {
                reason: format!("the agent has not ended within {} s", PATIENCE.as_secs()),
                tail: Vec::new(),
            });
        }
        tokio::time::sleep(LOOK).await;
    }
    Ok(true)
}

fn terminate(holder: &Result<lock::Holder, String>, why: &Error) -> Result<(), Error> {
    let here = lock::Holder::here();
    let is_here = |holder: &&lock::Holder| holder.host == here.host && holder.boot == here.boot;
    let Some(holder) = holder.as_ref().ok().filter(is_here) else {
        let who = holder.as_ref().map_or_else(Clone::clone, ToString::to_string);
        return Err(Error::Life { reason: format!("the agent ({who}) cannot be ended from here: {why}"), tail: Vec::new() });
    };
    let pid = i32::try_from(holder.pid).unwrap_or(-1);
    // SAFETY: a signal to a process whose number was just read from the lock that it holds.
    if pid > 1 && unsafe { libc::kill(pid, libc::SIGTERM) } == 0 {
        return Ok(());
    }
    let reason = format!("{holder} cannot be signalled: {}", std::io::Error::last_os_error());
    Err(Error::Life { reason, tail: Vec::new() })
}
