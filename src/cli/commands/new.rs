//! `pollinator new`: a project for an executor.

use crate::cli::CliError;
use crate::cli::Context;
use crate::cli::render::Tone;
use crate::project;
use crate::project::Created;
use std::path::PathBuf;

/// Arguments of `pollinator new`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Executor that is to run it (`pollinator executors` lists them; the local one is called `local`)
    #[arg(short = 'n', long = "name", visible_alias = "executorname", value_name = "EXECUTOR")]
    pub executor: String,
    /// Folder to make it in; this one where nothing is said
    #[arg(value_name = "DIR")]
    pub folder: Option<PathBuf>,
}

/// Runs the command.
pub fn run(context: &Context, args: Args) -> Result<(), CliError> {
    if args.executor.trim().is_empty() {
        return Err(CliError::usage("the executor's name is empty").with_hint("give one with -n, `local` for instance"));
    }
    let folder = args.folder.unwrap_or_else(|| context.folder());
    let created = project::create(&folder, args.executor.trim(), &random_name()?)?;
    if context.json() {
        let below = |c: &Created| match c {
            Created::Folder(path) | Created::File(path) => path.clone(),
        };
        let made: Vec<PathBuf> = created.iter().map(below).collect();
        return context.print_json(&serde_json::json!({ "folder": folder, "created": made }));
    }
    for item in &created {
        let line = match item {
            Created::Folder(path) => format!("Creating directory Dir=./{}", path.display()),
            Created::File(path) => format!("Generating Filename=./{}", path.display()),
        };
        context.screen().say(Tone::Note, &line);
    }
    Ok(())
}

/// 64 random hex digits, as today's tool names projects.
fn random_name() -> Result<String, CliError> {
    let mut bytes = [0u8; 32];
    getrandom::fill(&mut bytes).map_err(|e| CliError::failed(format!("no randomness from the system: {e}")))?;
    Ok(hex::encode(bytes))
}
