//! `pollinator completions SHELL`.

use crate::cli::CliError;
use crate::cli::Context;
use crate::cli::arguments::Cli;
use clap::CommandFactory;

/// Arguments of `pollinator completions`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The shell
    #[arg(value_enum)]
    pub shell: clap_complete::Shell,
}

/// Runs the command.
pub fn run(context: &Context, args: Args) -> Result<(), CliError> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "pollinator", &mut script);
    context.screen().out(&script);
    Ok(())
}
