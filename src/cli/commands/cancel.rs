//! `pollinator cancel RUN`: ends a waiting or running process.

use crate::cli::CliError;
use crate::cli::Context;
use crate::run;
use crate::run::history;

/// Arguments of `pollinator cancel`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Process ids, beginnings of them, or `last`
    #[arg(value_name = "RUN", required = true)]
    pub runs: Vec<String>,
}

/// Runs the command.
pub async fn run(context: &Context, args: Args) -> Result<(), CliError> {
    let connection = context.connect().await?;
    let folder = context.project_if_any()?.map(|p| p.folder);
    let mut cancelled = Vec::new();
    for word in &args.runs {
        let found = history::resolve(&connection, word, folder.as_deref())?;
        let id = found.process_id()?;
        connection.client().cancel(id).await.map_err(run::Error::from)?;
        let process = connection.client().process(id).await.map_err(run::Error::from)?;
        if let Some(run) = found.run() {
            history::note(&connection, run.clone(), &process).await?;
        }
        cancelled.push(id.to_owned());
        if !context.json() {
            context.print(&format!("Process cancelled ProcessID={id}"));
        }
    }
    if context.json() { context.print_json(&serde_json::json!({ "cancelled": cancelled })) } else { Ok(()) }
}
