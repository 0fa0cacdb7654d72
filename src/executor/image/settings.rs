//! Settings of images for Apptainer or Singularity.

use crate::executor::backend::binds::Sees;
use serde::Deserialize;
use std::path::PathBuf;

/// Settings.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, rename_all = "kebab-case", deny_unknown_fields)]
pub struct Settings {
    /// The program; none: `apptainer`, or else `singularity`, from PATH.
    pub program: Option<PathBuf>,
    /// Folder of the converted images (SIF), seen by the login node and the compute nodes; none: below the state folder.
    pub folder: Option<PathBuf>,
    /// `APPTAINER_CACHEDIR`: layers as they come; none: below the image folder.
    pub cache: Option<PathBuf>,
    /// `APPTAINER_TMPDIR`: where images are unpacked during conversion; none: below the image folder.
    pub temporary: Option<PathBuf>,
    /// Credentials of registries, as `docker login` or `podman login` write them; none: the user's own.
    pub auth_file: Option<PathBuf>,
    /// Registries (`host:port`) that speak plain HTTP.
    pub insecure_registries: Vec<String>,
    /// Folders outside the file area whose images specifications may name by absolute paths.
    pub local_folders: Vec<PathBuf>,
    /// GPUs are AMD's: `--rocm` instead of `--nv`.
    pub rocm: bool,
    /// More options of `apptainer exec`, one word each.
    pub exec_options: Vec<String>,
    /// What of the file area a container sees.
    pub sees: Sees,
    /// Most bytes that converted images may take together; those that were not used for the longest time go first. 0: no
    /// limit.
    pub max_bytes: u64,
    /// Converted images that were not used for so many days go, too. 0: they stay.
    pub keep_days: u64,
    /// Most bytes of layers that are kept for other images that have them, too; above it all of them go. 0: none are kept,
    /// and several images are pulled at once.
    pub max_layer_bytes: u64,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            program: None,
            folder: None,
            cache: None,
            temporary: None,
            auth_file: None,
            insecure_registries: Vec::new(),
            local_folders: Vec::new(),
            rocm: false,
            exec_options: Vec::new(),
            sees: Sees::default(),
            max_bytes: 0,
            keep_days: 30,
            max_layer_bytes: 20 << 30,
        }
    }
}
