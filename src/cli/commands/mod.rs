//! The commands, one file each: arguments and what is done with them.

pub mod cancel;
pub mod checkout;
pub mod colony;
pub mod completions;
pub mod config;
pub mod diff;
pub mod doctor;
pub mod executor;
pub mod executors;
pub mod funcspec;
pub mod gc;
pub mod hook;
pub mod ignored;
pub mod logs;
pub mod man;
pub mod new;
pub mod results;
pub mod run;
pub mod runs;
pub mod show;
mod sweeps;
pub mod sync;
pub mod tunnel;
pub mod version;
pub mod watch;

use super::CliError;
use super::Context;
use super::arguments::Command;
use crate::event::Tree;
use crate::run::trees::JOBS;
use crate::run::trees::TreeOptions;

/// Runs one command.
pub async fn run(context: &Context, command: Command) -> Result<(), CliError> {
    match command {
        Command::New(args) => new::run(context, args),
        Command::Run(args) => run::run(context, args).await,
        Command::Sync(args) => sync::run(context, args).await,
        Command::Diff(args) => diff::run(context, args).await,
        Command::Runs(args) => runs::run(context, args).await,
        Command::Show(args) => show::run(context, args).await,
        Command::Checkout(args) => checkout::run(context, args).await,
        Command::Logs(args) => logs::run(context, args).await,
        Command::Cancel(args) => cancel::run(context, args).await,
        Command::Results(args) => results::run(context, args).await,
        Command::Tunnel(args) => tunnel::run(context, args).await,
        Command::Executor(command) => executor::run(context, command).await,
        Command::Executors(args) => executors::run(context, args).await,
        Command::Funcspec(args) => funcspec::run(context, args).await,
        Command::Gc(args) => gc::run(context, args).await,
        Command::Doctor(args) => doctor::run(context, args).await,
        Command::Ignored(args) => ignored::run(context, args),
        Command::Config(args) => config::run(context, args),
        Command::Watch(args) => watch::run(context, args).await,
        Command::Hook(command) => hook::run(context, command).await,
        Command::Colony(command) => colony::run(context, command).await,
        Command::Completions(args) => completions::run(context, args),
        Command::Man(args) => man::run(context, args),
        Command::Version(args) => version::run(context, args),
    }
}

/// How trees are brought over, as it is said on the command line.
#[derive(Clone, Copy, Debug, clap::Args)]
pub struct TreeArgs {
    /// Carry out deletions even of more than half of a large tree
    #[arg(long)]
    pub allow_deletes: bool,
    /// How many files are transferred at once (default: 32, or as the settings say)
    #[arg(long, value_name = "N", value_parser = crate::config::jobs)]
    pub jobs: Option<u16>,
    /// Most bytes a second that uploads may take, as 500K or 2.5M
    #[arg(long, value_name = "RATE", value_parser = crate::config::rate)]
    pub limit_up: Option<u64>,
}

impl TreeArgs {
    fn options(self, context: &Context, dry_run: bool) -> Result<TreeOptions, CliError> {
        let jobs = self.jobs.or(context.settings()?.jobs).map_or(JOBS, usize::from);
        Ok(TreeOptions { jobs, allow_deletes: self.allow_deletes, dry_run, leave_open: false })
    }
}

/// Reads the name of a tree.
fn tree_argument(text: &str) -> Result<Tree, String> {
    Tree::ALL.into_iter().find(|tree| tree.name() == text).ok_or_else(|| "must be src, data or result".to_owned())
}
