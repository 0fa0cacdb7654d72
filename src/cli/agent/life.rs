//! `pollinatord start`, `stop`, `restart`, `reload`.

use crate::agent::life;
use crate::cli::CliError;
use crate::cli::Context;

pub async fn start(context: &Context) -> Result<(), CliError> {
    let settings = context.settings()?;
    let started = life::start(&settings.state_dir, context.profile()).await?;
    told(context, "started", started, if started { "the agent runs" } else { "an agent runs already" })
}

pub async fn stop(context: &Context) -> Result<(), CliError> {
    let stopped = life::stop(&context.settings()?.state_dir).await?;
    told(context, "stopped", stopped, if stopped { "the agent has ended" } else { "no agent ran" })
}

pub async fn restart(context: &Context) -> Result<(), CliError> {
    let settings = context.settings()?;
    life::stop(&settings.state_dir).await?;
    life::start(&settings.state_dir, context.profile()).await?;
    told(context, "started", true, "the agent runs anew")
}

pub async fn reload(context: &Context) -> Result<(), CliError> {
    super::find(context).await?.tell("/v1/reload", &serde_json::json!({})).await?;
    told(context, "reloaded", true, "the agent has read its settings again")
}

fn told(context: &Context, name: &str, value: bool, text: &str) -> Result<(), CliError> {
    if context.json() {
        return context.print_json(&serde_json::json!({ name: value }));
    }
    context.print(text);
    Ok(())
}
