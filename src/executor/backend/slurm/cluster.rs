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
                    let missing = self.tell(queue);
                    self.look_up(missing).await;
                }
                Err(error) => tracing::warn!(%error, "Slurm does not say how jobs are; asking again"),
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
        let mut found = self.accounting(&missing).await;
        for id in missing {
            let report = match found.remove(&id).filter(|r| r.phase() == Phase::Over) {
                Some(report) => Some(report),
                None => self.controller(id).await,
            };
            let mut jobs = self.lock();
            let Some(followed) = jobs.followed.get_mut(&id) else { continue };
            match report {
                Some(report) => followed.put(report),
                None if followed.missing >= UNKNOWN => followed.put(Report { state: FORGOTTEN.into(), ..Report::default() }),
                None => {}
            }
        }
    }

    /// What the accounting says; nothing where there is none.
    async fn accounting(&self, ids: &[u64]) -> BTreeMap<u64, Report> {
        let after = self.lock().accounting_after;
        if after.is_some_and(|after| Instant::now() < after) {
            return BTreeMap::new();
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
            Ok(said) => report::sacct(&said),
            Err(error) => {
                tracing::debug!(%error, "no accounting");
                if !error.is_temporary() {
                    self.lock().accounting_after = Some(Instant::now() + WITHOUT_ACCOUNTING);
                }
                BTreeMap::new()
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
