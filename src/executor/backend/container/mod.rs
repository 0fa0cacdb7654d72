//! The container backend: a job is a container of podman or docker on this machine.

mod settings;

pub use settings::Settings;
