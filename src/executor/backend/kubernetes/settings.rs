//! Settings of the Kubernetes backend: what an administrator says about the cluster.

use crate::executor::backend::binds::Sees;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

/// A taint that pods of jobs bear, as Kubernetes writes it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "kebab-case", deny_unknown_fields)]
pub struct Toleration {
    /// The taint's key; none: every key.
    pub key: Option<String>,
    /// `Equal` or `Exists`.
    pub operator: Option<String>,
    /// The taint's value.
    pub value: Option<String>,
    /// `NoSchedule`, `PreferNoSchedule` or `NoExecute`; none: all of them.
    pub effect: Option<String>,
    /// How long a `NoExecute` taint is borne.
    pub seconds: Option<i64>,
}

/// Settings.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, rename_all = "kebab-case", deny_unknown_fields)]
pub struct Settings {
    /// Namespace of the jobs; none: that of the service account, or of the kubeconfig's context.
    pub namespace: Option<String>,
    /// File with the cluster's address and credentials, for an executor outside the cluster; none: `KUBECONFIG`,
    /// `~/.kube/config`, or the service account of the pod that the executor runs in.
    pub kubeconfig: Option<PathBuf>,
    /// Context in that file; none: its current one.
    pub context: Option<String>,
    /// The persistent volume claim that holds the executor's file area and the folders of its jobs. It has to be mountable
    /// by all pods of jobs and the executor at once (`ReadWriteMany`, or all on one node).
    pub volume_claim: String,
    /// Where the executor sees that volume; none: the mount point that its file area lies on.
    pub volume_mount: Option<PathBuf>,
    /// What of the volume is mounted there, where it is not the whole.
    pub volume_sub_path: String,
    /// What of the file area a container sees.
    pub sees: Sees,
    /// Name of the resource that stands for GPUs.
    pub gpu_resource: String,
    /// Label of nodes that names their GPU model.
    pub gpu_node_label: String,
    /// Names of GPU models in specifications, and the label's value on nodes that have them; an empty one asks for any. A
    /// name that is not listed is asked for as it stands.
    pub gpu_models: BTreeMap<String, String>,
    /// Labels that nodes of jobs must have.
    pub node_selector: BTreeMap<String, String>,
    /// Taints that pods of jobs bear.
    pub tolerations: Vec<Toleration>,
    /// Secrets with credentials of image registries.
    pub image_pull_secrets: Vec<String>,
    /// Service account of the pods of jobs; its token is not mounted.
    pub service_account: Option<String>,
    /// Priority class of the pods of jobs.
    pub priority_class: Option<String>,
    /// User that jobs run as; none: the executor's own, so that both can read and remove each other's files.
    pub run_as_user: Option<i64>,
    /// Group that jobs run as; none: the executor's own.
    pub run_as_group: Option<i64>,
    /// Group that the volume's files are given, where the storage needs that.
    pub fs_group: Option<i64>,
    /// Jobs run without Linux capabilities and with the runtime's seccomp profile (the `restricted` profile of pod security,
    /// apart from the user). Some installers in an `init-cmd` (`apt-get` as root) need it to be false.
    pub restricted: bool,
    /// Size of `/dev/shm`, MiB; 0: what the runtime gives (64 MiB).
    pub shared_memory_mib: u64,
    /// Seconds after which an image that cannot be pulled, or a container that cannot be made, is given up.
    pub pull_patience: u64,
    /// Seconds between asking a process to end and ending it, at the walltime and when a pod is evicted.
    pub grace: u64,
    /// Seconds that Kubernetes keeps an ended job, should the executor not come back to delete it.
    pub keep: u32,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            namespace: None,
            kubeconfig: None,
            context: None,
            volume_claim: String::new(),
            volume_mount: None,
            volume_sub_path: String::new(),
            sees: Sees::default(),
            gpu_resource: "nvidia.com/gpu".into(),
            gpu_node_label: "accelerator".into(),
            gpu_models: BTreeMap::new(),
            node_selector: BTreeMap::new(),
            tolerations: Vec::new(),
            image_pull_secrets: Vec::new(),
            service_account: None,
            priority_class: None,
            run_as_user: None,
            run_as_group: None,
            fs_group: None,
            restricted: true,
            shared_memory_mib: 0,
            pull_patience: 300,
            grace: 30,
            keep: 7 * 24 * 3600,
        }
    }
}

impl Settings {
    /// How long an image that cannot be pulled is waited for.
    pub fn pull_patience(&self) -> Duration {
        Duration::from_secs(self.pull_patience)
    }
}
