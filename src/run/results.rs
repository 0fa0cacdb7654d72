//! Bringing results home.

use super::Connection;
use super::Error;
use super::submission;
use super::trees;
use super::trees::TreeOptions;
use crate::cfs::SyncReport;
use crate::event::Events;
use crate::event::Tree;
use crate::journal::runs::Run;
use crate::project::Project;

/// Downloads what is new in the project's result tree, and notes it for `runs`. Results of a failed run come too.
pub async fn fetch(
    connection: &Connection,
    project: &Project,
    runs: &[&Run],
    options: &TreeOptions,
    events: &Events,
) -> Result<SyncReport, Error> {
    let _lock = submission::lock(connection, project, events).await?;
    let report = trees::sync(connection, project, Tree::Result, options, events).await?;
    if report.problems.is_empty() && !options.dry_run {
        for run in runs {
            connection.journal.mark_results_fetched(&run.run_id, submission::now())?;
        }
    }
    Ok(report)
}
