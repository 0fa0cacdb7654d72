//! Removing what a project no longer needs in the colony.

use super::Connection;
use super::Error;
use super::submission;
use super::trees;
use crate::cfs;
use crate::cfs::ReclaimOptions;
use crate::cfs::Reclaimed;
use crate::event::Events;
use crate::project::Project;
use jiff::SignedDuration;
use std::collections::BTreeSet;

/// What is removed, and how.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// What is younger stays.
    pub older_than: SignedDuration,
    /// So many of the newest snapshots stay however old they are.
    pub keep: usize,
    /// Go on where the colony knows no file of the project.
    pub allow_deletes: bool,
    /// Only say what would go.
    pub dry_run: bool,
}

/// Removes what no file, no snapshot that stays and no unfinished run of the project needs, with the project's lock held.
pub async fn reclaim(connection: &Connection, project: &Project, options: &Options, events: &Events) -> Result<Reclaimed, Error> {
    let _lock = submission::lock(connection, project, events).await?;
    let options = ReclaimOptions {
        root: root_label(&project.settings.projectname),
        older_than: options.older_than,
        keep: options.keep,
        jobs: trees::JOBS,
        allow_deletes: options.allow_deletes,
        dry_run: options.dry_run,
    };
    // Uploads of this machine go on where they were cut off, however long that is ago.
    let mut spared = cfs::keys_under_way(&connection.cfs, &connection.journal)?;
    spared.extend(needed_by_snapshots(connection).await?);
    let report = cfs::reclaim(&connection.cfs, &options, &spared).await?;
    if !report.dry_run {
        let gone = report.objects.iter().map(|object| object.name.as_str());
        cfs::forget_objects(&connection.cfs, &connection.index, gone.clone());
        connection.journal.forget_removed(gone)?;
    }
    Ok(report)
}

/// Objects of files that we removed, as long as the snapshot of an earlier run lists them: its source can be brought back with
/// them. What of a snapshot goes now goes with the next call.
async fn needed_by_snapshots(connection: &Connection) -> Result<BTreeSet<String>, Error> {
    let mut removed = connection.journal.removed_objects()?;
    if removed.is_empty() {
        return Ok(BTreeSet::new());
    }
    let snapshots = connection.client().snapshots().await?;
    let listed = snapshots.iter().flat_map(|snapshot| snapshot.fileids.iter().flatten());
    Ok(listed.filter_map(|id| removed.remove(id)).collect())
}

/// The label that all labels of a project are below.
fn root_label(project_name: &str) -> String {
    format!("/pollinator/{project_name}")
}
