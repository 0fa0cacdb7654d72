//! What Slurm says about all jobs of the executor, asked once for all of them, and told to whoever waits for one.
//!
//! One `squeue` an interval, sooner where something is about to change, none where no job is followed. A job that `squeue`
//! does not name any more is looked up in the accounting, again all at once, or else at the controller. That nothing was
//! heard is never taken for an end.

use super::programs::Programs;
use super::report;
use super::report::Phase;
use super::report::Report;
use crate::executor::backend::Failure;
use std::collections::BTreeMap;
use std::collections::HashMap;
use std::ffi::OsString;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::time::Duration;
use tokio::sync::Notify;
use tokio::sync::watch;
use tokio::time::Instant;

/// Least pause between two questions.
const LEAST: Duration = Duration::from_millis(1500);
/// How often in a row a job must be missing in what `squeue` says before it is looked up elsewhere.
const MISSING: u32 = 2;
/// How often it must be unknown everywhere before it is given up.
const UNKNOWN: u32 = 20;
/// Jobs that the controller is asked for one by one in a row of questions, where there is no accounting.
const ONE_BY_ONE: usize = 8;
/// Longest pause while Slurm does not answer.
const LONGEST_PAUSE: Duration = Duration::from_secs(300);
/// Pause after the accounting was not there.
const WITHOUT_ACCOUNTING: Duration = Duration::from_secs(600);

/// The state of a job that Slurm knows nothing of any more.
pub const FORGOTTEN: &str = "FORGOTTEN";

/// All jobs that are followed.
#[derive(Debug)]
pub struct Cluster {
    programs: Programs,
    pace: Duration,
    jobs: Mutex<Jobs>,
    soon: Notify,
}

#[derive(Debug, Default)]
struct Jobs {
    followed: HashMap<u64, Followed>,
    asking: bool,
    /// Whose turn it is to be asked for one by one.
    turn: usize,
    accounting_after: Option<Instant>,
}

#[derive(Debug)]
struct Followed {
    tell: watch::Sender<Option<Report>>,
    followers: u32,
    missing: u32,
}

/// One follower of one job; given up on drop.
#[derive(Debug)]
pub struct Follower {
    cluster: Arc<Cluster>,
    id: u64,
    told: watch::Receiver<Option<Report>>,
}

impl Cluster {
    /// Asks with these programs, at this pace.
    pub fn new(programs: Programs, pace: Duration) -> Arc<Cluster> {
        Arc::new(Cluster { programs, pace, jobs: Mutex::default(), soon: Notify::new() })
    }

    /// Slurm's programs.
    pub fn programs(&self) -> &Programs {
        &self.programs
    }

    fn lock(&self) -> MutexGuard<'_, Jobs> {
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Follows one job.
    pub fn follow(self: &Arc<Cluster>, id: u64) -> Follower {
        let mut jobs = self.lock();
        let new = || Followed { tell: watch::Sender::new(None), followers: 0, missing: 0 };
        let followed = jobs.followed.entry(id).or_insert_with(new);
        followed.followers += 1;
        let told = followed.tell.subscribe();
        if !std::mem::replace(&mut jobs.asking, true) {
            let cluster = self.clone();
            tokio::spawn(async move { cluster.ask_on().await });
        }
        drop(jobs);
        self.ask_soon();
        Follower { cluster: self.clone(), id, told }
    }

    /// Something is about to change: the next question comes soon.
    pub fn ask_soon(&self) {
        self.soon.notify_one();
    }

    /// Asks as long as somebody follows a job.
    async fn ask_on(self: Arc<Cluster>) {
        let mut silent = 0;
        loop {
            {
                let mut jobs = self.lock();
                if jobs.followed.is_empty() {
                    jobs.asking = false;
                    return;
                }
            }
            match self.queue().await {
                Ok(queue) => {
                    silent = 0;
                    let missing = self.tell(queue);
                    self.look_up(missing).await;
                }
                Err(error) => {
                    silent += 1;
                    let pause = silence(self.pace, silent);
                    tracing::warn!(%error, ?pause, "Slurm does not say how jobs are; asking again");
                    tokio::time::sleep(pause).await;
                    continue;
                }
            }
            // First come the jobs that were told to end or are about to begin, then the calm.
            tokio::time::sleep(LEAST).await;
            tokio::select! {
                () = tokio::time::sleep(self.pace.saturating_sub(LEAST)) => {}
                () = self.soon.notified() => {}
            }
        }
    }

    async fn queue(&self) -> Result<BTreeMap<u64, Report>, Failure> {
        // SAFETY: geteuid reads a number and cannot fail.
        let user = unsafe { libc::geteuid() };
        let words = [
            "--noheader".to_owned(),
            "--states=all".into(),
            format!("--user={user}"),
            format!("--format={}", report::SQUEUE_FORMAT),
        ];
        let said = self.programs.run("squeue", words.map(OsString::from)).await?;
        Ok(report::squeue(&said))
    }

    /// Tells followers; gives jobs that have been missing for long enough.
    fn tell(&self, mut queue: BTreeMap<u64, Report>) -> Vec<u64> {
        let mut missing = Vec::new();
        for (id, followed) in &mut self.lock().followed {
            match queue.remove(id) {
                Some(report) => {
                    followed.missing = 0;
                    followed.put(report);
                }
                None => {
                    followed.missing += 1;
                    if followed.missing >= MISSING && !followed.is_over() {
                        missing.push(*id);
                    }
                }
            }
        }
        if !missing.is_empty() {
            self.ask_soon();
        }
        missing
    }

    async fn look_up(&self, missing: Vec<u64>) {
        if missing.is_empty() {
            return;
        }
        let (mut found, answered) = match self.accounting(&missing).await {
            Some(found) => (found, true),
            None => (BTreeMap::new(), false),
        };
        let (known, unknown): (Vec<_>, Vec<_>) = missing
            .into_iter()
            .map(|id| (id, found.remove(&id).filter(|r| r.phase() == Phase::Over)))
            .partition(|(_, r)| r.is_some());
        for (id, report) in known {
            self.put(id, report);
        }
        let turn = self.lock().turn;
        for (id, _) in unknown.iter().cycle().skip(turn % unknown.len().max(1)).take(unknown.len().min(ONE_BY_ONE)) {
            let report = self.controller(*id).await;
            let nowhere = report.is_none();
            self.put(*id, report);
            if nowhere && answered {
                self.give_up_at_last(*id);
            }
        }
        self.lock().turn = turn.wrapping_add(ONE_BY_ONE);
    }

    fn put(&self, id: u64, report: Option<Report>) {
        if let (Some(report), Some(followed)) = (report, self.lock().followed.get(&id)) {
            followed.put(report);
        }
    }

    /// A job that is unknown everywhere, once it has been so for long enough.
    fn give_up_at_last(&self, id: u64) {
        if let Some(followed) = self.lock().followed.get(&id).filter(|followed| followed.missing >= UNKNOWN) {
            followed.put(Report { state: FORGOTTEN.into(), ..Report::default() });
        }
    }

    /// What the accounting says, nothing where there is none; none where it did not answer.
    async fn accounting(&self, ids: &[u64]) -> Option<BTreeMap<u64, Report>> {
        let after = self.lock().accounting_after;
        if after.is_some_and(|after| Instant::now() < after) {
            return Some(BTreeMap::new());
        }
        let list: Vec<String> = ids.iter().map(u64::to_string).collect();
        let words = [
            "--noheader".to_owned(),
            "--parsable2".into(),
            "--allocations".into(),
            format!("--jobs={}", list.join(",")),
            format!("--format={}", report::SACCT_FORMAT),
        ];
        match self.programs.run("sacct", words.map(OsString::from)).await {
            Ok(said) => Some(report::sacct(&said)),
            Err(error) if error.is_temporary() => {
                tracing::debug!(%error, "the accounting does not answer");
                None
            }
            Err(error) => {
                tracing::debug!(%error, "no accounting");
                self.lock().accounting_after = Some(Instant::now() + WITHOUT_ACCOUNTING);
                Some(BTreeMap::new())
            }
        }
    }

    /// What the controller still remembers of one job.
    async fn controller(&self, id: u64) -> Option<Report> {
        let words = ["--oneliner".to_owned(), "show".into(), "job".into(), id.to_string()];
        match self.programs.run("scontrol", words.map(OsString::from)).await {
            Ok(said) => report::scontrol(&said),
            Err(error) => {
                tracing::debug!(job = id, %error, "the controller does not know a job");
                // No answer is no knowledge: the count of misses begins anew.
                if error.is_temporary()
                    && let Some(followed) = self.lock().followed.get_mut(&id)
                {
                    followed.missing = MISSING;
                }
                None
            }
        }
    }
}

/// Pause after Slurm did not answer so many times in a row.
fn silence(pace: Duration, times: u32) -> Duration {
    (pace * 2u32.saturating_pow(times.saturating_sub(1).min(8))).clamp(LEAST, LONGEST_PAUSE.max(pace))
}

impl Followed {
    fn put(&self, report: Report) {
        let differs = |old: &mut Option<Report>| {
            let new = Some(report);
            let differs = *old != new;
            *old = new;
            differs
        };
        self.tell.send_if_modified(differs);
    }

    fn is_over(&self) -> bool {
        self.tell.borrow().as_ref().is_some_and(|r| r.phase() == Phase::Over || r.state == FORGOTTEN)
    }
}

impl Follower {
    /// What is known now.
    pub fn now(&self) -> Option<Report> {
        self.told.borrow().clone()
    }

    /// Waits for news.
    pub async fn changed(&mut self) {
        if self.told.changed().await.is_err() {
            // The sender lives as long as its followers.
            std::future::pending().await
        }
    }

    /// Waits until it is over, and asks often meanwhile.
    pub async fn over(&mut self) -> Report {
        loop {
            self.told.mark_unchanged();
            match self.now() {
                Some(report) if report.phase() == Phase::Over || report.state == FORGOTTEN => return report,
                _ => {}
            }
            self.cluster.ask_soon();
            tokio::select! { () = self.changed() => {}, () = tokio::time::sleep(LEAST) => {} }
        }
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        let mut jobs = self.cluster.lock();
        if let Some(followed) = jobs.followed.get_mut(&self.id) {
            followed.followers -= 1;
            if followed.followers == 0 {
                jobs.followed.remove(&self.id);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::settings::Settings;
    use super::*;
    use std::path::Path;

    /// Slurm's programs as shell text that may use `$DIR`.
    fn cluster(folder: &Path, programs: &[(&str, &str)]) -> Arc<Cluster> {
        use std::os::unix::fs::PermissionsExt;
        for (name, text) in programs {
            let file = folder.join(name);
            std::fs::write(&file, format!("#!/bin/sh\nDIR='{}'\n{text}\n", folder.display())).unwrap();
            std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o755)).unwrap();
        }
        let settings = Settings { programs: Some(folder.into()), ..Settings::default() };
        Cluster::new(Programs::new(&settings), Duration::from_secs(10))
    }

    fn count(folder: &Path) -> usize {
        std::fs::read_to_string(folder.join("asked")).unwrap_or_default().lines().count()
    }

    const UNKNOWN_THERE: &str = "echo >> $DIR/asked; echo 'slurm_load_jobs error: Invalid job id specified' >&2; exit 1";
    const SILENT: &str =
        "echo 'sacct: error: slurm_persist_conn_open_without_init: failed to open persistent connection' >&2; exit 1";

    #[tokio::test]
    async fn a_job_is_given_up_only_where_everybody_says_that_it_is_unknown() {
        let folder = tempfile::tempdir().unwrap();
        for (sacct, given_up) in [(SILENT, false), ("true", true)] {
            let cluster = cluster(folder.path(), &[("sacct", sacct), ("scontrol", UNKNOWN_THERE)]);
            let tell = watch::Sender::new(None);
            let mut told = tell.subscribe();
            cluster.lock().followed.insert(7, Followed { tell, followers: 1, missing: UNKNOWN });
            cluster.look_up(vec![7]).await;
            let said = told.borrow_and_update().clone();
            assert_eq!(said.map(|report| report.state), given_up.then(|| FORGOTTEN.to_owned()), "{sacct}");
        }
    }

    #[tokio::test]
    async fn without_accounting_the_controller_is_asked_for_a_few_at_a_time_and_for_all_in_turn() {
        let folder = tempfile::tempdir().unwrap();
        let there = "echo $4 >> $DIR/asked; echo \"JobId=$4 JobState=COMPLETED ExitCode=0:0 NodeList=n1\"";
        let cluster =
            cluster(folder.path(), &[("sacct", "echo 'accounting storage is disabled' >&2; exit 1"), ("scontrol", there)]);
        for id in 0..20 {
            cluster.lock().followed.insert(id, Followed { tell: watch::Sender::new(None), followers: 1, missing: MISSING });
        }
        for round in 1..=3 {
            let open = |jobs: &Jobs| jobs.followed.iter().filter(|(_, f)| !f.is_over()).map(|(id, _)| *id).collect::<Vec<_>>();
            let missing = open(&cluster.lock());
            cluster.look_up(missing).await;
            assert!(count(folder.path()) <= round * ONE_BY_ONE);
        }
        assert!(cluster.lock().followed.values().all(Followed::is_over), "{}", count(folder.path()));
    }

    #[test]
    fn the_longer_it_is_silent_the_less_it_is_asked() {
        let pace = Duration::from_secs(10);
        let pauses: Vec<u64> = (1..=7).map(|times| silence(pace, times).as_secs()).collect();
        assert_eq!(pauses, [10, 20, 40, 80, 160, 300, 300]);
        assert_eq!(silence(Duration::from_secs(900), 3).as_secs(), 900, "never more often than in good times");
    }
}
