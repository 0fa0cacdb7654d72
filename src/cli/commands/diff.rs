//! `pollinator diff`: what a sync would do, file by file.

use crate::cli::CliError;
use crate::cli::Context;
use crate::event::Tree;
use crate::run::trees::TreeOptions;

/// Arguments of `pollinator diff`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Only these trees
    #[arg(value_name = "TREE", value_parser = super::tree_argument)]
    pub trees: Vec<Tree>,
}

/// Runs the command.
pub async fn run(context: &Context, args: Args) -> Result<(), CliError> {
    let project = context.project()?;
    let connection = context.connect().await?;
    // A plan that would be held is shown all the same.
    let options = TreeOptions { dry_run: true, allow_deletes: true, ..TreeOptions::default() };
    super::sync::show_plans(context, &connection, &project, &super::sync::chosen(&args.trees), &options).await
}
