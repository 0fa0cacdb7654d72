//! All sources put together: the settings of one executor, checked as a whole.

use super::Error;
use super::Shown;
use super::environment;
use super::environment::Origins;
use super::file;
use super::file::File;
use super::file::Limits;
use super::file::OneOrMany;
use super::file::Word;
use super::keys;
use super::shown;
use crate::colonies::Gpu;
use crate::colonies::Hardware;
use crate::colonies::Identity;
use crate::colonies::Software;
use crate::config;
use crate::config::ColonyAccess;
use crate::config::ExecutorAccess;
use crate::config::ExecutorFile;
use crate::config::Secret;
use crate::config::Sources;
use crate::executor::machine;
use crate::executor::options::Backend;
use crate::executor::options::Capacity;
use crate::executor::options::Described;
use crate::executor::options::Options;
use crate::executor::quantity;
use std::path::Path;
use std::path::PathBuf;
use std::time::Duration;
use toml::Table;
use toml::Value;

/// Slots where the jobs run on this machine, and where something else has a queue of its own.
const SLOTS_HERE: u32 = 4;
const SLOTS_THERE: u32 = 200;
/// Longest name: one of Kubernetes' labels has no more room.
const LONGEST_NAME: usize = 63;

/// What was said on the command line.
#[derive(Clone, Debug, Default)]
pub struct Asked {
    /// Where jobs run.
    pub backend: Option<String>,
    /// Name of the executor.
    pub name: Option<String>,
    /// Its file.
    pub config: Option<PathBuf>,
    /// Its state folder.
    pub state_dir: Option<PathBuf>,
}

/// The executor's key.
#[derive(Clone, Debug)]
pub(super) enum Key {
    /// From outside.
    Given(Secret),
    /// Of an earlier start.
    Kept(Secret),
    /// Made at the first start.
    ToMake,
}

/// Settings of one executor, checked.
#[derive(Clone, Debug)]
pub struct Loaded {
    options: Options,
    key: Key,
    /// What holds, and where it came from.
    pub shown: Shown,
    /// What should be looked at.
    pub warnings: Vec<String>,
}

impl Loaded {
    /// The options, with the executor's key, which is made where there is none.
    ///
    /// # Errors
    /// [`Error::Key`].
    pub fn into_options(self) -> Result<Options, Error> {
        let key = match self.key {
            Key::Given(key) | Key::Kept(key) => key,
            Key::ToMake => keys::find_or_make(&self.options.state_dir)?,
        };
        let access = ColonyAccess { key, ..self.options.access };
        Ok(Options { access, ..self.options })
    }
}

/// Where the executors of this user are, and which one is meant, as far as it is said.
#[derive(Clone, Debug)]
pub struct Place {
    /// The one that is meant.
    pub name: Option<String>,
    /// Its state folder, where it is known.
    pub state_dir: Option<PathBuf>,
    /// The folder of those that were told nothing else.
    pub all: PathBuf,
}

/// Finds out which executor is meant.
///
/// # Errors
/// Those of the file, and a name that is none.
pub fn place(sources: &Sources, asked: &Asked) -> Result<Place, Error> {
    let (state, home) = config::places(sources)?;
    let Merged { file, .. } = merge(sources, asked, &home)?;
    let all = state.join("executors");
    let name = file.name.map(|name| check_name(&name).map(|()| name)).transpose()?;
    let given = asked.state_dir.clone().or(file.state_dir);
    let state_dir = given.or_else(|| name.as_ref().map(|name| all.join(name)));
    Ok(Place { name, state_dir, all })
}

/// The file, the environment and the command line in one.
struct Merged {
    file: File,
    table: Table,
    origins: Origins,
    warnings: Vec<String>,
}

fn merge(sources: &Sources, asked: &Asked, home: &Path) -> Result<Merged, Error> {
    let mut table = match &asked.config {
        Some(path) => file::read(path)?,
        None => Table::new(),
    };
    let beside = asked.config.as_deref().and_then(Path::parent).unwrap_or(Path::new(""));
    for (key, value) in table.iter_mut() {
        meant_from(key, value, home, beside);
    }
    let from_file = asked.config.as_ref().map_or_else(String::new, |path| path.display().to_string());
    let mut origins = Origins::new();
    shown::leaves(&table, &mut |key, _| _ = origins.insert(key.into(), from_file.clone()));
    let (variables, warnings) = environment::add(&sources.environment, &mut table)?;
    origins.extend(variables.into_iter().map(|(key, name)| (key, format!("environment, {name}"))));
    let state_dir = asked.state_dir.as_ref().map(|path| path.to_string_lossy().into_owned());
    let said = [("backend", asked.backend.clone()), ("name", asked.name.clone()), ("state-dir", state_dir)];
    for (key, value) in said.into_iter().filter_map(|(key, value)| Some((key, value?))) {
        table.insert(key.into(), Value::String(value));
        origins.insert(key.into(), "command line".into());
    }
    let path = asked.config.clone().unwrap_or_else(|| PathBuf::from("the environment"));
    let file = file::understand(table.clone()).map_err(|reason| Error::BadFile { path, reason })?;
    Ok(Merged { file, table, origins, warnings })
}

/// Keys whose relative paths are meant from the file's own folder, wherever the executor is started.
const PATHS: [&str; 12] = [
    "state-dir",
    "fs-dir",
    "jobs-dir",
    "images.program",
    "images.folder",
    "images.cache",
    "images.temporary",
    "images.auth-file",
    "images.local-folders",
    "slurm.programs",
    "container.auth-file",
    "kubernetes.kubeconfig",
];

/// `~/` at the beginning of any text is the home folder; a path is meant from the file's own folder, but for the plain name of a program.
fn meant_from(key: &str, value: &mut Value, home: &Path, beside: &Path) {
    match value {
        Value::Table(inner) => {
            inner.iter_mut().for_each(|(name, value)| meant_from(&format!("{key}.{name}"), value, home, beside))
        }
        Value::Array(all) => all.iter_mut().for_each(|value| meant_from(key, value, home, beside)),
        Value::String(text) => {
            let is_path = PATHS.contains(&key) && !text.is_empty() && (text.contains('/') || !key.ends_with(".program"));
            if let Some(below) = text.strip_prefix("~/") {
                *text = home.join(below).to_string_lossy().into_owned();
            } else if is_path {
                let path = beside.join(&*text);
                *text = std::path::absolute(&path).unwrap_or(path).to_string_lossy().into_owned();
            }
        }
        _ => {}
    }
}

/// Puts the settings together. Makes and changes nothing.
///
/// # Errors
/// Everything in [`Error`].
pub fn load(sources: &Sources, asked: &Asked) -> Result<Loaded, Error> {
    let (state, home) = config::places(sources)?;
    let Merged { file, table, origins, warnings } = merge(sources, asked, &home)?;
    let own = asked.config.as_ref().map(|path| (path, colony_sections(&table)));
    let own = own.as_ref().map(|(path, sections)| ExecutorFile { path, sections });
    let access = config::load_executor(sources, own)?;
    let backend = backend(&file)?;
    let name = match &file.name {
        Some(name) => name.clone(),
        None => default_name(backend.name()),
    };
    check_name(&name)?;
    let absolute = |path: PathBuf| std::path::absolute(&path).unwrap_or(path);
    let given = asked.state_dir.clone().or_else(|| file.state_dir.clone());
    let state_dir = absolute(given.unwrap_or_else(|| state.join("executors").join(&name)));
    let fs_dir = absolute(file.fs_dir.clone().unwrap_or_else(|| state_dir.join("files")));
    let capacity = capacity(&file, &backend, &origins)?;
    let described = described(&file);
    let (key, about_key) = choose_key(&access, &state_dir)?;
    let mut options = Options::new(name, access.colony, access.store, fs_dir, state_dir);
    options.owner_key = access.owner_key;
    options.jobs_dir = file.jobs_dir.clone().map(absolute);
    if let Some(executor_type) = file.executor_type.clone().filter(|text| !text.trim().is_empty()) {
        options.executor_type = executor_type;
    }
    if let Some(seconds) = file.poll_seconds {
        options.poll_seconds = seconds.clamp(1, 60);
    }
    if let Some(seconds) = file.prepare_patience {
        options.prepare_patience = Duration::from_secs(seconds);
    }
    (options.backend, options.capacity, options.described) = (backend, capacity, described);
    (options.share_snapshots, options.keep_snapshots) = (file.files.share_snapshots, file.files.keep());
    options.tell_steps = file.tell_steps;
    let shown = Shown::new(access.rows, &options, &about_key, &table, &origins);
    Ok(Loaded { options, key, shown, warnings })
}

fn colony_sections(table: &Table) -> Table {
    let of = |name: &str| Some((name.to_owned(), table.get(name)?.clone()));
    ["colony", "store"].into_iter().filter_map(of).collect()
}

fn backend(file: &File) -> Result<Backend, Error> {
    let word = file.backend.as_deref().unwrap_or_default();
    Ok(match word.to_ascii_lowercase().as_str() {
        "process" => Backend::Process(Box::new(file.process.clone())),
        "container" => Backend::Container(Box::new(file.container.clone())),
        "slurm" => {
            let mut settings = file.slurm.clone();
            settings.images = file.images.clone();
            Backend::Slurm(Box::new(settings))
        }
        "kubernetes" => Backend::Kubernetes(Box::new(file.kubernetes.clone())),
        "" => return Err(Error::NoBackend),
        _ => {
            return Err(Error::Invalid {
                what: "backend".into(),
                wanted: "process, container, slurm or kubernetes".into(),
                found: word.into(),
            });
        }
    })
}

fn default_name(backend: &str) -> String {
    let host = crate::lock::host();
    let short = host.split('.').next().unwrap_or_default();
    let plain: String = short.chars().map(|c| if c.is_ascii_alphanumeric() || c == '-' { c } else { '-' }).collect();
    format!("{}-{backend}", plain.trim_matches('-'))
}

/// A name is a folder, a label and a word on the command line.
fn check_name(name: &str) -> Result<(), Error> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    let good = name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && name.ends_with(|c: char| c.is_ascii_alphanumeric())
        && name.chars().all(plain)
        && name.len() <= LONGEST_NAME;
    if good {
        return Ok(());
    }
    let wanted = format!("letters, digits, `-`, `_`, `.`, {LONGEST_NAME} at most, a letter or digit first and last");
    Err(Error::Invalid { what: "the executor's name".into(), wanted, found: name.into() })
}

/// The key, and where it is from, for a person. One that was made once stays: a new one would be a new executor.
fn choose_key(access: &ExecutorAccess, state_dir: &Path) -> Result<(Key, String), Error> {
    let path = keys::path(state_dir);
    let id = |key: &Secret| {
        let bad = |e: crate::colonies::identity::KeyError| Error::Key { path: "(as it was given)".into(), reason: e.to_string() };
        Identity::from_key(key).map(|identity| identity.id().to_owned()).map_err(bad)
    };
    if let Some(owner) = &access.owner_key {
        id(owner)?;
    }
    if let Some(kept) = keys::find(state_dir)? {
        let told = if access.key.is_some() { "; the key that was given is not used" } else { "" };
        let about = format!("id {}, of its own, in {}{told}", id(&kept)?, path.display());
        return Ok((Key::Kept(kept), about));
    }
    match (&access.key, &access.owner_key) {
        (Some(given), None) => Ok((Key::Given(given.clone()), format!("id {}, as it was given", id(given)?))),
        _ => Ok((Key::ToMake, format!("made at the first start, in {}", path.display()))),
    }
}

fn capacity(file: &File, backend: &Backend, origins: &Origins) -> Result<Capacity, Error> {
    let Limits { slots, cpu, mem, gpus } = &file.limits;
    let here = matches!(backend, Backend::Process(_) | Backend::Container(_));
    let limit = |key: &str, word: &Option<Word>, machine: Option<u64>, read: fn(&str) -> Result<u64, String>| {
        let word = word.as_ref().map_or_else(|| if here { "auto" } else { "none" }.to_owned(), Word::text);
        match word.as_str() {
            "none" => Ok(None),
            "auto" if here => Ok(machine),
            text => {
                let what = origins.get(key).map_or_else(|| key.to_owned(), |from| format!("{key} ({from})"));
                let invalid = |wanted: String| Error::Invalid { what, wanted, found: text.to_owned() };
                match read(text) {
                    Ok(0) => Err(invalid("above 0, or `none`".into())),
                    Ok(amount) => Ok(Some(amount)),
                    Err(reason) => {
                        Err(invalid(reason.split(", not ").next().unwrap_or(&reason).trim_start_matches("must be ").into()))
                    }
                }
            }
        }
    };
    if *slots == Some(0) {
        return Err(Error::Invalid { what: "limits.slots".into(), wanted: "1 or more".into(), found: "0".into() });
    }
    let known_gpus = u32::try_from(file.hardware.gpu.count).ok().filter(|n| *n > 0 && here);
    Ok(Capacity {
        slots: slots.unwrap_or(if here { SLOTS_HERE } else { SLOTS_THERE }),
        cpu_millis: limit("limits.cpu", cpu, Some(machine::cores() * 1000), quantity::cpu_millis)?,
        mem_mib: limit("limits.mem", mem, machine::memory_mib(), quantity::memory_mib)?,
        gpus: gpus.or(known_gpus).or_else(|| machine::gpus().filter(|_| here).map(|(count, _)| count)),
    })
}

fn described(file: &File) -> Described {
    let from = &file.hardware;
    let hardware = Hardware {
        model: from.model.clone(),
        nodes: from.nodes,
        cpu: from.cpu.clone(),
        cores: from.cores,
        mem: from.mem.clone(),
        storage: from.storage.clone(),
        platform: from.platform.clone(),
        architecture: from.architecture.clone(),
        network: from.network.clone(),
        gpu: Gpu {
            name: from.gpu.name.clone(),
            mem: from.gpu.mem.clone(),
            count: from.gpu.count,
            nodecount: from.gpu.node_count,
        },
    };
    let programs = match &file.software {
        OneOrMany::Many(all) => all.as_slice(),
        OneOrMany::One(one) => std::slice::from_ref(one),
    };
    let software = |p: &file::Program| Software { name: p.name.clone(), kind: p.kind.clone(), version: p.version.clone() };
    // Servers know a place by one name.
    let location = if file.location.name.is_empty() { &file.location.description } else { &file.location.name };
    Described { hardware, software: programs.iter().map(software).collect(), location: location.clone() }
}

#[cfg(test)]
mod tests;
