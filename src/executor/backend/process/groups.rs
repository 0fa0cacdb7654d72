//! Control groups of jobs: limits of CPU and memory for all processes of a job together.
//!
//! Both kinds are known: one tree for all controllers (version 2), and one for each (version 1, where the first has no
//! memory to give). A job's groups are made below a folder that is ours: that of the executor's own group where it is a
//! root, or the one around it where it is called `executor` (systemd's `DelegateSubgroup=executor`), or what the settings
//! say. The executor never moves itself: a service manager could not start it again beside jobs that go on.

use crate::executor::backend::Failure;
use crate::executor::backend::Task;
use std::fs::File;
use std::fs::OpenOptions;
use std::path::Path;
use std::path::PathBuf;
use std::time::Duration;

/// The subgroup in which a service manager puts the executor itself.
const OWN: &str = "executor";
/// Of CPU quotas, µs.
const PERIOD: u64 = 100_000;
/// The file of a job's folder that names its groups.
const FILE: &str = "groups";
/// How often emptying groups are looked at, and how often at most.
const LOOK: Duration = Duration::from_millis(50);
const LOOKS: u32 = 200;

/// Where groups of jobs are made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Groups {
    /// Version 2.
    Unified(PathBuf),
    /// Version 1.
    Separate {
        /// For memory.
        memory: PathBuf,
        /// For CPU.
        cpu: PathBuf,
        /// For numbers of processes.
        pids: PathBuf,
    },
}

/// What a job may use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Limit {
    pub(super) cpu_millis: u64,
    pub(super) mem_mib: u64,
    pub(super) pids: u32,
}

impl Groups {
    /// Those that this process may use; tried, not only looked at.
    ///
    /// # Errors
    /// Why there are none.
    pub(super) fn find(given: Option<&Path>) -> Result<Groups, String> {
        let read = |path: &str| std::fs::read_to_string(path).map_err(|e| format!("{path}: {e}"));
        let mut tried = match given {
            Some(folder) => vec![Groups::Unified(folder.to_path_buf())],
            None => candidates(&read("/proc/self/mountinfo")?, &read("/proc/self/cgroup")?),
        };
        let mut reasons = Vec::new();
        while let Some(groups) = tried.pop() {
            match groups.probe() {
                Ok(()) => return Ok(groups),
                Err(reason) => reasons.push(reason),
            }
        }
        if reasons.is_empty() {
            reasons.push("the executor's group is not its own to divide".into());
        }
        Err(reasons.join("; "))
    }

    /// Whether a group can be made and limited.
    fn probe(&self) -> Result<(), String> {
        if let Groups::Unified(base) = self {
            let controllers = std::fs::read_to_string(base.join("cgroup.controllers")).unwrap_or_default();
            if !controllers.split_whitespace().any(|c| c == "memory") {
                return Err(format!("{} has no memory to give", base.display()));
            }
            // Fails where it is done, or where processes stand in the group itself; making a group tells.
            for controller in ["memory", "cpu", "pids"] {
                _ = std::fs::write(base.join("cgroup.subtree_control"), format!("+{controller}"));
            }
        }
        let name = format!("pollinator-probe-{}", std::process::id());
        let folders = self.folders(&name);
        let limit = Limit { cpu_millis: 1000, mem_mib: 64, pids: 16 };
        let made = self.make(&folders, limit);
        for folder in &folders {
            // A group that could not be made is none to remove.
            _ = std::fs::remove_dir(folder);
        }
        made.map_err(|e| e.to_string())
    }

    fn folders(&self, name: &str) -> Vec<PathBuf> {
        match self {
            Groups::Unified(base) => vec![base.join(name)],
            Groups::Separate { memory, cpu, pids } => vec![memory.join(name), cpu.join(name), pids.join(name)],
        }
    }

    fn make(&self, folders: &[PathBuf], limit: Limit) -> Result<(), Failure> {
        for folder in folders {
            match std::fs::create_dir(folder) {
                Err(e) if e.kind() != std::io::ErrorKind::AlreadyExists => {
                    return Err(Failure::io("cannot make a control group", folder)(e));
                }
                _ => {}
            }
        }
        for (folder, name, value, needed) in self.values(folders, limit) {
            let file = folder.join(name);
            if !needed && !file.exists() {
                continue;
            }
            std::fs::write(&file, value).map_err(Failure::io("cannot limit a control group", file))?;
        }
        Ok(())
    }

    /// What is written where; the last: whether the file must be there.
    fn values<'a>(&self, folders: &'a [PathBuf], limit: Limit) -> Vec<(&'a Path, &'static str, String, bool)> {
        let mut all = Vec::new();
        let bytes = (limit.mem_mib << 20).to_string();
        let quota = (limit.cpu_millis * PERIOD / 1000).max(1000);
        match (self, folders) {
            (Groups::Unified(_), [folder]) => {
                if limit.mem_mib > 0 {
                    all.push((&**folder, "memory.max", bytes, true));
                    all.push((&**folder, "memory.swap.max", "0".into(), false));
                }
                if limit.cpu_millis > 0 {
                    all.push((&**folder, "cpu.max", format!("{quota} {PERIOD}"), true));
                }
                if limit.pids > 0 {
                    all.push((&**folder, "pids.max", limit.pids.to_string(), true));
                }
            }
            (Groups::Separate { .. }, [memory, cpu, pids]) => {
                if limit.mem_mib > 0 {
                    all.push((&**memory, "memory.limit_in_bytes", bytes.clone(), true));
                    all.push((&**memory, "memory.memsw.limit_in_bytes", bytes, false));
                }
                if limit.cpu_millis > 0 {
                    all.push((&**cpu, "cpu.cfs_period_us", PERIOD.to_string(), true));
                    all.push((&**cpu, "cpu.cfs_quota_us", quota.to_string(), true));
                }
                if limit.pids > 0 {
                    all.push((&**pids, "pids.max", limit.pids.to_string(), true));
                }
            }
            _ => {}
        }
        all
    }

    /// Makes the groups of a job. Gives files: a process that writes `0` to each is in them.
    pub(super) fn enter(&self, task: &Task, limit: Limit) -> Result<Vec<File>, Failure> {
        let job = task.folder.file_name().unwrap_or_default().to_string_lossy();
        // Jobs of several executors may stand side by side; the folder's path tells them apart.
        use std::os::unix::ffi::OsStrExt;
        let mark = blake3::hash(task.folder.as_os_str().as_bytes()).to_hex();
        let folders = self.folders(&format!("pollinator-{}-{job}", &mark.as_str()[..8]));
        let text: String = folders.iter().map(|f| format!("{}\n", f.display())).collect();
        crate::executor::backend::payload::private_file(&task.folder.join(FILE), text.as_bytes())?;
        self.make(&folders, limit)?;
        let open = |folder: &PathBuf| {
            let file = folder.join("cgroup.procs");
            OpenOptions::new().write(true).open(&file).map_err(Failure::io("cannot enter a control group", file))
        };
        folders.iter().map(open).collect()
    }
}

/// Whether the kernel killed a process of the job for its memory.
pub(super) fn ran_out_of_memory(task: &Task) -> bool {
    let known = task.folder.join("out-of-memory");
    if known.exists() {
        return true;
    }
    let counts = of(task).into_iter().flat_map(|folder| [folder.join("memory.events"), folder.join("memory.oom_control")]);
    let killed = counts.filter_map(|file| std::fs::read_to_string(file).ok()).any(|text| kills(&text) > 0);
    if killed && let Err(error) = std::fs::write(&known, "") {
        // The groups go away with the job, and a later life of ours would not know.
        tracing::warn!(%error, file = %known.display(), "cannot be written");
    }
    killed
}

fn kills(text: &str) -> u64 {
    text.lines().filter_map(|l| l.strip_prefix("oom_kill ")).filter_map(|n| n.trim().parse::<u64>().ok()).sum()
}

/// The groups of a job; none where it has none.
fn of(task: &Task) -> Vec<PathBuf> {
    let text = std::fs::read_to_string(task.folder.join(FILE)).unwrap_or_default();
    text.lines().map(PathBuf::from).collect()
}

/// Removes the groups of a job that did not start.
pub(super) fn remove_empty(task: &Task) {
    for folder in of(task) {
        if let Err(error) = std::fs::remove_dir(&folder) {
            tracing::warn!(group = %folder.display(), %error, "the control group of a job is left behind");
        }
    }
}

/// Kills what is left in the groups of a job, those that left its session too, and removes the groups.
pub(super) async fn remove(task: &Task) {
    for folder in of(task) {
        for _ in 0..LOOKS {
            match std::fs::remove_dir(&folder) {
                Ok(()) => break,
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => break,
                Err(_) => {}
            }
            let members = std::fs::read_to_string(folder.join("cgroup.procs")).unwrap_or_default();
            for pid in members.lines().filter_map(|l| l.parse::<i32>().ok()).filter(|pid| *pid > 1) {
                // SAFETY: kill takes two numbers; a process that is gone meanwhile is an error code and no more.
                unsafe { libc::kill(pid, libc::SIGKILL) };
            }
            tokio::time::sleep(LOOK).await;
        }
        if folder.exists() {
            tracing::warn!(group = %folder.display(), "the control group of a job is left behind");
        }
    }
}

/// Where groups might be made, the best one last.
fn candidates(mountinfo: &str, own: &str) -> Vec<Groups> {
    let mut found = Vec::new();
    let separate = |controller: &str| {
        let mount = mount_point(mountinfo, "cgroup", controller)?;
        let path = own.lines().find_map(|line| {
            let (_, rest) = line.split_once(':')?;
            let (controllers, path) = rest.split_once(':')?;
            controllers.split(',').any(|c| c == controller).then_some(path)
        })?;
        Some(mount.join(path.trim_start_matches('/')))
    };
    if let (Some(memory), Some(cpu), Some(pids)) = (separate("memory"), separate("cpu"), separate("pids")) {
        found.push(Groups::Separate { memory, cpu, pids });
    }
    let unified = || {
        let mount = mount_point(mountinfo, "cgroup2", "")?;
        let path = Path::new(own.lines().find_map(|l| l.strip_prefix("0::"))?);
        let base = match path.file_name() {
            None => Path::new("/"),
            Some(name) if name == OWN => path.parent()?,
            Some(_) => return None,
        };
        Some(mount.join(base.strip_prefix("/").ok()?))
    };
    found.extend(unified().map(Groups::Unified));
    found
}

/// Of a line of `mountinfo`: `ID PARENT DEV ROOT POINT OPTIONS … - TYPE SOURCE SUPER`.
fn mount_point(mountinfo: &str, kind: &str, controller: &str) -> Option<PathBuf> {
    mountinfo.lines().find_map(|line| {
        let (before, after) = line.split_once(" - ")?;
        let (root, point) = {
            let mut fields = before.split(' ').skip(3);
            (fields.next()?, fields.next()?)
        };
        let mut fields = after.split(' ');
        let fits = fields.next()? == kind && root == "/" && !point.contains('\\');
        let options = fields.nth(1)?;
        (fits && (controller.is_empty() || options.split(',').any(|o| o == controller))).then(|| PathBuf::from(point))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const UNIFIED: &str = "24 1 0:22 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n";
    const HYBRID: &str = "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n\
                          32 31 0:29 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu,cpuacct\n\
                          35 31 0:32 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n\
                          39 31 0:36 / /sys/fs/cgroup/pids rw - cgroup cgroup rw,pids\n\
                          41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n";

    #[test]
    fn places_for_groups() {
        let unified = |path: &str| Groups::Unified(path.into());
        assert_eq!(candidates(UNIFIED, "0::/\n"), [unified("/sys/fs/cgroup/")]);
        let delegated = "0::/system.slice/pollinator-executor.service/executor\n";
        assert_eq!(candidates(UNIFIED, delegated), [unified("/sys/fs/cgroup/system.slice/pollinator-executor.service")]);
        assert_eq!(candidates(UNIFIED, "0::/user.slice/user-1000.slice/session-3.scope\n"), []);
        let own = "4:memory:/a/b\n8:pids:/\n2:cpu,cpuacct:/a\n0::/\n";
        let separate = Groups::Separate {
            memory: "/sys/fs/cgroup/memory/a/b".into(),
            cpu: "/sys/fs/cgroup/cpu/a".into(),
            pids: "/sys/fs/cgroup/pids/".into(),
        };
        assert_eq!(candidates(HYBRID, own), [separate, unified("/sys/fs/cgroup/unified/")]);
        assert_eq!(candidates("", ""), []);
        assert_eq!(candidates("garbage\n - \n", "x\n::\n"), []);
    }

    #[test]
    fn limits_of_both_kinds() {
        let limit = Limit { cpu_millis: 1500, mem_mib: 100, pids: 7 };
        let written = |groups: &Groups| {
            let folders = groups.folders("j");
            let lines = groups.values(&folders, limit).into_iter().map(|(f, n, v, _)| format!("{}/{n}={v}", f.display()));
            lines.collect::<Vec<_>>()
        };
        let unified = written(&Groups::Unified("/b".into()));
        assert_eq!(
            unified,
            ["/b/j/memory.max=104857600", "/b/j/memory.swap.max=0", "/b/j/cpu.max=150000 100000", "/b/j/pids.max=7"]
        );
        let separate = written(&Groups::Separate { memory: "/m".into(), cpu: "/c".into(), pids: "/p".into() });
        assert_eq!(separate[2..], ["/c/j/cpu.cfs_period_us=100000", "/c/j/cpu.cfs_quota_us=150000", "/p/j/pids.max=7"]);
        let folders = Groups::Unified("/b".into()).folders("j");
        assert_eq!(Groups::Unified("/b".into()).values(&folders, Limit::default()), []);
    }

    #[test]
    fn kills_are_counted() {
        assert_eq!(kills("low 0\nhigh 0\nmax 12\noom 3\noom_kill 2\noom_group_kill 0\n"), 2);
        assert_eq!(kills("oom_kill_disable 0\nunder_oom 0\noom_kill 1\n"), 1);
        assert_eq!(kills(""), 0);
    }
}
