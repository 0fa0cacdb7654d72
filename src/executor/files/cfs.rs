//! Files of jobs by way of CFS: snapshots by their file ids, labels one way in at the start and one way out at the end.

use super::Files;
use super::FilesError;
use super::Places;
use super::listing::Listings;
use crate::cfs;
use crate::cfs::Cfs;
use crate::cfs::Policy;
use crate::cfs::RemoteFile;
use crate::cfs::SyncOptions;
use crate::cfs::SyncReport;
use crate::colonies::Client;
use crate::event::Events;
use crate::event::Tree;
use crate::executor::error::Error;
use crate::executor::options::Options;
use crate::executor::place::Inside;
use crate::executor::spec::DirSync;
use crate::executor::spec::Job;
use crate::executor::spec::SnapshotIn;
use crate::index::Index;
use crate::journal::Journal;
use crate::sqlite;
use crate::store::Store;
use async_trait::async_trait;
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;

/// Files moved at once.
const AT_ONCE: usize = 8;
/// Most problems listed for one folder.
const MOST: usize = 10;

/// Moves files between the file area and the colony.
#[derive(Clone)]
pub struct CfsFiles {
    cfs: Cfs,
    index: Index,
    /// What was there at the last synchronization. The executor's own, beside its other state.
    journal: Journal,
    listings: Listings,
    fs_dir: PathBuf,
    places: Arc<Places>,
}

impl std::fmt::Debug for CfsFiles {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CfsFiles").field("fs_dir", &self.fs_dir).finish_non_exhaustive()
    }
}

impl CfsFiles {
    /// Opens what it needs below the executor's folders.
    ///
    /// # Errors
    /// Those of the folders and databases, and of unusable settings.
    pub fn new(options: &Options, places: Arc<Places>) -> Result<CfsFiles, Error> {
        let failed = |reason: &dyn std::fmt::Display| Error::Files { name: options.name.clone(), reason: reason.to_string() };
        let folder = |path: &PathBuf| {
            sqlite::private_folder(path).map_err(|source| Error::Folder { path: path.clone(), source })?;
            path.canonicalize().map_err(|source| Error::Folder { path: path.clone(), source })
        };
        let state = folder(&options.state_dir)?;
        let client = Client::new(&options.access).map_err(|source| Error::Colony { name: options.name.clone(), source })?;
        Ok(CfsFiles {
            cfs: Cfs { client, store: Store::new(&options.store).map_err(|e| failed(&e))? },
            index: Index::open(&state).map_err(|e| failed(&e))?,
            journal: Journal::open(&state).map_err(|e| failed(&e))?,
            listings: Listings::open(&state).map_err(|source| Error::Folder { path: state.clone(), source })?,
            fs_dir: folder(&options.fs_dir)?,
            places,
        })
    }

    /// The folder, made where it is missing.
    async fn folder(&self, dir: &Inside) -> Result<PathBuf, FilesError> {
        let (inside, root) = (dir.clone(), self.fs_dir.clone());
        let made = tokio::task::spawn_blocking(move || inside.make_below(&root)).await;
        let failed = |reason: String| FilesError { what: format!("folder {dir}"), reason, temporary: false };
        made.map_err(|e| failed(e.to_string()))?.map_err(|e| failed(e.to_string()))
    }

    async fn fetch_snapshot(&self, snapshot: &SnapshotIn) -> Result<Vec<String>, FilesError> {
        let what = || format!("snapshot {} of {}", snapshot.id, snapshot.label);
        let lock = self.places.lock(&snapshot.dir);
        let _alone = lock.lock().await;
        let folder = self.folder(&snapshot.dir).await?;
        let (files, known, problems) = match self.known(snapshot).await {
            Some(files) => (files, true, Vec::new()),
            None => {
                let tree = self.cfs.snapshot_tree(&snapshot.id, &snapshot.label).await.map_err(|e| failed(what(), &e))?;
                (tree.files.into_values().collect(), false, tree.problems)
            }
        };
        let fetched = cfs::fetch(&self.cfs, &self.index, &files, &folder, Tree::Src, AT_ONCE, &Events::none()).await;
        let fetched = fetched.map_err(|e| failed(what(), &e))?;
        // A file that is not there is worse than a job that does not run: it would compute something else.
        let (gone, odd): (Vec<_>, Vec<_>) = problems.into_iter().partition(|(name, _)| name.starts_with("file "));
        let missing: Vec<_> = gone.into_iter().chain(fetched.problems).collect();
        if !missing.is_empty() {
            return Err(FilesError { what: what(), reason: list(&missing), temporary: false });
        }
        // What is odd is told to each run: such a snapshot is asked for again.
        if !known && odd.is_empty() {
            self.remember(snapshot, files).await;
        }
        Ok(odd.iter().map(|(name, why)| format!("left out of {}: {name}: {why}", snapshot.label)).collect())
    }

    /// The files of a snapshot, where they were asked for before.
    async fn known(&self, snapshot: &SnapshotIn) -> Option<Vec<RemoteFile>> {
        let (listings, id, label) = (self.listings.clone(), snapshot.id.clone(), snapshot.label.clone());
        tokio::task::spawn_blocking(move || listings.find(&id, &label)).await.unwrap_or_default()
    }

    async fn remember(&self, snapshot: &SnapshotIn, files: Vec<RemoteFile>) {
        let (listings, id, label) = (self.listings.clone(), snapshot.id.clone(), snapshot.label.clone());
        let kept = tokio::task::spawn_blocking(move || listings.keep(&id, &label, &files)).await;
        if let Err(error) = kept.unwrap_or_else(|e| Err(std::io::Error::other(e))) {
            tracing::warn!(snapshot = snapshot.id, %error, "what the snapshot holds is not kept: it will be asked for again");
        }
    }

    fn options(&self, dir: &DirSync, folder: PathBuf, policy: Policy) -> SyncOptions {
        SyncOptions {
            tree: if dir.dir.as_str().ends_with("/result") { Tree::Result } else { Tree::Data },
            label: dir.label.clone(),
            folder,
            rules_from: None,
            policy,
            jobs: AT_ONCE,
            allow_deletes: false,
            dry_run: false,
            leave_open: false,
        }
    }

    async fn fetch_dir(&self, dir: &DirSync) -> Result<Vec<String>, FilesError> {
        let lock = self.places.lock(&dir.dir);
        let _alone = lock.lock().await;
        let folder = self.folder(&dir.dir).await?;
        let options = self.options(dir, folder, Policy::FetchOnly { keep_local: dir.start_keeps_local });
        let report = cfs::sync(&self.cfs, &self.index, &self.journal, &options, &Events::none()).await;
        let report = report.map_err(|e| failed(dir.label.clone(), &e))?;
        if report.downloaded.0 < report.plan.downloads.len() as u64 {
            return Err(FilesError { what: dir.label.clone(), reason: list(&report.problems), temporary: false });
        }
        Ok(report.problems.iter().map(|(name, why)| format!("left out of {}: {name}: {why}", dir.label)).collect())
    }

    /// Sends one folder back. Gives what could not be sent.
    async fn send_dir(&self, dir: &DirSync) -> Result<Vec<String>, FilesError> {
        let lock = self.places.lock(&dir.dir);
        let _alone = lock.lock().await;
        let folder = self.folder(&dir.dir).await?;
        let options = self.options(dir, folder, Policy::SendOnly { keep_local: dir.close_keeps_local });
        let report = match cfs::sync(&self.cfs, &self.index, &self.journal, &options, &Events::none()).await {
            Err(
                e @ (cfs::Error::TreeMissing { .. }
                | cfs::Error::TreeEmptied { .. }
                | cfs::Error::OtherFileSystem { .. }
                | cfs::Error::ManyDeletions { .. }),
            ) => {
                tracing::warn!(label = dir.label, error = %e, "results are sent without the deletions");
                self.send_without_deletions(&options).await?
            }
            other => other.map_err(|e| failed(dir.label.clone(), &e))?,
        };
        self.unsent(dir, report).await
    }

    /// Where so much was deleted that it looks like an accident, what is there is sent, and nothing is removed in the
    /// colony: without knowledge of before, nothing looks like a deletion.
    async fn send_without_deletions(&self, options: &SyncOptions) -> Result<SyncReport, FilesError> {
        let label = options.label.clone();
        let lost = |e: &dyn std::fmt::Display| FilesError { what: label.clone(), reason: e.to_string(), temporary: false };
        let nowhere = tempfile::tempdir().map_err(|e| lost(&e))?;
        let journal = Journal::open(nowhere.path()).map_err(|e| lost(&e))?;
        let sent = cfs::sync(&self.cfs, &self.index, &journal, options, &Events::none()).await;
        sent.map_err(|e| failed(label.clone(), &e))
    }

    /// Problems of files of ours. What is odd about rows that others stored in the label is not one of them.
    async fn unsent(&self, dir: &DirSync, report: SyncReport) -> Result<Vec<String>, FilesError> {
        if report.problems.is_empty() {
            return Ok(Vec::new());
        }
        let listed = self.cfs.list(&dir.label).await.map_err(|e| failed(dir.label.clone(), &e))?;
        let theirs: BTreeSet<_> = listed.problems.into_iter().collect();
        let ours = report.problems.into_iter().filter(|p| !theirs.contains(p));
        Ok(ours.map(|(name, why)| format!("{}/{name} was not sent back: {why}", dir.label)).collect())
    }

    async fn remove(&self, dir: &Inside) -> Result<(), FilesError> {
        let lock = self.places.lock(dir);
        let _alone = lock.lock().await;
        if self.places.used_by_others(dir) {
            return Ok(());
        }
        let (inside, root) = (dir.clone(), self.fs_dir.clone());
        let removed = tokio::task::spawn_blocking(move || inside.remove_below(&root)).await;
        let failed = |reason: String| FilesError { what: format!("folder {dir}"), reason, temporary: false };
        removed.map_err(|e| failed(e.to_string()))?.map_err(|e| failed(e.to_string()))
    }
}

#[async_trait]
impl Files for CfsFiles {
    async fn bring_in(&self, job: &Job) -> Result<Vec<String>, FilesError> {
        let mut lines = Vec::new();
        for snapshot in &job.snapshots {
            lines.extend(self.fetch_snapshot(snapshot).await?);
        }
        for dir in &job.dirs {
            lines.extend(self.fetch_dir(dir).await?);
        }
        Ok(lines)
    }

    async fn send_back(&self, job: &Job) -> Result<Vec<String>, FilesError> {
        let mut problems = Vec::new();
        for dir in &job.dirs {
            problems.extend(self.send_dir(dir).await?);
        }
        Ok(problems)
    }

    async fn clean_up(&self, job: &Job) -> Result<(), FilesError> {
        for snapshot in &job.snapshots {
            if !snapshot.keep_files
                && let Err(error) = self.listings.forget(&snapshot.id, &snapshot.label)
            {
                tracing::warn!(snapshot = snapshot.id, %error, "a listing is left behind");
            }
            if !snapshot.keep_snapshot
                && let Err(error) = self.cfs.client.remove_snapshot(&snapshot.id).await
            {
                tracing::warn!(snapshot = snapshot.id, %error, "a snapshot is left behind");
            }
            if !snapshot.keep_files {
                self.remove(&snapshot.dir).await?;
            }
        }
        for dir in job.dirs.iter().filter(|d| !d.keep_files) {
            self.remove(&dir.dir).await?;
        }
        Ok(())
    }
}

fn failed(what: String, error: &cfs::Error) -> FilesError {
    FilesError { what, reason: error.to_string(), temporary: error.is_temporary() }
}

/// The first problems, for a person.
fn list(problems: &[(String, String)]) -> String {
    let mut text: Vec<String> = problems.iter().take(MOST).map(|(name, why)| format!("{name}: {why}")).collect();
    if problems.len() > MOST {
        text.push(format!("and {} more", problems.len() - MOST));
    }
    text.join("; ")
}
