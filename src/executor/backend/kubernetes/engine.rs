//! The engine: makes the objects of a job, watches them, and takes them away.

use super::cluster::Cluster;
use super::hub::Hub;
use super::judge;
use super::judge::Asked;
use super::judge::State;
use super::manifest::Maker;
use super::manifest::Shape;
use super::rights;
use super::settings::Settings;
use super::view::View;
use super::volume::Volume;
use crate::durable;
use crate::executor::backend::Adopted;
use crate::executor::backend::Ending;
use crate::executor::backend::Engine;
use crate::executor::backend::Facts;
use crate::executor::backend::Failure;
use crate::executor::backend::Handle;
use crate::executor::backend::Output;
use crate::executor::backend::Surroundings;
use crate::executor::backend::Task;
use crate::executor::backend::append;
use crate::executor::backend::binds;
use crate::executor::backend::environment;
use crate::executor::backend::payload;
use crate::executor::backend::statuses;
use crate::executor::place::Inside;
use crate::executor::spec::Work;
use async_trait::async_trait;
use std::collections::BTreeMap;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;

/// Statuses on the volume, and times that nobody tells of, are looked at so often.
const LOOK: Duration = Duration::from_secs(10);
/// After so long without its pods it is asked why a job gets none.
const BARE: Duration = Duration::from_secs(5);
/// After so long on a node without being begun it is asked what keeps a pod, and again at most so often.
const SLOW: Duration = Duration::from_secs(20);
/// How much longer than asked for pods may take to end.
const TO_END: Duration = Duration::from_secs(60);
/// In a job's folder: all its objects were made.
const MADE: &str = "kubernetes-made";
/// In a job's folder: its [`Shape`].
const SHAPE: &str = "kubernetes-shape";
/// In the executor's state: tells it from others.
const INSTANCE: &str = "kubernetes-instance";

/// The backend.
pub struct KubernetesEngine {
    cluster: Arc<Cluster>,
    hub: Arc<Hub>,
    maker: Maker,
}

impl KubernetesEngine {
    /// Connects to the cluster of the settings, and watches it until the executor stops.
    ///
    /// # Errors
    /// What is wrong with the settings, for a person.
    pub fn start(settings: Settings, around: &Surroundings) -> Result<KubernetesEngine, String> {
        let volume = Volume::find(&settings, &around.fs_dir, &around.jobs_dir)?;
        let cluster = Arc::new(Cluster::new(&settings)?);
        let instance = instance(&around.state_dir).map_err(|failure| failure.to_string())?;
        let hub = Hub::start(cluster.clone(), &instance, around.jobs_dir.clone(), around.shutdown.clone());
        tokio::spawn(rights::check(cluster.clone(), around.shutdown.clone()));
        // SAFETY: these calls cannot fail and touch no memory.
        let user = unsafe { (i64::from(libc::geteuid()), i64::from(libc::getegid())) };
        let maker = Maker { executor: around.name.clone(), instance, volume, settings, user };
        Ok(KubernetesEngine { cluster, hub, maker })
    }

    /// The shape of an attempt, decided once.
    async fn shape(&self, task: &Task) -> Result<Shape, Failure> {
        let path = task.folder.join(SHAPE);
        let unreadable = || Failure::io("cannot read what is known of the job", &path);
        match std::fs::read(&path) {
            Ok(bytes) => return serde_json::from_slice(&bytes).map_err(|e| unreadable()(e.into())),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
            Err(e) => return Err(unreadable()(e)),
        }
        let shape = Shape { nonce: random()?, indexed: self.cluster.knows_indexed_jobs().await? };
        let text = serde_json::to_vec(&shape).map_err(|e| unreadable()(e.into()))?;
        // Objects are made by it: without it they would be taken for another's.
        let settled = durable::replace_for_good(&path, &text);
        settled.map_err(Failure::io("cannot write in the folder of the job", &path))?;
        Ok(shape)
    }

    /// Makes the objects that are missing, where not all of them were made.
    async fn make(&self, task: &Task) -> Result<(), Failure> {
        let made = task.folder.join(MADE);
        if made.exists() {
            return Ok(());
        }
        let shape = self.shape(task).await?;
        let objects = self.maker.objects(task, &shape)?;
        self.cluster.create(&objects, &shape.nonce).await?;
        payload::private_file(&made, b"")
    }

    /// The end of a job of which nothing is in the cluster.
    async fn missing(&self, view: &View, name: &str) -> Result<Option<Ending>, Failure> {
        let pods_are_over = view.pods.values().all(|pod| pod.is_over());
        if !view.jobs.is_empty() || !pods_are_over || self.cluster.has(name).await? {
            return Ok(None);
        }
        let reason = format!("JobDeleted: the Job {name} was deleted before it had ended, by nobody of the colony");
        Ok(Some(Ending::Stopped { reason }))
    }
}

#[async_trait]
impl Engine for KubernetesEngine {
    fn needs_image(&self) -> bool {
        true
    }

    fn keeps_time(&self) -> bool {
        true
    }

    async fn prepare(&self, task: &Task) -> Result<Vec<String>, Failure> {
        // What cannot be done is told before anything is made.
        let shape = Shape { nonce: String::new(), indexed: true };
        self.maker.objects(task, &shape)?;
        Ok(Vec::new())
    }

    async fn start(&self, task: &Task) -> Result<Handle, Failure> {
        write_files(task, &self.maker.hosts(task))?;
        self.make(task).await?;
        Ok(Handle(self.maker.name(task)))
    }

    async fn adopt(&self, task: &Task, handle: Option<Handle>) -> Result<Adopted, Failure> {
        if let Some(handle) = handle {
            return Ok(Adopted::Started(handle));
        }
        let name = self.maker.name(task);
        Ok(if self.cluster.has(&name).await? { Adopted::Started(Handle(name)) } else { Adopted::Never })
    }

    async fn watch(&self, task: &Task, handle: &Handle, facts: &watch::Sender<Facts>) -> Result<Ending, Failure> {
        let name = &handle.0;
        self.make(task).await?;
        self.hub.ready().await;
        let mut views = self.hub.subscribe(name);
        let mut patience = Patience { limit: self.maker.settings.pull_patience(), ..Patience::default() };
        let (mut bare, mut creation) = (Bare::default(), Creation::default());
        loop {
            let view = views.borrow_and_update().clone();
            let lacks_pods = judge::lacks_pods(&view, task.job.nodes);
            let state = judged(task, &view, &*bare.refusals(&self.cluster, lacks_pods).await);
            if let Some(ending) = state.ending.clone() {
                tell(facts, &state, None);
                return Ok(ending);
            }
            if let Some(ending) = self.missing(&view, name).await? {
                return Ok(ending);
            }
            let trouble = creation.trouble(&self.cluster, judge::being_created(&view)).await;
            let waiting = patience.take(&state).or(trouble);
            tell(facts, &state, waiting);
            if let Some(ending) = patience.end() {
                return Ok(ending);
            }
            tokio::select! {
                // The hub lives as long as we do.
                _ = views.changed() => {}
                () = tokio::time::sleep(patience.left().min(LOOK)) => {}
            }
        }
    }

    async fn kill(&self, _: &Task, handle: &Handle, grace: Duration) -> Result<(), Failure> {
        let name = &handle.0;
        // Without a second the pod would be forgotten, not ended.
        let seconds = grace.as_secs().max(1);
        self.cluster.delete(name, u32::try_from(seconds).unwrap_or(u32::MAX)).await?;
        let mut views = self.hub.subscribe(name);
        let ended = async {
            self.hub.ready().await;
            views.wait_for(|view| view.pods.values().all(|pod| pod.is_over())).await.is_ok()
        };
        let ended = tokio::time::timeout(grace + TO_END, ended).await;
        match ended {
            Ok(_) => Ok(()),
            Err(_) => {
                let left =
                    views.borrow().pods.values().filter(|pod| !pod.is_over()).map(|pod| pod.name.clone()).collect::<Vec<_>>();
                let reason = format!("the cluster has not ended the pods {} (does their node answer?)", left.join(", "));
                Err(Failure::Unanswered { what: format!("end the job {name}"), reason })
            }
        }
    }

    fn outputs(&self, task: &Task) -> Vec<Output> {
        let size = task.job.processes();
        let prefix = |rank| (size > 1).then(|| format!("[{rank}] "));
        let own = Output { path: task.log(), prefix: None };
        std::iter::once(own).chain((0..size).map(|rank| Output { path: output(task, rank), prefix: prefix(rank) })).collect()
    }
}

/// Where a container puts what its process prints.
fn output(task: &Task, rank: u32) -> PathBuf {
    payload::folder(&task.folder).join(format!("log.{rank}"))
}

/// How long a container that cannot come up is waited for.
#[derive(Default)]
struct Patience {
    limit: Duration,
    since: Option<Instant>,
    words: Option<String>,
    is_final: bool,
}

impl Patience {
    /// Takes what is known; gives what is waited for.
    fn take(&mut self, state: &State) -> Option<String> {
        let Some(problem) = &state.problem else {
            (self.since, self.words, self.is_final) = (None, None, false);
            return state.waiting.clone();
        };
        self.since.get_or_insert_with(Instant::now);
        self.is_final = !problem.may_pass;
        // That it is tried again later is said without the reason: the reason stays.
        if self.words.is_none() || !problem.words.starts_with("ImagePullBackOff") {
            self.words = Some(problem.words.clone());
        }
        self.words.clone()
    }

    fn left(&self) -> Duration {
        self.since.map_or(Duration::MAX, |since| self.limit.saturating_sub(since.elapsed()))
    }

    fn end(&self) -> Option<Ending> {
        let words = self.words.as_ref()?;
        let over = self.left().is_zero();
        let given_up = if self.is_final { String::new() } else { format!(" (given up after {} s)", self.limit.as_secs()) };
        (over || self.is_final).then(|| Ending::Stopped { reason: format!("{words}{given_up}") })
    }
}

/// What keeps a pod on its node from being begun.
#[derive(Default)]
struct Creation {
    /// Which pod.
    uid: String,
    /// When it is asked about.
    next: Option<Instant>,
    words: Option<String>,
}

impl Creation {
    /// What keeps the pod, as it was said last.
    async fn trouble(&mut self, cluster: &Cluster, uid: Option<&str>) -> Option<String> {
        let uid = uid?;
        if self.uid != uid {
            *self = Creation { uid: uid.to_owned(), ..Creation::default() };
        }
        let next = *self.next.get_or_insert_with(|| Instant::now() + SLOW);
        if Instant::now() >= next {
            self.next = None;
            let words = cluster.trouble(uid).await;
            // The rest may tell of a name or a time that is another each time.
            let reason = |words: &Option<String>| words.as_ref().and_then(|w| w.split(':').next().map(str::to_owned));
            if reason(&words) != reason(&self.words) {
                self.words = words;
            }
        }
        self.words.clone()
    }
}

/// How long a job has lacked pods.
#[derive(Default)]
struct Bare {
    since: Option<Instant>,
}

impl Bare {
    /// Why Jobs get no pods, by their unique ids: asked only where this one has lacked some for a while.
    async fn refusals(&mut self, cluster: &Cluster, lacks_pods: bool) -> Arc<BTreeMap<String, String>> {
        if !lacks_pods {
            self.since = None;
            return Arc::default();
        }
        let since = *self.since.get_or_insert_with(Instant::now);
        if since.elapsed() < BARE { Arc::default() } else { cluster.refusals().await }
    }
}

fn tell(facts: &watch::Sender<Facts>, state: &State, waiting: Option<String>) {
    facts.send_if_modified(|facts| {
        let nodes = if state.nodes.is_empty() { facts.nodes.clone() } else { state.nodes.clone() };
        let known = Facts { waiting, nodes, ..Facts::default() };
        std::mem::replace(facts, known.clone()) != known
    });
}

fn judged(task: &Task, view: &View, refusals: &BTreeMap<String, String>) -> State {
    let folder = payload::folder(&task.folder);
    let asked = Asked {
        nodes: task.job.nodes,
        per_node: task.job.processes_per_node,
        walltime: task.job.walltime.as_secs(),
        memory: task.job.mem_mib,
        statuses: &|rank| statuses::read(&folder.join(format!("status.{rank}"))),
        began: &|rank| folder.join(format!("init-done.{rank}")).exists(),
        refusals,
        now: jiff::Timestamp::now().as_second(),
    };
    judge::judge(view, &asked)
}

/// Writes what the pods read from the volume, and makes the folders that they see there (Kubernetes would make them for
/// root alone).
fn write_files(task: &Task, hosts: &[String]) -> Result<(), Failure> {
    let Work::Execute(command) = &task.job.work else {
        return Err(Failure::Unsupported { field: "funcname".into(), reason: "there is nothing to run".into() });
    };
    let folder = payload::write(&task.folder, &environment::in_container(task), command)?;
    payload::private_file(&folder.join("nodes"), format!("{}\n", hosts.join(",")).as_bytes())?;
    // What is looked for before it is there stays unseen for a while on network file systems.
    for rank in 0..task.job.processes() {
        append(&output(task, rank))?;
    }
    for bind in binds::of(task, binds::Sees::Project) {
        let below = bind.host.strip_prefix(&task.fs_dir).ok().and_then(|path| Inside::read(&path.to_string_lossy()).ok());
        if let Some(below) = below {
            below.make_below(&task.fs_dir).map_err(Failure::io("cannot make a folder of the job", &bind.host))?;
        }
    }
    Ok(())
}

/// What tells this executor's jobs from those of others, also of the same name.
fn instance(state_dir: &Path) -> Result<String, Failure> {
    let path = state_dir.join(INSTANCE);
    match std::fs::read_to_string(&path) {
        Ok(text) if !text.trim().is_empty() => return Ok(text.trim().to_owned()),
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            return Err(Failure::io("cannot read in the state of the executor", &path)(e));
        }
        _ => {}
    }
    let made = random()?;
    let settled = durable::replace_for_good(&path, made.as_bytes());
    settled.map_err(Failure::io("cannot write in the state of the executor", &path))?;
    Ok(made)
}

fn random() -> Result<String, Failure> {
    let mut bytes = [0; 8];
    let failed = |e: getrandom::Error| Failure::Unanswered { what: "make a random number".into(), reason: e.to_string() };
    getrandom::fill(&mut bytes).map_err(failed)?;
    Ok(hex::encode(bytes))
}
