//! The command line's end: what the executor says of itself, and where it does not answer, what its folder tells.

use super::model::Running;
use super::model::Status;
use super::read_card;
use super::socket_path;
use crate::blocking;
use crate::executor::error::Error;
use crate::executor::journal::Journal;
use crate::executor::lifecycle::LOCK;
use crate::lock;
use crate::lock::Holder;
use crate::socket;
use std::path::Path;
use std::time::Duration;

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// Who runs the executor of a state folder; none: nobody does.
pub fn holder(state_dir: &Path) -> Option<Result<Holder, String>> {
    lock::holder(&state_dir.join(LOCK))
}

/// Looks whether an executor on another machine lives; none where that cannot be seen.
pub fn pulse(state_dir: &Path) -> Option<lock::Watch> {
    lock::Watch::of(&state_dir.join(LOCK))
}

/// How the executor of a state folder stands; none: there never was one.
///
/// # Errors
/// Its folder cannot be read, or it runs here and does not answer.
pub async fn status(state_dir: &Path) -> Result<Option<Status>, Error> {
    let who = holder(state_dir);
    // One that runs on another machine has its socket there.
    if who.as_ref().is_some_and(|who| who.as_ref().map_or(true, Holder::is_here)) {
        match ask(state_dir).await {
            Ok(status) => return Ok(Some(status)),
            Err(reason) if holder(state_dir).is_some() => {
                tracing::debug!(reason, "the executor does not answer: its journal is read")
            }
            Err(_) => {}
        }
    }
    let state = state_dir.to_owned();
    blocking::run(move || from_folder(&state)).await
}

/// Has it look at once whether there are wishes. One that does not answer looks by itself.
pub async fn look(state_dir: &Path) {
    let path = socket_path(state_dir);
    let Ok(http) = socket::client(&path) else { return };
    if let Err(error) = http.post("http://executor/v1/look").timeout(PATIENCE).send().await {
        tracing::debug!(%error, "the executor looks for wishes by itself");
    }
}

async fn ask(state_dir: &Path) -> Result<Status, String> {
    let http = socket::client(&socket_path(state_dir))?;
    let response = http.get("http://executor/v1/status").timeout(PATIENCE).send().await.map_err(|e| e.to_string())?;
    let response = response.error_for_status().map_err(|e| e.to_string())?;
    response.json().await.map_err(|e| e.to_string())
}

/// What the folder knows.
fn from_folder(state_dir: &Path) -> Result<Option<Status>, Error> {
    let card = read_card(state_dir);
    let unreadable = |reason: String| Error::Folder { path: state_dir.into(), source: std::io::Error::other(reason) };
    let Some(mut status) = card.map_err(unreadable)? else { return Ok(None) };
    // Opening makes it where it is not there.
    status.processes = match state_dir.join(crate::executor::journal::FILE).exists() {
        true => Journal::open(state_dir, &status.executor_id)?.open_jobs()?.iter().map(Running::of).collect(),
        false => Vec::new(),
    };
    status.state_dir = state_dir.into();
    (status.answers, status.room, status.heard, status.problem) = (false, None, None, None);
    let who = holder(state_dir);
    status.running = who.is_some();
    match who {
        Some(Ok(holder)) => (status.pid, status.host, status.version) = (Some(holder.pid), holder.host, holder.version),
        _ => status.pid = None,
    }
    status.draining = super::is_draining(state_dir);
    status.drained = status.draining && status.processes.is_empty();
    status.stopping = None;
    Ok(Some(status))
}
