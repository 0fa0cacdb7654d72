//! `pollinator completions SHELL`.

use crate::cli::CliError;
use crate::cli::Context;
use crate::cli::arguments::Cli;
use clap::Command;
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
    complete(context, args, Cli::command())
}

/// The script for one of the programs.
pub fn complete(context: &Context, args: Args, mut program: Command) -> Result<(), CliError> {
    let mut script = Vec::new();
    let name = program.get_name().to_owned();
    clap_complete::generate(args.shell, &mut program, name, &mut script);
    context.screen().out(&script);
    Ok(())
}
