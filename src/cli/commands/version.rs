//! `pollinator version`.

use crate::cli::CliError;
use crate::cli::Context;

/// Arguments of `pollinator version`.
#[derive(Debug, clap::Args)]
pub struct Args {}

/// Runs the command.
pub fn run(context: &Context, _: Args) -> Result<(), CliError> {
    let version = env!("CARGO_PKG_VERSION");
    if context.json() {
        return context.print_json(&serde_json::json!({ "version": version }));
    }
    context.print(&format!("pollinator {version}"));
    Ok(())
}
