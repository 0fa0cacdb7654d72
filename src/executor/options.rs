//! How an executor is set up.

use crate::colonies::Hardware;
use crate::colonies::Software;
use crate::config::ColonyAccess;
use crate::config::Secret;
use crate::config::StoreAccess;
use crate::executor::backend::container;
use crate::executor::backend::kubernetes;
use crate::executor::backend::process;
use crate::executor::backend::slurm;
use crate::executor::files::Keep;
use crate::executor::files::ShareSnapshots;
use std::path::PathBuf;
use std::time::Duration;

/// Where jobs run.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Backend {
    /// On this machine, as processes of the executor's user.
    Process(Box<process::Settings>),
    /// On this machine, in containers of podman or docker.
    Container(Box<container::Settings>),
    /// On the nodes of a Slurm cluster.
    Slurm(Box<slurm::Settings>),
    /// In a Kubernetes cluster.
    Kubernetes(Box<kubernetes::Settings>),
}

impl Default for Backend {
    /// Processes without limits.
    fn default() -> Backend {
        Backend::Process(Box::new(process::Settings::plain()))
    }
}

impl Backend {
    /// Its name, as `pollinator executor start --backend` knows it.
    pub fn name(&self) -> &'static str {
        match self {
            Backend::Process(_) => "process",
            Backend::Container(_) => "container",
            Backend::Slurm(_) => "slurm",
            Backend::Kubernetes(_) => "kubernetes",
        }
    }
}

/// How much runs at once. What is not limited is `None`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capacity {
    /// Processes of the colony at once, at least 1.
    pub slots: u32,
    /// CPU, millicores.
    pub cpu_millis: Option<u64>,
    /// Memory, MiB.
    pub mem_mib: Option<u64>,
    /// GPUs.
    pub gpus: Option<u32>,
}

impl Default for Capacity {
    /// Four at once, no other limit: a machine of one person, who knows what it can bear.
    fn default() -> Capacity {
        Capacity { slots: 4, cpu_millis: None, mem_mib: None, gpus: None }
    }
}

/// What is told to the colony about an executor.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Described {
    /// Hardware; empty texts and zeros are found out or left out.
    pub hardware: Hardware,
    /// Software; empty: ourselves.
    pub software: Vec<Software>,
    /// Name of the place it stands at; processes may ask for it.
    pub location: String,
}

/// Settings of one executor.
#[derive(Clone, Debug)]
pub struct Options {
    /// Name, unique in the colony.
    pub name: String,
    /// Type that processes ask for: `container-executor`.
    pub executor_type: String,
    /// The colony; the key is the executor's own, kept over restarts.
    pub access: ColonyAccess,
    /// The colony owner's key, to register with where the executor is no member yet. It is used for nothing else.
    pub owner_key: Option<Secret>,
    /// The object store.
    pub store: StoreAccess,
    /// File area: what jobs see as `/cfs`.
    pub fs_dir: PathBuf,
    /// The journal and what else the executor remembers; 0700.
    pub state_dir: PathBuf,
    /// A folder for each job, with its outputs and statuses; none: `jobs` in the state folder. On a cluster the nodes have
    /// to see it.
    pub jobs_dir: Option<PathBuf>,
    /// What the machine or cluster is, told to the colony; what is not said here is found out where that is possible.
    pub described: Described,
    /// Where jobs run.
    pub backend: Backend,
    /// How much runs at once.
    pub capacity: Capacity,
    /// Seconds of one long poll for work, 5 to 10: a submission may wake another executor of the type than the named one,
    /// which then learns of it only when its own poll runs out.
    pub poll_seconds: u32,
    /// How long a job waits for a registry or a container engine that does not answer before it begins.
    pub prepare_patience: Duration,
    /// How snapshots share what is the same in them.
    pub share_snapshots: ShareSnapshots,
    /// How long snapshots stay.
    pub keep_snapshots: Keep,
    /// The executor's own steps are told in the process log.
    pub tell_steps: bool,
}

impl Options {
    /// Settings with the usual type, backend, capacity and poll.
    pub fn new(
        name: impl Into<String>,
        access: ColonyAccess,
        store: StoreAccess,
        fs_dir: impl Into<PathBuf>,
        state_dir: impl Into<PathBuf>,
    ) -> Options {
        Options {
            name: name.into(),
            executor_type: "container-executor".into(),
            access,
            owner_key: None,
            store,
            fs_dir: fs_dir.into(),
            state_dir: state_dir.into(),
            jobs_dir: None,
            described: Described::default(),
            backend: Backend::default(),
            capacity: Capacity::default(),
            poll_seconds: 8,
            prepare_patience: Duration::from_secs(900),
            share_snapshots: ShareSnapshots::default(),
            keep_snapshots: Keep::default(),
            tell_steps: false,
        }
    }
}
