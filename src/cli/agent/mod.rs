//! The command line of `pollinatord`: arguments and rendering.

mod life;
mod projects;
mod serve;
mod service;
mod status;

use super::CliError;
use super::Context;
use super::arguments::Global;
use super::commands;
use super::render;
use super::render::Color;
use clap::CommandFactory;
use clap::Parser;
use clap::Subcommand;
use std::path::PathBuf;
use std::process::ExitCode;

pub use projects::watch;

/// The agent of Pollinator: it brings over what changes, starts runs, and brings results home. Without a command it serves in the
/// foreground.
#[derive(Debug, Parser)]
#[command(name = "pollinatord", version, disable_help_subcommand = true, after_help = AFTER)]
struct Cli {
    /// Profile of the config file
    #[arg(long, value_name = "NAME", global = true)]
    profile: Option<String>,
    /// Machine-readable output
    #[arg(long, global = true)]
    json: bool,
    /// Say more about what is done
    #[arg(short, long, global = true)]
    verbose: bool,
    /// When to use colours
    #[arg(long, value_enum, default_value_t = Color::Auto, value_name = "WHEN", global = true)]
    color: Color,
    /// Look at all projects from time to time instead of being told of changes by the system
    #[arg(long)]
    poll: bool,
    #[command(subcommand)]
    command: Option<Command>,
}

const AFTER: &str = "\
Exit codes: 0 done (status: all is well), 1 failed (status: something is not in step), 2 usage or configuration, 4 no agent runs.";

#[derive(Debug, Subcommand)]
enum Command {
    /// Start the agent in the background
    Start,
    /// End it
    Stop,
    /// End it and start it again, in this version
    Restart,
    /// Have it read the settings again
    Reload,
    /// Have it started at login
    Install(service::Args),
    /// Have it no longer started at login
    Uninstall(service::Args),
    /// Watch a project
    Add(projects::Which),
    /// Watch it no more
    Remove(projects::Which),
    /// Do nothing for a project, or for all, until told
    Pause(projects::PauseArgs),
    /// Go on
    Resume(projects::ResumeArgs),
    /// Wait until all that was changed before is stored
    Flush(projects::Which),
    /// Show how everything stands
    Status(status::Args),
    /// Print a script that completes commands in a shell
    Completions(commands::completions::Args),
    /// Print the manual page
    Man(commands::man::Args),
    /// The embedded local colony
    #[command(subcommand, hide = true)]
    Colony(commands::colony::Command),
}

impl Command {
    fn streams(&self) -> bool {
        matches!(self, Command::Flush(_))
    }
}

/// Runs the program to its end; gives its exit code.
pub fn main() -> ExitCode {
    crate::net::install_crypto_provider();
    let cli: Cli = match super::parse() {
        Ok(cli) => cli,
        Err(code) => return code,
    };
    let global = Global { project: None, profile: cli.profile, json: cli.json, verbose: cli.verbose, color: cli.color };
    let context = Context::new(&global, cli.command.as_ref().is_some_and(Command::streams));
    match cli.command {
        None => render::log::start_agent(context.verbose()),
        Some(_) => render::log::start(context.verbose()),
    }
    let runtime = match tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return context.report(&CliError::failed(format!("cannot start: {error}"))),
    };
    let outcome = runtime.block_on(run(&context, cli.command, cli.poll));
    runtime.shutdown_background();
    match outcome {
        Ok(code) => code,
        Err(error) => context.report(&error),
    }
}

async fn run(context: &Context, command: Option<Command>, poll: bool) -> Result<ExitCode, CliError> {
    let done = |()| ExitCode::SUCCESS;
    match command {
        None => serve::serve(context, poll).await.map(done),
        Some(Command::Start) => life::start(context).await.map(done),
        Some(Command::Stop) => life::stop(context).await.map(done),
        Some(Command::Restart) => life::restart(context).await.map(done),
        Some(Command::Reload) => life::reload(context).await.map(done),
        Some(Command::Install(args)) => service::install(context, &args).map(done),
        Some(Command::Uninstall(args)) => service::uninstall(context, &args).map(done),
        Some(Command::Add(which)) => projects::add(context, &which).await.map(done),
        Some(Command::Remove(which)) => projects::remove(context, &which).await.map(done),
        Some(Command::Pause(args)) => projects::pause(context, &args).await.map(done),
        Some(Command::Resume(args)) => projects::resume(context, &args).await.map(done),
        Some(Command::Flush(which)) => projects::flush(context, &which).await.map(done),
        Some(Command::Status(args)) => status::status(context, args).await,
        Some(Command::Completions(args)) => commands::completions::complete(context, args, Cli::command()).map(done),
        Some(Command::Man(args)) => commands::man::page(context, args, Cli::command()).map(done),
        Some(Command::Colony(command)) => commands::colony::run(context, command).await.map(done),
    }
}

/// The agent of this state folder; one of another version is told of.
async fn find(context: &Context) -> Result<crate::agent::control::client::Agent, CliError> {
    let state = context.settings()?.state_dir.clone();
    let agent = crate::agent::control::client::Agent::find(&state).await?.ok_or(crate::agent::Error::NotRunning)?;
    context.warn_of_other_version(&agent);
    Ok(agent)
}

/// A folder as the agent knows it: made absolute, with links resolved where it stands.
fn folder(named: Option<&PathBuf>) -> Result<PathBuf, CliError> {
    let named = named.cloned().unwrap_or_else(|| PathBuf::from("."));
    match named.canonicalize() {
        Ok(folder) => Ok(folder),
        // One that is gone may be named all the same.
        Err(_) => std::path::absolute(&named).map_err(|e| CliError::usage(format!("{} is no folder: {e}", named.display()))),
    }
}
