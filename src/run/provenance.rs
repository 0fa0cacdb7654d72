//! What made a run: the commit that was checked out, or that the run was asked to take, and whether what ran differed from it.

use super::git::Git;
use std::path::Path;

/// Git's word on what was run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Provenance {
    /// The commit, where there is one.
    pub commit: Option<String>,
    /// Whether anything that a run is made of differs from it.
    pub dirty: bool,
    /// The revision that was asked for instead of the working tree, as it was named.
    pub revision: Option<String>,
}

/// Asks git about the working tree. No git, no repository, or a git that hangs means: nothing known; a run does not fail for that.
pub async fn of(folder: &Path) -> Provenance {
    let git = Git::at(folder);
    let commit = match git.line(&["rev-parse", "--verify", "HEAD"]).await {
        Ok(commit) => commit,
        Err(error) => {
            tracing::debug!(%error, "git knows of no commit");
            return Provenance::default();
        }
    };
    // Results that came home make no run another one.
    let whatever_made_it = ["status", "--porcelain", "--untracked-files=normal", "--", ".", ":(exclude)cfs/result"];
    let status = git.ask(&whatever_made_it).await;
    Provenance { commit: Some(commit), dirty: !status.is_ok_and(|text| text.is_empty()), revision: None }
}
