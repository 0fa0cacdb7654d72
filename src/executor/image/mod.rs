//! Images for Apptainer or Singularity: named as specifications name them, pulled once, converted, kept.

mod settings;

pub use settings::Settings;
