//! What a hook asks for, and whom it is handed to.

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

/// Hands work to the agent, where it runs. Says whether the agent has taken it; whoever asked does it otherwise.
pub async fn hand_to_agent(_state_folder: &Path, _project_folder: &Path, _work: &Work) -> bool {
    false
}
