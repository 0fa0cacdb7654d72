//! Files of jobs by way of CFS: snapshots by their file ids, labels one way in at the start and one way out at the end.

use super::Files;
use super::FilesError;
use super::Places;
use super::listing::Listings;
use super::reclaim::Keep;
use super::share::ShareSnapshots;
use super::shelf;
use super::shelf::Shelf;
use crate::blocking;
use crate::cfs;
use crate::cfs::Cfs;
use crate::cfs::Policy;
use crate::cfs::SyncOptions;
use crate::cfs::SyncReport;
use crate::colonies::Client;
use crate::event::Events;
use crate::event::Tree;
use crate::executor::error::Error;
use crate::executor::options::Options;
use crate::executor::passing::is_full;
use crate::executor::passing::is_passing;
use crate::executor::place::Inside;
use crate::executor::spec::DirSync;
use crate::executor::spec::Job;
use crate::index::Folder;
use crate::index::Index;
use crate::journal::Journal;
use crate::sqlite;
use crate::store::Store;
use async_trait::async_trait;
use std::collections::BTreeSet;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

/// Files moved at once.
pub(super) const AT_ONCE: usize = 8;
/// Most problems listed for one folder.
const MOST: usize = 10;

/// Moves files between the file area and the colony.
#[derive(Clone)]
pub struct CfsFiles {
    pub(super) cfs: Cfs,
    pub(super) index: Index,
    /// What was there at the last synchronization. The executor's own, beside its other state.
    journal: Journal,
    pub(super) listings: Listings,
    pub(super) shelf: Shelf,
    pub(super) fs_dir: PathBuf,
    pub(super) places: Arc<Places>,
    pub(super) share: ShareSnapshots,
    pub(super) keep: Keep,
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
            shelf: Shelf::open(&state)?,
            fs_dir: folder(&options.fs_dir)?,
            places,
            share: options.share_snapshots,
            keep: options.keep_snapshots,
        })
    }

    /// A folder of the file area, open, made where it is missing; and whether it was missing, or empty. Blocks.
    pub(super) fn enter(&self, dir: &Inside) -> io::Result<(Arc<Folder>, bool)> {
        let folder = dir.enter_below(&self.fs_dir)?;
        let is_empty = std::fs::read_dir(folder.here())?.next().is_none();
        Ok((Arc::new(folder), is_empty))
    }

    /// Does work on the disk where blocking is allowed.
    pub(super) async fn on_disk<T: Send + 'static>(
        &self,
        what: String,
        work: impl FnOnce(&CfsFiles) -> io::Result<T> + Send + 'static,
    ) -> Result<T, FilesError> {
        let here = self.clone();
        blocking::run(move || work(&here)).await.map_err(|error| {
            let (full, temporary) = (is_full(&error), is_passing(&error));
            FilesError { what, reason: format!("{error}{}", self.advice(full)), temporary, full }
        })
    }

    /// A failure of CFS, of a whole folder.
    pub(super) fn failed(&self, what: String, error: &cfs::Error) -> FilesError {
        let full = match error {
            cfs::Error::NoSpace { .. } => true,
            cfs::Error::Local { source, .. } => is_full(source),
            _ => false,
        };
        let temporary = match error {
            // Registered anew it is a member; an ingress that answers for a server that is away talks garbage.
            cfs::Error::Colony(error) => error.is_temporary() || error.is_not_member() || error.is_passing_fault(),
            cfs::Error::Local { source, .. } => is_passing(source),
            error => error.is_temporary(),
        };
        FilesError { what, reason: format!("{error}{}", self.advice(full)), temporary, full }
    }

    /// What a person can do where the disk is full.
    fn advice(&self, full: bool) -> String {
        if !full {
            return String::new();
        }
        format!(
            "; make room on the disk of the executor's file area {}, or let old snapshots go sooner (its settings \
             keep-snapshots-days, max-snapshot-bytes, min-free-bytes)",
            self.fs_dir.display()
        )
    }

    /// Whether old snapshots went where something did not fit, so that trying again can help.
    async fn makes_room(&self, error: &FilesError) -> bool {
        if !error.full {
            return false;
        }
        let removed = self.reclaim(1).await.unwrap_or_else(|error| {
            tracing::warn!(%error, "no room is made");
            0
        });
        removed > 0
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

    async fn fetch_dir(&self, job: &Job, dir: &DirSync) -> Result<Vec<String>, FilesError> {
        let _alone = self.places.alone(&dir.dir).await;
        let wanted = dir.clone();
        let folder = self.on_disk(format!("folder {}", dir.dir), move |here| here.begin(&wanted)).await?;
        // What a job is writing there is not taken from it. What it only reads is the colony's to change.
        let beside = dir.close_keeps_local && self.places.at_work_beside(&dir.dir, &job.process_id);
        let policy = if beside { Policy::FetchBeside } else { Policy::FetchOnly { keep_local: dir.start_keeps_local } };
        // Whoever removed most of a label was asked about it where that was done.
        let options = SyncOptions { allow_deletes: true, ..self.options(dir, folder.here(), policy) };
        let report = cfs::sync(&self.cfs, &self.index, &self.journal, &options, &Events::none()).await;
        let report = report.map_err(|e| self.failed(dir.label.clone(), &e))?;
        // What stands in the way of the colony's files would be seen in their place.
        let hides = |(path, _): &&(String, String)| {
            let is_below =
                |file: &str| file.strip_prefix(path.as_str()).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
            report.files.keys().any(|file| is_below(file.as_str()))
        };
        let hidden: Vec<_> = report.skipped.iter().filter(hides).cloned().collect();
        if !hidden.is_empty() {
            return Err(refused(dir.label.clone(), list(&hidden)));
        }
        if report.downloaded.0 < report.plan.downloads.len() as u64 {
            return Err(refused(dir.label.clone(), list(&report.problems)));
        }
        Ok(report.problems.iter().map(|(name, why)| format!("left out of {}: {name}: {why}", dir.label)).collect())
    }

    /// The folder of a label, written down. Blocks.
    fn begin(&self, dir: &DirSync) -> io::Result<Arc<Folder>> {
        let (folder, made) = self.enter(&dir.dir)?;
        let before = self.shelf.folder(&dir.dir).map_err(io::Error::other)?;
        let mut now = shelf::Folder {
            dir: dir.dir.clone(),
            label: dir.label.clone(),
            snapshot: String::new(),
            made,
            kept: dir.keep_files,
            unsent: false,
            used: super::now_ms(),
        };
        if let Some(before) = before {
            (now.made, now.unsent) = (before.made, before.unsent);
            // A folder that somebody else keeps stays his.
            if before.kept && before.label != now.label {
                (now.label, now.kept) = (before.label, true);
            }
        }
        self.shelf.keep(&now).map_err(io::Error::other)?;
        Ok(folder)
    }

    /// Sends one folder back. Gives what could not be sent.
    async fn send_dir(&self, job: &Job, dir: &DirSync) -> Result<Vec<String>, FilesError> {
        let _alone = self.places.alone(&dir.dir).await;
        let sent = self.send(job, dir).await;
        let (path, unsent) = (dir.dir.clone(), sent.as_ref().map_or(true, |problems| !problems.is_empty()));
        let note = move |here: &CfsFiles| here.shelf.note_unsent(&path, unsent).map_err(io::Error::other);
        // What is sent is sent. Files of a folder that is not known to lack anything may go sooner.
        if let Err(error) = self.on_disk(format!("folder {}", dir.dir), note).await {
            tracing::error!(dir = %dir.dir, %error, "whether all of a folder was sent cannot be written down");
        }
        sent
    }

    async fn send(&self, job: &Job, dir: &DirSync) -> Result<Vec<String>, FilesError> {
        let wanted = dir.dir.clone();
        let folder = self.on_disk(format!("folder {}", dir.dir), move |here| Ok(here.enter(&wanted)?.0)).await?;
        let keep_local = dir.close_keeps_local;
        // Others may be in the middle of a file, or of replacing one: the last of them sends the rest, and the removals.
        let beside = self.places.at_work_beside(&dir.dir, &job.process_id);
        let policy = if beside { Policy::SendBeside { keep_local } } else { Policy::SendOnly { keep_local } };
        let options = SyncOptions { leave_open: beside, ..self.options(dir, folder.here(), policy) };
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
            other => other.map_err(|e| self.failed(dir.label.clone(), &e))?,
        };
        self.unsent(dir, report).await
    }

    /// Where so much was deleted that it looks like an accident, what is there is sent, and nothing is removed in the
    /// colony: without knowledge of before, nothing looks like a deletion.
    async fn send_without_deletions(&self, options: &SyncOptions) -> Result<SyncReport, FilesError> {
        let label = options.label.clone();
        let lost = |e: &dyn std::fmt::Display| refused(label.clone(), e.to_string());
        let nowhere = tempfile::tempdir().map_err(|e| lost(&e))?;
        let journal = Journal::open(nowhere.path()).map_err(|e| lost(&e))?;
        let sent = cfs::sync(&self.cfs, &self.index, &journal, options, &Events::none()).await;
        sent.map_err(|e| self.failed(label.clone(), &e))
    }

    /// Problems of files of ours. What is odd about rows that others stored in the label is not one of them.
    async fn unsent(&self, dir: &DirSync, report: SyncReport) -> Result<Vec<String>, FilesError> {
        if report.problems.is_empty() {
            return Ok(Vec::new());
        }
        let listed = self.cfs.list(&dir.label).await.map_err(|e| self.failed(dir.label.clone(), &e))?;
        let theirs: BTreeSet<_> = listed.problems.into_iter().collect();
        let ours = report.problems.into_iter().filter(|p| !theirs.contains(p));
        Ok(ours.map(|(name, why)| format!("{}/{name} was not sent back: {why}", dir.label)).collect())
    }

    /// Whether the colony has all that is in a label's folder. Where it has not, that is noted: the folder stays, and the next
    /// process in it sends the rest.
    pub(super) async fn is_sent(&self, folder: &shelf::Folder) -> Result<bool, FilesError> {
        let (what, path) = (format!("folder {}", folder.dir), folder.dir.clone());
        let opened = self.on_disk(what.clone(), move |here| path.open_below(&here.fs_dir)).await?;
        let Some(opened) = opened else { return Ok(true) };
        let (label, dir) = (folder.label.clone(), folder.dir.clone());
        let dir = DirSync { label, dir, keep_files: false, start_keeps_local: false, close_keeps_local: true };
        let policy = Policy::SendOnly { keep_local: true };
        let options = SyncOptions { dry_run: true, ..self.options(&dir, opened.here(), policy) };
        let report = cfs::sync(&self.cfs, &self.index, &self.journal, &options, &Events::none()).await;
        let report = report.map_err(|e| self.failed(dir.label.clone(), &e))?;
        let is_sent = report.plan.uploads.is_empty() && self.unsent(&dir, report).await?.is_empty();
        if !is_sent {
            let path = dir.dir.clone();
            let note = move |here: &CfsFiles| here.shelf.note_unsent(&path, true).map_err(io::Error::other);
            self.on_disk(what, note).await?;
        }
        Ok(is_sent)
    }

    /// Removes a folder that a process does not want kept, unless somebody else needs it or what is in it.
    async fn remove(&self, job: &Job, dir: &Inside, (label, snapshot): (&str, &str)) -> Result<(), FilesError> {
        let _alone = self.places.alone(dir).await;
        if self.places.used_beside(dir, &job.process_id) {
            return Ok(());
        }
        let (path, label, snapshot) = (dir.clone(), label.to_owned(), snapshot.to_owned());
        let work = move |here: &CfsFiles| {
            if let Some(why) = here.needed(&path, &label, &snapshot).map_err(io::Error::other)? {
                tracing::info!(dir = %path, why, "a folder stays");
                return Ok(());
            }
            here.remove_folder(&path)
        };
        self.on_disk(format!("folder {dir}"), work).await
    }

    /// Why a folder is not to be removed.
    fn needed(&self, dir: &Inside, label: &str, snapshot: &str) -> rusqlite::Result<Option<&'static str>> {
        let Some(folder) = self.shelf.folder(dir)? else { return Ok(Some("nothing is known of it")) };
        if !folder.made {
            return Ok(Some("it was there before the first process"));
        }
        if folder.unsent {
            return Ok(Some("something in it could not be sent back yet"));
        }
        if folder.label != label || folder.snapshot != snapshot {
            return Ok(Some("it is kept for another label or snapshot"));
        }
        let holds = |other: &shelf::Folder| other.dir.is_within(dir) && other.dir != *dir && (other.kept || other.unsent);
        Ok(self.shelf.folders()?.iter().any(holds).then_some("a folder in it is kept"))
    }
}

#[async_trait]
impl Files for CfsFiles {
    async fn bring_in(&self, job: &Job) -> Result<Vec<String>, FilesError> {
        let mut lines = Vec::new();
        for snapshot in &job.snapshots {
            lines.extend(loop {
                match self.fetch_snapshot(job, snapshot).await {
                    // What has come stays, so each round has less to bring.
                    Err(error) if self.makes_room(&error).await => {}
                    other => break other?,
                }
            });
        }
        for dir in &job.dirs {
            lines.extend(loop {
                match self.fetch_dir(job, dir).await {
                    Err(error) if self.makes_room(&error).await => {}
                    other => break other?,
                }
            });
        }
        self.places.begun(&job.process_id);
        Ok(lines)
    }

    async fn send_back(&self, job: &Job) -> Result<Vec<String>, FilesError> {
        let mut problems = Vec::new();
        for dir in &job.dirs {
            match self.send_dir(job, dir).await {
                Ok(unsent) => problems.extend(unsent),
                // One folder that cannot be sent keeps no other one back.
                Err(error) if !error.temporary => problems.push(error.to_string()),
                Err(error) => return Err(error),
            }
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
                self.remove(job, &snapshot.dir, (&snapshot.label, &snapshot.id)).await?;
            }
        }
        for dir in job.dirs.iter().filter(|d| !d.keep_files) {
            self.remove(job, &dir.dir, (&dir.label, "")).await?;
        }
        Ok(())
    }
}

/// A failure that trying again does not help.
pub(super) fn refused(what: String, reason: String) -> FilesError {
    FilesError { what, reason, temporary: false, full: false }
}

/// The first problems, for a person.
pub(super) fn list(problems: &[(String, String)]) -> String {
    let mut text: Vec<String> = problems.iter().take(MOST).map(|(name, why)| format!("{name}: {why}")).collect();
    if problems.len() > MOST {
        text.push(format!("and {} more", problems.len() - MOST));
    }
    text.join("; ")
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::colonies::Identity;
    use crate::config::ColonyAccess;
    use crate::config::StoreAccess;
    use std::path::Path;

    /// The files of an executor whose folders are below `home`, and whose colony and store nobody answers for.
    pub(in crate::executor::files) fn files_of(home: &Path) -> CfsFiles {
        let (_, key) = Identity::generate().unwrap();
        let (host, colony) = ("127.0.0.1".into(), "lab".into());
        let access = ColonyAccess { host, port: 1, tls: false, skip_verify: false, colony, key };
        let options = Options::new("local", access, StoreAccess::of_nobody(), home.join("fs"), home.join("state"));
        CfsFiles::new(&options, Arc::default()).unwrap()
    }

    #[tokio::test]
    async fn a_full_disk_is_told_with_the_place_and_what_to_do() {
        let home = tempfile::tempdir().unwrap();
        let files = files_of(home.path());
        let full = || io::Error::from_raw_os_error(libc::ENOSPC);
        let by_us = files.on_disk("folder x".into(), move |_| Err::<(), _>(full())).await.unwrap_err();
        let path = files.fs_dir.join("x");
        let locally = files.failed("folder x".into(), &cfs::Error::Local { path: path.clone(), source: full() });
        let fetching = files.failed("folder x".into(), &cfs::Error::NoSpace { path });
        for error in [by_us, locally, fetching] {
            let said = error.to_string();
            assert!(error.full && !error.temporary, "{said}");
            let place = format!("make room on the disk of the executor's file area {}", files.fs_dir.display());
            assert!(said.starts_with("folder x: ") && said.contains(&place) && said.contains("min-free-bytes"), "{said}");
        }
    }
}
