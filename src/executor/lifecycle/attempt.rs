//! One attempt at one process, from assignment to close, begun or resumed at any stage.

use super::Host;
use super::guard::Guard;
use super::guard::Lost;
use super::inbox::Inbox;
use super::now_ms;
use super::patience::Delay;
use super::patience::TELL_DELAY;
use super::patience::repeated;
use super::retry::SERVER_TRIES;
use super::retry::until_answered;
use super::retry::until_heard;
use super::room::Ticket;
use crate::blocking;
use crate::colonies::ProcessState;
use crate::executor::backend::Adopted;
use crate::executor::backend::Failure;
use crate::executor::backend::Handle;
use crate::executor::backend::Task;
use crate::executor::backend::say;
use crate::executor::error::Error;
use crate::executor::files::FilesError;
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

/// How long files are tried to be brought in when the colony or the store is not there.
const INPUT_PATIENCE: Duration = Duration::from_secs(12 * 60);
/// How long results are tried to be sent back. They cost a place for processes of a colony whose store is away; giving up
/// would cost the work of a job.
const RESULT_PATIENCE: Duration = Duration::from_secs(24 * 3600);
/// After so many tries the reader of the process log is told that results are still here.
const RESULTS_LATE: u32 = 4;
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
    delay: Delay,
    /// None where the specification is refused.
    pub(super) work: Option<Task>,
}

impl Host {
    /// One folder for each attempt; it begins with the process id for whoever looks.
    pub(super) fn folder_of(&self, job: &Job, job_id: i64) -> PathBuf {
        self.jobs_dir.join(format!("{}-{job_id}", job.process_id))
    }

    /// The work of an attempt, in a folder that is there.
    fn task(&self, job: Job, job_id: i64) -> Result<Task, Error> {
        let folder = self.folder_of(&job, job_id);
        sqlite::private_folder(&folder).map_err(|source| Error::Folder { path: folder.clone(), source })?;
        Ok(Task { job: Arc::new(job), folder, fs_dir: self.fs_dir.clone() })
    }

    /// Reserves what an assigned process takes.
    pub(super) fn reserve(&self, entry: &Entry) -> Ticket {
        self.room.hold(Job::read(&entry.process, self.engine.needs_image()).ok().as_ref())
    }

    pub(super) async fn live_through(
        self: &Arc<Host>,
        entry: Entry,
        inbox: Arc<Inbox>,
        ticket: Arc<Mutex<Ticket>>,
    ) -> Result<(), Error> {
        let read = Job::read(&entry.process, self.engine.needs_image());
        let guard = Guard::new(self.clone(), &entry, inbox);
        let mut attempt = Attempt { host: self.clone(), entry, guard, ticket, delay: Delay::default(), work: None };
        match read {
            Ok(job) => attempt.work = Some(attempt.host.task(job, attempt.entry.job_id)?),
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
    /// One stage.
    async fn step(&mut self) -> Result<Go, Error> {
        let Some(task) = self.work.clone() else {
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
            && let Some(task) = &self.work
        {
            let line = format!("ColonyOS: the process is {}", stage.word());
            say(&task.log(), &line).unwrap_or_else(|error| tracing::warn!(%error, "cannot add to the log"));
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
            // First its turn, then its place: who has a place waits for nobody who waits for one.
            host.places.turn(&task.job).await;
            self.ticket.lock().await.ready().await;
            repeated(INPUT_PATIENCE, |_, _| {}, || host.files.bring_in(&task.job)).await
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
        self.tell_reader(task, &task.job.notices);
        self.tell_reader(task, &lines);
        self.advance(Stage::FilesIn)
    }

    /// Lines for the reader of the process log. No job fails for a line.
    fn tell_reader(&self, task: &Task, lines: &[String]) {
        for line in lines {
            if let Err(error) = say(&task.log(), line) {
                tracing::warn!(process = task.job.process_id, %error, line, "the reader of the log is not told");
            }
        }
    }

    async fn start(&mut self, task: &Task) -> Result<Go, Error> {
        let host = self.host.clone();
        let prepared = tokio::select! {
            prepared = host.engine.prepare(task) => prepared,
            lost = self.guard.lost() => { let lost = lost?; return self.give_up(lost) }
            () = host.shutdown.cancelled() => return Ok(Go::Leave),
        };
        match prepared {
            Ok(lines) => self.tell_reader(task, &lines),
            Err(e) if e.is_temporary() && !self.delay.is_longer_than(host.prepare_patience) => {
                // It was tried several times already.
                return self.rest(task, &e, 1).await;
            }
            Err(e) => return self.decide(Fate::Failed, vec![e.to_string()]),
        }
        self.delay = Delay::default();
        self.advance(Stage::Starting)?;
        self.start_now(task).await
    }

    async fn start_now(&mut self, task: &Task) -> Result<Go, Error> {
        match self.host.engine.start(task).await {
            Ok(handle) => self.started(&handle),
            // It may have started all the same: looked for before it is started again.
            Err(e) if e.is_temporary() => {
                self.delay.reason = e.to_string();
                self.rest(task, &e, TELL_DELAY).await
            }
            Err(e) => self.decide(Fate::Failed, vec![format!("the job could not be started: {e}")]),
        }
    }

    /// A pause, longer each time, before a backend is asked again that did not answer, or would not take the job now. Who waits
    /// for the job hears why, the `tell_at`th time.
    async fn rest(&mut self, task: &Task, error: &Failure, tell_at: u32) -> Result<Go, Error> {
        let (pause, times) = self.delay.next();
        tracing::warn!(process = self.entry.process.processid, %error, ?pause, "the backend does not answer; asking again");
        let (host, teller) = (self.host.clone(), self.teller(task));
        let waiting = async {
            if times == tell_at {
                teller.hold_up(&error.to_string()).await;
            }
            tokio::time::sleep(pause).await;
        };
        tokio::select! {
            () = waiting => Ok(Go::On),
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
            Ok(Adopted::Never) => match self.delay.over() {
                // It surely does not run, and nobody would take it for so long.
                Some(reason) => self.decide(Fate::Failed, vec![format!("the job could not be started for a day: {reason}")]),
                None => self.start_now(task).await,
            },
            // Not knowing is no end.
            Err(e) => self.rest(task, &e, TELL_DELAY).await,
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
        let process = self.entry.process.processid.clone();
        let late = |tries: u32, error: &FilesError| {
            let line = format!("pollinator: the results are still here: {error}; this is tried for a day\n");
            let (client, process) = (host.client.clone(), process.clone());
            if tries == RESULTS_LATE {
                tokio::spawn(async move {
                    if let Err(error) = client.add_log(&process, &line).await {
                        tracing::debug!(process, %error, "the reader of the log is not told");
                    }
                });
            }
        };
        let sending = repeated(RESULT_PATIENCE, late, || host.files.send_back(&task.job));
        tokio::pin!(sending);
        let mut over = fate == Fate::Cancelled;
        let sent = loop {
            tokio::select! {
                sent = &mut sending => break sent,
                lost = self.guard.lost(), if !over => match lost? {
                    // The verdict is heard no more, but the results are still wanted.
                    Lost::Over => over = true,
                    Lost::TakenAway => {
                        self.give_up(Lost::TakenAway)?;
                        return self.advance(Stage::SentBack);
                    }
                },
                () = host.shutdown.cancelled() => return Ok(Go::Leave),
            }
        };
        let problems = match sent {
            Ok(problems) => problems,
            Err(e) => {
                let left = format!("they lie below {} on the machine of the executor", self.host.fs_dir.display());
                vec![e.to_string(), left]
            }
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
        if self.is_overdue() {
            tokio::select! {
                now = until_answered("getprocess", || host.client.process(&id)) => {
                    if now.is_ok_and(|now| now.retries != self.entry.process.retries) {
                        self.note_lost(Lost::TakenAway);
                    }
                }
                () = host.shutdown.cancelled() => return Ok(Go::Leave),
            }
        }
        let verdict = self.entry.verdict.clone().unwrap_or(Verdict { fate: Fate::Failed, errors: Vec::new() });
        let telling = async {
            match verdict.fate {
                Fate::Success => until_heard("closesuccessful", |_| host.client.close_successful(&id, &[])).await,
                Fate::Failed => {
                    until_heard("closefailed", |faults| host.client.close_failed(&id, plainer(&verdict.errors, faults))).await
                }
                Fate::Cancelled | Fate::TakenAway => Ok(()),
            }
        };
        let refused = tokio::select! {
            // The answer counts before the echo of it that the guard hears.
            biased;
            told = telling => told.err(),
            lost = self.guard.lost() => {
                self.note_lost(lost?);
                None
            }
            () = host.shutdown.cancelled() => return Ok(Go::Leave),
        };
        if let Some(error) = refused {
            tracing::info!(process = id, %error, "the server does not want the verdict");
            let again = tokio::select! {
                again = self.refused(&error) => again?,
                () = host.shutdown.cancelled() => return Ok(Go::Leave),
            };
            if again {
                return Ok(Go::On);
            }
        }
        host.journal.closed(self.entry.job_id, now_ms())?;
        self.entry.stage = Stage::Closed;
        tracing::info!(process = id, fate = ?verdict.fate, "closed");
        Ok(Go::On)
    }

    /// Whether the server's deadline for this attempt has passed: then the process may be ours again as another attempt, which the
    /// verdict on this one must not close.
    fn is_overdue(&self) -> bool {
        let Some(max) = self.work.as_ref().and_then(|task| task.job.max_exec) else { return false };
        let span = i64::try_from(max.as_millis()).unwrap_or(i64::MAX);
        now_ms() >= self.entry.assigned.saturating_add(span)
    }

    /// A verdict was refused for good: it was closed by an answer that we lost, or it is not ours any more; or the server cannot
    /// bear this verdict, and takes a plainer one. Or it went back to waiting while we could not be heard: gives whether it came back,
    /// so that the verdict is told again.
    async fn refused(&mut self, error: &crate::colonies::Error) -> Result<bool, Error> {
        let (host, id) = (self.host.clone(), self.entry.process.processid.clone());
        match until_answered("getprocess", || host.client.process(&id)).await {
            Ok(now) if now.state.is_final() => {}
            Ok(now) if now.state == ProcessState::Running && now.assignedexecutorid == host.client.id() => {
                let reason = [format!("the server did not take the verdict: {error}")];
                if let Err(error) = until_heard("closefailed", |_| host.client.close_failed(&id, &reason)).await {
                    tracing::error!(process = id, %error, "the server takes no verdict");
                }
            }
            Ok(now) if now.state == ProcessState::Waiting && now.retries == self.entry.process.retries => {
                let Some(lost) = self.guard.regained().await? else { return Ok(true) };
                self.note_lost(lost);
            }
            Ok(_) => self.note_lost(Lost::TakenAway),
            Err(error) => tracing::info!(process = id, %error, "what became of it is not known"),
        }
        Ok(false)
    }

    /// The verdict came too late: where another attempt has the process, its files are not ours to remove.
    fn note_lost(&mut self, lost: Lost) {
        if lost == Lost::TakenAway
            && let Some(verdict) = &mut self.entry.verdict
        {
            verdict.fate = Fate::TakenAway;
        }
    }

    /// Removes what nobody needs any more. What cannot be removed is left, and said.
    async fn clean_up(&mut self) {
        let Some(task) = self.work.take() else { return };
        let fate = self.entry.verdict.as_ref().map(|v| v.fate);
        // Another attempt may need the files.
        if fate != Some(Fate::TakenAway)
            && let Err(error) = self.host.files.clean_up(&task.job).await
        {
            tracing::warn!(process = self.entry.process.processid, %error, "files of a job are left behind");
        }
        let removed = blocking::run(move || std::fs::remove_dir_all(&task.folder).map_err(|e| (task.folder, e)));
        if let Err((folder, error)) = removed.await {
            tracing::warn!(folder = %folder.display(), %error, "the folder of a job is left behind");
        }
    }
}

/// The reasons of a failure as they are told: after the server was at fault for often enough the first alone, which is
/// short, in case that it is something in the words of others that the server cannot bear.
pub(super) fn plainer(errors: &[String], faults: u32) -> &[String] {
    if faults < SERVER_TRIES { errors } else { &errors[..errors.len().min(1)] }
}
