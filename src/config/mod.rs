//! Settings and credentials: where they come from, what holds, and what is missing.
//!
//! The environment wins over the chosen profile of the config file, value by value. Nothing configured means the embedded
//! local colony; half a configuration is an error, never a silent fall-back.

pub mod access;
mod executor;
mod file;
mod settings;
mod values;

pub use access::ColonyAccess;
pub use access::Secret;
pub use access::StoreAccess;
pub use executor::ExecutorAccess;
pub use executor::ExecutorFile;
pub use executor::load_executor;
pub use executor::places;
pub use file::key_file;
pub use file::reason;
pub use settings::Row;
pub use settings::Settings;
pub use settings::Sources;
pub use settings::jobs;
pub use settings::load;
pub use settings::rate;
pub use values::Origin;
pub use values::boolean;
pub use values::duration;

use std::path::PathBuf;

/// Why the settings cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Some values are set, others that belong to them are not.
    #[error("the configuration is incomplete: {} missing", missing.join(", "))]
    Incomplete {
        /// What is missing, as `VARIABLE (profile key)`.
        missing: Vec<String>,
        /// One that is set, and so made it a configuration.
        because: String,
    },
    /// Two names of one setting say different things.
    #[error("{first} and {second} mean the same and differ")]
    Contradiction {
        /// One.
        first: String,
        /// The other.
        second: String,
    },
    /// A value of the wrong kind.
    #[error("{what}: must be {wanted}, found {found:?}")]
    Invalid {
        /// The setting, with where it stands.
        what: String,
        /// What was expected.
        wanted: String,
        /// What stands there; never a secret.
        found: String,
    },
    /// A file cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A file with a key in it can be read by others.
    #[error("{} holds a key and can be read by others (mode {mode:o})", path.display())]
    ReadableByOthers {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The config file is not understood.
    #[error("{}: {reason}", path.display())]
    BadFile {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// No such profile.
    #[error("there is no profile {name:?} in {}", path.display())]
    NoProfile {
        /// What was asked for.
        name: String,
        /// The config file.
        path: PathBuf,
        /// Profiles that there are.
        there: Vec<String>,
    },
    /// A command that gives a key failed.
    #[error("the command of {place} gave no key: {reason}")]
    KeyCommand {
        /// Where it stands.
        place: String,
        /// Why.
        reason: String,
    },
    /// An executor needs a colony of its own; the embedded one has one already.
    #[error("no colony is configured for the executor")]
    NoColony,
    /// The system names no home folder.
    #[error("no home folder is known, so there is no place for settings and state")]
    NoHome,
}

impl Error {
    /// What to do about it, for a person.
    pub fn hint(&self) -> Option<String> {
        match self {
            Error::Incomplete { because, .. } => Some(format!(
                "set them, or unset {because} to use the embedded local colony; `pollinator config` shows what holds"
            )),
            Error::Contradiction { .. } => Some("unset one of them".into()),
            Error::ReadableByOthers { path, .. } => Some(format!("chmod 600 {}", path.display())),
            Error::NoProfile { there, .. } if there.is_empty() => Some("write one: see `Settings` in the README".into()),
            Error::NoProfile { there, .. } => Some(format!("there are: {}", there.join(", "))),
            Error::NoColony => Some(
                "set COLONIES_SERVER_HOST and the others, or write them into the [colony] and [store] sections of its file; \
                 `pollinator colony env` prints those of the local colony"
                    .into(),
            ),
            Error::NoHome => Some("set HOME, or POLLINATOR_STATE_DIR and POLLINATOR_CONFIG".into()),
            _ => None,
        }
    }
}

/// Which known word was probably meant, as the end of a sentence; empty where none is near.
pub fn advice<'a>(word: &str, known: impl Iterator<Item = &'a str>) -> String {
    const NEAR: f64 = 0.75;
    let plain = |text: &str| text.to_lowercase().replace(['-', '_'], "");
    // One slip of the finger is near, however short the word.
    let rate = |a: &str, b: &str| if strsim::osa_distance(a, b) <= 1 { 1.0 } else { strsim::jaro_winkler(a, b) };
    let rated = known.map(|other| (rate(&plain(word), &plain(other)), other));
    let nearest = rated.filter(|(near, _)| *near > NEAR).max_by(|a, b| a.0.total_cmp(&b.0));
    nearest.map_or_else(String::new, |(_, near)| format!("; did you mean `{near}`?"))
}
