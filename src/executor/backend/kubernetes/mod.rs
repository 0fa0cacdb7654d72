//! The Kubernetes backend: a job is a `batch/v1` Job of a cluster.

mod settings;

pub use settings::Settings;
