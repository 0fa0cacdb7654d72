//! What the hooks call: after a commit, before a push.
//!
//! Only a gate refuses. Whatever else goes wrong is told in two lines, what failed and what to do, and git goes on.

use super::run_of_commit;
use super::run_of_commit::Ended;
use super::run_of_commit::How;
use crate::agent::hooks;
use crate::agent::hooks::Hook;
use crate::agent::hooks::Work;
use crate::agent::hooks::background;
use crate::agent::hooks::moment;
use crate::agent::hooks::pushed;
use crate::agent::hooks::repository;
use crate::agent::notify::Desktop;
use crate::agent::notify::Note;
use crate::blocking;
use crate::cli::CliError;
use crate::cli::Context;
use crate::cli::error;
use crate::cli::render::Tone;
use crate::cli::render::times;
use crate::colonies::Client;
use crate::colonies::client::Patience;
use crate::event::Tree;
use crate::project;
use crate::project::OnCommit;
use crate::project::OnPush;
use crate::project::Project;
use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

/// A push waits less long for a server that does not answer than a run does.
const PATIENCE: Patience = Patience { request: Duration::from_secs(10), retries: 1, first_pause: Duration::from_millis(500) };
/// Digits of a commit that are shown.
const SHORT: usize = 10;

/// Arguments of `pollinator hook run`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Which hook calls
    #[arg(value_name = "HOOK", value_parser = hook)]
    pub hook: Hook,
    /// Git folder of the work tree, where a hook knows it
    #[arg(long, value_name = "DIR")]
    pub git_dir: Option<PathBuf>,
    /// Refuse where project.yaml cannot be read
    #[arg(long)]
    pub gate: bool,
    /// What git gives the hook
    #[arg(last = true, value_name = "ARGUMENTS")]
    pub arguments: Vec<OsString>,
}

fn hook(text: &str) -> Result<Hook, String> {
    Hook::ALL.into_iter().find(|hook| hook.name() == text).ok_or_else(|| "must be post-commit or pre-push".to_owned())
}

/// Runs the command.
pub async fn run(context: &Context, args: Args) -> Result<(), CliError> {
    match args.hook {
        Hook::PostCommit => {
            // Git has made its commit already, and cares for no exit code.
            if let Err(error) = post_commit(context, &args).await {
                warn(context, "the commit stands, but nothing was started", &error, "");
            }
            Ok(())
        }
        Hook::PrePush => pre_push(context, &args).await,
    }
}

/// The project; none where what is checked out has none.
fn project_here(context: &Context) -> Result<Option<Project>, CliError> {
    match project::load(&context.folder()) {
        Ok((project, _)) => Ok(Some(project)),
        Err(project::Error::NotFound { .. }) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

async fn post_commit(context: &Context, args: &Args) -> Result<(), CliError> {
    let Some(project) = project_here(context)? else { return Ok(()) };
    let on_commit = project.settings.agent.on_commit;
    if on_commit == OnCommit::Off {
        return Ok(());
    }
    let git_dir = match &args.git_dir {
        Some(git_dir) => git_dir.clone(),
        None => repository::git_dir(&project.folder)?,
    };
    if moment::more_commits_follow(&git_dir) {
        return Ok(());
    }
    let commit = repository::head(&project.folder)?;
    let (work, command, what) = match on_commit {
        OnCommit::Run => {
            let command = run_of_commit::command(context, &project.folder, &commit, How::Detached)?;
            (Work::Run { commit: commit.clone() }, command, "submits a run of this commit")
        }
        OnCommit::Sync | OnCommit::Off => {
            let command = run_of_commit::program(context, &project.folder, &["sync", "src", "data"])?;
            (Work::Sync, command, "brings the trees over")
        }
    };
    let state = &context.settings()?.state_dir;
    if hooks::hand_to_agent(state, &project.folder, &work).await {
        return Ok(());
    }
    let log = background::log_of(state, &project.settings.projectname, &project.folder);
    let now = jiff::Zoned::now().strftime("%Y-%m-%d %H:%M:%S");
    background::start(command, &log, &format!("{now} pollinator {what}: {commit}"))?;
    context.note(&format!("pollinator {what} in the background; its log: {}", log.display()));
    Ok(())
}

async fn pre_push(context: &Context, args: &Args) -> Result<(), CliError> {
    let lines = lines_of_git().await?;
    let commits = pushed::commits(&lines);
    if commits.is_empty() {
        return Ok(());
    }
    let project = match project_here(context) {
        Ok(Some(project)) => project,
        Ok(None) => return Ok(()),
        Err(error) if args.gate => return Err(refused(error)),
        Err(error) => {
            warn(context, "the push goes on, but nothing was started", &error, "");
            return Ok(());
        }
    };
    let undone = match project.settings.agent.on_push {
        OnPush::Off => return Ok(()),
        OnPush::Gate => {
            let commit = newest(&project, &commits).map_err(refused)?;
            return gate(context, &project, &commit).await.map_err(refused);
        }
        OnPush::Sync => (sync(context, &project).await, "the trees were not brought over", "`pollinator sync` does it later"),
        OnPush::Run => {
            (submit(context, &project, &commits).await, "no run was started", "`pollinator run --commit` does it later")
        }
    };
    match undone {
        (Err(error), ..) if error.code == error::INTERRUPTED => Err(error),
        (Err(error), what, later) => {
            warn(context, &format!("the push goes on, but {what}"), &error, later);
            Ok(())
        }
        (Ok(()), ..) => Ok(()),
    }
}

async fn lines_of_git() -> Result<String, CliError> {
    let read = blocking::run(|| std::io::read_to_string(std::io::stdin())).await;
    read.map_err(|e| CliError::failed(format!("what git says of the push cannot be read: {e}")))
}

fn newest(project: &Project, commits: &[&str]) -> Result<String, CliError> {
    match commits {
        [one] => Ok((*one).to_owned()),
        several => Ok(repository::newest(&project.folder, several)?),
    }
}

/// A server that cannot be reached is known before anything long begins, and does not hold a push up.
async fn reach(context: &Context) -> Result<(), CliError> {
    let connection = context.connect().await?;
    Client::with_patience(connection.client().access(), PATIENCE)?.version().await?;
    Ok(())
}

async fn sync(context: &Context, project: &Project) -> Result<(), CliError> {
    if hooks::hand_to_agent(&context.settings()?.state_dir, &project.folder, &Work::Sync).await {
        return Ok(());
    }
    reach(context).await?;
    let trees_how = super::super::TreeArgs { allow_deletes: false, jobs: None, limit_up: None };
    let trees = vec![Tree::Src, Tree::Data];
    super::super::sync::run(context, super::super::sync::Args { trees, dry_run: false, verify: false, trees_how }).await
}

async fn submit(context: &Context, project: &Project, commits: &[&str]) -> Result<(), CliError> {
    let commit = newest(project, commits)?;
    let work = Work::Run { commit: commit.clone() };
    if hooks::hand_to_agent(&context.settings()?.state_dir, &project.folder, &work).await {
        return Ok(());
    }
    reach(context).await?;
    match run_of_commit::run_commit(context, &project.folder, &commit, How::Detached).await? {
        Ended::Code(0) => Ok(()),
        Ended::Code(code) => Err(CliError::failed(format!("`pollinator run --commit {}` ended with {code}", short(&commit)))),
        Ended::TimedOut | Ended::Interrupted => Err(CliError::interrupted("interrupted")),
    }
}

/// Waits for a run of the commit; an error refuses the push.
async fn gate(context: &Context, project: &Project, commit: &str) -> Result<(), CliError> {
    reach(context).await?;
    let (settings, short) = (&project.settings.agent, short(commit));
    context.note(&format!("the push waits for a run of {short} (onPush is gate)"));
    let how = How::Followed(settings.gate_timeout);
    let ended = run_of_commit::run_commit(context, &project.folder, commit, how).await?;
    let (fate, outcome) = match ended {
        Ended::Code(0) => ("succeeded", Ok(())),
        Ended::Code(error::PROCESS_FAILED) => {
            let message = format!("the run of {short} failed or was cancelled");
            ("failed or was cancelled", Err(CliError::process_failed(message).with_hint("`pollinator logs last` shows its log")))
        }
        Ended::Code(code) => {
            let failed = CliError::failed(format!("the run of {short} could not be made or followed (said above)"));
            ("could not be made or followed", Err(CliError { code: code.max(1), ..failed }))
        }
        Ended::TimedOut => {
            let limit = times::duration(i64::try_from(settings.gate_timeout.as_nanos()).unwrap_or(i64::MAX));
            let message = format!("the run of {short} did not end within {limit} (gateTimeout in project.yaml)");
            let hint = "it goes on: above stands how to follow or cancel it";
            ("did not end in time", Err(CliError::failed(message).with_hint(hint)))
        }
        Ended::Interrupted => {
            let hint = "the process goes on: above stands how to follow or cancel it";
            return Err(CliError::interrupted("interrupted").with_hint(hint));
        }
    };
    if settings.notify {
        let note = Note::of_run(&project.settings.projectname, &format!("of {short}"), fate);
        Desktop::of_process().tell(&note).await;
    }
    outcome
}

fn short(commit: &str) -> &str {
    commit.get(..SHORT).unwrap_or(commit)
}

/// An error that refuses the push: two lines, the second with the way past it.
fn refused(error: CliError) -> CliError {
    let hint = match error.first_hint() {
        Some(hint) => format!("{hint}; `git push --no-verify` pushes without the gate"),
        None => "`git push --no-verify` pushes without the gate".to_owned(),
    };
    let message = format!("the push is refused: {}", error.message);
    CliError { message, hints: vec![hint], ..error }
}

/// An error that refuses nothing, in two lines.
fn warn(context: &Context, what: &str, error: &CliError, later: &str) {
    context.warn(&format!("{what}: {}", error.message));
    let hints: Vec<&str> = error.hints.iter().map(String::as_str).chain([later]).filter(|hint| !hint.is_empty()).collect();
    if !hints.is_empty() {
        context.screen().say(Tone::Hint, &hints.join("; "));
    }
}
