//! Around an attempt: what goes wrong in it, a panic too, fails that process only.

use super::Host;
use super::attempt::GRACE;
use super::attempt::plainer;
use super::inbox::Inbox;
use super::now_ms;
use super::retry::until_heard;
use super::room::Ticket;
use crate::executor::backend::Adopted;
use crate::executor::backend::Failure;
use crate::executor::backend::Handle;
use crate::executor::backend::Task;
use crate::executor::journal::Entry;
use crate::executor::journal::Stage;
use crate::executor::spec::Job;
use crate::panics;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Mutex;
use tokio::time::Instant;

/// How long an attempt is taken up again without getting any further when the journal or a folder cannot be written, and
/// the pause between.
const JOURNAL_PATIENCE: Duration = Duration::from_secs(24 * 3600);
const JOURNAL_PAUSE: Duration = Duration::from_secs(10);

impl Host {
    /// Lives an attempt through. What goes wrong in it, a panic too, fails that process only.
    pub(super) async fn supervise(self: &Arc<Host>, entry: Entry, inbox: Arc<Inbox>, ticket: Ticket) {
        let ticket = Arc::new(Mutex::new(ticket));
        // Also while an attempt pauses, its job may be at work in its folders.
        let job = Job::read(&entry.process, self.engine.needs_image()).ok();
        let _using = job.map(|job| self.places.enter(&job, entry.stage >= Stage::FilesIn));
        let mut entry = entry;
        let mut stands: Option<(Stage, Instant)> = None;
        let reason = loop {
            let (host, copy, inbox, ticket) = (self.clone(), entry.clone(), inbox.clone(), ticket.clone());
            let began = Instant::now();
            let living = async move {
                tokio::select! {
                    biased;
                    () = host.left.cancelled() => Ok(()),
                    lived = host.live_through(copy, inbox, ticket) => lived,
                }
            };
            let ended = tokio::spawn(living).await;
            entry = self.reread(&entry);
            // Counted from the first failure in a row: the attempt may have lived for days before it.
            let since = stands.filter(|(stage, _)| *stage == entry.stage && began.elapsed() < JOURNAL_PAUSE * 3);
            let since = since.map_or_else(Instant::now, |(_, since)| since);
            stands = Some((entry.stage, since));
            match ended {
                Ok(Ok(())) => return,
                // The journal or a folder cannot be written (a full disk?): the job itself may be fine.
                Ok(Err(error)) if since.elapsed() < JOURNAL_PATIENCE => {
                    tracing::error!(process = entry.process.processid, %error, "an attempt stands still; going on soon");
                    tokio::select! { () = self.shutdown.cancelled() => return, () = tokio::time::sleep(JOURNAL_PAUSE) => {} }
                }
                Ok(Err(error)) => break error.to_string(),
                Err(panic) if panic.is_panic() => break "internal error of the executor (see its log)".to_owned(),
                Err(_) => return,
            }
        };
        tokio::select! { () = self.shutdown.cancelled() => {}, () = self.break_off(&entry, reason) => {} }
    }

    /// The entry as the journal has it now; as it was where the journal cannot be read.
    fn reread(&self, entry: &Entry) -> Entry {
        match self.journal.by_id(entry.job_id) {
            Ok(Some(now)) => now,
            _ => entry.clone(),
        }
    }

    /// Ends an attempt that cannot be lived through: its job is ended, also where it is not known whether it was started, and
    /// what it made so far goes back.
    async fn break_off(self: &Arc<Host>, entry: &Entry, reason: String) {
        let id = &entry.process.processid;
        tracing::error!(process = id, reason, "an attempt broke");
        let now = self.reread(entry);
        // Told already, and its files are being removed: what is not there any more is no result.
        if now.stage == Stage::Closed {
            return;
        }
        let mut errors = vec![reason];
        if let Ok(job) = Job::read(&entry.process, false)
            && now.stage >= Stage::Starting
        {
            let folder = self.folder_of(&job, entry.job_id);
            let task = Task { job: Arc::new(job), folder, fs_dir: self.fs_dir.clone() };
            if let Err(error) = self.end_whatever_runs(&task, now.handle.map(Handle)).await {
                tracing::error!(process = id, %error, "its job cannot be ended");
                errors.push(format!("its job may go on: {error}"));
            }
            match panics::caught(self.files.send_back(&task.job)).await {
                Ok(Ok(problems)) => errors.extend(problems),
                Ok(Err(error)) => errors.push(error.to_string()),
                Err(said) => errors.push(format!("the results could not be sent back: internal error: {said}")),
            }
        }
        if let Err(error) = until_heard("closefailed", |faults| self.client.close_failed(id, plainer(&errors, faults))).await {
            tracing::warn!(process = id, %error, "cannot be closed");
        }
        if let Err(error) = self.journal.closed(entry.job_id, now_ms()) {
            tracing::error!(process = id, %error, "cannot be written down as closed");
        }
    }

    async fn end_whatever_runs(&self, task: &Task, handle: Option<Handle>) -> Result<(), Failure> {
        match self.engine.adopt(task, handle).await? {
            Adopted::Started(handle) => self.engine.kill(task, &handle, GRACE).await,
            Adopted::Never => Ok(()),
        }
    }
}
