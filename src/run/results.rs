//! Bringing results home.

use super::Connection;
use super::Error;
use super::spec;
use super::submission;
use super::trees;
use super::trees::TreeOptions;
use crate::cfs::RemoteFile;
use crate::cfs::SyncReport;
use crate::event::Events;
use crate::event::Tree;
use crate::index::RelPath;
use crate::journal::results::ResultFile;
use crate::journal::runs::Run;
use crate::project::Project;
use std::collections::BTreeSet;

/// Downloads what is new in the project's result tree, and notes it for `runs`: when, and which files. Results of a failed run
/// come too.
///
/// A run with a folder of its own brought what lies there. Where all runs write to one folder, what a run brought is what arrived
/// now: whatever came with an earlier synchronization, or was there before, is nobody's.
pub async fn fetch(
    connection: &Connection,
    project: &Project,
    runs: &[&Run],
    options: &TreeOptions,
    events: &Events,
) -> Result<SyncReport, Error> {
    let _lock = submission::lock(connection, project, events).await?;
    let report = trees::sync(connection, project, Tree::Result, options, events).await?;
    if options.dry_run {
        return Ok(report);
    }
    let now = submission::now();
    for run in runs {
        let own = spec::result_folder(&run.spec, &run.project_name);
        connection.journal.add_results(&run.run_id, &brought(&report, own.as_deref(), now))?;
        if report.problems.is_empty() {
            connection.journal.mark_results_fetched(&run.run_id, now)?;
        }
    }
    Ok(report)
}

/// The files of a run among those of the tree. `own`: its folder, where it has one.
fn brought(report: &SyncReport, own: Option<&str>, now: i64) -> Vec<ResultFile> {
    let failed: BTreeSet<&str> = report.problems.iter().map(|(path, _)| path.as_str()).collect();
    let is_its = |path: &RelPath| match own {
        Some(folder) => path.as_str().strip_prefix(folder).is_some_and(|rest| rest.starts_with('/')),
        None => report.arrived.contains(path),
    };
    let its = report.files.values().filter(|file| is_its(&file.path) && !file.path.is_folder_marker());
    let whole = its.filter(|file| !failed.contains(file.path.as_str()));
    let note = |file: &RemoteFile| ResultFile {
        path: file.path.to_string(),
        size: file.size,
        sha256: file.sha256.clone(),
        fetched: now,
    };
    whole.map(note).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_brought_what_lies_in_its_folder_or_arrived_now() {
        let path = |text: &str| RelPath::parse(text).unwrap();
        let file = |text: &str| RemoteFile { path: path(text), size: 1, sha256: "s".into(), object: "o".into() };
        let names = ["aa/x", "aa/sub/y", "aa/torn", "aab/x", "aa/e/.pollinator-folder", "old", "new"];
        let report = SyncReport {
            files: names.iter().map(|name| (path(name), file(name))).collect(),
            arrived: [path("aa/x"), path("new")].into(),
            problems: vec![("aa/torn".into(), "no".into())],
            ..SyncReport::default()
        };
        let names = |own| brought(&report, own, 7).into_iter().map(|file| file.path).collect::<Vec<_>>();
        assert_eq!(names(Some("aa")), ["aa/sub/y", "aa/x"]);
        assert_eq!(names(None), ["aa/x", "new"]);
        assert!(names(Some("b")).is_empty());
    }
}
