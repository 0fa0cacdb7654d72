//! Carrying a plan out, file by file, several at once. One bad file is listed and blocks no other; each file that is confirmed
//! is remembered, so that whatever cuts this off costs no finished file.

use super::Error;
use super::claim;
use super::download::blocking;
use super::download::download;
use super::labels;
use super::list::RemoteFile;
use super::place;
use super::place::Expected;
use super::plan::Entry;
use super::sync::Work;
use super::upload::Failed;
use super::upload::Sent;
use super::upload::upload;
use crate::event::Direction;
use crate::event::Event;
use crate::index::RelPath;
use crate::index::Stat;
use crate::journal::base::BaseFile;
use futures_util::StreamExt;
use std::collections::BTreeSet;
use std::path::Path;

impl Work<'_> {
    /// Does what was planned: first what makes room here, then both directions, removals in the colony last.
    pub(super) async fn carry_out(&mut self) -> Result<(), Error> {
        self.remove_here().await;
        self.transfer(Direction::Download).await?;
        self.transfer(Direction::Upload).await?;
        self.remove_there().await
    }

    fn kept(&self, path: &RelPath, kept_as: String) {
        self.events.emit(Event::FileKept { tree: self.options.tree, path: path.to_string(), kept_as });
    }

    async fn remove_here(&mut self) {
        for entry in self.report.plan.remove_local.clone() {
            let Some(seen) = self.local.files.get(&entry.path).map(|file| file.stat) else { continue };
            let (root, path) = (self.root.clone(), entry.path.clone());
            let removed = blocking(move || remove_file(&root, &path, &seen).map_err(|e| Failed::File(e.to_string()))).await;
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
            Direction::Download => self.fetch_all(entries).await,
        };
        let (files, bytes) = match direction {
            Direction::Upload => self.report.uploaded,
            Direction::Download => self.report.downloaded,
        };
        let problems = (self.report.problems.len() - problems_before) as u64;
        self.events.emit(Event::TransferFinished { tree, direction, files: files.saturating_sub(markers), bytes, problems });
        outcome
    }

    async fn send_all(&mut self, entries: Vec<Entry>) -> Result<(), Error> {
        let (cfs, options, root) = (self.cfs, self.options, self.root.clone());
        let progress = self.progress(Direction::Upload);
        let mut running = futures_util::stream::iter(entries)
            .map(|entry| {
                let (root, progress) = (&root, &progress);
                async move {
                    let moved = progress(&entry.path);
                    let sent = upload(cfs, &options.label, root, &entry.path, &moved).await;
                    (entry, sent)
                }
            })
            .buffer_unordered(options.jobs.max(1));
        while let Some((entry, outcome)) = running.next().await {
            match outcome {
                Ok(sent) => self.sent(&entry.path, sent),
                Err(Failed::File(why)) => self.problem(&entry.path, why),
                Err(Failed::All(error)) => return Err(error),
            }
            self.remember_some()?;
        }
        Ok(())
    }

    fn sent(&mut self, path: &RelPath, sent: Sent) {
        let Sent { file, mode } = sent;
        self.report.uploaded.0 += 1;
        self.report.uploaded.1 += file.size;
        self.done(Direction::Upload, path, file.size);
        let agreed = BaseFile { sha256: file.sha256.clone(), mode, fetched: false };
        self.change.agreed.push((path.to_string(), agreed));
        // It may have been written to since it was looked at: what was sent is what the tree now is.
        if let Some(here) = self.local.files.get_mut(path) {
            (here.size, here.mode) = (file.size, mode);
            here.sha256.clone_from(&file.sha256);
        }
        self.remote.files.insert(path.clone(), file);
    }

    async fn fetch_all(&mut self, entries: Vec<Entry>) -> Result<(), Error> {
        let (cfs, options, root) = (self.cfs, self.options, self.root.clone());
        let progress = self.progress(Direction::Download);
        let aside: BTreeSet<RelPath> = self.report.plan.keep_aside.iter().map(|entry| entry.path.clone()).collect();
        let files: Vec<(RemoteFile, Expected)> = entries
            .iter()
            .filter_map(|entry| self.remote.files.get(&entry.path).map(|file| (file.clone(), self.expected(&entry.path, &aside))))
            .collect();
        let mut running = futures_util::stream::iter(files)
            .map(|(file, expected)| {
                let (root, progress) = (&root, &progress);
                async move {
                    let moved = progress(&file.path);
                    let fetched = download(cfs, &file, root, expected, &moved).await;
                    (file, fetched)
                }
            })
            .buffer_unordered(options.jobs.max(1));
        while let Some((file, outcome)) = running.next().await {
            match outcome {
                Ok(fetched) => {
                    self.report.downloaded.0 += 1;
                    self.report.downloaded.1 += file.size;
                    if let Some(kept) = fetched.kept {
                        self.kept(&file.path, kept);
                    }
                    self.done(Direction::Download, &file.path, file.size);
                    let agreed = BaseFile { sha256: file.sha256, mode: fetched.mode, fetched: true };
                    self.change.agreed.push((file.path.to_string(), agreed));
                }
                Err(Failed::File(why)) => self.problem(&file.path, why),
                Err(Failed::All(error)) => return Err(error),
            }
            self.remember_some()?;
        }
        Ok(())
    }

    /// What a file that comes may replace. What is to be kept aside is kept as if it had not been expected, when the new file is
    /// whole: until then it stands under its name.
    fn expected(&self, path: &RelPath, aside: &BTreeSet<RelPath>) -> Expected {
        match self.local.files.get(path) {
            Some(file) if !aside.contains(path) => Expected::Seen(file.stat),
            _ => Expected::Nothing,
        }
    }

    fn done(&self, direction: Direction, path: &RelPath, size: u64) {
        if !path.is_folder_marker() {
            self.events.emit(Event::FileDone { tree: self.options.tree, direction, path: path.to_string(), size });
        }
    }

    /// Tells the bytes of one file as they move.
    fn progress(&self, direction: Direction) -> impl Fn(&RelPath) -> Box<dyn Fn(u64) + Send + Sync> + use<> {
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
        let (cfs, options) = (self.cfs, self.options);
        let mut running = futures_util::stream::iter(entries)
            .map(|entry| async move {
                let (label, name) = labels::place_of(&options.label, &entry.path);
                let removed = cfs.client.remove_file(&label, &name).await;
                (entry, removed)
            })
            .buffer_unordered(options.jobs.max(1));
        while let Some((entry, removed)) = running.next().await {
            match removed.map_err(Failed::from) {
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

/// Removes a file that is still what was looked at (or the folder that a marker stands for), and the folders above it that are
/// empty then.
fn remove_file(root: &Path, path: &RelPath, seen: &Stat) -> std::io::Result<()> {
    if !path.is_folder_marker() {
        place::remove_unwritten(&path.under(root), seen)?;
    }
    for folder in path.ancestors() {
        // A folder that holds something stays.
        if std::fs::remove_dir(folder.under(root)).is_err() {
            break;
        }
    }
    Ok(())
}
