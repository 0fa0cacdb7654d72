//! Settings of the container backend.

use crate::executor::backend::binds::Sees;
use serde::Deserialize;
use std::path::PathBuf;
use std::time::Duration;

/// Which engine runs the containers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Flavour {
    /// podman, with or without root.
    Podman,
    /// docker, or what answers to its command line.
    Docker,
}

/// When an image is fetched.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Pull {
    /// The registry is asked each time, and what changed is fetched. One that is here is used where the registry does not
    /// answer, or where its name holds a digest.
    #[default]
    Newer,
    /// Only what is not here.
    Missing,
    /// Never: the administrator brings images.
    Never,
}

/// How GPUs are given to a container.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Gpus {
    /// As [`Gpus::Gpus`] with docker, as [`Gpus::Cdi`] with podman.
    #[default]
    Auto,
    /// `--gpus N`, or those of [`Settings::gpu_devices`].
    Gpus,
    /// `--device nvidia.com/gpu=all`, by the container device interface, or those of [`Settings::gpu_devices`].
    Cdi,
    /// By options of the administrator's, see [`Settings::gpu_options`].
    Options,
}

/// Settings.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, rename_all = "kebab-case", deny_unknown_fields)]
pub struct Settings {
    /// Which engine; none: by the program's name, or else podman where it is installed, or else docker.
    pub engine: Option<Flavour>,
    /// The program; none: `podman` or `docker` from PATH.
    pub program: Option<PathBuf>,
    /// Options before the subcommand, one word each: `--runtime=runc`, `--host=unix:///run/docker.sock`.
    pub global_options: Vec<String>,
    /// More options of `create`, one word each: `--ulimit=nofile=4096:4096`. They come last, so they win.
    pub run_options: Vec<String>,
    /// The user in the container (`--user`), or `image` for the image's own; none: the one who outside is the executor's
    /// user. Another one must be able to read and write the file area.
    pub user: Option<String>,
    /// `--network`; none: the engine's default.
    pub network: Option<String>,
    /// `--pids-limit`; 0: the engine's default.
    pub pids_limit: u32,
    /// `--shm-size`: `1g`; none: the engine's default.
    pub shm_size: Option<String>,
    /// How GPUs are given to a container.
    pub gpus: Gpus,
    /// Names of the GPUs to give out, each to one job at a time: `["0", "1"]`; none: every job gets those of the machine.
    pub gpu_devices: Vec<String>,
    /// Options of `create` for jobs that ask for GPUs, where `gpus` is `options`.
    pub gpu_options: Vec<String>,
    /// When an image is fetched.
    pub pull: Pull,
    /// Credentials of registries, as `docker login` or `podman login` write them; none: the user's own.
    pub auth_file: Option<PathBuf>,
    /// Registries (`host:port`) that speak plain HTTP. Docker's daemon must list them, too.
    pub insecure_registries: Vec<String>,
    /// What of the file area a container sees.
    pub sees: Sees,
    /// A job of several nodes runs with all its processes on this machine, instead of being refused.
    pub several_nodes_here: bool,
    /// Milliseconds between two questions to the engine about all containers; jobs that end by themselves are seen at once.
    pub interval_ms: u64,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            engine: None,
            program: None,
            global_options: Vec::new(),
            run_options: Vec::new(),
            user: None,
            network: None,
            pids_limit: 16384,
            shm_size: None,
            gpus: Gpus::default(),
            gpu_devices: Vec::new(),
            gpu_options: Vec::new(),
            pull: Pull::default(),
            auth_file: None,
            insecure_registries: Vec::new(),
            sees: Sees::default(),
            several_nodes_here: false,
            interval_ms: 3000,
        }
    }
}

impl Settings {
    /// Between two questions to the engine.
    pub(super) fn pace(&self) -> Duration {
        Duration::from_millis(self.interval_ms.max(200))
    }
}
