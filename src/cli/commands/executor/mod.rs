//! `pollinator executor`: an executor of the colony as a service of its own.

mod drain;
mod start;
mod status;
mod stop;

use crate::cli::CliError;
use crate::cli::Context;
use crate::cli::error::UNREACHABLE;
use crate::config::Sources;
use crate::executor::settings;
use crate::executor::settings::Asked;
use std::path::PathBuf;

/// What to do with it.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Take processes of the colony and run them, in the foreground
    Start(start::Args),
    /// Show how an executor stands; one that does not run is shown as its journal knows it
    Status(status::Args),
    /// Have it take no new work and go on with what it has
    Drain(drain::Args),
    /// End it; its jobs go on, and the next start finds them
    Stop(stop::Args),
}

/// Which executor.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct Which {
    /// Name of the executor in the colony
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,
    /// Its settings, a TOML file
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Folder of its journal and key (default: below the state folder, by its name)
    #[arg(long, value_name = "DIR")]
    pub state_dir: Option<PathBuf>,
}

impl Which {
    fn asked(&self) -> Asked {
        let Which { name, config, state_dir } = self.clone();
        Asked { backend: None, name, config, state_dir }
    }
}

fn sources(context: &Context) -> Sources {
    Sources::of_process(context.profile().map(str::to_owned))
}

/// State folders of the executors that are meant: the one that is named, or all at the usual place.
fn folders(context: &Context, which: &Which) -> Result<Vec<PathBuf>, CliError> {
    let place = settings::place(&sources(context), &which.asked())?;
    if let Some(folder) = place.state_dir {
        return Ok(vec![folder]);
    }
    let entries = match std::fs::read_dir(&place.all) {
        Ok(entries) => entries,
        Err(_) => return Ok(Vec::new()),
    };
    let mut all: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).filter(|path| path.is_dir()).collect();
    all.sort();
    Ok(all)
}

/// The one that is meant: where none is named, there must be one only.
fn folder(context: &Context, which: &Which) -> Result<PathBuf, CliError> {
    let mut all = folders(context, which)?;
    match (all.pop(), all.is_empty()) {
        (Some(one), true) => Ok(one),
        (None, _) => Err(nowhere(&[])),
        (Some(last), false) => {
            all.push(last);
            let names: Vec<_> = all.iter().filter_map(|path| Some(path.file_name()?.to_string_lossy())).collect();
            Err(CliError::usage(format!("there are several executors: {}", names.join(", "))).with_hint("give --name"))
        }
    }
}

/// No executor was ever started there.
fn nowhere(folders: &[PathBuf]) -> CliError {
    let place = match folders {
        [one] => format!("no executor was started with its state in {}", one.display()),
        _ => "no executor was started by this user".to_owned(),
    };
    let error = CliError { code: UNREACHABLE, ..CliError::failed(place) };
    error.with_hint("`pollinator executor start` starts one; --name, --config or --state-dir say which is meant")
}

/// Runs the command.
pub async fn run(context: &Context, command: Command) -> Result<(), CliError> {
    match command {
        Command::Start(args) => start::run(context, args).await,
        Command::Status(args) => status::run(context, args).await,
        Command::Drain(args) => drain::run(context, args).await,
        Command::Stop(args) => stop::run(context, args).await,
    }
}
