//! Handing work over to the agent, where one runs and owns the project.

use super::CliError;
use super::Context;
use crate::agent;
use crate::agent::control::client::Agent;
use crate::agent::control::client::Handed;
use crate::agent::control::model::Job;
use crate::agent::control::model::RefusalKind;
use crate::agent::control::model::Work;
use crate::project::Project;
use crate::run::Connection;

/// Hands work over and waits until it is done; none where it is to be done here: no agent runs, it does not own the project, or it would
/// bring it elsewhere.
pub async fn hand_over(
    context: &Context,
    connection: &Connection,
    project: &Project,
    job: Job,
) -> Result<Option<Handed>, CliError> {
    let agent = match Agent::find(&context.settings()?.state_dir).await {
        Ok(Some(agent)) => agent,
        Ok(None) => return Ok(None),
        Err(error) => {
            alone(context, &error);
            return Ok(None);
        }
    };
    context.warn_of_other_version(&agent);
    let way = Some(agent::daemon::way_of(connection));
    let work = Work { root: project.folder.clone(), way, job, detach: false };
    match context.interruptible(agent.work(&work, &context.events())).await? {
        Ok(handed) => Ok(Some(handed)),
        Err(
            agent::Error::Refused { kind: RefusalKind::UnknownProject | RefusalKind::NotConnected, .. }
            | agent::Error::NotRunning,
        ) => Ok(None),
        Err(error @ agent::Error::Refused { kind: RefusalKind::OtherColony, .. }) => {
            alone(context, &error);
            Ok(None)
        }
        Err(error) => Err(error.into()),
    }
}

/// Has the agent, where one runs, believe nothing of what it knew: something was removed behind its back.
pub async fn look_again(context: &Context) {
    let Ok(settings) = context.settings() else { return };
    let told = match Agent::find(&settings.state_dir).await {
        Ok(Some(agent)) => agent.tell("/v1/reload", &serde_json::json!({})).await,
        Ok(None) => Ok(()),
        Err(error) => Err(error),
    };
    if let Err(error) = told {
        context.warn(&format!("the agent was not told of it ({error}); `pollinatord reload` does that"));
    }
}

fn alone(context: &Context, error: &agent::Error) {
    context.warn(&format!("{error}; the work is done without the agent"));
    if let Some(hint) = error.hint() {
        context.note(&hint);
    }
}
