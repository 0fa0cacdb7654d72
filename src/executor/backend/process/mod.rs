//! The process backend: a job is a session of processes on this machine, run as the executor's own user.
//!
//! A wrapper (`/bin/sh` with a constant script, see [`script`]) leads the session, runs the command and leaves its exit
//! status in the job's folder, so that the verdict survives the executor. The job goes on when the executor ends or is
//! killed; the next one adopts it.
//!
//! What the job sees: its working folder is the project's folder (`PROJECT_DIR`, below the file area), or the file area
//! itself, or an empty folder of its own where the specification has no files. Where it gets a mount namespace (see
//! `apart`), its folders are at the mount point (`/cfs`) as in a container; else the mount point is replaced by the real
//! folder in `cmd`, `args`, `init-cmd` and `env` (see [`crate::executor::mount`]). The image is not used.
//!
//! CPU and memory of all its processes together are limited by control groups where the executor may make them (see
//! `groups`); else each process's memory by itself, or nothing, as the settings say.
//!
//! With several processes each knows its number in `POLLINATOR_RANK` (from 0) and their count in `POLLINATOR_SIZE`; the
//! first that fails decides, and the others are ended.

#[cfg(target_os = "linux")]
mod apart;
#[cfg(not(target_os = "linux"))]
#[path = "apart_none.rs"]
mod apart;
mod confine;
mod groups;
pub mod script;
pub mod session;
mod settings;

pub use settings::Limits;
pub use settings::MountNamespace;
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
use super::environment;
use super::payload;
use super::statuses;
use super::tries;
use crate::blocking;
use crate::executor::error::Error;
use crate::executor::spec::Work;
use async_trait::async_trait;
use confine::Confine;
use session::Session;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// How often statuses of several processes are looked at.
const LOOK: Duration = Duration::from_millis(200);
/// How long a wrapper that was seen to begin may take to say which process it is.
const INTRODUCTION: Duration = Duration::from_secs(5);

/// The backend.
#[derive(Clone, Debug)]
pub struct ProcessEngine {
    confine: Arc<Confine>,
}

impl ProcessEngine {
    /// The backend, after a look at what this machine allows.
    ///
    /// # Errors
    /// It does not allow what the settings insist on.
    pub fn new(settings: Settings, around: &Surroundings) -> Result<ProcessEngine, Error> {
        let unusable = |reason| Error::Backend { name: around.name.clone(), backend: "process", reason };
        Ok(ProcessEngine { confine: Arc::new(Confine::new(settings, &around.state_dir).map_err(unusable)?) })
    }
}

#[async_trait]
impl Engine for ProcessEngine {
    fn needs_image(&self) -> bool {
        false
    }

    async fn prepare(&self, task: &Task) -> Result<Vec<String>, Failure> {
        let job = &task.job;
        let mut lines = self.confine.explain(task);
        if job.nodes > 1 {
            lines.push(format!("{} nodes are asked for: all {} processes run on this machine", job.nodes, job.processes()));
        }
        if job.gpu_count > 0 {
            lines.push("GPUs are not set apart: the command sees those of this machine".into());
        }
        Ok(lines)
    }

    async fn start(&self, task: &Task) -> Result<Handle, Failure> {
        let (task, confine) = (task.clone(), self.confine.clone());
        // Spawning waits for the child's exec, and files are made.
        blocking::run(move || start(&task, &confine)).await
    }

    async fn adopt(&self, task: &Task, handle: Option<Handle>) -> Result<Adopted, Failure> {
        if let Some(handle) = handle {
            return Ok(Adopted::Started(handle));
        }
        let folder = task.folder.clone();
        // The wrapper's first act is to make `began.N`, and it ends at once where somebody else was faster.
        if !blocking::run(move || tries::began(&folder)).await? {
            return Ok(Adopted::Never);
        }
        let deadline = tokio::time::Instant::now() + INTRODUCTION;
        loop {
            if let Some(handle) = introduced(&task.folder) {
                return Ok(Adopted::Started(handle));
            }
            if tokio::time::Instant::now() >= deadline {
                // It began and died before its next line: watching will find nobody.
                tracing::warn!(folder = %task.folder.display(), "a job began and left no process id");
                return Ok(Adopted::Started(Session::nobody().handle()));
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    async fn watch(&self, task: &Task, handle: &Handle, facts: &watch::Sender<Facts>) -> Result<Ending, Failure> {
        facts.send_if_modified(|facts| {
            let known = Facts { nodes: vec![session::host_name()], home: std::env::var("HOME").ok(), ..Facts::default() };
            std::mem::replace(facts, known.clone()) != known
        });
        let session = Session::read(handle);
        let several = task.job.processes() > 1;
        loop {
            if let Some(ending) = ending(task) {
                return Ok(ending);
            }
            if !session.leader_is_alive() {
                // The status is written before the leader ends: look once more.
                return Ok(ending(task).unwrap_or_else(|| {
                    let reason =
                        "its processes are gone and left no exit status (killed from outside, or the machine was restarted)";
                    confine::with_reason(task, Ending::Vanished { reason: reason.into() })
                }));
            }
            if several {
                tokio::select! { () = session.leader_ended() => {}, () = tokio::time::sleep(LOOK) => {} }
            } else {
                session.leader_ended().await;
            }
        }
    }

    async fn kill(&self, task: &Task, handle: &Handle, grace: Duration) -> Result<(), Failure> {
        Session::read(handle).kill(grace).await;
        groups::remove(task).await;
        Ok(())
    }

    fn outputs(&self, task: &Task) -> Vec<Output> {
        super::outputs(task)
    }
}

/// The leader as the wrapper introduced itself, if it is still that process.
fn introduced(folder: &Path) -> Option<Handle> {
    let text = std::fs::read_to_string(folder.join("pid")).ok()?;
    let pid: i32 = text.strip_suffix('\n')?.parse().ok()?;
    let session = Session::of(pid);
    let ours = session::command_line(pid).is_none_or(|words| words.iter().any(|w| Path::new(w) == folder));
    Some(if ours { session.handle() } else { Session::nobody().handle() })
}

fn start(task: &Task, confine: &Confine) -> Result<Handle, Failure> {
    let Work::Execute(command) = &task.job.work else {
        return Err(Failure::Unsupported { field: "funcname".into(), reason: "there is nothing to run".into() });
    };
    let folder = &task.folder;
    let size = task.job.processes();
    for output in super::outputs(task) {
        append(&output.path)?;
    }
    let work_folder = environment::work_folder(task)?;
    let confined = confine.prepare(task)?;
    let log = append(&task.log())?;
    let both = log.try_clone().map_err(Failure::io("cannot open the output of the job", task.log()))?;
    let next = tries::next(folder)?;
    let mut wrapper = std::process::Command::new("/bin/sh");
    wrapper.args(["-c", script::WRAPPER, "pollinator-job"]).arg(folder).arg(next.to_string());
    wrapper.args(["-c", script::INNER, "sh"]).arg(folder);
    let (command, mut variables) = match confined.sees_mount_point() {
        // As it stands: the folders are where it says.
        true => (command.clone(), environment::on_host(&Task { fs_dir: PathBuf::from(&task.job.mount), ..task.clone() })),
        false => (environment::localized(task, command), environment::on_host(task)),
    };
    // All of them are here, however many nodes were asked for.
    let place = [
        ("POLLINATOR_LOCAL_RANK", "0".to_owned()),
        ("POLLINATOR_NODE_RANK", "0".to_owned()),
        ("POLLINATOR_NODES", session::host_name()),
    ];
    variables.extend(place.map(|(name, value)| (name.to_owned(), value)));
    wrapper.args([&command.init, &size.to_string(), &payload::with_arguments(&command.cmd, !command.args.is_empty())]);
    wrapper.args(&command.args).env_clear().envs(variables).current_dir(&work_folder);
    wrapper.stdin(std::process::Stdio::null()).stdout(log).stderr(both);
    session::lead(&mut wrapper);
    confined.apply(&mut wrapper);
    let child = wrapper.spawn().map_err(|e| {
        groups::remove_empty(task);
        Failure::io("cannot start the command in its folder", work_folder)(e)
    })?;
    let session = Session::of(child.id() as i32);
    session::reap(child);
    Ok(session.handle())
}

/// The end, where the statuses decide it.
fn ending(task: &Task) -> Option<Ending> {
    let ending = statuses::ending(&task.folder, &task.folder, task.job.processes())?;
    Some(confine::with_reason(task, ending))
}

#[cfg(test)]
pub(crate) mod tests;
