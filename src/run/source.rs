//! What a run is made of: the working tree, or a commit.

use super::Connection;
use super::Error;
use super::commit;
use super::commit::Commit;
use super::connection::ProjectLock;
use super::points;
use super::provenance;
use super::provenance::Provenance;
use super::trees;
use super::trees::Apart;
use super::trees::Brought;
use super::trees::Frozen;
use super::trees::TreeOptions;
use crate::cfs::SyncReport;
use crate::event::Events;
use crate::event::Tree;
use crate::index::RelPath;
use crate::project::FILE_NAME;
use crate::project::Project;
use std::path::Path;
use tempfile::TempDir;

/// What a run is made of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Source {
    /// `cfs/src` and `project.yaml` as they stand on the disk.
    #[default]
    WorkingTree,
    /// `cfs/src` as it is in this revision of the repository that the project is in, with the `project.yaml` beside it there, if
    /// there is one. data and result are those on the disk.
    Commit(String),
}

/// A source that was looked at.
pub(super) struct Origin {
    /// The project as it is run: its folder is the working one.
    pub(super) project: Project,
    /// The commit, and how it was named.
    commit: Option<(Commit, String)>,
}

impl Origin {
    /// Looks, and sends nothing.
    pub(super) async fn of(project: &Project, source: &Source, events: &Events) -> Result<Origin, Error> {
        let revision = match source {
            Source::WorkingTree => {
                check_source(project, &project.tree_folder(Tree::Src), "cfs/src")?;
                return Ok(Origin { project: project.clone(), commit: None });
            }
            Source::Commit(revision) => revision.clone(),
        };
        let commit = commit::resolve(&project.folder, &revision).await?;
        let mut project = project.clone();
        match commit.settings().await? {
            Some((settings, warnings)) => {
                let working = std::mem::replace(&mut project.settings, settings);
                if working != project.settings {
                    warnings.iter().for_each(|warning| events.warn(format!("commit {}: {warning}", commit.short())));
                }
                let (then, now) = (&mut project.settings.projectname, working.projectname);
                if *then != now {
                    // Results come home by the name of today, and data lies under it.
                    events.warn(format!("the project was called {then} in commit {}; it runs as {now}", commit.short()));
                    *then = now;
                }
            }
            None => events.warn(format!("{FILE_NAME} is not part of commit {}: the one in the folder holds", commit.short())),
        }
        Ok(Origin { project, commit: Some((commit, revision)) })
    }

    /// The commit that is run instead of the working tree.
    pub(super) fn commit(&self) -> Option<&Commit> {
        self.commit.as_ref().map(|(commit, _)| commit)
    }

    /// Brings everything over, with the project's lock held.
    pub(super) async fn bring_over(
        &self,
        connection: &Connection,
        lock: &ProjectLock,
        options: &TreeOptions,
        events: &Events,
    ) -> Result<Stored, Error> {
        let project = &self.project;
        let Some((commit, _)) = &self.commit else {
            return Ok(Stored::Working(Box::new(trees::bring_over(connection, project, options, events).await?)));
        };
        let place = connection.workshop(lock).await?;
        let extracted = commit.extract(place.path()).await?;
        check_source(project, &extracted.src, &format!("cfs/src in commit {}", commit.short()))?;
        trees::bring_over_beside(connection, project, options, events).await?;
        let apart = trees::look_apart(connection, project, &extracted, options, events).await?;
        Ok(Stored::Commit { apart: Box::new(apart), _place: place })
    }

    /// Freezes src as it was brought over, and says what it is.
    pub(super) async fn freeze(
        &self,
        connection: &Connection,
        stored: &Stored,
        events: &Events,
    ) -> Result<(Frozen, Provenance), Error> {
        let provenance = match &self.commit {
            Some((commit, revision)) => {
                Provenance { commit: Some(commit.id.clone()), dirty: false, revision: Some(revision.clone()) }
            }
            None => provenance::of(&self.project.folder).await,
        };
        let frozen = match stored {
            Stored::Working(brought) => trees::freeze(connection, &self.project, &brought.src).await?,
            Stored::Commit { apart, .. } => apart.freeze(connection, events).await?,
        };
        Ok((frozen, provenance))
    }

    /// What would be brought over, with the project's lock held; nothing is.
    pub(super) async fn plans(
        &self,
        connection: &Connection,
        lock: &ProjectLock,
        options: &TreeOptions,
        events: &Events,
    ) -> Result<Vec<(Tree, SyncReport)>, Error> {
        let options = TreeOptions { dry_run: true, ..*options };
        let mut plans = Vec::new();
        for tree in Tree::ALL {
            let report = match (&self.commit, tree) {
                (Some((commit, _)), Tree::Src) => {
                    let place = connection.workshop(lock).await?;
                    let extracted = commit.extract(place.path()).await?;
                    check_source(&self.project, &extracted.src, &format!("cfs/src in commit {}", commit.short()))?;
                    trees::look_apart(connection, &self.project, &extracted, &options, events)
                        .await?
                        .sync(connection, events)
                        .await?
                }
                _ => trees::sync(connection, &self.project, tree, &options, events).await?,
            };
            plans.push((tree, report));
        }
        Ok(plans)
    }
}

/// A source that was brought over.
pub(super) enum Stored {
    /// The working tree.
    Working(Box<Brought>),
    /// A commit's, which lies in a folder of ours for so long.
    Commit {
        /// What of it is to be sent.
        apart: Box<Apart>,
        /// The folder.
        _place: TempDir,
    },
}

impl Stored {
    /// Digest of src and data, where they are those of the folder.
    pub(super) fn inputs(&self) -> Option<String> {
        match self {
            Stored::Working(brought) => Some(brought.inputs.clone()),
            Stored::Commit { .. } => None,
        }
    }

    /// Files that were left because somebody writes them.
    pub(super) fn busy(&self) -> Vec<(Tree, RelPath)> {
        match self {
            Stored::Working(brought) => brought.busy.clone(),
            Stored::Commit { .. } => Vec::new(),
        }
    }
}

/// The file that the command gets must be there, for each point of a sweep. `place` is how a person calls the folder.
pub(super) fn check_source(project: &Project, src: &Path, place: &str) -> Result<(), Error> {
    let missing = points::sources(&project.settings).into_iter().find(|source| !src.join(source).is_file());
    missing.map_or(Ok(()), |source_file| Err(Error::NoSource { source_file, place: place.to_owned() }))
}
