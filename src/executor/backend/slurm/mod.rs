//! The Slurm backend: a job is a batch job of a cluster.

mod settings;

pub use settings::Containers;
pub use settings::GpuRequest;
pub use settings::MemoryPer;
pub use settings::Settings;
