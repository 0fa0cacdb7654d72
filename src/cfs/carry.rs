//! Carrying a plan out, file by file, several at once. One bad file is listed and blocks no other; each file that is confirmed
//! is remembered, so that whatever cuts this off costs no finished file.

use super::Cfs;
use super::Error;
use super::claim;
use super::labels;
use super::place;
use super::place::Expected;
use super::plan::Entry;
use super::plan::Policy;
use super::sync::Work;
use super::sync::now;
use super::upload;
use super::upload::Failed;
use super::upload::Job;
use super::upload::Sent;
use super::upload::Uploader;
use crate::blocking;
use crate::event::Direction;
use crate::event::Event;
use crate::index::KnownObject;
use crate::index::RelPath;
use crate::journal::Journal;
use crate::journal::base::BaseFile;
use crate::journal::removed::RemovedFile;
use crate::journal::uploads::OpenUpload;
use futures_util::StreamExt;
use std::collections::BTreeSet;

impl Work<'_> {
    /// Does what was planned: first what makes room here, then both directions, removals in the colony last.
    pub(super) async fn carry_out(&mut self) -> Result<(), Error> {
        // A file that was renamed over there is copied before it is removed here.
        let (first, later) = self.look_for_contents().await?;
        self.remove_here(first).await;
        self.transfer(Direction::Download).await?;
        self.tell_copies();
        self.remove_here(later).await;
        if self.options.policy.sends() {
            self.settle_uploads().await?;
        }
        self.transfer(Direction::Upload).await?;
        self.remove_there().await
    }

    pub(super) fn kept(&self, path: &RelPath, kept_as: String) {
        self.events.emit(Event::FileKept { tree: self.options.tree, path: path.to_string(), kept_as });
    }

    async fn remove_here(&mut self, entries: Vec<Entry>) {
        for entry in entries {
            let Some(seen) = self.local.files.get(&entry.path).map(|file| file.stat) else { continue };
            let (root, path) = (self.root.clone(), entry.path.clone());
            let removed =
                blocking::run(move || place::remove_below(&root, &path, &seen).map_err(|e| Failed::File(e.to_string()))).await;
            match removed {
                Ok(()) => {
                    self.local.files.remove(&entry.path);
                    self.change.gone.push(entry.path.to_string());
                    self.removed(&entry.path, true);
                }
                Err(failed) => self.problem(&entry.path, format!("cannot be removed: {}", failed.text())),
            }
        }
    }

    fn removed(&self, path: &RelPath, local: bool) {
        if !path.is_folder_marker() {
            self.events.emit(Event::FileRemoved { tree: self.options.tree, path: path.to_string(), local });
        }
    }

    async fn transfer(&mut self, direction: Direction) -> Result<(), Error> {
        let entries = match direction {
            Direction::Upload => self.report.plan.uploads.clone(),
            Direction::Download => self.report.plan.downloads.clone(),
        };
        if entries.is_empty() {
            return Ok(());
        }
        if direction == Direction::Upload && entries.iter().any(|entry| entry.size > 0) {
            claim::claim(self.cfs, &self.options.label).await?;
        }
        let tree = self.options.tree;
        let markers = entries.iter().filter(|entry| entry.path.is_folder_marker()).count() as u64;
        let (files, bytes) = (entries.len() as u64 - markers, entries.iter().map(|e| e.size).sum());
        self.events.emit(Event::TransferStarted { tree, direction, files, bytes });
        let problems_before = self.report.problems.len();
        let outcome = match direction {
            Direction::Upload => self.send_all(entries).await,
            Direction::Download => self.fetch_in_order(entries).await,
        };
        let report = &self.report;
        let ((files, bytes), travelled) = match direction {
            Direction::Upload => (report.uploaded, report.sent),
            Direction::Download => {
                let (files, travelled) = report.downloaded;
                ((files, travelled + report.copied.1), travelled)
            }
        };
        let problems = (report.problems.len() - problems_before) as u64;
        let files = files.saturating_sub(markers);
        self.events.emit(Event::TransferFinished { tree, direction, files, bytes, travelled, problems });
        outcome
    }

    async fn send_all(&mut self, entries: Vec<Entry>) -> Result<(), Error> {
        let jobs = self.upload_jobs(&entries)?;
        let (cfs, options, root) = (self.cfs, self.options, self.root.clone());
        let place = upload::place_of_uploads(cfs, &self.place);
        let books = (cfs, self.index, self.journal);
        let uploader = Uploader::new(books, (&options.label, &root, &place), self.remote.files.values(), &jobs);
        let progress = self.progress(Direction::Upload);
        let mut running = futures_util::stream::iter(jobs)
            .map(|job| {
                let (uploader, progress) = (&uploader, &progress);
                async move {
                    let moved = progress(&job.path);
                    let sent = Failed::caught(uploader.upload(&job, &moved)).await;
                    (job, sent)
                }
            })
            .buffer_unordered(options.jobs.max(1));
        while let Some((job, outcome)) = running.next().await {
            match outcome {
                Ok(sent) => self.sent(&job.path, sent),
                Err(Failed::File(why)) => self.problem(&job.path, why),
                Err(Failed::All(error)) => return Err(error),
            }
            self.remember_some()?;
        }
        uploader.note_link();
        Ok(())
    }

    /// Goes through uploads that were cut off before.
    async fn settle_uploads(&mut self) -> Result<(), Error> {
        let place = upload::place_of_uploads(self.cfs, &self.place);
        let found = |entry: &Entry| self.local.files.get_key_value(&entry.path);
        let wanted = self.report.plan.uploads.iter().filter_map(found).collect();
        let (books, tree) = ((self.cfs, self.journal), (self.options.label.as_str(), self.root.as_path(), place.as_str()));
        self.resumable = upload::leftover::settle(books, tree, &wanted, &self.remote.files).await?;
        Ok(())
    }

    /// What is to be sent, each with the key of an object of its own, written down before anything is sent.
    fn upload_jobs(&mut self, entries: &[Entry]) -> Result<Vec<Job>, Error> {
        let (mut jobs, mut begun) = (Vec::with_capacity(entries.len()), Vec::new());
        for (path, local) in entries.iter().filter_map(|entry| self.local.files.get_key_value(&entry.path)) {
            let resume = self.resumable.remove(path);
            let key = match &resume {
                Some(open) => open.key.clone(),
                None => upload::new_key(&self.options.label).map_err(upload::fatal)?,
            };
            if resume.is_none() && local.size > 0 {
                let (path, sha256) = (path.to_string(), local.sha256.clone());
                begun.push(OpenUpload { key: key.clone(), path, sha256, size: local.size, ..OpenUpload::default() });
            }
            jobs.push(Job { path: path.clone(), local: local.clone(), key, resume });
        }
        self.journal.begin_uploads(&upload::place_of_uploads(self.cfs, &self.place), &self.root, &begun, now())?;
        Ok(jobs)
    }

    fn sent(&mut self, path: &RelPath, sent: Sent) {
        let Sent { file, mode, etag, travelled } = sent;
        self.report.uploaded.0 += 1;
        self.report.uploaded.1 += file.size;
        self.report.sent += travelled;
        self.done(Direction::Upload, path, file.size, travelled);
        if !file.object.is_empty() {
            let (key, sha256, size) = (file.object.clone(), file.sha256.clone(), file.size);
            self.known.push(KnownObject { key, sha256, size, etag, mode: Some(mode) });
        }
        let agreed = BaseFile { sha256: file.sha256.clone(), mode, fetched: false };
        self.change.agreed.push((path.to_string(), agreed));
        // It may have been written to since it was looked at: what was sent is what the tree now is.
        if let Some(here) = self.local.files.get_mut(path) {
            (here.size, here.mode) = (file.size, mode);
            here.sha256.clone_from(&file.sha256);
        }
        self.remote.files.insert(path.clone(), file);
    }

    /// What a file that comes may replace. What is to be kept aside is kept as if it had not been expected, when the new file is
    /// whole: until then it stands under its name.
    pub(super) fn expected(&self, path: &RelPath, aside: &BTreeSet<RelPath>) -> Expected {
        match self.local.files.get(path) {
            Some(file) if !aside.contains(path) => Expected::Seen(file.stat),
            _ => Expected::Nothing,
        }
    }

    pub(super) fn done(&self, direction: Direction, path: &RelPath, size: u64, travelled: u64) {
        if !path.is_folder_marker() {
            self.events.emit(Event::FileDone { tree: self.options.tree, direction, path: path.to_string(), size, travelled });
        }
    }

    /// Tells the bytes of one file as they move.
    pub(super) fn progress(&self, direction: Direction) -> impl Fn(&RelPath) -> Box<dyn Fn(u64) + Send + Sync> + use<> {
        let (events, tree) = (self.events.clone(), self.options.tree);
        move |path| {
            let (events, path) = (events.clone(), path.to_string());
            Box::new(move |bytes| events.emit(Event::TransferProgress { tree, direction, path: path.clone(), bytes }))
        }
    }

    /// Removes rows. Their objects stay: older snapshots may still name them.
    async fn remove_there(&mut self) -> Result<(), Error> {
        let entries = self.report.plan.remove_remote.clone();
        if entries.is_empty() {
            return Ok(());
        }
        self.note_removal()?;
        let (cfs, journal, options) = (self.cfs, self.journal, self.options);
        let mut running = futures_util::stream::iter(entries)
            .map(|entry| async move {
                let (label, name) = labels::place_of(&options.label, &entry.path);
                let removed = Failed::caught(remove_row(cfs, journal, options.policy, &label, &name)).await;
                (entry, removed)
            })
            .buffer_unordered(options.jobs.max(1));
        while let Some((entry, removed)) = running.next().await {
            match removed {
                Ok(()) => {
                    self.remote.files.remove(&entry.path);
                    self.change.gone.push(entry.path.to_string());
                    self.removed(&entry.path, false);
                }
                Err(Failed::File(why)) => self.problem(&entry.path, why),
                Err(Failed::All(error)) => return Err(error),
            }
            self.remember_some()?;
        }
        Ok(())
    }
}

/// Removes a row with all its revisions. Snapshots are made of mirrored trees: what a row of one of these says is written down
/// first, so that the source of an earlier run can still be brought back.
async fn remove_row(cfs: &Cfs, journal: &Journal, policy: Policy, label: &str, name: &str) -> Result<(), Failed> {
    if policy == Policy::Mirror {
        let revisions = cfs.client.file_revisions(label, name).await?;
        let noted = revisions.into_iter().map(|file| RemovedFile {
            file_id: file.fileid,
            label: file.label,
            name: file.name,
            size: file.size,
            sha256: file.checksum,
            object: file.reference.s3object.object,
        });
        journal.note_removed(&noted.collect::<Vec<_>>()).map_err(|error| Failed::All(error.into()))?;
    }
    Ok(cfs.client.remove_file(label, name).await?)
}
