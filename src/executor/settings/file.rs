//! The executor's file (TOML), as it is written.

use super::Error;
use crate::config;
use crate::executor::backend::container;
use crate::executor::backend::kubernetes;
use crate::executor::backend::process;
use crate::executor::backend::slurm;
use crate::executor::files::Keep;
use crate::executor::files::ShareSnapshots;
use crate::executor::image;
use serde::Deserialize;
use std::path::Path;
use std::path::PathBuf;
use toml::Table;
use toml::Value;

/// All of it. What is not said is none, or the default of its section.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "kebab-case", deny_unknown_fields)]
pub(super) struct File {
    pub(super) name: Option<String>,
    pub(super) backend: Option<String>,
    #[serde(rename = "type")]
    pub(super) executor_type: Option<String>,
    pub(super) state_dir: Option<PathBuf>,
    pub(super) fs_dir: Option<PathBuf>,
    pub(super) jobs_dir: Option<PathBuf>,
    pub(super) poll_seconds: Option<u32>,
    pub(super) prepare_patience: Option<u64>,
    pub(super) tell_steps: bool,
    /// Read by [`config`].
    pub(super) colony: Table,
    /// Read by [`config`].
    pub(super) store: Table,
    pub(super) limits: Limits,
    pub(super) hardware: HardwareSection,
    pub(super) software: OneOrMany,
    pub(super) location: Location,
    pub(super) files: FilesSection,
    pub(super) process: process::Settings,
    pub(super) container: container::Settings,
    pub(super) slurm: slurm::Settings,
    pub(super) kubernetes: kubernetes::Settings,
    pub(super) images: image::Settings,
}

/// How much runs at once. `cpu` and `mem` may be `auto` (this machine's) or `none`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "kebab-case", deny_unknown_fields)]
pub(super) struct Limits {
    pub(super) slots: Option<u32>,
    pub(super) cpu: Option<Word>,
    pub(super) mem: Option<Word>,
    pub(super) gpus: Option<u32>,
}

/// A text, or a number that stands for it: `cpu = 16`.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
pub(super) enum Word {
    Text(String),
    Number(i64),
}

impl Word {
    pub(super) fn text(&self) -> String {
        match self {
            Word::Text(text) => text.trim().to_owned(),
            Word::Number(number) => number.to_string(),
        }
    }
}

/// What is told to the colony about the machines.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "kebab-case", deny_unknown_fields)]
pub(super) struct HardwareSection {
    pub(super) model: String,
    pub(super) nodes: i64,
    pub(super) cpu: String,
    pub(super) cores: i64,
    pub(super) mem: String,
    pub(super) storage: String,
    pub(super) platform: String,
    pub(super) architecture: String,
    pub(super) network: Vec<String>,
    pub(super) gpu: GpuSection,
}

/// What is told about GPUs.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "kebab-case", deny_unknown_fields)]
pub(super) struct GpuSection {
    pub(super) name: String,
    pub(super) mem: String,
    pub(super) count: i64,
    pub(super) node_count: i64,
}

/// A program.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "kebab-case", deny_unknown_fields)]
pub(super) struct Program {
    pub(super) name: String,
    #[serde(rename = "type")]
    pub(super) kind: String,
    pub(super) version: String,
}

/// `[software]` once, or `[[software]]` several times.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
pub(super) enum OneOrMany {
    Many(Vec<Program>),
    One(Program),
}

impl Default for OneOrMany {
    fn default() -> OneOrMany {
        OneOrMany::Many(Vec::new())
    }
}

/// Where it stands.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "kebab-case", deny_unknown_fields)]
pub(super) struct Location {
    pub(super) name: String,
    pub(super) description: String,
    /// Read and checked; today's servers have no place for it.
    #[serde(rename = "long")]
    pub(super) _long: f64,
    /// As `long`.
    #[serde(rename = "lat")]
    pub(super) _lat: f64,
}

/// The care of snapshots in the file area.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "kebab-case", deny_unknown_fields)]
pub(super) struct FilesSection {
    pub(super) share_snapshots: ShareSnapshots,
    pub(super) keep_snapshots_days: Option<u32>,
    pub(super) max_snapshot_bytes: Option<u64>,
    pub(super) min_free_bytes: Option<u64>,
}

impl FilesSection {
    pub(super) fn keep(&self) -> Keep {
        let usual = Keep::default();
        Keep {
            days: self.keep_snapshots_days.unwrap_or(usual.days),
            max_bytes: self.max_snapshot_bytes.unwrap_or(usual.max_bytes),
            min_free: self.min_free_bytes.unwrap_or(usual.min_free),
        }
    }
}

/// The file as a table, once it is seen to be one of ours.
pub(super) fn read(path: &Path) -> Result<Table, Error> {
    let text = std::fs::read_to_string(path).map_err(|source| Error::Unreadable { path: path.into(), source })?;
    let bad = |e: &toml::de::Error| Error::BadFile { path: path.into(), reason: advised(config::reason(&text, e)) };
    // For the sake of its messages, which know the line.
    toml::from_str::<File>(&text).map_err(|e| bad(&e))?;
    toml::from_str::<Table>(&text).map_err(|e| bad(&e))
}

/// The table, with what the environment adds, as settings.
pub(super) fn understand(table: Table) -> Result<File, String> {
    File::deserialize(Value::Table(table)).map_err(|e| advised(e.message().to_owned()))
}

/// "unknown field `x`, expected one of `a`, `b`" with the word that was probably meant.
fn advised(reason: String) -> String {
    let mut words = reason.split('`').skip(1).step_by(2);
    let (Some(word), true) = (words.next(), reason.contains("unknown field")) else { return reason };
    let (known, advice) = (words.clone().count(), config::advice(word, words));
    match reason.split_once(", expected") {
        // A long list of what there is helps nobody who is told what was meant.
        Some((short, _)) if !advice.is_empty() && known > 1 => format!("{short}{advice}"),
        _ => reason,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(text: &str) -> String {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("e.toml");
        std::fs::write(&path, text).unwrap();
        read(&path).unwrap_err().to_string()
    }

    #[test]
    fn slips_are_seen_with_their_line_and_what_was_meant() {
        let said = refused("name = \"n\"\n[slurm]\npartiton = \"p\"\n");
        assert!(said.ends_with("e.toml: line 3, column 1: unknown field `partiton`; did you mean `partition`?"), "{said}");
        let said = refused("[limits]\nslots = \"many\"\n");
        assert!(said.contains("line 2, column 9") && said.contains("invalid type"), "{said}");
        // What stands in the line may be a key.
        let said = refused("[colony]\nowner-key = \"5ecre7\n");
        assert!(said.contains("line 2") && !said.contains("5ecre7"), "{said}");
    }

    #[test]
    fn software_is_one_or_several_and_cpu_a_text_or_a_number() {
        let one: File = toml::from_str("[software]\nname = \"a\"\n[limits]\ncpu = 16\nmem = \"64Gi\"\n").unwrap();
        assert!(matches!(&one.software, OneOrMany::One(program) if program.name == "a"));
        assert_eq!(one.limits.cpu.unwrap().text(), "16");
        let two: File = toml::from_str("[[software]]\nname = \"a\"\n[[software]]\nname = \"b\"\n").unwrap();
        assert!(matches!(&two.software, OneOrMany::Many(all) if all.len() == 2));
    }
}
