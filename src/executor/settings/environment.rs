//! The variables that the executors of today are set up with, as keys of the file.

use super::Error;
use crate::config;
use std::collections::BTreeMap;
use toml::Table;
use toml::Value;

/// How the text of a variable is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Text,
    Whole,
    Float,
    Switch,
    /// Words, divided by blanks.
    Words,
}

/// Variables of one meaning (the first that is set holds), and the key that they set.
const KEYS: &[(&[&str], &str, Kind)] = &[
    (&["COLONIES_EXECUTOR_NAME"], "name", Kind::Text),
    (&["EXECUTOR_TYPE"], "type", Kind::Text),
    (&["EXECUTOR_FS_DIR"], "fs-dir", Kind::Text),
    (&["EXECUTOR_LOG_DIR"], "jobs-dir", Kind::Text),
    (&["EXECUTOR_HOME_DIR"], "slurm.home", Kind::Text),
    (&["EXECUTOR_ADD_DEBUG_LOGS"], "tell-steps", Kind::Switch),
    (&["EXECUTOR_IMAGE_DIR"], "images.folder", Kind::Text),
    (&["EXECUTOR_ROCM"], "images.rocm", Kind::Switch),
    (&["APPTAINER_CACHEDIR", "SINGULARITY_CACHEDIR"], "images.cache", Kind::Text),
    (&["APPTAINER_TMPDIR", "SINGULARITY_TMPDIR"], "images.temporary", Kind::Text),
    (&["EXECUTOR_HW_MODEL"], "hardware.model", Kind::Text),
    (&["EXECUTOR_HW_NODES"], "hardware.nodes", Kind::Whole),
    (&["EXECUTOR_HW_CPU", "EXECUTOR_HW_TOTAL_CPU"], "hardware.cpu", Kind::Text),
    (&["EXECUTOR_HW_CORES"], "hardware.cores", Kind::Whole),
    (&["EXECUTOR_HW_MEM", "EXECUTOR_HW_TOTAL_MEM"], "hardware.mem", Kind::Text),
    (&["EXECUTOR_HW_STORAGE"], "hardware.storage", Kind::Text),
    (&["EXECUTOR_HW_PLATFORM"], "hardware.platform", Kind::Text),
    (&["EXECUTOR_HW_ARCHITECTURE"], "hardware.architecture", Kind::Text),
    (&["EXECUTOR_HW_NETWORK"], "hardware.network", Kind::Words),
    (&["EXECUTOR_HW_GPU_NAME"], "hardware.gpu.name", Kind::Text),
    (&["EXECUTOR_HW_GPU_MEM"], "hardware.gpu.mem", Kind::Text),
    (&["EXECUTOR_HW_GPU_COUNT"], "hardware.gpu.count", Kind::Whole),
    (&["EXECUTOR_HW_GPU_NODES_COUNT"], "hardware.gpu.node-count", Kind::Whole),
    (&["EXECUTOR_HW_TOTAL_CPU"], "limits.cpu", Kind::Text),
    (&["EXECUTOR_HW_TOTAL_MEM"], "limits.mem", Kind::Text),
    (&["EXECUTOR_SW_NAME"], "software.name", Kind::Text),
    (&["EXECUTOR_SW_TYPE"], "software.type", Kind::Text),
    (&["EXECUTOR_SW_VERSION"], "software.version", Kind::Text),
    (&["EXECUTOR_LOCATION_NAME"], "location.name", Kind::Text),
    (&["EXECUTOR_LOCATION_DESC"], "location.description", Kind::Text),
    (&["EXECUTOR_LOCATION_LONG"], "location.long", Kind::Float),
    (&["EXECUTOR_LOCATION_LAT"], "location.lat", Kind::Float),
    (&["SLURM_ACCOUNT"], "slurm.account", Kind::Text),
    (&["SLURM_PARTITION"], "slurm.partition", Kind::Text),
    (&["SLURM_MODULE"], "slurm.modules", Kind::Words),
    (&["EXECUTOR_K8S_NAMESPACE"], "kubernetes.namespace", Kind::Text),
    (&["EXECUTOR_K8S_PVC"], "kubernetes.volume-claim", Kind::Text),
];

/// Read by the rules of [`add`], below.
const SWITCHES: [&str; 4] = ["GRES", "EXECUTOR_DEVMODE", "EXECUTOR_PARALLEL_CONTAINERS", "EXECUTOR_START_PARALLEL_CONTAINERS"];

/// Known, and without a use here: a name that was only logged; the switch that gave GPUs to every container, while here each process
/// has those that it asks for.
const UNUSED: [&str; 2] = ["EXECUTOR_K8S_NAME", "EXECUTOR_GPU"];

/// Keys that the environment has set, and by which variable.
pub(super) type Origins = BTreeMap<String, String>;

/// Adds what the environment says to the file's table, where it wins. Gives where each key comes from, and warnings.
pub(super) fn add(environment: &BTreeMap<String, String>, table: &mut Table) -> Result<(Origins, Vec<String>), Error> {
    let mut adding = Adding { environment, table, origins: Origins::new() };
    for (names, key, kind) in KEYS {
        adding.key(names, key, *kind)?;
    }
    adding.gpus_of_slurm()?;
    for (when, word) in [(true, false), (false, true)] {
        adding.switch_to("EXECUTOR_DEVMODE", when, "slurm.request-resources", Value::Boolean(word))?;
    }
    for name in ["EXECUTOR_START_PARALLEL_CONTAINERS", "EXECUTOR_PARALLEL_CONTAINERS"] {
        adding.switch_to(name, false, "limits.slots", Value::Integer(1))?;
    }
    Ok((adding.origins, unknown(environment)))
}

/// Variables that look like ours and are not: a misspelt one changes nothing, and nobody sees it.
fn unknown(environment: &BTreeMap<String, String>) -> Vec<String> {
    let known = || KEYS.iter().flat_map(|(names, ..)| names.iter()).chain(&SWITCHES).chain(&UNUSED).copied();
    let ours = environment.keys().filter(|name| name.starts_with("EXECUTOR_") && !known().any(|k| k == *name));
    ours.map(|name| format!("the variable {name} is not known and changes nothing{}", config::advice(name, known()))).collect()
}

struct Adding<'a> {
    environment: &'a BTreeMap<String, String>,
    table: &'a mut Table,
    origins: Origins,
}

impl Adding<'_> {
    /// An empty variable is as good as none.
    fn text(&self, name: &str) -> Option<&str> {
        self.environment.get(name).map(|text| text.trim()).filter(|text| !text.is_empty())
    }

    fn key(&mut self, names: &[&str], key: &str, kind: Kind) -> Result<(), Error> {
        let Some((name, text)) = names.iter().find_map(|name| Some((*name, self.text(name)?))) else { return Ok(()) };
        let value = value(name, text, kind)?;
        self.set(key, value, name);
        Ok(())
    }

    fn switch(&self, name: &str) -> Result<Option<bool>, Error> {
        let Some(text) = self.text(name) else { return Ok(None) };
        match value(name, text, Kind::Switch)? {
            Value::Boolean(on) => Ok(Some(on)),
            _ => Ok(None),
        }
    }

    fn switch_to(&mut self, name: &str, when: bool, key: &str, value: Value) -> Result<(), Error> {
        if self.switch(name)? == Some(when) {
            self.set(key, value, name);
        }
        Ok(())
    }

    /// `GRES` and `EXECUTOR_ROCM` say together how Slurm is asked for GPUs: without either it is not asked.
    fn gpus_of_slurm(&mut self) -> Result<(), Error> {
        let (gres, rocm) = (self.switch("GRES")?, self.switch("EXECUTOR_ROCM")?);
        let (word, by) = match (gres, rocm) {
            (Some(true), _) => ("gres", "GRES"),
            (_, Some(true)) => ("gpus-per-node", "EXECUTOR_ROCM"),
            (Some(false), _) => ("none", "GRES"),
            (None, _) => return Ok(()),
        };
        self.set("slurm.gpu-request", Value::String(word.into()), by);
        Ok(())
    }

    fn set(&mut self, key: &str, value: Value, by: &str) {
        let mut at = &mut *self.table;
        let mut parts = key.split('.').peekable();
        while let Some(part) = parts.next() {
            if parts.peek().is_none() {
                at.insert(part.into(), value);
                break;
            }
            let inner = at.entry(part).or_insert_with(|| Value::Table(Table::new()));
            // `[[software]]` of the file makes room for the one of the environment.
            if !inner.is_table() {
                *inner = Value::Table(Table::new());
            }
            let Some(table) = inner.as_table_mut() else { return };
            at = table;
        }
        self.origins.insert(key.into(), by.into());
    }
}

fn value(name: &str, text: &str, kind: Kind) -> Result<Value, Error> {
    let invalid =
        |wanted: &str| Error::Invalid { what: format!("environment, {name}"), wanted: wanted.into(), found: text.into() };
    Ok(match kind {
        Kind::Text => Value::String(text.into()),
        Kind::Whole => Value::Integer(text.parse().ok().filter(|n| *n >= 0).ok_or_else(|| invalid("a whole number"))?),
        Kind::Float => Value::Float(text.parse().ok().filter(|n: &f64| n.is_finite()).ok_or_else(|| invalid("a number"))?),
        Kind::Switch => Value::Boolean(config::boolean(text).ok_or_else(|| invalid("true or false"))?),
        Kind::Words => Value::Array(text.split_whitespace().map(|word| Value::String(word.into())).collect()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn added(file: &str, variables: &[(&str, &str)]) -> Result<(Table, Vec<String>), Error> {
        let mut table: Table = toml::from_str(file).unwrap();
        let environment = variables.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect();
        let (_, warnings) = add(&environment, &mut table)?;
        Ok((table, warnings))
    }

    #[test]
    fn the_environment_wins_over_the_file_and_an_empty_variable_is_none() {
        let file = "type = \"a\"\n[slurm]\npartition = \"x\"\naccount = \"y\"\n[[software]]\nname = \"z\"\n";
        let set = [
            ("SLURM_PARTITION", "gpu"),
            ("SLURM_ACCOUNT", " "),
            ("SLURM_MODULE", "rocm  singularity"),
            ("EXECUTOR_HW_GPU_NODES_COUNT", "4"),
            ("EXECUTOR_SW_NAME", "s"),
        ];
        let (table, warnings) = added(file, &set).unwrap();
        let want = "type = \"a\"\n[slurm]\npartition = \"gpu\"\naccount = \"y\"\nmodules = [\"rocm\", \"singularity\"]\n\
                    [software]\nname = \"s\"\n[hardware.gpu]\nnode-count = 4\n";
        assert_eq!(table, toml::from_str::<Table>(want).unwrap());
        assert!(warnings.is_empty());
    }

    #[test]
    fn switches_of_gpus_say_together_how_slurm_is_asked() {
        for (gres, rocm, want) in [
            ("", "", None),
            ("true", "", Some("gres")),
            ("true", "true", Some("gres")),
            ("false", "true", Some("gpus-per-node")),
            ("", "true", Some("gpus-per-node")),
            ("false", "", Some("none")),
        ] {
            let (table, _) = added("", &[("GRES", gres), ("EXECUTOR_ROCM", rocm)]).unwrap();
            let found = table.get("slurm").and_then(|s| s.get("gpu-request")).and_then(Value::as_str);
            assert_eq!(found, want, "GRES={gres} EXECUTOR_ROCM={rocm}");
        }
    }

    #[test]
    fn misspelt_variables_are_told_of_and_bad_ones_named() {
        let (table, warnings) = added("", &[("EXECUTOR_FS_DRI", "/x"), ("EXECUTOR_K8S_NAME", "n"), ("OTHER", "o")]).unwrap();
        assert!(table.is_empty());
        let said = "the variable EXECUTOR_FS_DRI is not known and changes nothing; did you mean `EXECUTOR_FS_DIR`?";
        assert_eq!(warnings, [said]);
        let bad = added("", &[("EXECUTOR_HW_NODES", "two")]).unwrap_err().to_string();
        assert_eq!(bad, "environment, EXECUTOR_HW_NODES: must be a whole number, found \"two\"");
        assert!(added("", &[("EXECUTOR_DEVMODE", "perhaps")]).is_err());
        let (table, _) = added("", &[("EXECUTOR_PARALLEL_CONTAINERS", "false")]).unwrap();
        assert_eq!(table["limits"]["slots"].as_integer(), Some(1));
    }
}
