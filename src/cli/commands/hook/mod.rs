//! `pollinator hook`: git hooks put in, taken out, looked at; and, hidden, what they call.

mod run_of_commit;
mod triggered;

use crate::agent::hooks::Hook;
use crate::agent::hooks::Repository;
use crate::agent::hooks::install;
use crate::agent::hooks::install::Change;
use crate::agent::hooks::install::Outcome;
use crate::agent::hooks::install::Which;
use crate::agent::hooks::repository::Reach;
use crate::agent::hooks::state;
use crate::agent::hooks::state::HookState;
use crate::agent::hooks::state::State;
use crate::agent::programs;
use crate::cli::CliError;
use crate::cli::Context;
use crate::project::AgentSettings;
use crate::project::OnPush;
use crate::project::Project;
use serde_json::json;
use std::path::PathBuf;

/// What to do with them.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Make git call pollinator for this project, after each commit and before each push
    ///
    /// Hooks that are there already are kept beside and run first. What commits and pushes start, `agent` in project.yaml says.
    Install,
    /// Take this project out again; where it was the last one, the hooks that were there before come back
    Uninstall {
        /// All projects of this repository
        #[arg(long)]
        all: bool,
    },
    /// Say how it stands with each hook
    Status,
    /// What a hook calls
    #[command(hide = true)]
    Run(triggered::Args),
}

/// Runs the command.
pub async fn run(context: &Context, command: Command) -> Result<(), CliError> {
    match command {
        Command::Install => put_in(context),
        Command::Uninstall { all } => take_out(context, all),
        Command::Status => status(context),
        Command::Run(args) => triggered::run(context, args).await,
    }
}

fn put_in(context: &Context) -> Result<(), CliError> {
    let project = context.project()?;
    let repository = Repository::of(&project.folder)?;
    let below = repository.below_top(&project.folder)?;
    let gate = project.settings.agent.on_push == OnPush::Gate;
    let entry = install::entry(&repository, &below, gate, context.profile())?;
    let program = std::env::current_exe().map_err(|e| CliError::failed(format!("this program does not know its path: {e}")))?;
    let outcomes = install::install(&repository, &entry, &program)?;
    let notes = notes_on_place(&repository).into_iter().chain(outcomes.iter().filter_map(note_on_earlier)).collect();
    tell(context, &outcomes, notes, Some(&project))
}

fn take_out(context: &Context, all: bool) -> Result<(), CliError> {
    // The project may be gone, or be in another branch: then the folder itself is meant.
    let folder = match crate::project::find(&context.folder()) {
        Ok((project, _)) => project.folder,
        Err(_) => context.folder(),
    };
    let repository = Repository::of(&folder)?;
    let below = repository.below_top(&folder)?;
    let outcomes = install::uninstall(&repository, if all { Which::All } else { Which::Project(&below) })?;
    tell(context, &outcomes, Vec::new(), None)
}

/// What a person should know of the place where git looks for hooks.
fn notes_on_place(repository: &Repository) -> Option<String> {
    let folder = repository.hooks.display();
    match repository.reach() {
        Reach::Repository => None,
        Reach::Tracked => Some(format!(
            "core.hooksPath names {folder}, a folder of the work tree: git tracks the hooks like any file, with the path of this \
             program in them; on other machines they call the pollinator in PATH"
        )),
        Reach::Shared => Some(format!(
            "core.hooksPath names {folder}, which other repositories may use, too: what was installed serves this one only"
        )),
    }
}

fn note_on_earlier(outcome: &Outcome) -> Option<String> {
    let earlier = outcome.earlier.as_deref().filter(|earlier| !programs::is_executable(earlier))?;
    Some(format!("{} is not executable: git did not run it, and it still does not run", earlier.display()))
}

fn tell(context: &Context, outcomes: &[Outcome], notes: Vec<String>, project: Option<&Project>) -> Result<(), CliError> {
    if context.json() {
        return context.print_json(&json!({ "hooks": outcomes, "notes": notes }));
    }
    for outcome in outcomes {
        let earlier = outcome.earlier.as_ref().filter(|_| outcome.change != Change::Restored);
        let after = earlier.map(|earlier| format!(", after {}", name_of(earlier))).unwrap_or_default();
        let (name, path) = (outcome.hook.name(), outcome.path.display());
        context.print(&match outcome.change {
            Change::Installed => format!("{name}: installed as {path}{after}"),
            Change::Updated => format!("{name}: updated in {path}{after}"),
            Change::Unchanged => format!("{name}: is installed as {path}{after}"),
            Change::Removed => format!("{name}: removed {path}"),
            Change::Restored => format!("{name}: removed; {path} is again what it was"),
            Change::NotThere => format!("{name}: there was none for this project in {path}"),
        });
    }
    if let Some(project) = project {
        context.print(&what_they_do(&project.settings.agent));
    }
    notes.iter().for_each(|note| context.note(note));
    Ok(())
}

fn name_of(path: &std::path::Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

fn what_they_do(settings: &AgentSettings) -> String {
    let word = |value: serde_json::Value| value.as_str().unwrap_or_default().to_owned();
    let (commit, push) = (word(json!(settings.on_commit)), word(json!(settings.on_push)));
    format!("onCommit is {commit}, onPush is {push} (`agent` in project.yaml)")
}

fn status(context: &Context) -> Result<(), CliError> {
    let project = context.project()?;
    let repository = Repository::of(&project.folder)?;
    let hooks = state::of(&repository, &repository.below_top(&project.folder)?)?;
    let settings = &project.settings.agent;
    if context.json() {
        let rows: Vec<_> = hooks
            .iter()
            .map(|hook| {
                let mut row = json!(hook);
                row["notes"] = json!(remarks(hook, &repository, settings));
                row
            })
            .collect();
        let on = json!({ "commit": settings.on_commit, "push": settings.on_push });
        return context.print_json(&json!({ "folder": repository.hooks, "on": on, "hooks": rows }));
    }
    for hook in &hooks {
        context.print(&format!("{}: {} ({})", hook.hook.name(), hook.state.word(), hook.path.display()));
        remarks(hook, &repository, settings).iter().for_each(|remark| context.print(&format!("  {remark}")));
    }
    context.print(&what_they_do(settings));
    notes_on_place(&repository).iter().for_each(|note| context.note(note));
    Ok(())
}

/// What a person should know of a hook.
fn remarks(hook: &HookState, repository: &Repository, settings: &AgentSettings) -> Vec<String> {
    let mut remarks = Vec::new();
    if let Some(earlier) = &hook.earlier {
        remarks.push(match (hook.state, hook.earlier_runs) {
            (State::Missing, _) => format!("the earlier hook is kept as {} and is not called", earlier.display()),
            (_, true) => format!("runs {} first", earlier.display()),
            (_, false) => format!("keeps {}, which is not executable and does not run", earlier.display()),
        });
    }
    match hook.state {
        State::Missing => remarks.push("`pollinator hook install` installs it".into()),
        State::Edited => remarks.push("edited after it was written, or not executable: git may call something else".into()),
        State::Shadowed => remarks.push(format!(
            "core.hooksPath was set afterwards: git looks in {} only; `pollinator hook install` installs it there",
            repository.hooks.display()
        )),
        State::Installed => {}
    }
    if let Some(program) = hook.program.as_ref().filter(|_| hook.program_is_gone) {
        let path: PathBuf = program.clone();
        let instead = match std::env::var_os("PATH").and_then(|path| programs::find("pollinator", &path)) {
            Some(other) => format!("it calls {} from PATH instead", other.display()),
            None => "there is none in PATH either".into(),
        };
        remarks.push(format!("the program {} is gone: {instead}; `pollinator hook install` writes the new path", path.display()));
    }
    let gate = settings.on_push == OnPush::Gate;
    if hook.hook == Hook::PrePush && hook.state == State::Installed && hook.gate != gate {
        remarks.push("onPush was changed to or from gate since: `pollinator hook install` tells the hook".into());
    }
    remarks
}
