//! The Kubernetes backend: a job is a `batch/v1` Job of a cluster, with a pod for each node and a container for each process.
//!
//! The executor and the pods share a volume: it holds the file area, and the folders of jobs, from which a container reads its
//! command, arguments and variables (see [`super::payload`]): nothing of them stands in objects that others may read.
//!
//! All jobs are watched together. What a container prints goes to a file on the volume, too, and is read there: a cluster keeps
//! only the newest part of a log, and of a pod that is gone nothing. When a job has ended its objects are deleted. What a broken
//! watch does not tell is not known, and never a failure.

mod settings;

#[cfg(feature = "kubernetes")]
mod cluster;
#[cfg(feature = "kubernetes")]
mod engine;
#[cfg(feature = "kubernetes")]
mod hub;
#[cfg(feature = "kubernetes")]
mod judge;
#[cfg(feature = "kubernetes")]
mod manifest;
#[cfg(feature = "kubernetes")]
mod names;
#[cfg(feature = "kubernetes")]
mod rights;
#[cfg(feature = "kubernetes")]
mod script;
#[cfg(feature = "kubernetes")]
mod view;
#[cfg(feature = "kubernetes")]
mod volume;

pub use settings::Settings;
pub use settings::Toleration;

use super::Engine;
use super::Surroundings;
#[cfg(feature = "kubernetes")]
use super::Task;
use std::sync::Arc;

/// The engine.
///
/// # Errors
/// What is wrong with the settings, for a person.
#[cfg(feature = "kubernetes")]
pub fn engine(settings: Settings, around: &Surroundings) -> Result<Arc<dyn Engine>, String> {
    Ok(Arc::new(engine::KubernetesEngine::start(settings, around)?))
}

/// The objects that a job would be, as documents of JSON that are YAML too, for servers that know indexed Jobs and for those that do not.
/// Nothing is asked of a cluster.
///
/// # Errors
/// What is wrong with the settings or the job, for a person.
#[cfg(feature = "kubernetes")]
pub fn manifests(settings: Settings, around: &Surroundings, task: &Task, indexed: bool) -> Result<String, String> {
    let volume = volume::Volume::find(&settings, &around.fs_dir, &around.jobs_dir)?;
    let (executor, instance) = (around.name.clone(), "example".to_owned());
    let maker = manifest::Maker { executor, instance, volume, settings, user: (1000, 1000) };
    let shape = manifest::Shape { nonce: "example".into(), indexed };
    let objects = maker.objects(task, &shape).map_err(|failure| failure.to_string())?;
    let mut documents = Vec::new();
    for object in
        objects.service.iter().map(serde_json::to_string_pretty).chain(objects.jobs.iter().map(serde_json::to_string_pretty))
    {
        documents.push(object.map_err(|e| e.to_string())?);
    }
    Ok(documents.join("\n---\n"))
}

/// There is none in a program that was built without it.
///
/// # Errors
/// Always.
#[cfg(not(feature = "kubernetes"))]
pub fn engine(_: Settings, _: &Surroundings) -> Result<Arc<dyn Engine>, String> {
    Err("this program was built without the Kubernetes backend (cargo feature `kubernetes`)".into())
}
