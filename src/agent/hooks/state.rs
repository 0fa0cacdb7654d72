//! How it stands with the hooks of a project.

use super::Error;
use super::Hook;
use super::Repository;
use super::install::Standing;
use super::install::is_of;
use super::install::kept;
use super::install::look;
use super::install::stands;
use super::script::Entry;
use super::script::Script;
use crate::agent::programs;
use serde::Serialize;
use std::path::Path;
use std::path::PathBuf;

/// What can be said of a hook.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// Git calls it.
    Installed,
    /// There is none for this project.
    Missing,
    /// It was edited after it was written.
    Edited,
    /// It is there, but `core.hooksPath` makes git look elsewhere.
    Shadowed,
}

impl State {
    /// The word in listings.
    pub fn word(self) -> &'static str {
        match self {
            State::Installed => "installed",
            State::Missing => "missing",
            State::Edited => "edited",
            State::Shadowed => "shadowed",
        }
    }
}

/// A hook.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct HookState {
    /// Which.
    pub hook: Hook,
    /// Its file; where it would be, if it is missing.
    pub path: PathBuf,
    /// What can be said of it.
    pub state: State,
    /// The earlier hook that it runs first.
    pub earlier: Option<PathBuf>,
    /// Whether git would run that one: it is executable.
    pub earlier_runs: bool,
    /// The program that it calls.
    pub program: Option<PathBuf>,
    /// That program is not there any more.
    pub program_is_gone: bool,
    /// It refuses pushes that cannot be checked.
    pub gate: bool,
}

/// The hooks of a project, by its folder from the top of the work tree.
pub fn of(repository: &Repository, project: &str) -> Result<Vec<HookState>, Error> {
    Hook::ALL.iter().map(|hook| one(repository, *hook, project)).collect()
}

fn one(repository: &Repository, hook: Hook, project: &str) -> Result<HookState, Error> {
    let path = repository.hooks.join(hook.name());
    let here = at(repository, hook, &path, project)?;
    if here.state != State::Missing || repository.usual_hooks() == repository.hooks {
        return Ok(here);
    }
    let there = at(repository, hook, &repository.usual_hooks().join(hook.name()), project)?;
    Ok(if there.state == State::Installed { HookState { state: State::Shadowed, ..there } } else { here })
}

fn at(repository: &Repository, hook: Hook, path: &Path, project: &str) -> Result<HookState, Error> {
    let earlier = Some(kept(path)).filter(|kept| stands(kept));
    let missing = HookState {
        hook,
        path: path.to_owned(),
        state: State::Missing,
        earlier_runs: earlier.as_deref().is_some_and(programs::is_executable),
        earlier,
        program: None,
        program_is_gone: false,
        gate: false,
    };
    let found = match look(hook, path)? {
        Standing::Ours { script, executable: true, .. } => script,
        // Git calls no hook that is not executable.
        Standing::Ours { .. } | Standing::Edited => return Ok(HookState { state: State::Edited, ..missing }),
        Standing::Nothing | Standing::Others { .. } => return Ok(missing),
    };
    match serving(repository, &found, project) {
        None => Ok(missing),
        Some(entry) => Ok(HookState {
            state: State::Installed,
            gate: entry.gate,
            program_is_gone: !programs::is_executable(Path::new(&found.program)),
            program: Some(PathBuf::from(&found.program)),
            ..missing
        }),
    }
}

fn serving<'s>(repository: &Repository, script: &'s Script, project: &str) -> Option<&'s Entry> {
    script.entries.iter().find(|entry| entry.project == project && is_of(repository, entry))
}
