//! The logs of all processes of one job.

use super::cluster::Cluster;
use super::follow::Follower;
use super::follow::Wanted;
use super::judge;
use super::manifest;
use super::position::Recorder;
use super::view::Container;
use super::view::View;
use crate::executor::backend::Failure;
use crate::executor::backend::Task;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// How long the ends of logs are waited for, in the worst case.
const PATIENCE: Duration = Duration::from_secs(180);

/// The logs of a job.
pub struct Follows {
    cluster: Arc<Cluster>,
    shutdown: CancellationToken,
    task: Task,
    entries: Mutex<BTreeMap<u32, Entry>>,
}

struct Entry {
    wanted: watch::Sender<Wanted>,
    /// Whether all of it was read, once it is over.
    whole: watch::Receiver<Option<bool>>,
    handle: JoinHandle<()>,
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.handle.abort();
    }
}

impl Follows {
    /// None is followed yet.
    pub fn new(cluster: Arc<Cluster>, task: Task, shutdown: CancellationToken) -> Follows {
        Follows { cluster, shutdown, task, entries: Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<u32, Entry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Follows what has begun since.
    ///
    /// # Errors
    /// Those of the job's folder.
    pub fn update(&self, view: &View) -> Result<(), Failure> {
        let mut entries = self.lock();
        for (index, pod) in judge::originals(view).into_iter().filter(|(_, pod)| !pod.is_replacement()) {
            for (local, container) in &pod.containers {
                let wanted = match container {
                    _ if pod.is_gone => Wanted::Finish,
                    Container::Waiting { .. } => Wanted::Wait,
                    Container::Running => Wanted::Follow,
                    Container::Ended(_) => Wanted::Finish,
                };
                let rank = index * self.task.job.processes_per_node + local;
                if let Some(entry) = entries.get(&rank) {
                    let advance = |now: &mut Wanted| *now != Wanted::Finish && std::mem::replace(now, wanted) != wanted;
                    entry.wanted.send_if_modified(advance);
                } else if wanted != Wanted::Wait {
                    entries.insert(rank, self.follow(rank, &pod.name, *local, wanted)?);
                }
            }
        }
        Ok(())
    }

    fn follow(&self, rank: u32, pod: &str, local: u32, wanted: Wanted) -> Result<Entry, Failure> {
        let recorder = Recorder::open(&output(&self.task, rank), &self.task.folder.join(format!("position.{rank}")))?;
        let (sender, receiver) = watch::channel(wanted);
        let (tell, whole) = watch::channel(None);
        let follower = Follower {
            cluster: self.cluster.clone(),
            pod: pod.to_owned(),
            container: manifest::container_name(local),
            recorder,
            wanted: receiver,
            was_open: false,
            next: None,
        };
        let shutdown = self.shutdown.clone();
        let handle = tokio::spawn(async move {
            tokio::select! {
                read = follower.run() => { tell.send_replace(Some(read)); }
                () = shutdown.cancelled() => {}
            }
        });
        Ok(Entry { wanted: sender, whole, handle })
    }

    /// Reads what is there of all logs, and no more; gives the ranks whose log is not whole.
    pub async fn finish(&self) -> Vec<u32> {
        let waiting: Vec<(u32, watch::Receiver<Option<bool>>)> = {
            let entries = self.lock();
            entries.values().for_each(|entry| _ = entry.wanted.send_replace(Wanted::Finish));
            entries.iter().map(|(rank, entry)| (*rank, entry.whole.clone())).collect()
        };
        let read = async {
            let mut torn = Vec::new();
            for (rank, mut whole) in waiting {
                // An error: its task is gone, and told nothing.
                let is_whole = whole.wait_for(Option::is_some).await.is_ok_and(|read| *read == Some(true));
                torn.extend((!is_whole).then_some(rank));
            }
            torn
        };
        tokio::time::timeout(PATIENCE, read).await.unwrap_or_else(|_| self.lock().keys().copied().collect())
    }
}

/// Where a process's output is written.
pub fn output(task: &Task, rank: u32) -> PathBuf {
    match task.job.processes() {
        1 => task.log(),
        _ => task.folder.join(format!("log.{rank}")),
    }
}
