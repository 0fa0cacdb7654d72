//! What a job on this machine may use and see: decided once for the executor, prepared for each job, put into effect
//! between fork and exec.

use super::apart;
use super::groups;
use super::groups::Groups;
use super::groups::Limit;
use super::settings::Limits;
use super::settings::MountNamespace;
use super::settings::Settings;
use crate::executor::backend::Ending;
use crate::executor::backend::Failure;
use crate::executor::backend::Task;
use crate::executor::backend::binds;
use crate::executor::backend::binds::Sees;
use crate::executor::place::Inside;
use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

/// What this machine allows of what the settings ask for.
#[derive(Debug)]
pub(super) struct Confine {
    settings: Settings,
    /// Or why not.
    groups: Result<Groups, String>,
    /// Or why not.
    namespace: Result<(), String>,
}

impl Confine {
    /// Looks at the machine.
    ///
    /// # Errors
    /// It does not allow what the settings insist on.
    pub(super) fn new(settings: Settings, state_dir: &Path) -> Result<Confine, String> {
        let unwanted = || "the settings do without".to_owned();
        let groups = match settings.limits {
            Limits::Auto | Limits::Cgroups => Groups::find(settings.cgroup.as_deref()),
            Limits::Rlimits | Limits::Never => Err(unwanted()),
        };
        if let (Limits::Cgroups, Err(reason)) = (settings.limits, &groups) {
            return Err(format!("`limits` is `cgroups`, and no control groups can be made: {reason}"));
        }
        let namespace = match settings.mount_namespace {
            MountNamespace::Never => Err(unwanted()),
            MountNamespace::Auto | MountNamespace::Always => apart::probe(state_dir),
        };
        if let (MountNamespace::Always, Err(reason)) = (settings.mount_namespace, &namespace) {
            return Err(format!("`mount-namespace` is `always`, and none can be made: {reason}"));
        }
        tracing::info!(?groups, ?namespace, "what jobs are confined by");
        Ok(Confine { settings, groups, namespace })
    }

    /// For the reader of the process log, where less holds than the specification says.
    pub(super) fn explain(&self, task: &Task) -> Vec<String> {
        let asked = task.job.mem_mib > 0 || task.job.cpu_millis > 0;
        match (&self.groups, self.settings.limits) {
            (Ok(_), _) | (_, Limits::Never) => Vec::new(),
            (Err(reason), _) if asked => {
                vec![format!("CPU is not limited here, and memory of each process by itself: no control groups ({reason})")]
            }
            (Err(_), _) => Vec::new(),
        }
    }

    /// All that a job needs before it is forked.
    pub(super) fn prepare(&self, task: &Task) -> Result<Confined, Failure> {
        let job = &task.job;
        let all = u64::from(job.processes());
        let groups = match &self.groups {
            Ok(groups) => {
                let limit = Limit {
                    cpu_millis: job.cpu_millis.saturating_mul(all),
                    mem_mib: job.mem_mib.saturating_mul(all),
                    pids: self.settings.pids_limit,
                };
                groups.enter(task, limit)?
            }
            Err(_) => Vec::new(),
        };
        let by_process = self.groups.is_err() && matches!(self.settings.limits, Limits::Auto | Limits::Rlimits);
        let data = (by_process && job.mem_mib > 0).then(|| job.mem_mib << 20);
        Ok(Confined { groups, data, niceness: self.settings.niceness.min(19), namespace: self.namespace_for(task)? })
    }

    fn namespace_for(&self, task: &Task) -> Result<Option<apart::Plan>, Failure> {
        let mount = &task.job.mount;
        if mount.is_empty() || self.namespace.is_err() {
            return Ok(None);
        }
        if !apart::is_possible(mount, &[&task.folder, &task.fs_dir]) {
            let reason = format!("{mount} cannot be shown on this machine beside what it has there");
            return match self.settings.mount_namespace {
                MountNamespace::Always => Err(Failure::Unsupported { field: "fs.mount".into(), reason }),
                _ => Ok(None),
            };
        }
        let binds = binds::of(task, Sees::Project);
        for bind in &binds {
            let failed = || Failure::io("cannot make a folder of the job", &bind.host);
            let below = bind.host.strip_prefix(&task.fs_dir).unwrap_or(Path::new("")).to_string_lossy().into_owned();
            if let Ok(inside) = Inside::read(&below) {
                inside.make_below(&task.fs_dir).map_err(failed())?;
            }
        }
        apart::plan(&task.folder.join("root"), mount, &binds, &binds::work_folder(task)).map(Some)
    }
}

/// What holds for one job.
#[derive(Debug)]
pub(super) struct Confined {
    /// A process that writes `0` to each is in the job's groups.
    groups: Vec<File>,
    /// Most bytes of data of one process.
    data: Option<u64>,
    niceness: u8,
    namespace: Option<apart::Plan>,
}

impl Confined {
    /// Whether the job's folders are at the mount point.
    pub(super) fn sees_mount_point(&self) -> bool {
        self.namespace.is_some()
    }

    /// Puts it into effect for a command.
    pub(super) fn apply(self, command: &mut Command) {
        let Confined { groups, data, niceness, namespace } = self;
        let enter = move || {
            for file in &groups {
                // SAFETY: write gets a descriptor that `file` keeps open, and one byte.
                if unsafe { libc::write(file.as_raw_fd(), b"0".as_ptr().cast(), 1) } != 1 {
                    return Err(std::io::Error::last_os_error());
                }
            }
            if let Some(bytes) = data {
                let limit = libc::rlimit { rlim_cur: bytes, rlim_max: bytes };
                // SAFETY: setrlimit reads the two numbers.
                if unsafe { libc::setrlimit(libc::RLIMIT_DATA, &limit) } != 0 {
                    return Err(std::io::Error::last_os_error());
                }
            }
            if niceness > 0 {
                // SAFETY: setpriority takes three numbers. To stand back further is always allowed.
                unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, niceness.into()) };
            }
            Ok(())
        };
        // SAFETY: between fork and exec the closure makes system calls only, async-signal-safe ones, on what was prepared
        // before the fork; it neither allocates nor takes a lock.
        unsafe { command.pre_exec(enter) };
        if let Some(namespace) = namespace {
            namespace.apply(command);
        }
    }
}

/// An ending with its reason, where the kernel ended the job for its memory.
pub(super) fn with_reason(task: &Task, ending: Ending) -> Ending {
    let limit = task.job.mem_mib.saturating_mul(u64::from(task.job.processes()));
    let reason = || format!("OUT_OF_MEMORY: the kernel killed a process of it at the limit of {limit} MiB (conditions.mem)");
    match ending {
        Ending::Exited { status, rank, in_init, because: None } if status != 0 && groups::ran_out_of_memory(task) => {
            Ending::Exited { status, rank, in_init, because: Some(reason()) }
        }
        Ending::Vanished { .. } if groups::ran_out_of_memory(task) => {
            Ending::Exited { status: 128 + libc::SIGKILL, rank: None, in_init: false, because: Some(reason()) }
        }
        other => other,
    }
}
