//! The project's trees as a run needs them: src mirrored and frozen in a snapshot, data and result in step.

use super::Connection;
use super::Error;
use super::spec;
use crate::cfs;
use crate::cfs::Policy;
use crate::cfs::SyncOptions;
use crate::cfs::SyncReport;
use crate::cfs::VerifyReport;
use crate::event::Events;
use crate::event::Tree;
use crate::index::Extent;
use crate::index::RelPath;
use crate::project::Project;

/// How many files are handled at once where nothing else is said: enough for small files far away; large ones are limited by the
/// memory that their parts take.
pub const JOBS: usize = 32;

/// How synchronization is done.
#[derive(Clone, Copy, Debug)]
pub struct TreeOptions {
    /// Files handled at once.
    pub jobs: usize,
    /// Carry out a plan that deletes more than half of a large tree.
    pub allow_deletes: bool,
    /// Only say what would be done.
    pub dry_run: bool,
    /// Leave files that somebody is writing.
    pub leave_open: bool,
}

impl Default for TreeOptions {
    fn default() -> TreeOptions {
        TreeOptions { jobs: JOBS, allow_deletes: false, dry_run: false, leave_open: false }
    }
}

/// A project's src tree as it stands in the colony.
#[derive(Clone, Debug)]
pub struct Frozen {
    /// Snapshot of it.
    pub snapshot_id: String,
    /// Label the snapshot was made of.
    pub label: String,
    /// Digest of the tree.
    pub digest: String,
}

/// Who wins in which tree: src mirrors this machine, data prefers it, result prefers the colony.
pub fn policy(tree: Tree) -> Policy {
    match tree {
        Tree::Src => Policy::Mirror,
        Tree::Data => Policy::LocalWins,
        Tree::Result => Policy::RemoteWins,
    }
}

/// Brings one tree in step.
pub async fn sync(
    connection: &Connection,
    project: &Project,
    tree: Tree,
    options: &TreeOptions,
    events: &Events,
) -> Result<SyncReport, Error> {
    let options = sync_options(project, tree, options);
    Ok(cfs::sync(&connection.cfs, &connection.index, &connection.journal, &options, events).await?)
}

/// As [`sync`], looking at some paths only: those that a change was told of. None where the whole tree has to be looked at.
pub async fn sync_some(
    connection: &Connection,
    project: &Project,
    tree: Tree,
    paths: Vec<RelPath>,
    options: &TreeOptions,
    events: &Events,
) -> Result<Option<SyncReport>, Error> {
    let options = sync_options(project, tree, options);
    let extent = Extent::new(paths);
    Ok(cfs::sync_some(&connection.cfs, &connection.index, &connection.journal, &options, &extent, events).await?)
}

/// Reads back what the colony stores of a tree, and sends again what is damaged there and whole here.
pub async fn verify(
    connection: &Connection,
    project: &Project,
    tree: Tree,
    options: &TreeOptions,
    events: &Events,
) -> Result<VerifyReport, Error> {
    Ok(cfs::verify(&connection.cfs, &connection.index, &connection.journal, &sync_options(project, tree, options), events)
        .await?)
}

fn sync_options(project: &Project, tree: Tree, options: &TreeOptions) -> SyncOptions {
    SyncOptions {
        tree,
        label: spec::label(&project.settings.projectname, tree),
        folder: project.tree_folder(tree),
        rules_from: Some(project.folder.clone()),
        policy: policy(tree),
        jobs: options.jobs,
        allow_deletes: options.allow_deletes,
        dry_run: options.dry_run,
        leave_open: options.leave_open,
    }
}

/// What a run finds in the colony.
#[derive(Clone, Debug, Default)]
pub struct Brought {
    /// The src tree.
    pub src: SyncReport,
    /// Digest of src and data.
    pub inputs: String,
    /// Files of both that were left because somebody writes them.
    pub busy: Vec<(Tree, RelPath)>,
}

/// Brings src, data and result over before a run. Files of src or data that could not be stored stop it: a run that
/// silently lacks a file would be worse than none.
pub async fn bring_over(
    connection: &Connection,
    project: &Project,
    options: &TreeOptions,
    events: &Events,
) -> Result<Brought, Error> {
    let mut problems = Vec::new();
    let mut brought = Brought::default();
    for tree in Tree::ALL {
        let report = sync(connection, project, tree, options, events).await?;
        if tree != Tree::Result {
            problems.extend(report.problems.iter().map(|(path, why)| (format!("{tree}/{path}"), why.clone())));
            brought.busy.extend(report.busy.iter().map(|path| (tree, path.clone())));
        }
        match tree {
            Tree::Src => (brought.inputs, brought.src) = (report.tree_digest.clone(), report),
            Tree::Data => brought.inputs = format!("{}-{}", brought.inputs, report.tree_digest),
            Tree::Result => {}
        }
    }
    if problems.is_empty() { Ok(brought) } else { Err(Error::Incomplete { problems }) }
}

/// A snapshot of the src tree as `report` left it: one that exists already where the tree is the same.
pub async fn freeze(connection: &Connection, project: &Project, report: &SyncReport) -> Result<Frozen, Error> {
    let client = connection.client();
    let name = &project.settings.projectname;
    let earlier = connection.journal.run_with_tree(name, &client.server(), client.colony(), &report.tree_digest)?;
    let earlier = earlier.as_ref().map(|run| (run.snapshot_id.as_str(), run.created));
    let label = spec::label(name, Tree::Src);
    let snapshot = cfs::snapshot(&connection.cfs, &label, report, earlier).await?;
    Ok(Frozen { snapshot_id: snapshot.snapshotid, label: snapshot.label, digest: report.tree_digest.clone() })
}

/// Whether a tree was ever brought in step with this colony from this folder.
pub fn was_synchronized(connection: &Connection, project: &Project, tree: Tree) -> Result<bool, Error> {
    let label = spec::label(&project.settings.projectname, tree);
    let folder = project.tree_folder(tree);
    Ok(cfs::was_synchronized(&connection.cfs, &connection.journal, &label, &folder)?)
}
