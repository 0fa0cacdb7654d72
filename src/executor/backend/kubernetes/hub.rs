//! One watch on all jobs of an executor in the cluster, whoever waits for them; and the sweep of those that nobody wants.

use super::cluster::Cluster;
use super::cluster::chain;
use super::names;
use super::view::JobView;
use super::view::PodView;
use super::view::View;
use futures_util::StreamExt;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::ResourceExt;
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher;
use kube::runtime::watcher::Event;
use serde::de::DeserializeOwned;
use std::collections::HashMap;
use std::collections::HashSet;
use std::fmt::Debug;
use std::io::ErrorKind;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::Duration;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// Seconds after which a watch is asked for anew: for so long one may stand still without an error (a path that drops packets).
const WATCH: u32 = 60;
/// How often jobs that nobody wants are looked for.
const SWEEP: Duration = Duration::from_secs(60);
/// Time that a job of another life has to end.
const GRACE: u32 = 5;

/// The shared watch.
pub struct Hub {
    cluster: Arc<Cluster>,
    jobs_dir: PathBuf,
    views: Mutex<HashMap<String, watch::Sender<Arc<View>>>>,
    /// Whether Jobs and pods were listed once.
    listed: watch::Sender<(bool, bool)>,
}

impl Hub {
    /// Watches until `shutdown`.
    pub fn start(cluster: Arc<Cluster>, instance: &str, jobs_dir: PathBuf, shutdown: CancellationToken) -> Arc<Hub> {
        let hub = Arc::new(Hub { cluster, jobs_dir, views: Mutex::default(), listed: watch::Sender::new((false, false)) });
        let config = watcher::Config::default().labels(&format!("{}={instance}", names::INSTANCE)).timeout(WATCH);
        let (one, jobs) = (hub.clone(), hub.cluster.jobs.clone());
        let (two, pods) = (hub.clone(), hub.cluster.pods.clone());
        let three = hub.clone();
        let configs = (config.clone(), config);
        tokio::spawn(async move {
            tokio::select! {
                () = one.watch::<Job>(jobs, configs.0) => {}
                () = two.watch::<Pod>(pods, configs.1) => {}
                () = three.sweep() => {}
                () = shutdown.cancelled() => {}
            }
        });
        hub
    }

    /// Waits until everything that was there is known.
    pub async fn ready(&self) {
        // The sender lives as long as we do.
        let _ = self.listed.subscribe().wait_for(|(jobs, pods)| *jobs && *pods).await;
    }

    /// What is known of a job, and what becomes known.
    pub fn subscribe(&self, name: &str) -> watch::Receiver<Arc<View>> {
        self.lock().entry(name.to_owned()).or_default().subscribe()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<String, watch::Sender<Arc<View>>>> {
        self.views.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn watch<K: Watched>(&self, api: Api<K>, config: watcher::Config) {
        let stream = watcher(api, config).default_backoff();
        tokio::pin!(stream);
        let mut listed = HashSet::new();
        let mut troubled = false;
        while let Some(event) = stream.next().await {
            match event {
                Ok(event) => {
                    if std::mem::take(&mut troubled) {
                        tracing::info!(kind = K::WORD, "the cluster answers again");
                    }
                    self.take(event, &mut listed);
                }
                // Not knowing is no news about any job.
                Err(error) => {
                    let error = chain(&error);
                    if troubled {
                        tracing::debug!(kind = K::WORD, error, "the watch on the cluster is broken");
                    } else {
                        tracing::warn!(kind = K::WORD, error, "the watch on the cluster broke; trying again");
                    }
                    troubled = true;
                }
            }
        }
    }

    fn take<K: Watched>(&self, event: Event<K>, listed: &mut HashSet<String>) {
        match event {
            Event::Init => listed.clear(),
            Event::InitApply(object) => {
                listed.insert(object.key());
                self.change(&object, |view| object.put(view));
            }
            Event::InitDone => {
                self.keep_only::<K>(listed);
                listed.clear();
                self.listed.send_modify(K::mark);
            }
            Event::Apply(object) => self.change(&object, |view| object.put(view)),
            Event::Delete(object) => self.change(&object, |view| object.remove(view)),
        }
    }

    fn change<K: Watched>(&self, object: &K, change: impl FnOnce(&mut View)) {
        let Some(name) = object.labels().get(names::JOB) else { return };
        let mut views = self.lock();
        let sender = views.entry(name.clone()).or_default();
        sender.send_if_modified(|view| {
            let mut now = (**view).clone();
            change(&mut now);
            let modified = now != **view;
            *view = Arc::new(now);
            modified
        });
        // Nobody waits for it, and nothing is left of it.
        if sender.receiver_count() == 0 && is_over(&sender.borrow()) {
            views.remove(name);
        }
    }

    /// What was not listed is gone.
    fn keep_only<K: Watched>(&self, listed: &HashSet<String>) {
        let mut views = self.lock();
        for sender in views.values() {
            sender.send_if_modified(|view| {
                let mut now = (**view).clone();
                K::keep_only(&mut now, listed);
                let modified = now != **view;
                *view = Arc::new(now);
                modified
            });
        }
        views.retain(|_, sender| sender.receiver_count() > 0 || !is_over(&sender.borrow()));
    }

    /// Deletes jobs whose folder is gone: nobody waits for them, and nobody will.
    async fn sweep(&self) {
        self.ready().await;
        loop {
            for (name, folder) in self.unwanted() {
                tracing::info!(job = name, folder, "a job that nobody wants is deleted");
                if let Err(error) = self.cluster.delete(&name, GRACE).await {
                    tracing::warn!(job = name, %error, "a job that nobody wants cannot be deleted yet");
                }
            }
            tokio::time::sleep(SWEEP).await;
        }
    }

    fn unwanted(&self) -> Vec<(String, String)> {
        let views = self.lock();
        let waited_for = |sender: &watch::Sender<Arc<View>>| sender.receiver_count() > 0;
        let folder = |sender: &watch::Sender<Arc<View>>| sender.borrow().jobs.values().find_map(|job| job.folder.clone());
        let found = views.iter().filter(|(_, sender)| !waited_for(sender));
        found
            .filter_map(|(name, sender)| Some((name.clone(), folder(sender)?)))
            .filter(|(_, folder)| self.is_gone(folder))
            .collect()
    }

    /// Whether a job's folder is surely not there: not being able to look is no proof.
    fn is_gone(&self, folder: &str) -> bool {
        let looked = self.jobs_dir.join(folder).symlink_metadata();
        self.jobs_dir.is_dir() && looked.is_err_and(|error| error.kind() == ErrorKind::NotFound)
    }
}

fn is_over(view: &View) -> bool {
    view.jobs.is_empty() && view.pods.values().all(|pod| pod.is_gone)
}

/// What is watched.
trait Watched: kube::Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + 'static {
    /// For the log.
    const WORD: &'static str;
    /// What tells it from others of its kind.
    fn key(&self) -> String;
    /// Puts it into the view of its job.
    fn put(&self, view: &mut View);
    /// It is deleted.
    fn remove(&self, view: &mut View);
    /// Those that are not listed are deleted.
    fn keep_only(view: &mut View, listed: &HashSet<String>);
    /// All of them were listed.
    fn mark(listed: &mut (bool, bool));
}

impl Watched for Job {
    const WORD: &'static str = "Jobs";

    fn key(&self) -> String {
        self.name_any()
    }

    fn put(&self, view: &mut View) {
        view.jobs.insert(self.key(), JobView::read(self));
    }

    fn remove(&self, view: &mut View) {
        view.jobs.remove(&self.key());
    }

    fn keep_only(view: &mut View, listed: &HashSet<String>) {
        view.jobs.retain(|name, _| listed.contains(name));
    }

    fn mark(listed: &mut (bool, bool)) {
        listed.0 = true;
    }
}

impl Watched for Pod {
    const WORD: &'static str = "pods";

    fn key(&self) -> String {
        self.metadata.uid.clone().unwrap_or_default()
    }

    fn put(&self, view: &mut View) {
        view.pods.insert(self.key(), PodView::read(self));
    }

    fn remove(&self, view: &mut View) {
        // Its last state may tell how its containers ended.
        view.pods.insert(self.key(), PodView { is_gone: true, ..PodView::read(self) });
    }

    fn keep_only(view: &mut View, listed: &HashSet<String>) {
        view.pods.iter_mut().filter(|(uid, _)| !listed.contains(*uid)).for_each(|(_, pod)| pod.is_gone = true);
    }

    fn mark(listed: &mut (bool, bool)) {
        listed.1 = true;
    }
}
