//! The executor under measurement: a service of its own, whose way to the colony is counted and whose calls of Slurm's programs
//! are written down.

use crate::home::Home;
use crate::home::Usage;
use crate::proxy::Network;
use crate::proxy::Proxy;
use crate::proxy::Traffic;
use crate::seconds;
use crate::slurm::Slurm;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::path::PathBuf;
use std::process::Child;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;
use std::time::Instant;

pub const NAME: &str = "cluster";
/// Of Slurm, called by the executor.
const PROGRAMS: [&str; 5] = ["sbatch", "squeue", "scancel", "scontrol", "sacct"];

pub struct Service {
    folder: PathBuf,
    proxy: Proxy,
    store: Proxy,
    child: Child,
}

/// When a program was called, since 1970.
pub type Calls = Vec<Duration>;

impl Service {
    /// Starts it, and waits until it asks for work.
    pub async fn start(home: &Home, cluster: &Slurm, slots: u32) -> Service {
        let programs = home.path().join("executor/programs");
        std::fs::create_dir_all(&programs).unwrap();
        for name in PROGRAMS {
            noting(&programs, name, &format!("exec {name} \"$@\""));
        }
        // The nodes look for it in the same folder.
        program(&programs.join("srun"), "exec srun \"$@\"");
        Service::begin(home, slots, &cluster.root().join("slurm.conf")).await
    }

    /// The same with stand-ins for Slurm's programs, whose jobs begin at once and run on for ever: this machine cannot hold the
    /// real daemons and job steps of a thousand jobs. What they leave in the folder of a job is what the batch script leaves.
    pub async fn start_beside_stand_ins(home: &Home, slots: u32) -> Service {
        let programs = home.path().join("executor/programs");
        std::fs::create_dir_all(&programs).unwrap();
        let jobs = home.path().join("executor/jobs-of-slurm");
        let sbatch = format!(
            "exec 9>>'{0}.lock'; flock 9; id=$(( $(wc -l < '{0}') + 1 ))\n\
             folder=${{@: -2:1}}; : > \"$folder/began.${{@: -1}}\"; echo $id > \"$folder/jobid\"; echo n1 > \"$folder/payload/nodes\"\n\
             echo \"$id|RUNNING|n1|None\" >> '{0}'; echo $id",
            jobs.display()
        );
        std::fs::write(&jobs, "").unwrap();
        noting(&programs, "sbatch", &sbatch);
        noting(&programs, "squeue", &format!("cat '{}'", jobs.display()));
        for name in ["scancel", "scontrol", "sacct"] {
            noting(&programs, name, "exit 1");
        }
        Service::begin(home, slots, Path::new("/dev/null")).await
    }

    pub fn jobs(&self) -> u32 {
        let jobs = std::fs::read_to_string(self.folder.join("jobs-of-slurm")).unwrap_or_default();
        jobs.lines().count() as u32
    }

    async fn begin(home: &Home, slots: u32, slurm_conf: &Path) -> Service {
        let folder = home.path().join("executor");
        let mut variables = home.environment();
        let server = format!("{}:{}", variables["COLONIES_SERVER_HOST"], variables["COLONIES_SERVER_PORT"]);
        let proxy = Proxy::start(server, Arc::new(Network::default())).await;
        variables.insert("COLONIES_SERVER_PORT".into(), proxy.port.to_string());
        let store = Proxy::start(variables["AWS_S3_ENDPOINT"].clone(), Arc::new(Network::default())).await;
        variables.insert("AWS_S3_ENDPOINT".into(), store.address());
        let settings = format!(
            "[limits]\nslots = {slots}\n[slurm]\naccount = \"lab\"\ncontainers = \"none\"\ninterval = {}\nprograms = {:?}\n",
            crate::INTERVAL,
            folder.join("programs")
        );
        std::fs::write(folder.join("settings.toml"), settings).unwrap();
        let words = ["executor", "start", "--backend", "slurm", "--name", NAME, "--config", "executor/settings.toml"];
        let mut command = home.command(env!("CARGO_BIN_EXE_pollinator"), &words);
        command.args(["--log", "executor/log"]).envs(variables).env("SLURM_CONF", slurm_conf);
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let service = Service { folder, proxy, store, child };
        let began = Instant::now();
        while !service.log().contains("takes work") {
            assert!(began.elapsed() < Duration::from_secs(60), "{}", service.log());
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        service
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.folder.join("log")).unwrap_or_default()
    }

    fn pid(&self) -> u64 {
        u64::from(self.child.id())
    }

    pub fn usage(&self) -> Usage {
        Usage::of(self.pid())
    }

    /// What has gone to and from the colony since this was asked last.
    pub fn traffic(&self) -> Traffic {
        self.proxy.take()
    }

    /// What has gone to and from the object store since this was asked last.
    pub fn objects(&self) -> Traffic {
        self.store.take()
    }

    /// Connections to the colony that are open now.
    pub fn connections(&self) -> usize {
        let port = format!(":{:04X} 01 ", self.proxy.port);
        let sockets: Vec<String> = std::fs::read_dir(format!("/proc/{}/fd", self.pid()))
            .unwrap()
            .filter_map(|entry| Some(std::fs::read_link(entry.ok()?.path()).ok()?.display().to_string()))
            .collect();
        let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
        let ours = |line: &&str| {
            let inode = line.split_whitespace().nth(9).unwrap_or_default();
            line.contains(&port) && sockets.contains(&format!("socket:[{inode}]"))
        };
        table.lines().filter(ours).count()
    }

    /// When a program of Slurm was called.
    pub fn calls(&self, program: &str) -> Calls {
        let noted = std::fs::read_to_string(self.folder.join(program)).unwrap_or_default();
        noted.lines().map(|line| seconds(line).unwrap()).collect()
    }

    pub fn all_calls(&self) -> usize {
        PROGRAMS.iter().map(|program| self.calls(program).len()).sum()
    }

    /// Where the job of a process writes.
    pub async fn output_of(&self, process_id: &str) -> PathBuf {
        let began = Instant::now();
        loop {
            let found = find(&self.folder.parent().unwrap().join("state"), process_id);
            if let Some(folder) = found {
                return folder.join("log");
            }
            assert!(began.elapsed() < Duration::from_secs(60), "no folder of the job of {process_id}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Waits until it takes hardly any processor time for a while.
    pub async fn until_calm(&self) {
        let began = Instant::now();
        loop {
            let before = self.usage().cpu;
            tokio::time::sleep(Duration::from_secs(20)).await;
            if self.usage().cpu - before < Duration::from_secs(2) {
                return;
            }
            assert!(began.elapsed() < Duration::from_secs(600), "it does not come to rest");
        }
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

/// A folder whose name begins with this.
fn find(at: &Path, name: &str) -> Option<PathBuf> {
    let below: Vec<PathBuf> =
        std::fs::read_dir(at).ok()?.filter_map(|entry| Some(entry.ok()?.path())).filter(|path| path.is_dir()).collect();
    let named = |path: &&PathBuf| path.file_name().unwrap().to_string_lossy().starts_with(name);
    below.iter().find(named).cloned().or_else(|| below.iter().find_map(|path| find(path, name)))
}

/// A program that notes when it was called, and then does what it is told here.
fn noting(programs: &Path, name: &str, does: &str) {
    let notes = programs.parent().unwrap().join(name);
    program(&programs.join(name), &format!("echo $EPOCHREALTIME >> '{}'\n{does}", notes.display()));
}

fn program(path: &Path, text: &str) {
    std::fs::write(path, format!("#!/bin/bash\n{text}\n")).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
}

/// What the daemon of a node takes.
pub fn slurmd(cluster: &Slurm) -> Usage {
    let pid = std::fs::read_to_string(cluster.root().join("run/slurmd-n1.pid")).unwrap();
    Usage::of(pid.trim().parse().unwrap())
}
