//! `pollinator config`: what holds, and where each value came from.

use crate::cli::CliError;
use crate::cli::Context;

/// Arguments of `pollinator config`.
#[derive(Debug, clap::Args)]
pub struct Args {}

/// Runs the command.
pub fn run(context: &Context, _: Args) -> Result<(), CliError> {
    let settings = context.settings()?;
    if context.json() {
        return context.print_json(&serde_json::json!({
            "local": settings.colony.is_none(),
            "profile": settings.profile,
            "config_file": settings.config_file,
            "state_folder": settings.state_dir,
            "settings": settings.rows,
        }));
    }
    let place = match &settings.colony {
        None => "the embedded local colony (nothing is configured)".to_owned(),
        Some(colony) => format!("colony {} at {}:{}", colony.colony, colony.host, colony.port),
    };
    let exists = if settings.config_file.exists() { "" } else { " (not there)" };
    context.print(&format!("colony        {place}"));
    context.print(&format!("config file   {}{exists}", settings.config_file.display()));
    context.print(&format!("state folder  {}", settings.state_dir.display()));
    context.print("");
    let rows = settings
        .rows
        .iter()
        .map(|row| vec![row.name.clone(), row.value.clone().unwrap_or_else(|| "-".into()), row.origin.clone()]);
    context.print_table(&["SETTING", "VALUE", "FROM"], rows.collect());
    Ok(())
}
