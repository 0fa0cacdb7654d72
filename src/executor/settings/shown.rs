//! The settings that hold, for people, without secrets.

use super::environment::Origins;
use crate::config::Row;
use crate::executor::options::Backend;
use crate::executor::options::Options;
use serde::Serialize;
use toml::Table;
use toml::Value;

/// Parts of a key's name that make its value a secret, whatever section invents it.
const SECRETS: [&str; 4] = ["password", "secret", "token", "private"];

/// All that holds, in the order of reading.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Shown {
    /// One line each.
    pub rows: Vec<Row>,
}

impl Shown {
    pub(super) fn new(access: Vec<Row>, options: &Options, key: &str, table: &Table, origins: &Origins) -> Shown {
        let mut rows = Vec::new();
        let mut row = |name: &str, value: Option<String>| {
            let origin = origins.get(name).cloned().unwrap_or_else(|| "default".into());
            rows.push(Row { name: name.into(), value, origin });
        };
        let path = |path: &std::path::Path| Some(path.display().to_string());
        row("name", Some(options.name.clone()));
        row("type", Some(options.executor_type.clone()));
        row("backend", Some(options.backend.name().into()));
        row("key", Some(key.into()));
        row("state-dir", path(&options.state_dir));
        row("fs-dir", path(&options.fs_dir));
        row("jobs-dir", path(&options.jobs_dir.clone().unwrap_or_else(|| options.state_dir.join("jobs"))));
        let capacity = options.capacity;
        let or_none = |text: Option<String>| Some(text.unwrap_or_else(|| "none".into()));
        row("limits.slots", Some(capacity.slots.to_string()));
        row("limits.cpu", or_none(capacity.cpu_millis.map(|n| format!("{n}m"))));
        row("limits.mem", or_none(capacity.mem_mib.map(|n| format!("{n}Mi"))));
        row("limits.gpus", or_none(capacity.gpus.map(|n| n.to_string())));
        row("poll-seconds", Some(options.poll_seconds.to_string()));
        row("prepare-patience", Some(options.prepare_patience.as_secs().to_string()));
        let told: Vec<String> = rows.iter().map(|row| row.name.clone()).collect();
        let sections = sections(&options.backend);
        leaves(table, &mut |name, value| {
            let section = name.split('.').next().unwrap_or_default();
            let ours = !name.contains('.') || sections.contains(&section);
            if ours && !told.iter().any(|other| other == name) {
                let origin = origins.get(name).cloned().unwrap_or_default();
                rows.push(Row { name: name.into(), value: Some(plain(name, value)), origin });
            }
        });
        rows.extend(access);
        Shown { rows }
    }
}

/// Sections of the file that mean something to a backend.
fn sections(backend: &Backend) -> Vec<&'static str> {
    let mut sections = vec!["hardware", "software", "location", "files", backend.name()];
    if matches!(backend, Backend::Slurm(_)) {
        sections.push("images");
    }
    sections
}

/// Calls for every value that is no table, with its whole name.
pub(super) fn leaves(table: &Table, each: &mut impl FnMut(&str, &Value)) {
    fn walk(prefix: &str, table: &Table, each: &mut impl FnMut(&str, &Value)) {
        for (key, value) in table {
            let name = if prefix.is_empty() { key.clone() } else { format!("{prefix}.{key}") };
            match value {
                Value::Table(inner) => walk(&name, inner, each),
                other => each(&name, other),
            }
        }
    }
    walk("", table, each);
}

fn plain(name: &str, value: &Value) -> String {
    let last = name.rsplit('.').next().unwrap_or_default();
    match value {
        _ if SECRETS.iter().any(|word| last.contains(word)) => "***".into(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}
