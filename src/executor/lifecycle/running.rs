//! A job while it runs: its log streams, its end is awaited, its time is limited, and it is ended where it is not wanted.

use super::attempt::Attempt;
use super::attempt::BACKEND_PAUSE;
use super::attempt::GRACE;
use super::attempt::Go;
use super::guard::Lost;
use super::span_until;
use super::telling::Teller;
use crate::blocking;
use crate::executor::backend::Adopted;
use crate::executor::backend::Ending;
use crate::executor::backend::Facts;
use crate::executor::backend::Handle;
use crate::executor::backend::Output;
use crate::executor::backend::Task;
use crate::executor::backend::pipe;
use crate::executor::backend::say;
use crate::executor::error::Error;
use crate::executor::journal::Fate;
use crate::executor::logs;
use crate::executor::logs::LogStream;
use crate::executor::logs::Streamed;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;

/// Pause before a log that the server refused is offered again, where the process is ours all the same.
const LOG_PAUSE: Duration = Duration::from_secs(5);

/// How long the rest of a log is tried to be read and sent after the job's end, where this machine is at fault.
const LOG_PATIENCE: Duration = Duration::from_secs(600);

/// How long the last news of a job may take to reach the colony, before its end is dealt with.
const TELLING: Duration = Duration::from_secs(5);

/// Why the run phase ends.
enum End {
    Ended(Ending),
    OutOfTime(String),
    Lost(Lost),
    Leave,
}

/// A task that ends with its owner.
struct Owned<T>(JoinHandle<T>);

impl<T> Drop for Owned<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Attempt {
    /// From the start (or the adoption) to the verdict.
    pub(super) async fn follow(&mut self, task: &Task) -> Result<Go, Error> {
        let handle = Handle(self.entry.handle.clone().unwrap_or_default());
        let handle = match self.host.engine.adopt(task, Some(handle.clone())).await {
            Ok(Adopted::Started(handle)) => handle,
            Ok(Adopted::Never) => handle,
            Err(e) => {
                tracing::warn!(error = %e, "a job cannot be looked up");
                handle
            }
        };
        let (over, watched) = watch::channel(false);
        let refused = Arc::new(Notify::new());
        let log = Owned(tokio::spawn(self.stream(task).keep_on(watched, refused.clone())));
        let facts = watch::Sender::new(Facts::default());
        let mut told = Owned(tokio::spawn(self.teller(task).tell(facts.subscribe())));
        let end = self.until_end(task, &handle, &facts, &refused).await?;
        let engine = self.host.engine.clone();
        if matches!(end, End::Ended(_)) {
            // Of a short job, too, it is known where it ran.
            drop(facts);
            _ = tokio::time::timeout(TELLING, &mut told.0).await;
        }
        match &end {
            End::Leave => return Ok(Go::Leave),
            // Those that the end left behind: children in the background, the others of several.
            End::Ended(_) => kill(&*engine, task, &handle, Duration::from_millis(200)).await,
            End::OutOfTime(reason) => {
                say(&task.log(), reason).unwrap_or_else(|e| tracing::warn!(error = %e, "cannot add to the log"));
                if self.kill_surely(task, &handle).await == Go::Leave {
                    return Ok(Go::Leave);
                }
            }
            End::Lost(_) => {
                if self.kill_surely(task, &handle).await == Go::Leave {
                    return Ok(Go::Leave);
                }
            }
        }
        if let End::Lost(lost) = end {
            return self.give_up(lost);
        }
        // The channel's other end lives as long as the stream.
        over.send_replace(true);
        if let Some(lost) = self.drained(log, &refused).await? {
            return match lost {
                Some(lost) => self.give_up(lost),
                None => Ok(Go::Leave),
            };
        }
        self.tell_torn(task).await;
        self.judge(task, end).await
    }

    /// Ends a job that is not wanted any more, however long the backend does not answer; the next life of the executor
    /// finds it where this one stops before.
    async fn kill_surely(&self, task: &Task, handle: &Handle) -> Go {
        let host = &self.host;
        loop {
            let killed = tokio::select! {
                killed = host.engine.kill(task, handle, GRACE) => killed,
                () = host.shutdown.cancelled() => return Go::Leave,
            };
            match killed {
                Err(error) if error.is_temporary() => {
                    tracing::warn!(process = task.job.process_id, %error, "a job that is not wanted cannot be ended yet");
                    tokio::select! {
                        () = tokio::time::sleep(BACKEND_PAUSE) => {}
                        () = host.shutdown.cancelled() => return Go::Leave,
                    }
                }
                Err(error) => {
                    tracing::warn!(process = task.job.process_id, %error, "a job cannot be killed");
                    return Go::On;
                }
                Ok(()) => return Go::On,
            }
        }
    }

    fn stream(&self, task: &Task) -> LogStream {
        LogStream {
            client: self.host.client.clone(),
            journal: self.host.journal.clone(),
            process_id: self.entry.process.processid.clone(),
            job_id: self.entry.job_id,
            outputs: self.host.engine.outputs(task),
            growth: self.host.growth.clone(),
        }
    }

    /// Waits for whatever comes first.
    async fn until_end(
        &mut self,
        task: &Task,
        handle: &Handle,
        facts: &watch::Sender<Facts>,
        refused: &Notify,
    ) -> Result<End, Error> {
        let host = self.host.clone();
        let (limit, reason) = self.time_limit(task);
        let ended = async {
            loop {
                match host.engine.watch(task, handle, facts).await {
                    Ok(ending) => return ending,
                    // Not knowing is not an end.
                    Err(e) => {
                        tracing::warn!(error = %e, "the backend cannot tell about a job");
                        tokio::time::sleep(BACKEND_PAUSE).await;
                    }
                }
            }
        };
        let out_of_time = until(limit);
        tokio::pin!(ended, out_of_time);
        loop {
            tokio::select! {
                ending = &mut ended => return Ok(End::Ended(ending)),
                lost = self.guard.lost() => return Ok(End::Lost(lost?)),
                () = &mut out_of_time => return Ok(End::OutOfTime(reason)),
                () = host.shutdown.cancelled() => return Ok(End::Leave),
                () = refused.notified() => {}
            }
            self.guard.look_again();
        }
    }

    /// When the job has to be ended, and why. A little before the server takes the process away: then the reason, the
    /// last lines of the log and the results still reach it.
    fn time_limit(&self, task: &Task) -> (Option<Duration>, String) {
        let ms = |d: Duration| i64::try_from(d.as_millis()).unwrap_or(i64::MAX);
        let job = &task.job;
        let started = self.entry.started.unwrap_or(self.entry.assigned);
        let by_walltime = match self.host.engine.keeps_time() {
            true => i64::MAX,
            false => started.saturating_add(ms(job.walltime)),
        };
        let by_deadline = job.max_exec.map(|max| self.entry.assigned.saturating_add(ms(max) - ms(margin(max))));
        match by_deadline {
            Some(deadline) if deadline < by_walltime => {
                let max = job.max_exec.unwrap_or_default().as_secs();
                (Some(span_until(deadline)), format!("TIMEOUT: maxexectime of {max} s, counted from the assignment, is over"))
            }
            _ => (Some(span_until(by_walltime)), format!("TIMEOUT: the walltime of {} s is over", job.walltime.as_secs())),
        }
    }

    /// Waits until the log is with the server. Some: what came between; inner none: the executor stops.
    async fn drained(&mut self, mut log: Owned<Result<(), Error>>, refused: &Notify) -> Result<Option<Option<Lost>>, Error> {
        let shutdown = self.host.shutdown.clone();
        let done = loop {
            tokio::select! {
                done = &mut log.0 => break done,
                lost = self.guard.lost() => return Ok(Some(Some(lost?))),
                () = shutdown.cancelled() => return Ok(Some(None)),
                () = refused.notified() => {}
            }
            self.guard.look_again();
        };
        // Logging never decides the outcome.
        let process = &self.entry.process.processid;
        match done {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::error!(process, %error, "the log is not whole"),
            Err(error) => tracing::error!(process, %error, "the log stream broke"),
        }
        Ok(None)
    }

    /// Tells the reader of the log that output is missing. Not by way of the outputs: their disk may be full.
    async fn tell_torn(&self, task: &Task) {
        let about = task.clone();
        let torn = blocking::run(move || pipe::torn(&about)).await;
        if torn.is_empty() {
            return;
        }
        let ranks = torn.iter().map(u32::to_string).collect::<Vec<_>>().join(", ");
        let line =
            format!("pollinator: some of what was printed is missing (process {ranks}): the disk of the log did not take it\n");
        let process = &self.entry.process.processid;
        if let Err(error) = self.host.client.add_log(process, &line).await {
            tracing::warn!(process, %error, "the reader of the log is not told that some of it is missing");
        }
    }

    /// The verdict on a job that was ours to the end.
    async fn judge(&mut self, task: &Task, end: End) -> Result<Go, Error> {
        let (reason, rank) = match end {
            End::Ended(Ending::Exited { status: 0, .. }) => return self.decide(Fate::Success, Vec::new()),
            End::Ended(Ending::Exited { status, rank, in_init, because }) => {
                let exit = exit_reason(status, rank, in_init, self.host.engine.needs_image());
                (because.map_or(exit.clone(), |because| format!("{because}; {exit}")), rank)
            }
            End::Ended(Ending::Stopped { reason }) => (reason, None),
            End::Ended(Ending::Vanished { reason }) => (format!("the job ended without an exit status: {reason}"), None),
            End::OutOfTime(reason) => (reason, None),
            // Handled where they come up.
            End::Lost(lost) => return self.give_up(lost),
            End::Leave => return Ok(Go::Leave),
        };
        let outputs = self.host.engine.outputs(task);
        let tail = match telling(&outputs, rank) {
            Some(output) => logs::tail_of(&output.path).await,
            None => String::new(),
        };
        let mut errors = vec![reason];
        errors.extend((!tail.is_empty()).then_some(tail));
        self.decide(Fate::Failed, errors)
    }

    pub(super) fn teller(&self, task: &Task) -> Teller {
        Teller { client: self.host.client.clone(), process_id: self.entry.process.processid.clone(), log: task.log() }
    }
}

/// The output whose end says most about a failure: that of the process which failed, or of the only one; else the executor's own.
fn telling(outputs: &[Output], rank: Option<u32>) -> Option<&Output> {
    match (outputs, rank) {
        ([_, only], None) => Some(only),
        (_, Some(rank)) => outputs.get(rank as usize + 1).or(outputs.first()),
        (_, None) => outputs.first(),
    }
}

impl LogStream {
    /// Streams to the end; what the server refuses is offered again, for as long as the owner of this task thinks that
    /// the process is ours. Where the journal cannot be written or an output cannot be read (a full disk, a file system
    /// that is away), that is tried again, after the job's end for [`LOG_PATIENCE`].
    async fn keep_on(self, over: watch::Receiver<bool>, refused: Arc<Notify>) -> Result<(), Error> {
        let mut end = None;
        loop {
            match self.run(over.clone()).await {
                Ok(Streamed::All) => return Ok(()),
                Ok(Streamed::Refused(error)) => {
                    tracing::debug!(process = self.process_id, %error, "the log is refused");
                    refused.notify_one();
                }
                Err(error) => {
                    let ended = *over.borrow();
                    let end = ended.then(|| *end.get_or_insert_with(|| Instant::now() + LOG_PATIENCE));
                    if end.is_some_and(|end| Instant::now() >= end) {
                        return Err(error);
                    }
                    tracing::warn!(process = self.process_id, %error, "the log stands still; going on soon");
                }
            }
            tokio::time::sleep(LOG_PAUSE).await;
        }
    }
}

async fn kill(engine: &dyn crate::executor::backend::Engine, task: &Task, handle: &Handle, grace: Duration) {
    if let Err(error) = engine.kill(task, handle, grace).await {
        tracing::warn!(process = task.job.process_id, %error, "a job cannot be killed");
    }
}

/// Time kept free before the server's deadline: a twentieth of it, 1 to 10 s.
fn margin(max_exec: Duration) -> Duration {
    (max_exec / 20).clamp(Duration::from_secs(1), Duration::from_secs(10)).min(max_exec / 2)
}

async fn until(limit: Option<Duration>) {
    // A year: timers cannot sleep for ever.
    const LONGEST: Duration = Duration::from_secs(365 * 24 * 3600);
    match limit {
        Some(limit) if limit < LONGEST => tokio::time::sleep(limit).await,
        _ => std::future::pending().await,
    }
}

/// An exit status for a person.
fn exit_reason(status: i32, rank: Option<u32>, in_init: bool, in_image: bool) -> String {
    let who = match (rank, in_init) {
        (Some(rank), _) => format!("process {rank} ended with "),
        (None, true) => "init-cmd failed with ".into(),
        (None, false) => String::new(),
    };
    let more = match status {
        127 if in_image => " (command not found: does the image have the program, in its PATH?)".to_owned(),
        127 => " (command not found: is the program installed on the machine where the job runs?)".to_owned(),
        126 => " (the command is there but cannot be executed: is its executable bit set?)".to_owned(),
        129..=192 => format!(" (killed by signal {}{})", status - 128, signal_name(status - 128)),
        _ => String::new(),
    };
    format!("{who}exit status {status}{more}")
}

fn signal_name(signal: i32) -> &'static str {
    match signal {
        libc::SIGHUP => ", SIGHUP",
        libc::SIGINT => ", SIGINT",
        libc::SIGILL => ", SIGILL",
        libc::SIGABRT => ", SIGABRT",
        libc::SIGFPE => ", SIGFPE",
        libc::SIGKILL => ", SIGKILL: perhaps it used too much memory",
        libc::SIGBUS => ", SIGBUS",
        libc::SIGSEGV => ", SIGSEGV",
        libc::SIGPIPE => ", SIGPIPE",
        libc::SIGTERM => ", SIGTERM",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_for_a_person() {
        assert_eq!(exit_reason(3, None, false, false), "exit status 3");
        assert_eq!(exit_reason(139, None, false, true), "exit status 139 (killed by signal 11, SIGSEGV)");
        assert!(exit_reason(127, None, true, false).starts_with("init-cmd failed with exit status 127 (command not found"));
        assert!(exit_reason(127, None, false, true).contains("does the image have the program"));
        assert_eq!(exit_reason(1, Some(2), false, false), "process 2 ended with exit status 1");
    }

    #[test]
    fn margins() {
        assert_eq!(margin(Duration::from_secs(599)), Duration::from_secs(10));
        assert_eq!(margin(Duration::from_secs(100)), Duration::from_secs(5));
        assert_eq!(margin(Duration::from_secs(4)), Duration::from_secs(1));
        assert_eq!(margin(Duration::from_secs(1)), Duration::from_millis(500));
    }
}
