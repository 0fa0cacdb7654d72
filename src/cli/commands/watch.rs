//! `pollinator watch`: has the agent watch this project, starting it where none runs.

use crate::cli::CliError;
use crate::cli::Context;

/// Arguments of `pollinator watch`.
#[derive(Debug, clap::Args)]
pub struct Args {}

/// Runs the command.
pub async fn run(context: &Context, _args: Args) -> Result<(), CliError> {
    crate::cli::agent::watch(context).await
}
