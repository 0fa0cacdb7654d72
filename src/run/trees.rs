//! The project's trees as a run needs them: src mirrored and frozen in a snapshot, data and result in step.

use super::Connection;
use super::Error;
use super::commit::Extracted;
use super::spec;
use crate::cfs;
use crate::cfs::Policy;
use crate::cfs::SyncOptions;
use crate::cfs::SyncReport;
use crate::cfs::VerifyReport;
use crate::colonies::Snapshot;
use crate::event::Event;
use crate::event::Events;
use crate::event::Tree;
use crate::index::Extent;
use crate::index::RelPath;
use crate::project::Project;
use jiff::Timestamp;

/// How many files are handled at once where nothing else is said: enough for small files far away; large ones are limited by the
/// memory that their parts take.
pub const JOBS: usize = 32;
/// So many earlier snapshots of a tree are looked at before a new one is made.
const TRIED: usize = 4;

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
    let src = sync(connection, project, Tree::Src, options, events).await?;
    let data = bring_others(connection, project, options, events).await?;
    let problems = problems_of([(Tree::Src, &src), (Tree::Data, &data)]);
    if !problems.is_empty() {
        return Err(Error::Incomplete { problems });
    }
    let left = |tree: Tree, report: &SyncReport| report.busy.iter().map(|path| (tree, path.clone())).collect::<Vec<_>>();
    let busy = [left(Tree::Src, &src), left(Tree::Data, &data)].concat();
    Ok(Brought { inputs: format!("{}-{}", src.tree_digest, data.tree_digest), busy, src })
}

/// Brings data and result over before a run whose src comes from elsewhere, under the same condition.
pub(super) async fn bring_over_beside(
    connection: &Connection,
    project: &Project,
    options: &TreeOptions,
    events: &Events,
) -> Result<(), Error> {
    let data = bring_others(connection, project, options, events).await?;
    let problems = problems_of([(Tree::Data, &data)]);
    if problems.is_empty() { Ok(()) } else { Err(Error::Incomplete { problems }) }
}

/// Gives what became of data. What cannot be fetched of result is told, and stops nothing.
async fn bring_others(
    connection: &Connection,
    project: &Project,
    options: &TreeOptions,
    events: &Events,
) -> Result<SyncReport, Error> {
    let data = sync(connection, project, Tree::Data, options, events).await?;
    sync(connection, project, Tree::Result, options, events).await?;
    Ok(data)
}

fn problems_of<const N: usize>(reports: [(Tree, &SyncReport); N]) -> Vec<(String, String)> {
    reports.into_iter().flat_map(|(tree, report)| named(tree, &report.problems)).collect()
}

/// Problems with the tree in their paths.
fn named(tree: Tree, problems: &[(String, String)]) -> Vec<(String, String)> {
    problems.iter().map(|(path, why)| (format!("{tree}/{path}"), why.clone())).collect()
}

/// A snapshot of the src tree as `report` left it: one that exists already where the tree is the same.
pub async fn freeze(connection: &Connection, project: &Project, report: &SyncReport) -> Result<Frozen, Error> {
    let name = &project.settings.projectname;
    let earlier = snapshots_of(connection, name, &report.tree_digest)?;
    let earlier = earlier.first().map(|(id, used)| (id.as_str(), *used));
    let label = spec::label(name, Tree::Src);
    let snapshot = cfs::snapshot(&connection.cfs, &label, report, earlier).await?;
    Ok(Frozen { snapshot_id: snapshot.snapshotid, label: snapshot.label, digest: report.tree_digest.clone() })
}

fn snapshots_of(connection: &Connection, project_name: &str, digest: &str) -> Result<Vec<(String, i64)>, Error> {
    let client = connection.client();
    Ok(connection.journal.snapshots_of_tree(project_name, &client.server(), client.colony(), digest)?)
}

/// A src tree that is not the working one: what of it is to be sent, and where to.
pub(super) struct Apart {
    options: SyncOptions,
    digest: String,
    /// A snapshot of the very same tree.
    again: Option<Snapshot>,
}

/// Looks at a src tree that lies in a folder of ours. It gets a label of its own, so that the label of the working tree stays as
/// it is; its name says which tree it is, so that the same tree is never brought over twice.
pub(super) async fn look_apart(
    connection: &Connection,
    project: &Project,
    extracted: &Extracted,
    options: &TreeOptions,
    events: &Events,
) -> Result<Apart, Error> {
    let local = cfs::look(&connection.index, &extracted.src, Some(&extracted.project), options.jobs).await?;
    if !local.problems.is_empty() {
        return Err(Error::Incomplete { problems: named(Tree::Src, &local.problems) });
    }
    let (name, digest) = (&project.settings.projectname, cfs::digest(&local.files));
    let label = spec::label(name, Tree::Src);
    let mut again = None;
    for (id, _) in snapshots_of(connection, name, &digest)?.iter().take(TRIED) {
        again = cfs::frozen_again(&connection.cfs, &label, id, &local).await?;
        if again.is_some() {
            break;
        }
    }
    if again.is_some() {
        for (path, problem) in local.skipped {
            events.emit(Event::FileProblem { tree: Tree::Src, path, problem });
        }
    }
    let options = SyncOptions {
        label: cfs::own_label(&label, &digest, Timestamp::now()),
        folder: extracted.src.clone(),
        rules_from: Some(extracted.project.clone()),
        ..sync_options(project, Tree::Src, options)
    };
    Ok(Apart { options, digest, again })
}

impl Apart {
    /// Brings it over, or says what would be sent.
    pub(super) async fn sync(&self, connection: &Connection, events: &Events) -> Result<SyncReport, Error> {
        if self.again.is_some() {
            return Ok(SyncReport::default());
        }
        Ok(cfs::sync(&connection.cfs, &connection.index, &connection.journal, &self.options, events).await?)
    }

    /// Brings it over and freezes it, unless that was done before.
    pub(super) async fn freeze(&self, connection: &Connection, events: &Events) -> Result<Frozen, Error> {
        let snapshot = match &self.again {
            Some(snapshot) => snapshot.clone(),
            None => {
                let made = self.freeze_anew(connection, events).await;
                // The folder goes, and is not brought in step with this label again.
                cfs::forget_tree(&connection.cfs, &connection.journal, &self.options.label, &self.options.folder)?;
                made?
            }
        };
        Ok(Frozen { snapshot_id: snapshot.snapshotid, label: snapshot.label, digest: self.digest.clone() })
    }

    async fn freeze_anew(&self, connection: &Connection, events: &Events) -> Result<Snapshot, Error> {
        let report = self.sync(connection, events).await?;
        if !report.problems.is_empty() {
            return Err(Error::Incomplete { problems: named(Tree::Src, &report.problems) });
        }
        Ok(cfs::snapshot(&connection.cfs, &self.options.label, &report, None).await?)
    }
}

/// Whether a tree was ever brought in step with this colony from this folder.
pub fn was_synchronized(connection: &Connection, project: &Project, tree: Tree) -> Result<bool, Error> {
    let label = spec::label(&project.settings.projectname, tree);
    let folder = project.tree_folder(tree);
    Ok(cfs::was_synchronized(&connection.cfs, &connection.journal, &label, &folder)?)
}
