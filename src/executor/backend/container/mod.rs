//! The container backend: a job is a container of podman or docker on this machine.
//!
//! The engine is driven by its command line: argument vectors, never a shell, and no value of a specification among them
//! but the image's name; command, arguments and variables are files that the container sees (see
//! [`super::payload`]). The image must hold `/bin/sh`; its entry point is not used. A container sees the folders that
//! [`super::binds`] names and begins in its project's folder.
//!
//! A job of several processes is as many containers, each with the job's CPU and memory to itself, its rank in
//! `POLLINATOR_RANK`, and an output of its own; the first that fails decides, and the others are ended. All of them are
//! made before the first is started, so that one that was made and not started tells that none was. Their names come from
//! the attempt's folder: the engine itself refuses a second start, and finds them after our death.
//!
//! Output goes to files of the job's folder by a pipe within the container, and the exit status beside them: both are
//! there whole, whatever became of the executor or the engine meanwhile. The engine is asked for all containers at once,
//! and rarely: it only has to tell of those that ended without a status.

mod abilities;
mod census;
mod cli;
mod ending;
mod gpus;
mod image;
mod lead;
mod name;
mod settings;
mod sweep;
mod words;

pub use settings::Flavour;
pub use settings::Gpus;
pub use settings::Pull;
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
use super::process::session::host_name;
use super::say;
use crate::executor::error::Error;
use crate::executor::place::Inside;
use crate::executor::spec::Work;
use abilities::Abilities;
use async_trait::async_trait;
use census::Census;
use census::State;
use cli::Cli;
use image::Images;
use std::ffi::OsString;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::OnceCell;
use tokio::sync::watch;
use tokio::time::Instant;
use words::Container;
use words::Names;

/// How often the statuses of a job are looked at.
const LOOK: Duration = Duration::from_millis(150);
/// How long the engine may take to make or start containers, and to remove them.
const LIMIT: Duration = Duration::from_secs(180);
/// How often an engine that does not answer is asked before a job fails for it, and the pause between.
const TRIES: u32 = 20;
const PAUSE: Duration = Duration::from_secs(3);

/// The backend.
#[derive(Debug)]
pub struct ContainerEngine {
    cli: Cli,
    settings: Arc<Settings>,
    names: Names,
    executor: String,
    census: Census,
    images: Images,
    gpus: gpus::Gpus,
    abilities: OnceCell<Abilities>,
}

impl ContainerEngine {
    /// The engine, and its sweeping of containers that nobody wants any more.
    ///
    /// # Errors
    /// There is no such program.
    pub fn new(settings: Settings, around: &Surroundings) -> Result<ContainerEngine, Error> {
        let unusable = |reason| Error::Backend { name: around.name.clone(), backend: "container", reason };
        let cli = Cli::new(&settings, &around.state_dir).map_err(unusable)?;
        let settings = Arc::new(settings);
        let names = Names::new(&around.jobs_dir);
        let engine = ContainerEngine {
            census: Census::new(cli.clone(), names.clone()),
            images: Images::new(cli.clone(), settings.clone(), &around.state_dir),
            gpus: gpus::Gpus::new(settings.gpu_devices.clone()),
            executor: around.name.clone(),
            cli: cli.clone(),
            names: names.clone(),
            settings,
            abilities: OnceCell::new(),
        };
        tokio::spawn(sweep::run(cli, names, around.jobs_dir.clone(), around.shutdown.clone()));
        Ok(engine)
    }

    /// `--user`; none: the image's. Files of the file area are the executor's user's alone, so the job is that user, too:
    /// root of a container of podman without root is; docker without root is the same.
    async fn user(&self) -> Result<Option<String>, Failure> {
        match self.settings.user.as_deref() {
            Some("image") => Ok(None),
            Some(user) => Ok(Some(user.to_owned())),
            None if self.cli.flavour == Flavour::Podman || self.abilities().await?.rootless => Ok(Some("0:0".to_owned())),
            None => {
                // SAFETY: both only give numbers of this process.
                let (user, group) = unsafe { (libc::geteuid(), libc::getegid()) };
                Ok(Some(format!("{user}:{group}")))
            }
        }
    }

    async fn abilities(&self) -> Result<Abilities, Failure> {
        self.abilities.get_or_try_init(|| self.ask_for_abilities()).await.copied()
    }

    async fn ask_for_abilities(&self) -> Result<Abilities, Failure> {
        let what = "cannot ask the engine what it can do here";
        let words = cli::words(&["info", "--format", "{{json .}}"]);
        let answer = self.cli.call(what, &words, LIMIT, true).await?;
        let unanswered = |reason: String| Failure::Unanswered { what: what.into(), reason };
        if !answer.success {
            return Err(unanswered(answer.complaint()));
        }
        let info = serde_json::from_str(&answer.stdout).map_err(|e| unanswered(format!("{}: {e}", self.cli.name())))?;
        Ok(match self.cli.flavour {
            Flavour::Podman => Abilities::of_podman(&info),
            Flavour::Docker => Abilities::of_docker(&info),
        })
    }

    /// All that a container sees, and the files of its output.
    fn lay_out(&self, task: &Task) -> Result<(), Failure> {
        let Work::Execute(command) = &task.job.work else {
            return Err(Failure::Unsupported { field: "funcname".into(), reason: "there is nothing to run".into() });
        };
        let folder = payload::write(&task.folder, &environment::in_container(task), command)?;
        payload::private_file(&folder.join(lead::NAME), lead::LEAD.as_bytes())?;
        payload::private_file(&folder.join(payload::NODES), format!("{}\n", host_name()).as_bytes())?;
        for rank in 0..task.job.processes() {
            append(&words::log_of(task, rank))?;
        }
        if self.settings.user.is_some() {
            open_to_others(task, &folder)?;
        }
        for bind in binds::of(task, self.settings.sees) {
            make_folder(task, &bind.host)?;
        }
        Ok(())
    }

    async fn create(&self, task: &Task) -> Result<(), Failure> {
        let image = Images::id(task)?;
        let (user, abilities) = (self.user().await?, self.abilities().await?);
        let gpus = self.gpus.take(task)?;
        for rank in 0..task.job.processes() {
            let words = words::create(&Container {
                settings: &self.settings,
                flavour: self.cli.flavour,
                names: &self.names,
                executor: &self.executor,
                task,
                rank,
                image: &image,
                user: user.as_deref(),
                abilities,
                gpus: &gpus,
            });
            let answer = self.cli.call("cannot make the container", &words, LIMIT, false).await?;
            // An earlier life of ours may have made it and died; it was not started, or we would not be here.
            if !answer.success && !answer.complaint().contains("already in use") {
                let reason = ending::explained(&answer.complaint());
                self.remove(task).await?;
                return Err(Failure::Refused { what: "the container cannot be made".into(), reason });
            }
            for warning in answer.stderr.lines().filter(|l| answer.success && !l.trim().is_empty()) {
                say(&task.log(), &format!("{}: {}", self.cli.name(), warning.trim()))?;
            }
        }
        Ok(())
    }

    /// Starts those containers that are not started yet.
    async fn begin(&self, task: &Task, containers: &[String]) -> Result<Result<(), String>, Failure> {
        let mut words: Vec<OsString> = vec!["start".into()];
        words.extend(containers.iter().map(OsString::from));
        let answer = self.cli.within(&task.folder).call("cannot start the container", &words, LIMIT, false).await?;
        Ok(if answer.success { Ok(()) } else { Err(ending::start_complaint(&answer.stderr)) })
    }

    async fn remove(&self, task: &Task) -> Result<(), Failure> {
        let words = words::remove_by_force(self.cli.flavour, &self.names.all(task));
        self.cli.call("cannot remove the container", &words, LIMIT, false).await?;
        Ok(())
    }

    async fn end(&self, task: &Task, grace: Duration) -> Result<(), Failure> {
        let all = self.names.all(task);
        if grace >= Duration::from_secs(1) {
            let words = words::stop(&all, grace.as_secs());
            // One that is not there makes the whole call fail, and is none to end: what is left is seen below.
            self.cli.call("cannot stop the container", &words, LIMIT + grace, false).await?;
        }
        self.remove(task).await?;
        let left = self.census.since(Instant::now()).await?;
        match all.iter().find(|name| left.contains_key(*name)) {
            None => Ok(()),
            Some(name) => {
                let what = format!("the container {name} cannot be removed");
                Err(Failure::Unanswered { what, reason: "the engine still has it".into() })
            }
        }
    }

    /// The end of a job that left no status, where the engine says that it is over.
    async fn over(&self, task: &Task, oldest: Instant) -> Result<Option<Ending>, Failure> {
        let states = self.census.since(oldest).await?;
        for rank in 0..task.job.processes() {
            let name = self.names.of(task, rank);
            let state = states.get(&name);
            // Started once, so one that seems only made was forgotten by a machine that was restarted.
            if state == Some(&State::Alive) || ending::has_ended(task, rank) {
                continue;
            }
            // The status is written before the container ends: look once more.
            if let Some(ending) = ending::left(task) {
                return Ok(Some(ending));
            }
            if ending::has_ended(task, rank) {
                continue;
            }
            return match state {
                None => Ok(Some(ending::vanished(task, rank, "its container is gone (removed by somebody?)"))),
                Some(_) => ending::ask(&self.cli, task, rank, &name).await.map(Some),
            };
        }
        Ok(None)
    }
}

#[async_trait]
impl Engine for ContainerEngine {
    fn needs_image(&self) -> bool {
        true
    }

    async fn prepare(&self, task: &Task) -> Result<Vec<String>, Failure> {
        let job = &task.job;
        if job.nodes > 1 && !self.settings.several_nodes_here {
            let reason = format!("{} nodes are asked for, and this executor is one machine", job.nodes);
            return Err(Failure::Unsupported { field: "conditions.nodes".into(), reason });
        }
        let mut lines = self.images.prepare(task).await?;
        if !job.gpu_name.is_empty() && job.gpu_count > 0 {
            lines.push(format!("the GPU model {:?} is not looked for: the job gets those of this machine", job.gpu_name));
        }
        lines.extend(self.abilities().await?.lacks(job));
        Ok(lines)
    }

    async fn start(&self, task: &Task) -> Result<Handle, Failure> {
        self.lay_out(task)?;
        self.create(task).await?;
        if let Err(error) = binds::check(task, self.settings.sees) {
            self.remove(task).await?;
            return Err(error);
        }
        if let Err(reason) = self.begin(task, &self.names.all(task)).await? {
            self.remove(task).await?;
            return Err(Failure::Refused { what: "the container cannot be started".into(), reason });
        }
        Ok(Handle(self.names.of(task, 0)))
    }

    async fn adopt(&self, task: &Task, handle: Option<Handle>) -> Result<Adopted, Failure> {
        if let Some(handle) = handle {
            return Ok(Adopted::Started(handle));
        }
        let states = self.census.since(Instant::now()).await?;
        let all = self.names.all(task);
        let made: Vec<String> = all.iter().filter(|name| states.get(*name) == Some(&State::Made)).cloned().collect();
        let began = |rank| payload::folder(&task.folder).join(format!("began.{rank}")).exists();
        let some_began = (0..task.job.processes()).any(began);
        if some_began || all.iter().any(|name| states.get(name).is_some_and(|s| *s != State::Made)) {
            let rest: Vec<String> =
                (0..).zip(&all).filter(|(r, n)| made.contains(n) && !began(*r)).map(|(_, n)| n.clone()).collect();
            if !rest.is_empty()
                && let Err(reason) = self.begin(task, &rest).await?
            {
                tracing::warn!(process = task.job.process_id, reason, "not all processes of a job could be started");
            }
            return Ok(Adopted::Started(Handle(self.names.of(task, 0))));
        }
        if !made.is_empty() {
            // Without force: one that starts this very moment stays, and is found the next time.
            let words: Vec<OsString> = std::iter::once("rm".into()).chain(made.iter().map(OsString::from)).collect();
            let what = "cannot remove a container that was not started";
            let answer = self.cli.call(what, &words, LIMIT, false).await?;
            if !answer.success {
                return Err(Failure::Unanswered { what: what.into(), reason: answer.complaint() });
            }
        }
        Ok(Adopted::Never)
    }

    async fn watch(&self, task: &Task, _: &Handle, facts: &watch::Sender<Facts>) -> Result<Ending, Failure> {
        facts.send_if_modified(|facts| {
            let nodes = vec![host_name()];
            let known = Facts { nodes, home: std::env::var("HOME").ok(), ..Facts::default() };
            std::mem::replace(facts, known.clone()) != known
        });
        if let Some(ending) = ending::remembered(task) {
            return Ok(ending);
        }
        let mut looked = Instant::now();
        let ending = loop {
            if let Some(ending) = ending::left(task) {
                break ending;
            }
            if looked.elapsed() >= self.census.pace(self.settings.pace()) {
                // At most so old; a newer one that another job asked for serves as well.
                if let Some(ending) = self.over(task, looked).await? {
                    break ending;
                }
                looked = Instant::now();
            }
            tokio::time::sleep(LOOK).await;
        };
        ending::remember(task, &ending);
        Ok(ending)
    }

    async fn kill(&self, task: &Task, _: &Handle, grace: Duration) -> Result<(), Failure> {
        patiently(|| self.end(task, grace)).await
    }

    fn outputs(&self, task: &Task) -> Vec<Output> {
        super::outputs(task)
    }
}

/// Repeats what an engine did not answer: it may be about to start again.
async fn patiently<T, R: Future<Output = Result<T, Failure>>>(work: impl Fn() -> R) -> Result<T, Failure> {
    let mut tries = 1;
    loop {
        match work().await {
            Err(error) if error.is_temporary() && tries < TRIES => {
                tracing::warn!(%error, "the engine is asked again");
                tries += 1;
                tokio::time::sleep(PAUSE).await;
            }
            done => return done,
        }
    }
}

/// A folder of the file area, where it is missing; symbolic links on the way are refused.
fn make_folder(task: &Task, host: &Path) -> Result<(), Failure> {
    let below = host.strip_prefix(&task.fs_dir).ok().and_then(|p| Inside::read(&p.to_string_lossy()).ok());
    match below {
        Some(inside) => inside.make_below(&task.fs_dir).map(drop).map_err(Failure::io("cannot make a folder of the job", host)),
        None => Ok(()),
    }
}

/// Lets another user in the container read and write what is the job's. Others on this machine do not get so far: the folder
/// around it is its owner's only.
fn open_to_others(task: &Task, payload: &Path) -> Result<(), Failure> {
    let allow = |path: &Path, mode: u32| {
        let permissions = std::fs::Permissions::from_mode(mode);
        std::fs::set_permissions(path, permissions).map_err(Failure::io("cannot open a file of the job to its user", path))
    };
    let failed = || Failure::io("cannot read the folder of the command", payload);
    for entry in std::fs::read_dir(payload).map_err(failed())? {
        allow(&entry.map_err(failed())?.path(), 0o644)?;
    }
    allow(payload, 0o777)?;
    (0..task.job.processes()).try_for_each(|rank| allow(&words::log_of(task, rank), 0o666))
}
