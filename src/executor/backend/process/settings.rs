//! Settings of the process backend.

use serde::Deserialize;
use std::path::PathBuf;

/// How CPU and memory of a job are limited.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Limits {
    /// By control groups where this user may make them, else as [`Limits::Rlimits`].
    #[default]
    Auto,
    /// By control groups; without them the executor does not start.
    Cgroups,
    /// Memory only, and of each process of the job by itself (`RLIMIT_DATA`).
    Rlimits,
    /// Not at all.
    Never,
}

/// Whether a job sees its files at the mount point itself, in a mount namespace of its own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum MountNamespace {
    /// Where this machine lets this user make one. Else the mount point is replaced in texts.
    #[default]
    Auto,
    /// The mount point is replaced in texts by the real folder.
    Never,
    /// Always; where none can be made, a job fails.
    Always,
}

/// Settings.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "kebab-case", deny_unknown_fields)]
pub struct Settings {
    /// How CPU and memory are limited.
    pub limits: Limits,
    /// The folder of a control group in which those of jobs are made; none: the executor's own, where it may.
    pub cgroup: Option<PathBuf>,
    /// Most processes and threads of a job at once, where control groups limit it; 0: no limit.
    pub pids_limit: u32,
    /// How far jobs stand back behind others, 0 to 19.
    pub niceness: u8,
    /// Whether a job sees its files at the mount point itself.
    pub mount_namespace: MountNamespace,
}

impl Settings {
    /// A machine of one person, who knows what it can bear: no limits, and paths are replaced in texts.
    pub fn plain() -> Settings {
        Settings { limits: Limits::Never, mount_namespace: MountNamespace::Never, ..Settings::default() }
    }
}
