//! Hooks put in and taken out.
//!
//! An earlier hook is renamed, never rewritten, so that taking ours out gives back the very file. Everything is looked at
//! before anything is changed, and each change is one rename: killed in between, the next call goes on from what is there.

use super::Error;
use super::Hook;
use super::Repository;
use super::repository::Reach;
use super::repository::as_text;
use super::script;
use super::script::Entry;
use super::script::Reading;
use super::script::Script;
use serde::Serialize;
use std::fs;
use std::io;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::path::PathBuf;
use tempfile::NamedTempFile;

/// Mode of a hook: everybody who may use the repository may run it.
const MODE: u32 = 0o755;

/// What was done to a hook.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Change {
    /// It was not there.
    Installed,
    /// It was there, and says something else now.
    Updated,
    /// It is as it was.
    Unchanged,
    /// It is gone.
    Removed,
    /// It is gone, and the earlier one is back.
    Restored,
    /// There was none of ours.
    NotThere,
}

/// What became of a hook.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Outcome {
    /// Which.
    pub hook: Hook,
    /// Its file.
    pub path: PathBuf,
    /// What was done.
    pub change: Change,
    /// The earlier hook that runs first, or ran first.
    pub earlier: Option<PathBuf>,
}

/// Which projects are taken out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which<'a> {
    /// One, by its folder from the top of the work tree.
    Project(&'a str),
    /// All of this repository.
    All,
}

/// What stands where a hook belongs.
#[derive(Debug)]
pub(super) enum Standing {
    Nothing,
    Ours { script: Script, text: String, executable: bool },
    Edited,
    Others { text: String },
}

/// Looks at the place of a hook.
pub(super) fn look(hook: Hook, path: &Path) -> Result<Standing, Error> {
    let failed = |source| Error::File { what: "cannot read", path: path.to_owned(), source };
    match path.symlink_metadata() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Standing::Nothing),
        Err(error) => return Err(failed(error)),
        Ok(file) if file.is_dir() => return Err(Error::NoFile { path: path.to_owned() }),
        Ok(_) => {}
    }
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        // A link that leads nowhere.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        Err(error) => return Err(failed(error)),
    };
    let text = String::from_utf8_lossy(&bytes).into_owned();
    Ok(match Script::read(hook, &bytes) {
        Reading::Ours(script) => Standing::Ours { script, text, executable: crate::agent::programs::is_executable(path) },
        Reading::Edited => Standing::Edited,
        Reading::Others => Standing::Others { text },
    })
}

/// Where an earlier hook is kept.
pub(super) fn kept(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(script::KEPT);
    name.into()
}

pub(super) fn stands(path: &Path) -> bool {
    path.symlink_metadata().is_ok()
}

/// How a hook names a project of a repository. One that is shared with other repositories has to tell them apart.
pub fn entry(repository: &Repository, project: &str, gate: bool, profile: Option<&str>) -> Result<Entry, Error> {
    let of = match repository.reach() {
        Reach::Shared => Some(as_text(&repository.common)?.to_owned()),
        Reach::Repository | Reach::Tracked => None,
    };
    Ok(Entry { project: project.to_owned(), gate, repository: of, profile: profile.map(str::to_owned) })
}

/// A hook as it is going to be.
struct Step {
    hook: Hook,
    path: PathBuf,
    change: Change,
    /// What is to stand there.
    text: Option<String>,
    /// What stands there is to be kept.
    keep: bool,
}

/// Makes git call `program` for a project, after each commit and before each push.
pub fn install(repository: &Repository, entry: &Entry, program: &Path) -> Result<Vec<Outcome>, Error> {
    let program = as_text(program)?;
    let steps: Vec<Step> =
        Hook::ALL.iter().map(|hook| plan(*hook, &repository.hooks, entry, program)).collect::<Result<_, _>>()?;
    let failed = |source| Error::File { what: "cannot make the folder", path: repository.hooks.clone(), source };
    fs::create_dir_all(&repository.hooks).map_err(failed)?;
    steps.into_iter().map(put).collect()
}

fn plan(hook: Hook, folder: &Path, entry: &Entry, program: &str) -> Result<Step, Error> {
    let path = folder.join(hook.name());
    let entry = Entry { gate: entry.gate && hook == Hook::PrePush, ..entry.clone() };
    let written = |script: Script| Script { program: program.to_owned(), ..script }.with(entry.clone()).text();
    let fresh = Script { hook, program: program.to_owned(), entries: Vec::new() };
    let step = match look(hook, &path)? {
        Standing::Nothing => Step { text: written(fresh), change: Change::Installed, keep: false, hook, path },
        Standing::Ours { script, text, executable } => {
            let new = written(script);
            let change = if executable && new.as_ref() == Some(&text) { Change::Unchanged } else { Change::Updated };
            Step { text: new, change, keep: false, hook, path }
        }
        Standing::Edited => return Err(Error::Edited { kept: kept(&path), path }),
        Standing::Others { text } => {
            if script::goes_by_its_name(&text) {
                return Err(Error::ByName { path, line: by_hand(hook, &entry) });
            }
            if stands(&kept(&path)) {
                return Err(Error::KeptStands { kept: kept(&path), path });
            }
            Step { text: written(fresh), change: Change::Installed, keep: true, hook, path }
        }
    };
    if step.text.is_none() { Err(Error::OddPath(program.into())) } else { Ok(step) }
}

/// The command for a manager of hooks.
fn by_hand(hook: Hook, entry: &Entry) -> String {
    let project = shlex::try_quote(&entry.project).unwrap_or_default();
    let gate = if entry.gate { " --gate" } else { "" };
    format!("pollinator hook run {} --project {project}{gate} -- \"$@\"", hook.name())
}

fn put(step: Step) -> Result<Outcome, Error> {
    let (path, kept) = (&step.path, kept(&step.path));
    if let Some(text) = step.text.filter(|_| step.change != Change::Unchanged) {
        // What can fail for want of room or rights has been done before the earlier hook is moved.
        let written = write(path, &text)?;
        if step.keep {
            rename(path, &kept)?;
        }
        let placed = place(written, path);
        if placed.is_err() && step.keep {
            rename(&kept, path)?;
        }
        placed?;
    }
    let earlier = stands(&kept).then_some(kept);
    Ok(Outcome { hook: step.hook, change: step.change, earlier, path: step.path })
}

/// Takes projects out: of where git looks for hooks, and of where it did before `core.hooksPath` was set.
pub fn uninstall(repository: &Repository, which: Which<'_>) -> Result<Vec<Outcome>, Error> {
    let mut folders = vec![repository.hooks.clone()];
    if repository.usual_hooks() != repository.hooks {
        folders.push(repository.usual_hooks());
    }
    for (hook, path) in folders.iter().flat_map(|folder| Hook::ALL.map(|hook| (hook, folder.join(hook.name())))) {
        if matches!(look(hook, &path)?, Standing::Edited) {
            return Err(Error::Edited { kept: kept(&path), path });
        }
    }
    let mut outcomes = Vec::new();
    for (number, folder) in folders.iter().enumerate() {
        for hook in Hook::ALL {
            let outcome = take_out(repository, hook, folder.join(hook.name()), which)?;
            if number == 0 || outcome.change != Change::NotThere {
                outcomes.push(outcome);
            }
        }
    }
    Ok(outcomes)
}

fn take_out(repository: &Repository, hook: Hook, path: PathBuf, which: Which<'_>) -> Result<Outcome, Error> {
    let kept = kept(&path);
    let change = match look(hook, &path)? {
        Standing::Ours { script, .. } => {
            let goes = |entry: &Entry| is_of(repository, entry) && matches_project(which, entry);
            let left: Vec<Entry> = script.entries.iter().filter(|entry| !goes(entry)).cloned().collect();
            if left.len() == script.entries.len() {
                Change::NotThere
            } else if left.is_empty() {
                remove(&path, &kept)?
            } else if let Some(text) = (Script { entries: left, ..script }).text() {
                place(write(&path, &text)?, &path)?;
                Change::Updated
            } else {
                Change::Unchanged
            }
        }
        // The end of an installation or a removal that was cut off.
        Standing::Nothing if stands(&kept) => remove(&path, &kept)?,
        Standing::Nothing | Standing::Others { .. } => Change::NotThere,
        Standing::Edited => return Err(Error::Edited { path, kept }),
    };
    let earlier = match change {
        Change::Restored => Some(path.clone()),
        _ => stands(&kept).then_some(kept),
    };
    Ok(Outcome { hook, path, change, earlier })
}

/// Whether an entry is of this repository: without a name, the hook serves no other.
pub(super) fn is_of(repository: &Repository, entry: &Entry) -> bool {
    entry.repository.as_ref().is_none_or(|common| Path::new(common) == repository.common)
}

fn matches_project(which: Which<'_>, entry: &Entry) -> bool {
    match which {
        Which::Project(project) => entry.project == project,
        Which::All => true,
    }
}

fn remove(path: &Path, kept: &Path) -> Result<Change, Error> {
    if stands(kept) {
        rename(kept, path)?;
        return Ok(Change::Restored);
    }
    fs::remove_file(path).map_err(|source| Error::File { what: "cannot remove", path: path.to_owned(), source })?;
    Ok(Change::Removed)
}

fn rename(from: &Path, to: &Path) -> Result<(), Error> {
    fs::rename(from, to).map_err(|source| Error::File { what: "cannot rename", path: from.to_owned(), source })
}

/// Beside its place: git must never start half a hook.
fn write(path: &Path, text: &str) -> Result<NamedTempFile, Error> {
    let failed = |source| Error::File { what: "cannot write", path: path.to_owned(), source };
    let folder = path.parent().unwrap_or(Path::new("."));
    let mut file = tempfile::Builder::new().prefix(".pollinator-").tempfile_in(folder).map_err(failed)?;
    file.write_all(text.as_bytes()).map_err(failed)?;
    file.as_file().set_permissions(fs::Permissions::from_mode(MODE)).map_err(failed)?;
    Ok(file)
}

fn place(file: NamedTempFile, path: &Path) -> Result<(), Error> {
    let failed = |source| Error::File { what: "cannot write", path: path.to_owned(), source };
    file.persist(path).map(drop).map_err(|error| failed(error.error))
}
