//! The downloads of a plan: what is on this machine already is looked for first, and each content comes once.

use super::Error;
use super::download::Desk;
use super::download::Fetched;
use super::download::download;
use super::here;
use super::here::Sources;
use super::large;
use super::list::RemoteFile;
use super::place::Expected;
use super::plan::Entry;
use super::sync::Work;
use super::unfinished;
use super::upload::Failed;
use crate::blocking;
use crate::event::Direction;
use crate::event::Event;
use crate::index::KnownObject;
use crate::index::LocalTree;
use crate::index::RelPath;
use crate::journal::base::BaseFile;
use futures_util::StreamExt;
use std::collections::BTreeSet;
use std::path::PathBuf;

impl Work<'_> {
    /// Looks which contents that are to come are here already, and tidies what was begun and nobody wants any more. Parts the
    /// removals here into those that come first and those that must wait until what they hold was copied.
    pub(super) async fn look_for_contents(&mut self) -> Result<(Vec<Entry>, Vec<Entry>), Error> {
        let (downloads, removals) = (self.report.plan.downloads.clone(), self.report.plan.remove_local.clone());
        let files: Vec<RemoteFile> = downloads.iter().filter_map(|e| self.remote.files.get(&e.path)).cloned().collect();
        let begun: BTreeSet<PathBuf> = files
            .iter()
            .filter(|file| file.size > large::LARGE)
            .map(|file| unfinished::name_beside(&file.path.under(&self.root), file))
            .collect();
        let (journal, index, root) = (self.journal.clone(), self.index.clone(), self.root.clone());
        // An unchanged tree is not copied for nothing.
        let tree = if files.is_empty() { LocalTree::default() } else { self.local.clone() };
        let looked = blocking::run(move || {
            unfinished::tidy(&journal, &root, &begun)?;
            let wanted: BTreeSet<&str> = files.iter().filter(|f| f.size > 0).map(|f| f.sha256.as_str()).collect();
            let (first, later) = here::part_removals(removals, &downloads, &tree, &wanted);
            let taken = downloads.iter().chain(&first).map(|entry| entry.path.clone()).collect();
            Ok::<_, Error>((Sources::find(&index, &tree, &root, &wanted, &taken), (first, later)))
        });
        let (sources, removals) = looked.await?;
        self.sources = sources;
        Ok(removals)
    }

    /// Fetches what was planned: first each content once, then the files that hold one of these, too.
    pub(super) async fn fetch_in_order(&mut self, entries: Vec<Entry>) -> Result<(), Error> {
        let aside: BTreeSet<RelPath> = self.report.plan.keep_aside.iter().map(|entry| entry.path.clone()).collect();
        let files = entries
            .iter()
            .filter_map(|entry| self.remote.files.get(&entry.path).map(|file| (file.clone(), self.expected(&entry.path, &aside))))
            .collect();
        let (first, doubles) = here::part_doubles(files);
        let contents: BTreeSet<String> = doubles.iter().map(|(file, _)| file.sha256.clone()).collect();
        self.fetch_all(first, &contents).await?;
        let outcome = self.fetch_all(doubles, &BTreeSet::new()).await;
        // What was held open takes room on the disk, though it has no name any more.
        self.sources = Sources::default();
        outcome
    }

    /// Fetches files, several at once; those that hold one of `contents` are wanted again.
    async fn fetch_all(&mut self, files: Vec<(RemoteFile, Expected)>, contents: &BTreeSet<String>) -> Result<(), Error> {
        let (cfs, options, root, sources) = (self.cfs, self.options, self.root.clone(), self.sources.clone());
        let desk = Desk::new(cfs, Some(self.journal), &root, &sources, options.jobs);
        let progress = self.progress(Direction::Download);
        let mut running = futures_util::stream::iter(files)
            .map(|(file, expected)| {
                let (desk, progress) = (&desk, &progress);
                async move {
                    let moved = progress(&file.path);
                    let fetched = Failed::caught(download(desk, &file, expected, &moved)).await;
                    (file, fetched)
                }
            })
            .buffer_unordered(options.jobs.max(1));
        while let Some((file, outcome)) = running.next().await {
            match outcome {
                Ok(fetched) => {
                    if contents.contains(&file.sha256) {
                        self.sources.add(&file.sha256, file.path.under(&root));
                    }
                    self.came(file, fetched);
                }
                Err(Failed::File(why)) => self.problem(&file.path, why),
                Err(Failed::All(error)) => return Err(error),
            }
            self.remember_some()?;
        }
        Ok(())
    }

    fn came(&mut self, file: RemoteFile, fetched: Fetched) {
        self.report.downloaded.0 += 1;
        self.report.downloaded.1 += fetched.travelled;
        if fetched.copied {
            self.report.copied.0 += 1;
            self.report.copied.1 += file.size;
        }
        if let Some(kept) = fetched.kept {
            self.kept(&file.path, kept);
        }
        self.done(Direction::Download, &file.path, file.size, fetched.travelled);
        if let Some(etag) = fetched.etag {
            let (key, sha256, size) = (file.object.clone(), file.sha256.clone(), file.size);
            self.known.push(KnownObject { key, sha256, size, etag, mode: None });
        }
        let agreed = BaseFile { sha256: file.sha256, mode: fetched.mode, fetched: true };
        self.change.agreed.push((file.path.to_string(), agreed));
        if !file.path.is_folder_marker() {
            self.report.arrived.insert(file.path);
        }
    }

    /// Says how much did not have to travel.
    pub(super) fn tell_copies(&self) {
        let files = self.report.copied.0;
        if files > 0 {
            let (tree, were) = (self.options.tree, if files == 1 { "file was" } else { "files were" });
            let message = format!("{tree}: {files} {were} on this machine already under other names: copied, not fetched");
            self.events.emit(Event::Note { message });
        }
    }
}
