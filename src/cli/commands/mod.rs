//! The commands, one file each: arguments and what is done with them.

pub mod cancel;
pub mod colony;
pub mod completions;
pub mod config;
pub mod diff;
pub mod doctor;
pub mod executors;
pub mod funcspec;
pub mod ignored;
pub mod logs;
pub mod man;
pub mod new;
pub mod results;
pub mod run;
pub mod runs;
pub mod show;
pub mod sync;
pub mod version;

use super::CliError;
use super::Context;
use super::arguments::Command;
use crate::event::Tree;

/// Runs one command.
pub async fn run(context: &Context, command: Command) -> Result<(), CliError> {
    match command {
        Command::New(args) => new::run(context, args),
        Command::Run(args) => run::run(context, args).await,
        Command::Sync(args) => sync::run(context, args).await,
        Command::Diff(args) => diff::run(context, args).await,
        Command::Runs(args) => runs::run(context, args).await,
        Command::Show(args) => show::run(context, args).await,
        Command::Logs(args) => logs::run(context, args).await,
        Command::Cancel(args) => cancel::run(context, args).await,
        Command::Results(args) => results::run(context, args).await,
        Command::Executors(args) => executors::run(context, args).await,
        Command::Funcspec(args) => funcspec::run(context, args).await,
        Command::Doctor(args) => doctor::run(context, args).await,
        Command::Ignored(args) => ignored::run(context, args),
        Command::Config(args) => config::run(context, args),
        Command::Colony(command) => colony::run(context, command).await,
        Command::Completions(args) => completions::run(context, args),
        Command::Man(args) => man::run(context, args),
        Command::Version(args) => version::run(context, args),
    }
}

/// Reads the name of a tree.
fn tree_argument(text: &str) -> Result<Tree, String> {
    Tree::ALL.into_iter().find(|tree| tree.name() == text).ok_or_else(|| "must be src, data or result".to_owned())
}
