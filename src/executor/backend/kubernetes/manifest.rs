//! The objects that a job is in a cluster: one or several `batch/v1` Jobs, and a headless service where there are several
//! nodes. Pure.
//!
//! Where the server knows indexed Jobs it is one Job with a pod for each node. Older servers number no pods: there it is one
//! Job of one pod for each node, and the node's number stands in it.

use super::names;
use super::script;
use super::settings::Settings;
use super::settings::Toleration;
use super::volume::Volume;
use crate::executor::backend::Failure;
use crate::executor::backend::Task;
use crate::executor::backend::binds;
use crate::executor::backend::payload;
use k8s_openapi::api::batch::v1 as batch;
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::Deserialize;
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::Path;

/// Name of the shared volume in a pod.
const VOLUME: &str = "files";
/// Name of the volume for shared memory in a pod.
const SHARED_MEMORY: &str = "shared-memory";

/// What of an attempt has to stay the same whatever happens to the executor.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shape {
    /// Tells this attempt from one of an executor that lost its state.
    pub nonce: String,
    /// Whether it is one indexed Job.
    pub indexed: bool,
}

/// Who makes the objects, and for what volume and user.
#[derive(Clone, Debug)]
pub struct Maker {
    /// The executor's name.
    pub executor: String,
    /// The executor's state.
    pub instance: String,
    /// The shared volume.
    pub volume: Volume,
    /// What the administrator says.
    pub settings: Settings,
    /// The executor's own user and group.
    pub user: (i64, i64),
}

/// The objects of one job.
#[derive(Clone, Debug)]
pub struct Objects {
    /// Makes the pods find each other by name.
    pub service: Option<core::Service>,
    /// In the order of nodes.
    pub jobs: Vec<batch::Job>,
}

impl Maker {
    /// Name of a job.
    pub fn name(&self, task: &Task) -> String {
        names::job(&self.instance, task)
    }

    /// Host names of the nodes' pods, as the pods themselves can look them up.
    pub fn hosts(&self, task: &Task) -> Vec<String> {
        let name = self.name(task);
        match task.job.nodes {
            1 => vec![format!("{name}-0")],
            nodes => (0..nodes).map(|node| format!("{name}-{node}.{name}")).collect(),
        }
    }

    /// The objects.
    ///
    /// # Errors
    /// What a cluster cannot do.
    pub fn objects(&self, task: &Task, shape: &Shape) -> Result<Objects, Failure> {
        let count = if shape.indexed { 1 } else { task.job.nodes };
        let job = |node: u32| self.job(task, shape, (!shape.indexed).then_some(node));
        let jobs = (0..count).map(job).collect::<Result<_, _>>()?;
        Ok(Objects { service: (task.job.nodes > 1).then(|| self.service(task)), jobs })
    }

    fn labels(&self, task: &Task) -> BTreeMap<String, String> {
        names::labels(&self.name(task), &self.executor, &self.instance, task)
    }

    fn service(&self, task: &Task) -> core::Service {
        let name = self.name(task);
        core::Service {
            metadata: ObjectMeta { name: Some(name.clone()), labels: Some(self.labels(task)), ..ObjectMeta::default() },
            spec: Some(core::ServiceSpec {
                cluster_ip: Some("None".into()),
                // Processes look for each other before all of them are up.
                publish_not_ready_addresses: Some(true),
                selector: Some([(names::JOB.to_owned(), name)].into()),
                ..core::ServiceSpec::default()
            }),
            status: None,
        }
    }

    /// The Job of all nodes, or of one.
    fn job(&self, task: &Task, shape: &Shape, node: Option<u32>) -> Result<batch::Job, Failure> {
        let name = self.name(task);
        let mut labels = self.labels(task);
        let full_name = match node {
            Some(node) if task.job.nodes > 1 => format!("{name}-{node}"),
            _ => name,
        };
        if let Some(node) = node {
            labels.insert(names::NODE.into(), node.to_string());
        }
        let annotations = [
            (names::PROCESS_ID, task.job.process_id.clone()),
            (names::FOLDER, names::folder(task)),
            (names::NONCE, shape.nonce.clone()),
        ];
        let annotations: BTreeMap<String, String> = annotations.map(|(key, value)| (key.to_owned(), value)).into();
        let pods = if node.is_some() { 1 } else { task.job.nodes };
        let metadata = |name| ObjectMeta {
            name,
            labels: Some(labels.clone()),
            annotations: Some(annotations.clone()),
            ..ObjectMeta::default()
        };
        Ok(batch::Job {
            metadata: metadata(Some(full_name)),
            spec: Some(batch::JobSpec {
                completions: Some(signed(pods)),
                parallelism: Some(signed(pods)),
                completion_mode: node.is_none().then(|| "Indexed".into()),
                // Retries are the colony's business.
                backoff_limit: Some(0),
                ttl_seconds_after_finished: Some(signed(self.settings.keep)),
                template: core::PodTemplateSpec { metadata: Some(metadata(None)), spec: Some(self.pod(task, node)?) },
                ..batch::JobSpec::default()
            }),
            status: None,
        })
    }

    fn pod(&self, task: &Task, node: Option<u32>) -> Result<core::PodSpec, Failure> {
        let settings = &self.settings;
        let name = self.name(task);
        let several = task.job.nodes > 1;
        let walltime = i64::try_from(task.job.walltime.as_secs()).unwrap_or(i64::MAX);
        let secret = |name: &String| core::LocalObjectReference { name: name.clone() };
        let list = |names: &[String]| (!names.is_empty()).then(|| names.iter().map(secret).collect());
        Ok(core::PodSpec {
            // Of the pod, not of the Job: waiting for a node does not count, and what ran over its time can still be looked at.
            active_deadline_seconds: Some(walltime.clamp(1, i64::from(i32::MAX))),
            automount_service_account_token: Some(false),
            enable_service_links: Some(false),
            restart_policy: Some("Never".into()),
            termination_grace_period_seconds: Some(i64::try_from(settings.grace).unwrap_or(i64::MAX)),
            // An indexed Job names its pods itself, in the same way.
            hostname: node.map(|node| format!("{name}-{node}")),
            subdomain: several.then_some(name),
            image_pull_secrets: list(&settings.image_pull_secrets),
            service_account_name: settings.service_account.clone(),
            priority_class_name: settings.priority_class.clone(),
            node_selector: Some(self.node_selector(task)).filter(|selector| !selector.is_empty()),
            tolerations: (!settings.tolerations.is_empty()).then(|| settings.tolerations.iter().map(toleration).collect()),
            security_context: Some(self.security()),
            containers: (0..task.job.processes_per_node)
                .map(|local| self.container(task, node, local))
                .collect::<Result<_, _>>()?,
            volumes: Some(self.volumes()),
            ..core::PodSpec::default()
        })
    }

    fn node_selector(&self, task: &Task) -> BTreeMap<String, String> {
        let mut selector = self.settings.node_selector.clone();
        let wanted = &task.job.gpu_name;
        let model = self.settings.gpu_models.get(wanted).unwrap_or(wanted);
        if task.job.gpu_count > 0 && !model.is_empty() {
            selector.insert(self.settings.gpu_node_label.clone(), model.clone());
        }
        selector
    }

    fn security(&self) -> core::PodSecurityContext {
        let settings = &self.settings;
        let user = settings.run_as_user.unwrap_or(self.user.0);
        core::PodSecurityContext {
            run_as_user: Some(user),
            run_as_group: Some(settings.run_as_group.unwrap_or(self.user.1)),
            run_as_non_root: (user != 0).then_some(true),
            fs_group: settings.fs_group,
            fs_group_change_policy: settings.fs_group.map(|_| "OnRootMismatch".into()),
            seccomp_profile: settings
                .restricted
                .then(|| core::SeccompProfile { type_: "RuntimeDefault".into(), localhost_profile: None }),
            ..core::PodSecurityContext::default()
        }
    }

    fn volumes(&self) -> Vec<core::Volume> {
        let claim = core::PersistentVolumeClaimVolumeSource { claim_name: self.volume.claim.clone(), read_only: None };
        let mut volumes =
            vec![core::Volume { name: VOLUME.into(), persistent_volume_claim: Some(claim), ..core::Volume::default() }];
        if self.settings.shared_memory_mib > 0 {
            let size = Quantity(format!("{}Mi", self.settings.shared_memory_mib));
            let memory = core::EmptyDirVolumeSource { medium: Some("Memory".into()), size_limit: Some(size) };
            volumes.push(core::Volume { name: SHARED_MEMORY.into(), empty_dir: Some(memory), ..core::Volume::default() });
        }
        volumes
    }

    /// One process of a node.
    fn container(&self, task: &Task, node: Option<u32>, local: u32) -> Result<core::Container, Failure> {
        let job = &task.job;
        let node = node.map(|node| node.to_string()).unwrap_or_default();
        let lead = names::literal(script::LEAD);
        let words = ["/bin/sh", "-c", &lead, "pollinator", &job.processes_per_node.to_string(), &local.to_string(), &node];
        let resources = self.resources(task, local);
        Ok(core::Container {
            name: container_name(local),
            image: Some(image(&job.image)?),
            // Else the cluster's own rule holds: always for `:latest` and names without a tag, where it is missing for others.
            image_pull_policy: job.rebuild_image.then(|| "Always".into()),
            command: Some(words.map(str::to_owned).into()),
            working_dir: Some(binds::work_folder(task)),
            resources: Some(core::ResourceRequirements {
                limits: Some(resources.clone()),
                requests: Some(resources),
                ..core::ResourceRequirements::default()
            }),
            security_context: self.settings.restricted.then(|| core::SecurityContext {
                allow_privilege_escalation: Some(false),
                capabilities: Some(core::Capabilities { add: None, drop: Some(vec!["ALL".into()]) }),
                ..core::SecurityContext::default()
            }),
            volume_mounts: Some(self.mounts(task)?),
            ..core::Container::default()
        })
    }

    /// What the process asks for is what it gets, and no more.
    fn resources(&self, task: &Task, local: u32) -> BTreeMap<String, Quantity> {
        let job = &task.job;
        // GPUs are the node's: its processes share them out.
        let gpus = job.gpu_count / job.processes_per_node + u32::from(local < job.gpu_count % job.processes_per_node);
        let amounts = [
            ("cpu", job.cpu_millis, "m"),
            ("memory", job.mem_mib, "Mi"),
            (self.settings.gpu_resource.as_str(), u64::from(gpus), ""),
        ];
        let amounts = amounts.into_iter().filter(|(_, amount, _)| *amount > 0);
        amounts.map(|(name, amount, unit)| (name.to_owned(), Quantity(format!("{amount}{unit}")))).collect()
    }

    fn mounts(&self, task: &Task) -> Result<Vec<core::VolumeMount>, Failure> {
        let mount = |folder: &Path, inside: &str, read_only: bool| -> Result<core::VolumeMount, Failure> {
            let outside = || Failure::Unsupported {
                field: "fs".into(),
                reason: format!("{} does not lie on the volume that pods see", folder.display()),
            };
            let sub_path = self.volume.sub_path(folder).ok_or_else(outside)?;
            Ok(core::VolumeMount {
                name: VOLUME.into(),
                mount_path: inside.into(),
                sub_path: (!sub_path.is_empty()).then_some(sub_path),
                read_only: read_only.then_some(true),
                ..core::VolumeMount::default()
            })
        };
        let mut mounts = vec![mount(&payload::folder(&task.folder), payload::INSIDE, false)?];
        for bind in binds::of(task, self.settings.sees) {
            mounts.push(mount(&bind.host, &bind.inside, bind.read_only)?);
        }
        if self.settings.shared_memory_mib > 0 {
            let (name, mount_path) = (SHARED_MEMORY.into(), "/dev/shm".into());
            mounts.push(core::VolumeMount { name, mount_path, ..core::VolumeMount::default() });
        }
        Ok(mounts)
    }
}

/// Name of a process's container in its pod.
pub fn container_name(local: u32) -> String {
    format!("process-{local}")
}

/// The number in a container's name.
pub fn local_rank(container: &str) -> Option<u32> {
    container.strip_prefix("process-")?.parse().ok()
}

/// An image as Kubernetes names it.
fn image(text: &str) -> Result<String, Failure> {
    let name = text.strip_prefix("docker://").unwrap_or(text);
    let foreign = ["library://", "oras://", "oci://", "oci-archive:", "docker-archive:", "docker-daemon:"];
    if name.is_empty() || name.ends_with(".sif") || foreign.iter().any(|kind| name.starts_with(kind)) {
        let reason = format!("{text:?} is no image that a Kubernetes cluster can pull (name it as `registry/name:tag`)");
        return Err(Failure::Unsupported { field: "kwargs.docker-image".into(), reason });
    }
    Ok(name.to_owned())
}

fn toleration(from: &Toleration) -> core::Toleration {
    core::Toleration {
        key: from.key.clone(),
        operator: from.operator.clone(),
        value: from.value.clone(),
        effect: from.effect.clone(),
        toleration_seconds: from.seconds,
    }
}

fn signed(number: u32) -> i32 {
    i32::try_from(number).unwrap_or(i32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::executor::backend::process::tests::task;
    use serde_json::json;
    use std::sync::Arc;

    fn maker(root: &Path) -> Maker {
        let volume_claim = "files".into();
        let settings = Settings { volume_claim, volume_mount: Some(root.to_path_buf()), ..Settings::default() };
        let volume = Volume::find(&settings, root, root).unwrap();
        Maker { executor: "e".into(), instance: "i".into(), volume, settings, user: (1000, 1000) }
    }

    #[test]
    fn the_clusters_own_rule_says_when_an_image_is_pulled_unless_it_is_to_be_rebuilt() {
        let root = tempfile::tempdir().unwrap();
        let maker = maker(&root.path().canonicalize().unwrap());
        for (image, rebuild_image, want) in [
            ("python:3.12", false, None),
            ("python:latest", false, None),
            ("docker://python", false, None),
            ("python:3.12", true, Some("Always")),
        ] {
            let mut task = task(root.path(), "true", &[], json!({}));
            let mut job = (*task.job).clone();
            (job.image, job.rebuild_image) = (image.into(), rebuild_image);
            task.job = Arc::new(job);
            let made = maker.container(&task, None, 0).unwrap();
            assert_eq!(made.image_pull_policy.as_deref(), want, "{image}");
            assert_eq!(made.image.as_deref(), Some(image.trim_start_matches("docker://")));
            let text = serde_json::to_string(&made).unwrap();
            assert_eq!(text.contains("imagePullPolicy"), rebuild_image, "{text}");
        }
    }
}
