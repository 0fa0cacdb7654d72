//! What can be said on the command line.

use super::commands;
use super::render::Color;
use clap::Parser;
use clap::Subcommand;
use std::path::Path;
use std::path::PathBuf;

/// Run what is on your laptop on a supercomputer, a Kubernetes cluster or this machine.
#[derive(Debug, Parser)]
#[command(name = "pollinator", version, propagate_version = false, disable_help_subcommand = true, after_help = AFTER)]
pub struct Cli {
    /// Options of every command.
    #[command(flatten)]
    pub global: Global,
    /// The command.
    #[command(subcommand)]
    pub command: Command,
}

const AFTER: &str = "\
Exit codes: 0 done, 1 failed, 2 usage or configuration, 3 the process failed or was cancelled, 4 a server cannot be reached, \
130 interrupted.
With nothing configured, an embedded local colony runs everything on this machine.";

/// Options of every command.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct Global {
    /// Folder of the project (or one below it)
    #[arg(short = 'C', long = "project", value_name = "DIR", global = true)]
    pub project: Option<PathBuf>,
    /// Profile of the config file
    #[arg(long, value_name = "NAME", global = true)]
    pub profile: Option<String>,
    /// Machine-readable output: listings as JSON, long operations as one event a line
    #[arg(long, global = true)]
    pub json: bool,
    /// Say more about what is done, on standard error
    #[arg(short, long, global = true)]
    pub verbose: bool,
    /// When to use colours
    #[arg(long, value_enum, default_value_t = Color::Auto, value_name = "WHEN", global = true)]
    pub color: Color,
}

/// The commands, in the order of help.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Make a new project for an executor
    New(commands::new::Args),
    /// Bring the project over and run it
    Run(commands::run::Args),
    /// Bring the trees in step with the colony
    Sync(commands::sync::Args),
    /// Show what a sync would do, file by file
    Diff(commands::diff::Args),
    /// List runs, newest first
    Runs(commands::runs::Args),
    /// Show what is known of a run
    Show(commands::show::Args),
    /// Bring the very source of a run back, into a folder
    Checkout(commands::checkout::Args),
    /// Print the log of a run
    Logs(commands::logs::Args),
    /// Cancel a waiting or running process
    Cancel(commands::cancel::Args),
    /// Fetch results
    Results(commands::results::Args),
    /// Lead a port of this machine to the node of a run
    Tunnel(commands::tunnel::Args),
    /// List the colony's executors and what they offer
    Executors(commands::executors::Args),
    /// Serve as an executor of the colony
    #[command(subcommand)]
    Executor(commands::executor::Command),
    /// Print the function specification as JSON
    Funcspec(commands::funcspec::Args),
    /// Remove what the project no longer needs in the colony: old snapshots, revisions, objects
    Gc(commands::gc::Args),
    /// Try each thing that a run needs
    Doctor(commands::doctor::Args),
    /// Say whether files are left out, and by which rule
    Ignored(commands::ignored::Args),
    /// Show the settings and where each comes from
    Config(commands::config::Args),
    /// Have the agent watch this project: what is saved is brought over, results come home
    Watch(commands::watch::Args),
    /// Git hooks: what commits and pushes start
    #[command(subcommand)]
    Hook(commands::hook::Command),
    /// The embedded local colony
    #[command(subcommand)]
    Colony(commands::colony::Command),
    /// Print a script that completes commands in a shell
    Completions(commands::completions::Args),
    /// Print the manual page
    Man(commands::man::Args),
    /// Print the version
    Version(commands::version::Args),
}

impl Command {
    /// Whether the command is a service, and the file that its log goes to, if to any.
    pub fn serves(&self) -> Option<Option<&Path>> {
        match self {
            Command::Executor(commands::executor::Command::Start(args)) if !args.check => Some(args.log.as_deref()),
            _ => None,
        }
    }

    /// Whether `--json` means one event a line; otherwise it means one document.
    pub fn streams(&self) -> bool {
        match self {
            Command::Run(args) => !args.dry_run,
            Command::Sync(args) => !args.dry_run,
            Command::Results(args) => !args.dry_run,
            Command::Logs(_) | Command::Tunnel(_) => true,
            _ => false,
        }
    }
}
