//! One attempt at one process, from assignment to close, begun or resumed at any stage.

use super::Host;
use super::guard::Guard;
use super::guard::Lost;
use super::inbox::Inbox;
use super::now_ms;
use super::retry::until_answered;
use super::room::Ticket;
use crate::executor::backend::Adopted;
use crate::executor::backend::Failure;
use crate::executor::backend::Handle;
use crate::executor::backend::Task;
use crate::executor::backend::say;
use crate::executor::error::Error;
use crate::executor::files::FilesError;
use crate::executor::files::Using;
use crate::executor::journal::Entry;
use crate::executor::journal::Fate;
use crate::executor::journal::Stage;
use crate::executor::journal::Verdict;
use crate::executor::spec::Job;
use crate::executor::spec::Work;
use crate::sqlite;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Mutex;

/// How often files are tried when the colony or the store is not there (about twelve minutes), and the pause
/// between, which grows.
const FILE_TRIES: u32 = 16;
const FILE_PAUSE: Duration = Duration::from_secs(5);
const LONGEST_FILE_PAUSE: Duration = Duration::from_secs(60);
/// How often an attempt is taken up again when the journal cannot be written, and the pause between.
const JOURNAL_TRIES: u32 = 30;
const JOURNAL_PAUSE: Duration = Duration::from_secs(10);
/// How long a job may take to end by itself when it is asked to.
pub(super) const GRACE: Duration = Duration::from_secs(5);
/// Pause before a question that the backend could not answer is asked again.
pub(super) const BACKEND_PAUSE: Duration = Duration::from_secs(2);

/// Whether an attempt goes on, or the executor is stopping and leaves it to its next life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Go {
    On,
    Leave,
}

/// The attempt.
pub(super) struct Attempt {
    pub(super) host: Arc<Host>,
    pub(super) entry: Entry,
    pub(super) guard: Guard,
    ticket: Arc<Mutex<Ticket>>,
    /// None where the specification is refused.
    pub(super) work: Option<Known>,
}

/// What is known once the specification is read.
pub(super) struct Known {
    pub(super) task: Task,
    _using: Using,
}

impl Host {
    /// Lives an attempt through. What goes wrong in it, a panic too, fails that process only.
    pub(super) async fn supervise(self: &Arc<Host>, entry: Entry, inbox: Arc<Inbox>, ticket: Ticket) {
        let ticket = Arc::new(Mutex::new(ticket));
        let mut tries = 1;
        let reason = loop {
            let (host, copy, inbox, ticket) = (self.clone(), self.reread(&entry), inbox.clone(), ticket.clone());
            match tokio::spawn(async move { host.live_through(copy, inbox, ticket).await }).await {
                Ok(Ok(())) => return,
                // The journal or a folder cannot be written (a full disk?): the job itself may be fine.
                Ok(Err(error)) if tries < JOURNAL_TRIES => {
                    tracing::error!(process = entry.process.processid, %error, "an attempt stands still; going on soon");
                    tries += 1;
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

    /// Ends an attempt that cannot be lived through.
    async fn break_off(self: &Arc<Host>, entry: &Entry, reason: String) {
        let id = &entry.process.processid;
        tracing::error!(process = id, reason, "an attempt broke");
        let now = self.reread(entry);
        if let (Some(handle), Ok(job)) = (now.handle, Job::read(&entry.process, false)) {
            let folder = self.folder_of(&job, entry.job_id);
            let task = Task { job: Arc::new(job), folder, fs_dir: self.fs_dir.clone() };
            if let Err(error) = self.engine.kill(&task, &Handle(handle), GRACE).await {
                tracing::error!(process = id, %error, "its job cannot be killed");
            }
        }
        let errors = [reason];
        if let Err(error) = until_answered("closefailed", || self.client.close_failed(id, &errors)).await {
            tracing::warn!(process = id, %error, "cannot be closed");
        }
        if let Err(error) = self.journal.closed(entry.job_id, now_ms()) {
            tracing::error!(process = id, %error, "cannot be written down as closed");
        }
    }

    /// One folder for each attempt; it begins with the process id for whoever looks.
    fn folder_of(&self, job: &Job, job_id: i64) -> PathBuf {
        self.jobs_dir.join(format!("{}-{job_id}", job.process_id))
    }

    /// Reserves what an assigned process takes.
    pub(super) fn reserve(&self, entry: &Entry) -> Ticket {
        self.room.hold(Job::read(&entry.process, self.engine.needs_image()).ok().as_ref())
    }

    async fn live_through(self: &Arc<Host>, entry: Entry, inbox: Arc<Inbox>, ticket: Arc<Mutex<Ticket>>) -> Result<(), Error> {
        let read = Job::read(&entry.process, self.engine.needs_image());
        let guard = Guard::new(self.clone(), &entry, inbox);
        let mut attempt = Attempt { host: self.clone(), entry, guard, ticket, work: None };
        match read {
            Ok(job) => attempt.work = Some(attempt.prepare_folder(job)?),
            Err(refusal) if attempt.entry.verdict.is_none() => {
                attempt.decide(Fate::Failed, vec![format!("the specification is refused: {refusal}")])?;
            }
            Err(_) => {}
        }
        if attempt.entry.stage >= Stage::Starting {
            attempt.ticket.lock().await.take();
        }
        while attempt.entry.stage != Stage::Closed {
            if attempt.step().await? == Go::Leave {
                return Ok(());
            }
        }
        attempt.clean_up().await;
        Ok(())
    }
}

impl Attempt {
    fn prepare_folder(&self, job: Job) -> Result<Known, Error> {
        let folder = self.host.folder_of(&job, self.entry.job_id);
        sqlite::private_folder(&folder).map_err(|source| Error::Folder { path: folder.clone(), source })?;
        let mut using = self.host.places.enter(&job);
        if self.entry.stage >= Stage::FilesIn {
            using = using.begun();
        }
        Ok(Known { task: Task { job: Arc::new(job), folder, fs_dir: self.host.fs_dir.clone() }, _using: using })
    }

    /// One stage.
    async fn step(&mut self) -> Result<Go, Error> {
        let Some(task) = self.work.as_ref().map(|w| w.task.clone()) else {
            return match self.entry.stage {
                Stage::SentBack => self.close().await,
                // Nothing was brought in, nothing is to be sent back.
                _ => self.advance(Stage::SentBack),
            };
        };
        match self.entry.stage {
            Stage::Assigned => self.bring_in(&task).await,
            Stage::FilesIn if task.job.work == Work::Sync => self.decide(Fate::Success, Vec::new()),
            Stage::FilesIn => self.start(&task).await,
            Stage::Starting => self.find_again(&task).await,
            Stage::Running => self.follow(&task).await,
            Stage::Ended => self.send_back(&task).await,
            Stage::SentBack => self.close().await,
            Stage::Closed => Ok(Go::On),
        }
    }

    pub(super) fn advance(&mut self, stage: Stage) -> Result<Go, Error> {
        self.host.journal.step(self.entry.job_id, stage)?;
        self.entry.stage = stage;
        if self.host.tell_steps
            && stage < Stage::Ended
            && let Some(known) = &self.work
        {
            let line = format!("ColonyOS: the process is {}", stage.word());
            say(&known.task.log(), &line).unwrap_or_else(|error| tracing::warn!(%error, "cannot add to the log"));
        }
        Ok(Go::On)
    }

    /// Writes the verdict down: it stands from now on.
    pub(super) fn decide(&mut self, fate: Fate, errors: Vec<String>) -> Result<Go, Error> {
        let verdict = Verdict { fate, errors };
        self.host.journal.ended(self.entry.job_id, &verdict)?;
        self.entry.verdict = Some(verdict);
        self.entry.stage = Stage::Ended;
        Ok(Go::On)
    }

    /// The verdict where the server took the process from us.
    pub(super) fn give_up(&mut self, lost: Lost) -> Result<Go, Error> {
        tracing::info!(process = self.entry.process.processid, ?lost, "not ours any more");
        match lost {
            Lost::Over => self.decide(Fate::Cancelled, Vec::new()),
            Lost::TakenAway => self.decide(Fate::TakenAway, Vec::new()),
        }
    }

    async fn bring_in(&mut self, task: &Task) -> Result<Go, Error> {
        let host = self.host.clone();
        let work = async {
            self.ticket.lock().await.ready().await;
            repeated(|| host.files.bring_in(&task.job)).await
        };
        let brought = tokio::select! {
            brought = work => brought,
            lost = self.guard.lost() => { let lost = lost?; return self.give_up(lost) }
            () = host.shutdown.cancelled() => return Ok(Go::Leave),
        };
        let lines = match brought {
            Ok(lines) => lines,
            Err(e) => return self.decide(Fate::Failed, vec![format!("the files could not be brought in: {e}")]),
        };
        for line in task.job.notices.iter().chain(&lines) {
            if let Err(e) = say(&task.log(), line) {
                return self.decide(Fate::Failed, vec![e.to_string()]);
            }
        }
        self.advance(Stage::FilesIn)
    }

    async fn start(&mut self, task: &Task) -> Result<Go, Error> {
        let host = self.host.clone();
        let prepared = tokio::select! {
            prepared = host.engine.prepare(task) => prepared,
            lost = self.guard.lost() => { let lost = lost?; return self.give_up(lost) }
            () = host.shutdown.cancelled() => return Ok(Go::Leave),
        };
        let said = prepared.and_then(|lines| lines.iter().try_for_each(|line| say(&task.log(), line)));
        if let Err(e) = said {
            return self.decide(Fate::Failed, vec![e.to_string()]);
        }
        self.advance(Stage::Starting)?;
        self.start_now(task).await
    }

    async fn start_now(&mut self, task: &Task) -> Result<Go, Error> {
        match self.host.engine.start(task).await {
            Ok(handle) => self.started(&handle),
            // It may have started all the same: looked for before it is started again.
            Err(e) if e.is_temporary() => self.rest(task, &e).await,
            Err(e) => self.decide(Fate::Failed, vec![format!("the job could not be started: {e}")]),
        }
    }

    /// A pause before a backend that did not answer is asked again.
    async fn rest(&mut self, task: &Task, error: &Failure) -> Result<Go, Error> {
        tracing::warn!(process = self.entry.process.processid, %error, "the backend does not answer; asking again");
        let host = self.host.clone();
        tokio::select! {
            () = tokio::time::sleep(BACKEND_PAUSE) => Ok(Go::On),
            lost = self.guard.lost() => { let lost = lost?; self.abandon(task, lost).await }
            () = host.shutdown.cancelled() => Ok(Go::Leave),
        }
    }

    /// Ends a job that nobody wants and of which it is not known whether it was started.
    async fn abandon(&mut self, task: &Task, lost: Lost) -> Result<Go, Error> {
        let host = self.host.clone();
        let ending = async {
            loop {
                let tried = match host.engine.adopt(task, None).await {
                    Ok(Adopted::Never) => Ok(()),
                    Ok(Adopted::Started(handle)) => host.engine.kill(task, &handle, GRACE).await,
                    Err(error) => Err(error),
                };
                let Err(error) = tried else { return };
                tracing::warn!(process = task.job.process_id, %error, "a job that nobody wants cannot be ended yet");
                tokio::time::sleep(BACKEND_PAUSE).await;
            }
        };
        tokio::select! {
            () = ending => self.give_up(lost),
            () = host.shutdown.cancelled() => Ok(Go::Leave),
        }
    }

    fn started(&mut self, handle: &Handle) -> Result<Go, Error> {
        let now = now_ms();
        self.host.journal.started(self.entry.job_id, &handle.0, now)?;
        self.entry.handle = Some(handle.0.clone());
        self.entry.started.get_or_insert(now);
        self.entry.stage = Stage::Running;
        Ok(Go::On)
    }

    /// It was started, and whether it runs is not known: we died before that could be written down, or the backend did not
    /// answer.
    async fn find_again(&mut self, task: &Task) -> Result<Go, Error> {
        match self.host.engine.adopt(task, None).await {
            Ok(Adopted::Started(handle)) => self.started(&handle),
            Ok(Adopted::Never) => self.start_now(task).await,
            // Not knowing is no end.
            Err(e) => self.rest(task, &e).await,
        }
    }

    /// Results go back whatever the outcome, except where another attempt has the process.
    async fn send_back(&mut self, task: &Task) -> Result<Go, Error> {
        let fate = self.entry.verdict.as_ref().map_or(Fate::Failed, |v| v.fate);
        // Before the command began there is nothing of its making.
        if fate == Fate::TakenAway || self.entry.started.is_none() {
            return self.advance(Stage::SentBack);
        }
        let host = self.host.clone();
        let sending = repeated(|| host.files.send_back(&task.job));
        tokio::pin!(sending);
        let sent = tokio::select! {
            sent = &mut sending => sent,
            lost = self.guard.lost(), if fate != Fate::Cancelled => match lost? {
                // The verdict is heard no more, but the results are still wanted.
                Lost::Over => sending.await,
                Lost::TakenAway => {
                    self.give_up(Lost::TakenAway)?;
                    return self.advance(Stage::SentBack);
                }
            },
            () = host.shutdown.cancelled() => return Ok(Go::Leave),
        };
        let problems = match sent {
            Ok(problems) => problems,
            Err(e) => vec![e.to_string()],
        };
        if !problems.is_empty() {
            self.results_missing(problems)?;
        }
        self.advance(Stage::SentBack)
    }

    /// A job whose results are not all there has not succeeded.
    fn results_missing(&mut self, problems: Vec<String>) -> Result<(), Error> {
        const MOST: usize = 20;
        let Some(mut verdict) = self.entry.verdict.clone() else { return Ok(()) };
        if verdict.fate == Fate::Success {
            verdict.fate = Fate::Failed;
            verdict.errors.push("the command succeeded, but not all results could be sent back".into());
        }
        let more = problems.len().saturating_sub(MOST);
        verdict.errors.extend(problems.into_iter().take(MOST));
        if more > 0 {
            verdict.errors.push(format!("and {more} more files"));
        }
        self.decide(verdict.fate, verdict.errors).map(|_| ())
    }

    /// Tells the server, once, until it has answered.
    async fn close(&mut self) -> Result<Go, Error> {
        let host = self.host.clone();
        let id = self.entry.process.processid.clone();
        let verdict = self.entry.verdict.clone().unwrap_or(Verdict { fate: Fate::Failed, errors: Vec::new() });
        let telling = async {
            match verdict.fate {
                Fate::Success => until_answered("closesuccessful", || host.client.close_successful(&id, &[])).await,
                Fate::Failed => until_answered("closefailed", || host.client.close_failed(&id, &verdict.errors)).await,
                Fate::Cancelled | Fate::TakenAway => Ok(()),
            }
        };
        tokio::select! {
            // The answer counts before the echo of it that the guard hears.
            biased;
            told = telling => if let Err(error) = told {
                // Refused for good: it was closed by an answer that we lost, or it is not ours any more.
                tracing::info!(process = id, %error, "the server does not want the verdict");
            },
            lost = self.guard.lost() => { lost?; }
            () = host.shutdown.cancelled() => return Ok(Go::Leave),
        }
        host.journal.closed(self.entry.job_id, now_ms())?;
        self.entry.stage = Stage::Closed;
        tracing::info!(process = id, fate = ?verdict.fate, "closed");
        Ok(Go::On)
    }

    /// Removes what nobody needs any more. What cannot be removed is left, and said.
    async fn clean_up(&mut self) {
        let Some(known) = self.work.take() else { return };
        let folder = known.task.folder.clone();
        let fate = self.entry.verdict.as_ref().map(|v| v.fate);
        // Another attempt may need the files.
        if fate != Some(Fate::TakenAway)
            && let Err(error) = self.host.files.clean_up(&known.task.job).await
        {
            tracing::warn!(process = self.entry.process.processid, %error, "files of a job are left behind");
        }
        let removed = tokio::task::spawn_blocking(move || std::fs::remove_dir_all(&folder).map_err(|e| (folder, e))).await;
        if let Ok(Err((folder, error))) = removed {
            tracing::warn!(folder = %folder.display(), %error, "the folder of a job is left behind");
        }
    }
}

/// Repeats moving files while that can help.
async fn repeated<T, F, R>(work: F) -> Result<T, FilesError>
where
    F: Fn() -> R,
    R: Future<Output = Result<T, FilesError>>,
{
    let mut tries = 1;
    loop {
        match work().await {
            Err(e) if e.temporary && tries < FILE_TRIES => {
                tracing::warn!(error = %e, "files are tried again");
                tokio::time::sleep((FILE_PAUSE * tries).min(LONGEST_FILE_PAUSE)).await;
                tries += 1;
            }
            other => return other,
        }
    }
}
