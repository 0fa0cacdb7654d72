//! Waiting for the end of a process, for its results.

use super::daemon::Message;
use crate::colonies::subscribe;
use crate::colonies::subscribe::Change;
use crate::journal::runs::Run;
use crate::run::Connection;
use crate::run::history;
use crate::watch::ProjectId;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

/// Waits in a task of its own until a run's process has ended, notes that in the books, and says so. A server that cannot be reached
/// is waited for.
pub fn follow(connection: Connection, project: ProjectId, run: Run, inbox: mpsc::UnboundedSender<Message>) -> JoinHandle<()> {
    tokio::spawn(async move {
        let run_id = run.run_id.clone();
        wait(&connection, run).await;
        let _ = inbox.send(Message::Closed(project, run_id));
    })
}

async fn wait(connection: &Connection, run: Run) {
    let Some(process) = run.process_id.clone() else { return };
    let mut changes = subscribe::watch(connection.client(), &process);
    while let Some(change) = changes.recv().await {
        match change {
            Ok(Change::Process(process)) => {
                let is_final = process.state.is_final();
                if let Err(error) = history::note(connection, run.clone(), &process).await {
                    tracing::warn!(%error, run = run.run_id, "the run's state cannot be written down");
                }
                if is_final {
                    return;
                }
            }
            Ok(Change::Offline(error)) => tracing::debug!(%error, "waiting for the server"),
            Ok(Change::Online) => {}
            Err(error) => {
                tracing::info!(%error, run = run.run_id, "the process is known no more");
                // Removed on the server: nobody will ever say how it ended.
                if error.is_not_found()
                    && let Err(error) = connection.journal.mark_run_lost(&run.run_id)
                {
                    tracing::warn!(%error, run = run.run_id, "the run's state cannot be written down");
                }
                return;
            }
        }
    }
}
