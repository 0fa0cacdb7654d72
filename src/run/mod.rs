//! One run of a project.

pub mod provenance;
