//! Waiting for the end of a process, for its results.

use super::daemon::Message;
use crate::colonies::subscribe;
use crate::colonies::subscribe::Change;
use crate::event::Events;
use crate::journal::runs::Run;
use crate::run::Connection;
use crate::run::batch;
use crate::run::history;
use crate::run::interrupted;
use crate::watch::ProjectId;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

/// Pause before a server that refused to answer (a key that was revoked, say) is asked again; twice as long each time.
const FIRST_PAUSE: Duration = Duration::from_secs(5);
/// Longest such pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(300);

/// Waits in a task of its own until a run's process has ended, notes that in the books, and says so. A server that cannot be reached
/// is waited for.
pub fn follow(connection: Connection, project: ProjectId, run: Run, inbox: mpsc::UnboundedSender<Message>) -> JoinHandle<()> {
    tokio::spawn(async move {
        let run_id = run.run_id.clone();
        let mut pause = FIRST_PAUSE;
        // A question that failed says nothing of the process: its results come home when it has ended, not before.
        while !wait(&connection, &run).await {
            tokio::time::sleep(spread(pause, &run_id)).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
        let _ = inbox.send(Message::Closed(project, run_id));
    })
}

/// Half of a pause to all of it, another part for each run: many must not come at once.
fn spread(pause: Duration, run_id: &str) -> Duration {
    let part = blake3::hash(run_id.as_bytes()).as_bytes()[0];
    pause / 2 + pause.mul_f64(f64::from(part) / 512.0)
}

/// Takes into the books what a killed agent had submitted and did not live to note, where it has ended: its results are to come
/// home. One that goes on stays an intent, which the next call for the very same run takes over. `complete`: sweeps that were cut off are
/// submitted to their end; the next call might wait for what there is of them.
pub async fn settle(connection: Connection, project_name: String, complete: bool) -> Result<(), crate::run::Error> {
    let client = connection.client();
    for run in connection.journal.intents(&project_name, &client.server(), client.colony())? {
        let found = interrupted::find(&connection, &run.run_id).await?;
        if let Some(process) = found.filter(|process| process.state.is_final()) {
            history::note(&connection, run, &process).await?;
        }
    }
    if complete { batch::complete(&connection, &project_name, &Events::none()).await } else { Ok(()) }
}

/// Waits; says whether the end is known.
async fn wait(connection: &Connection, run: &Run) -> bool {
    let Some(process) = run.process_id.clone() else { return true };
    let mut changes = subscribe::watch(connection.client(), &process);
    while let Some(change) = changes.recv().await {
        match change {
            Ok(Change::Process(process)) => {
                let is_final = process.state.is_final();
                if let Err(error) = history::note(connection, run.clone(), &process).await {
                    tracing::warn!(%error, run = run.run_id, "the run's state cannot be written down");
                }
                if is_final {
                    return true;
                }
            }
            Ok(Change::Offline(error)) => tracing::debug!(%error, "waiting for the server"),
            Ok(Change::Online) => {}
            Err(error) => {
                if !error.is_not_found() {
                    tracing::warn!(%error, run = run.run_id, "the run cannot be followed at the moment");
                    return false;
                }
                tracing::info!(%error, run = run.run_id, "the process is known no more");
                // Removed on the server: nobody will ever say how it ended.
                if let Err(error) = connection.journal.mark_run_lost(&run.run_id) {
                    tracing::warn!(%error, run = run.run_id, "the run's state cannot be written down");
                }
                return true;
            }
        }
    }
    false
}
