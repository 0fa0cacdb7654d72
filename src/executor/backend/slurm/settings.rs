//! Settings of the Slurm backend: what an administrator says about the cluster.

use crate::executor::image;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

/// What memory in a specification means on a node that runs several processes of a job.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum MemoryPer {
    /// Each process of the node gets so much, as on the other backends.
    #[default]
    Process,
    /// All processes of the node share so much, as the older HPC executor had it.
    Node,
}

/// How GPUs are asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum GpuRequest {
    /// `--gres=gpu:[type:]N`.
    #[default]
    Gres,
    /// `--gpus-per-node=[type:]N`.
    GpusPerNode,
    /// Not at all: every node of the partition has them.
    None,
}

/// Where the command runs on a node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Containers {
    /// In the image, by Apptainer or Singularity.
    #[default]
    Apptainer,
    /// On the node itself; the image is not used.
    None,
}

/// Settings.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, rename_all = "kebab-case", deny_unknown_fields)]
pub struct Settings {
    /// `--partition`; none: the cluster's default.
    pub partition: Option<String>,
    /// `--account`.
    pub account: Option<String>,
    /// `--qos`.
    pub qos: Option<String>,
    /// More options of `sbatch`, one word each: `--constraint=skylake`.
    pub sbatch_options: Vec<String>,
    /// More options of `srun`: `--mpi=pmix`.
    pub srun_options: Vec<String>,
    /// Loaded on the node before the command, each by `module load`.
    pub modules: Vec<String>,
    /// How GPUs are asked for.
    pub gpu_request: GpuRequest,
    /// Names of GPU models in specifications, and what the cluster calls them; an empty one asks for any. A name that is
    /// not listed is asked for as it stands.
    pub gpu_types: BTreeMap<String, String>,
    /// Ask for the CPUs and the memory that specifications name; false where the cluster hands out whole nodes.
    pub request_resources: bool,
    /// What memory in a specification means.
    pub memory_per: MemoryPer,
    /// Seconds between two questions to Slurm about all jobs; more often after something happened.
    pub interval: u64,
    /// Folder of `sbatch`, `squeue`, `scancel`, `scontrol`, `sacct`, where they are not in PATH.
    pub programs: Option<PathBuf>,
    /// Variables of the executor that its jobs inherit besides the usual ones of a login (`PATH`, `HOME`, `LANG`…).
    pub inherit: Vec<String>,
    /// Told as the attribute `HOME` of a process; none: the executor's own home folder.
    pub home: Option<String>,
    /// Where the command runs on a node.
    pub containers: Containers,
    /// The images: a section of its own in the executor's file.
    #[serde(skip)]
    pub images: image::Settings,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            partition: None,
            account: None,
            qos: None,
            sbatch_options: Vec::new(),
            srun_options: Vec::new(),
            modules: Vec::new(),
            gpu_request: GpuRequest::default(),
            gpu_types: BTreeMap::new(),
            request_resources: true,
            memory_per: MemoryPer::default(),
            interval: 10,
            programs: None,
            inherit: Vec::new(),
            home: None,
            containers: Containers::default(),
            images: image::Settings::default(),
        }
    }
}

impl Settings {
    /// Between two questions to Slurm.
    pub fn pace(&self) -> Duration {
        Duration::from_secs(self.interval.max(1))
    }
}
