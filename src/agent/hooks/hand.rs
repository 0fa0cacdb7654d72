//! What a hook asks for, and whom it is handed to.

use crate::agent::control::client::Agent;
use crate::agent::control::model;
use crate::agent::control::model::Job;
use std::path::Path;

/// What a hook asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Work {
    /// The trees src and data are brought over, as they are on disk.
    Sync,
    /// A run of a commit is submitted.
    Run {
        /// Its id.
        commit: String,
    },
}

/// Hands work to the agent, where it runs and owns the project. Says whether the agent has taken it; whoever asked does it otherwise.
/// It is done when the agent comes to it: nobody waits.
pub async fn hand_to_agent(state_folder: &Path, project_folder: &Path, work: &Work) -> bool {
    let agent = match Agent::find(state_folder).await {
        Ok(Some(agent)) => agent,
        Ok(None) => return false,
        Err(error) => {
            tracing::info!(%error, "the agent cannot take it");
            return false;
        }
    };
    let job = match work {
        Work::Sync => Job::Flush,
        Work::Run { commit } => Job::Run {
            processes: 1,
            executor: None,
            allow_deletes: false,
            jobs: None,
            follow: false,
            commit: Some(commit.clone()),
            max_points: None,
        },
    };
    let work = model::Work { root: project_folder.to_owned(), way: None, job, detach: true };
    match agent.tell("/v1/work", &work).await {
        Ok(()) => true,
        Err(error) => {
            tracing::info!(%error, "the agent does not take it");
            false
        }
    }
}
