//! The Slurm backend: a job is a batch job of a cluster.
//!
//! The job's folder lies where login node and compute nodes see it. The batch script is constant; what differs lies beside
//! it as data. Each process of the job writes to an output of its own there and leaves its exit status, so that what
//! became of it is known even where Slurm has forgotten the job; Slurm's word is added where it ended the job.
//!
//! What the job sees: in an image, what [`crate::executor::backend::binds`] says, and the variables that Slurm sets for
//! the step. Without images it runs as on the process backend, the mount point replaced by the real folder. Each process
//! runs `init-cmd` by itself before the command. Memory of a specification is that of one process (see [`MemoryPer`]).

mod cluster;
pub mod hostlist;
mod programs;
pub mod report;
mod request;
mod script;
mod settings;

pub use settings::Containers;
pub use settings::GpuRequest;
pub use settings::MemoryPer;
pub use settings::Settings;

use super::Adopted;
use super::Ending;
use super::Engine;
use super::Facts;
use super::Failure;
use super::Handle;
use super::Output;
use super::Surroundings;
use super::Task;
use super::append;
use super::binds;
use super::environment;
use super::payload;
use super::payload::private_file;
use super::statuses;
use super::tries;
use crate::executor::error::Error;
use crate::executor::growth::Growth;
use crate::executor::image::Images;
use crate::executor::image::exec;
use crate::executor::spec::Work;
use async_trait::async_trait;
use cluster::Cluster;
use cluster::Follower;
use programs::Programs;
use report::Phase;
use report::Report;
use std::ffi::OsString;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// In a job's folder: the nodes it runs on, as its batch script found them.
const NODES: &str = "payload/nodes";
/// There: whether the job heard a signal to end, and why the batch script did not begin it.
const ASKED: &str = "asked";
const REASON: &str = "reason";
/// The attribute that names the job at Slurm.
const JOB_ID: &str = "SLURM-JOBID";
/// How long a status may take from a node to here, through a network file system, after Slurm said that the job ended: NFS believes
/// for up to a minute (`acdirmax` of nfs(5)) that a file is not there which it has looked for.
const LAG: Duration = Duration::from_secs(90);
/// The same of a job that Slurm ended: it may have left none.
const LAG_OF_ENDED: Duration = Duration::from_secs(10);
/// How long Slurm may take to say that a job is over of which a process has failed.
const VERDICT: Duration = Duration::from_secs(60);
/// How long a job may take, besides its grace, until Slurm says that it is over after `scancel`: more than the usual
/// `KillWait`.
const KILL_WAIT: Duration = Duration::from_secs(45);
/// How long a batch script that was seen to begin may take to say which job it is.
const INTRODUCTION: Duration = Duration::from_secs(20);

/// The backend.
#[derive(Debug)]
pub struct SlurmEngine {
    settings: Settings,
    executor: String,
    cluster: Arc<Cluster>,
    /// None where commands run on the nodes themselves.
    images: Option<Images>,
    growth: Arc<Growth>,
}

impl SlurmEngine {
    /// With these settings; jobs of an earlier life whose folders are gone are ended. Needs a runtime.
    ///
    /// # Errors
    /// Those of the image folder.
    pub fn new(settings: Settings, around: &Surroundings) -> Result<SlurmEngine, Error> {
        let cluster = Cluster::new(Programs::new(&settings), settings.pace());
        let images = match settings.containers {
            Containers::Apptainer => Some(Images::new(settings.images.clone(), &around.state_dir)?),
            Containers::None => None,
        };
        // Where there is no folder at all, the disk may be missing.
        if std::fs::read_dir(&around.jobs_dir).is_ok_and(|mut folders| folders.next().is_some()) {
            let ours = request::ours(&around.name, &around.jobs_dir);
            tokio::spawn(sweep(cluster.programs().clone(), ours, around.jobs_dir.clone()));
        }
        Ok(SlurmEngine { settings, executor: around.name.clone(), cluster, images, growth: around.growth.clone() })
    }

    /// The job that was submitted for this folder, as Slurm knows it by its comment.
    async fn find(&self, task: &Task) -> Result<Option<u64>, Failure> {
        let words =
            ["--noheader".into(), "--states=all".into(), format!("--name={}", task.job.process_id), "--format=%A|%k".into()];
        let said = self.cluster.programs().run("squeue", words.map(OsString::from)).await?;
        let ours = request::comment(&self.executor, &task.folder);
        let mut rows = said.lines().filter_map(|line| line.split_once('|'));
        Ok(rows.find(|(_, comment)| comment.trim() == ours).and_then(|(id, _)| id.trim().parse().ok()))
    }

    /// Writes all that the job reads on its nodes; gives the batch script.
    async fn write(&self, task: &Task) -> Result<PathBuf, Failure> {
        let Work::Execute(command) = &task.job.work else {
            return Err(Failure::Unsupported { field: "funcname".into(), reason: "there is nothing to run".into() });
        };
        let folder = &task.folder;
        let text = |path: &Path| path.to_string_lossy().into_owned();
        let mut sources: Vec<String> = Vec::new();
        let (start, work) = match &self.images {
            Some(images) => {
                let mut variables = environment::in_container(task);
                variables.entry("HOME".into()).or_insert_with(|| exec::HOME.into());
                payload::write(folder, &variables, command)?;
                exec::make_homes(task)?;
                sources = binds::of(task, images.settings().sees).into_iter().map(|bind| text(&bind.host)).collect();
                (in_image(images, task).await?, folder.clone())
            }
            None => {
                let payload = payload::write(folder, &environment::on_node(task), &environment::localized(task, command))?;
                (vec!["/bin/sh".into(), text(&payload.join(payload::SCRIPT)), text(&payload)], environment::work_folder(task)?)
            }
        };
        let rank_script = folder.join("rank.sh");
        let step = request::step(&self.settings, &self.cluster.programs().path("srun"), task, &rank_script, &work);
        let lines = |words: &[String]| words.iter().map(|word| payload::encode(word) + "\n").collect::<String>();
        let modules = self.settings.modules.iter().map(|module| format!("{module}\n")).collect();
        let batch = folder.join("batch.sh");
        for (path, text) in [
            (&rank_script, script::RANK.to_owned()),
            (&folder.join("step"), lines(&step)),
            (&folder.join("start"), lines(&start)),
            (&folder.join("sources"), lines(&sources)),
            (&folder.join("modules"), modules),
            (&batch, script::BATCH.to_owned()),
        ] {
            private_file(path, text.as_bytes())?;
        }
        for output in self.outputs(task) {
            append(&output.path)?;
        }
        Ok(batch)
    }

    /// What the job left, with Slurm's word where it ended the job. A job that was asked to end and did so with 0 has not
    /// come to its end by itself.
    async fn judge(&self, task: &Task, ending: Ending, follower: &mut Follower) -> Ending {
        let Ending::Exited { status, rank, in_init, because: None } = ending else { return ending };
        if status == 0 && !task.folder.join(ASKED).exists() {
            return Ending::Exited { status, rank, in_init, because: None };
        }
        match tokio::time::timeout(VERDICT, follower.over()).await {
            Ok(report) => match self.because(task, &report) {
                Some(reason) if status == 0 => Ending::Stopped { reason },
                because => Ending::Exited { status, rank, in_init, because },
            },
            Err(_) => {
                tracing::warn!(process = task.job.process_id, "Slurm does not say that a job is over of which a process failed");
                Ending::Exited { status, rank, in_init, because: None }
            }
        }
    }

    fn because(&self, task: &Task, report: &Report) -> Option<String> {
        let because = report.because()?;
        Some(match report.state.as_str() {
            "TIMEOUT" => format!("{because} ({} s; Slurm counts whole minutes)", task.job.walltime.as_secs()),
            "OUT_OF_MEMORY" => format!("{because} ({} MiB for each process)", task.job.mem_mib),
            _ => because,
        })
    }

    /// How a job ended that left no status, by Slurm's word.
    fn without_status(&self, task: &Task, report: &Report) -> Ending {
        if let Some(reason) = self.because(task, report) {
            return Ending::Stopped { reason };
        }
        match (report.state.as_str(), report.exit) {
            ("COMPLETED", _) => Ending::Vanished {
                reason:
                    "Slurm says COMPLETED, but its exit status did not arrive in the folder of the job: do the nodes see that \
                         folder?"
                        .into(),
            },
            // What `claim` answers to a job that begins too late, or to one that Slurm began twice.
            (_, Some((75, _))) => {
                Ending::Vanished { reason: "it was not allowed to begin (exit status 75 of the batch script)".into() }
            }
            (state, Some((0, signal))) => {
                Ending::Stopped { reason: format!("{state}: the batch script ended by signal {signal}") }
            }
            (state, Some((status, _))) => {
                Ending::Stopped { reason: format!("{state}: the batch script ended with exit status {status}") }
            }
            (cluster::FORGOTTEN, None) => {
                Ending::Vanished { reason: "Slurm does not know the job any more, and it left no exit status".into() }
            }
            (state, None) => Ending::Stopped { reason: format!("{state}: Slurm says no more, and the job left no exit status") },
        }
    }

    fn ending(&self, task: &Task) -> Option<Ending> {
        // Of the batch script's own, which never began the command.
        if statuses::read(&task.folder.join("status")).is_some()
            && let Ok(reason) = std::fs::read_to_string(task.folder.join(REASON))
        {
            return Some(Ending::Stopped { reason: reason.trim_end().to_owned() });
        }
        statuses::ending(&task.folder, &payload::folder(&task.folder), task.job.processes())
    }

    fn tell(&self, task: &Task, handle: &Handle, report: Option<&Report>, facts: &watch::Sender<Facts>) {
        let mut known = Facts {
            job_id: Some((JOB_ID.into(), handle.0.clone())),
            home: self.settings.home.clone().or_else(|| std::env::var("HOME").ok()),
            ..Facts::default()
        };
        // The batch script says it at once, Slurm when it is asked next.
        known.nodes = named(&task.folder);
        if let Some(report) = report {
            known.waiting = report.waiting().filter(|_| known.nodes.is_empty());
            if known.nodes.is_empty() && report.phase() != Phase::Waiting {
                known.nodes = report.nodes.clone();
            }
        }
        facts.send_if_modified(|facts| std::mem::replace(facts, known.clone()) != known);
    }

    /// Files whose coming may be the beginning or the end, but for those that came already.
    fn signs(&self, task: &Task) -> Vec<PathBuf> {
        let ranks = (0..task.job.processes()).map(|r| task.folder.join(format!("status.{r}")));
        let all = ranks.chain(["status", "jobid", NODES].map(|name| task.folder.join(name)));
        all.filter(|path| !path.exists()).collect()
    }
}

#[async_trait]
impl Engine for SlurmEngine {
    fn needs_image(&self) -> bool {
        self.settings.containers == Containers::Apptainer
    }

    fn keeps_time(&self) -> bool {
        true
    }

    async fn prepare(&self, task: &Task) -> Result<Vec<String>, Failure> {
        match &self.images {
            Some(images) => Ok(images.prepare(task).await?.lines),
            None => Ok(Vec::new()),
        }
    }

    async fn start(&self, task: &Task) -> Result<Handle, Failure> {
        let batch = self.write(task).await?;
        let attempt = tries::next(&task.folder)?;
        let words = request::sbatch(&self.settings, task, &self.executor, &batch, attempt)?;
        let said = self.cluster.programs().run("sbatch", words).await?;
        // With a name of a cluster behind it in federations: `12;name`.
        let id = said.lines().next_back().unwrap_or_default().split(';').next().unwrap_or_default().trim();
        match id.parse::<u64>() {
            Ok(id) => Ok(Handle(id.to_string())),
            Err(_) => Err(Failure::Unanswered { what: "sbatch".into(), reason: format!("no job id in {said:?}") }),
        }
    }

    async fn adopt(&self, task: &Task, handle: Option<Handle>) -> Result<Adopted, Failure> {
        if let Some(handle) = handle {
            return Ok(Adopted::Started(handle));
        }
        if tries::last(&task.folder)?.is_none() {
            return Ok(Adopted::Never);
        }
        if let Some(id) = introduced(&task.folder) {
            return Ok(Adopted::Started(Handle(id.to_string())));
        }
        if let Some(id) = self.find(task).await? {
            return Ok(Adopted::Started(Handle(id.to_string())));
        }
        if !tries::began(&task.folder)? {
            return Ok(Adopted::Never);
        }
        let following = self.growth.follow(self.signs(task));
        let introduction = async {
            loop {
                if let Some(id) = introduced(&task.folder) {
                    return Adopted::Started(Handle(id.to_string()));
                }
                following.changed().await;
            }
        };
        tokio::time::timeout(INTRODUCTION, introduction).await.map_err(|_| Failure::Unanswered {
            what: "the batch script".into(),
            reason: "it began and has not said which job it is".into(),
        })
    }

    async fn watch(&self, task: &Task, handle: &Handle, facts: &watch::Sender<Facts>) -> Result<Ending, Failure> {
        let id = job_number(handle)?;
        let mut following = self.growth.follow(self.signs(task));
        let mut follower = self.cluster.follow(id);
        let mut began = false;
        loop {
            let report = follower.now();
            self.tell(task, handle, report.as_ref(), facts);
            if let Some(ending) = self.ending(task) {
                return Ok(self.judge(task, ending, &mut follower).await);
            }
            if let Some(report) = report.filter(|r| r.phase() == Phase::Over || r.state == cluster::FORGOTTEN) {
                // The status is written before the job ends, but elsewhere.
                let lag = if self.because(task, &report).is_some() { LAG_OF_ENDED } else { LAG };
                return Ok(match late(&following, lag, || self.ending(task)).await {
                    Some(ending) => self.judge(task, ending, &mut follower).await,
                    None => self.without_status(task, &report),
                });
            }
            tokio::select! {
                () = follower.changed() => {}
                () = following.changed() => {
                    if !std::mem::replace(&mut began, introduced(&task.folder).is_some()) {
                        // It just began: its nodes are wanted.
                        self.cluster.ask_soon();
                    }
                    following = self.growth.follow(self.signs(task));
                }
            }
        }
    }

    async fn kill(&self, task: &Task, handle: &Handle, grace: Duration) -> Result<(), Failure> {
        // The batch script is done, and the step with it: a cancellation now would only spoil what the accounting says.
        if statuses::read(&task.folder.join("status")).is_some() {
            return Ok(());
        }
        let id = job_number(handle)?;
        let mut follower = self.cluster.follow(id);
        for signal in [None, Some("--signal=KILL")] {
            let words = signal.into_iter().map(OsString::from).chain(signal.map(|_| OsString::from("--full")));
            match self.cluster.programs().run("scancel", words.chain([id.to_string().into()])).await {
                Ok(_) => {}
                // It is over already, or Slurm has forgotten it.
                Err(Failure::Refused { reason, .. }) => tracing::debug!(job = id, reason, "scancel"),
                Err(error) => return Err(error),
            }
            if tokio::time::timeout(grace + KILL_WAIT, follower.over()).await.is_ok() {
                return Ok(());
            }
        }
        Err(Failure::Unanswered { what: "scancel".into(), reason: format!("job {id} does not end") })
    }

    fn outputs(&self, task: &Task) -> Vec<Output> {
        super::outputs(task)
    }
}

/// The words that run a process in the image that was made ready.
async fn in_image(images: &Images, task: &Task) -> Result<Vec<String>, Failure> {
    let program = images.program().await?;
    let words = exec::words(images.settings(), &program.word, &program.version, task, &Images::chosen(task)?, None)?;
    let text = |word: OsString| {
        let reason = "a folder on the way to the job has a name that is not UTF-8";
        word.into_string().map_err(|_| Failure::Unsupported { field: "fs".into(), reason: reason.into() })
    };
    words.into_iter().map(text).collect()
}

/// Ends jobs of this executor whose folders are gone: nobody will hear of their end.
async fn sweep(programs: Programs, ours: String, jobs_dir: PathBuf) {
    let words = ["--noheader", "--states=PENDING,RUNNING,SUSPENDED", "--format=%A|%k"].map(OsString::from);
    let said = match programs.run("squeue", words).await {
        Ok(said) => said,
        Err(error) => {
            tracing::warn!(%error, "it is not known whether an earlier life left jobs behind");
            return;
        }
    };
    for (id, folder) in said.lines().filter_map(|line| line.split_once('|')?.1.trim().strip_prefix(&ours).map(|f| (line, f))) {
        let id = id.split('|').next().unwrap_or_default().trim();
        // Only "not there" is not there: a file system that does not answer at the moment ends no job.
        let gone = std::fs::symlink_metadata(jobs_dir.join(folder)).is_err_and(|e| e.kind() == std::io::ErrorKind::NotFound);
        if !gone || id.parse::<u64>().is_err() {
            continue;
        }
        tracing::warn!(job = id, folder, "a job of an earlier life is ended: its folder is gone");
        if let Err(error) = programs.run("scancel", [id.into()]).await {
            tracing::warn!(job = id, %error, "it cannot be ended");
        }
    }
}

/// The job's id at Slurm, as its batch script left it.
fn introduced(folder: &Path) -> Option<u64> {
    std::fs::read_to_string(folder.join("jobid")).ok()?.strip_suffix('\n')?.parse().ok()
}

/// The nodes that the job runs on, as its batch script left them; none where it did not yet.
fn named(folder: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(folder.join(NODES)).unwrap_or_default();
    text.strip_suffix('\n').map(hostlist::expand).unwrap_or_default()
}

fn job_number(handle: &Handle) -> Result<u64, Failure> {
    let refused = |_| Failure::Refused { what: "the journal".into(), reason: format!("{:?} is no job id of Slurm", handle.0) };
    handle.0.parse().map_err(refused)
}

/// What arrives within the lag of a network file system.
async fn late<T>(following: &crate::executor::growth::Following, lag: Duration, look: impl Fn() -> Option<T>) -> Option<T> {
    let waiting = async {
        loop {
            if let Some(found) = look() {
                return found;
            }
            following.changed().await;
        }
    };
    tokio::time::timeout(lag, waiting).await.ok()
}
