//! Snapshots on this machine: each in a folder of its own, what an earlier one holds shared with it, the rest from the store.

use super::FilesError;
use super::cfs::AT_ONCE;
use super::cfs::CfsFiles;
use super::cfs::failed;
use super::cfs::list;
use super::cfs::refused;
use super::share::Arranged;
use super::share::Arranger;
use super::share::Source;
use super::shelf;
use crate::cfs;
use crate::cfs::RemoteFile;
use crate::event::Events;
use crate::event::Tree;
use crate::executor::spec::Job;
use crate::executor::spec::SnapshotIn;
use crate::index::Folder;
use std::collections::BTreeSet;
use std::sync::Arc;

/// So many earlier snapshots are looked at for what is the same in them.
const SOURCES: usize = 8;

impl CfsFiles {
    /// Brings a snapshot to its folder. Gives lines for the reader of the process log.
    pub(super) async fn fetch_snapshot(&self, job: &Job, snapshot: &SnapshotIn) -> Result<Vec<String>, FilesError> {
        let what = || format!("snapshot {} of {}", snapshot.id, snapshot.label);
        self.places.turn(job).await;
        let _alone = self.places.alone(&snapshot.dir).await;
        let (files, known, problems) = match self.known(snapshot).await {
            Some(files) => (files, true, Vec::new()),
            None => {
                let tree = self.cfs.snapshot_tree(&snapshot.id, &snapshot.label).await.map_err(|e| failed(what(), &e))?;
                (tree.files.into_values().collect(), false, tree.problems)
            }
        };
        // A file that is not there is worse than a job that does not run: it would compute something else.
        let (gone, odd): (Vec<_>, Vec<_>) = problems.into_iter().partition(|(name, _)| name.starts_with("file "));
        if !gone.is_empty() {
            return Err(refused(what(), list(&gone)));
        }
        // What is odd is told to each run: such a snapshot is asked for again.
        if !known && odd.is_empty() {
            self.remember(snapshot, files.clone()).await;
        }
        let (snapshot_in, wanted) = (snapshot.clone(), files.clone());
        let (root, arranged) = self.on_disk(what(), move |here| here.arrange(&snapshot_in, &wanted)).await?;
        tracing::debug!(snapshot = snapshot.id, shared = arranged.shared, missing = arranged.missing.len(), "looked at");
        let missing = self.bring(&root, arranged).await.map_err(|e| failed(what(), &e))?;
        if !missing.is_empty() {
            return Err(refused(what(), list(&missing)));
        }
        Ok(odd.iter().map(|(name, why)| format!("left out of {}: {name}: {why}", snapshot.label)).collect())
    }

    /// Fetches what no earlier snapshot shares. Gives what did not come, and why.
    async fn bring(&self, root: &Arc<Folder>, arranged: Arranged) -> Result<Vec<(String, String)>, cfs::Error> {
        let Arranged { missing, elsewhere, .. } = arranged;
        if missing.is_empty() {
            return Ok(Vec::new());
        }
        let (folder, events) = (root.here(), Events::none());
        let request = cfs::Missing { files: missing.clone(), elsewhere, folder: &folder, tree: Tree::Src };
        let report = cfs::fetch_missing(&self.cfs, &self.index, request, AT_ONCE, &events).await?;
        let (here, root, not_come) = (self.clone(), root.clone(), report.problems.clone());
        let taken = tokio::task::spawn_blocking(move || {
            let lost: BTreeSet<&str> = not_come.iter().map(|(path, _)| path.as_str()).collect();
            let came: Vec<&RemoteFile> = missing.iter().filter(|file| !lost.contains(file.path.as_str())).collect();
            Arranger::new(&root, &here.shelf, here.share).take(&came)
        });
        let local = |source| cfs::Error::Local { path: folder.clone(), source };
        taken.await.map_err(|e| local(std::io::Error::other(e)))?.map_err(local)?;
        Ok(report.problems)
    }

    /// Finds what is in the folder of a snapshot and what earlier ones hold of it. Blocks.
    fn arrange(&self, snapshot: &SnapshotIn, wanted: &[RemoteFile]) -> std::io::Result<(Arc<Folder>, Arranged)> {
        let other = std::io::Error::other::<rusqlite::Error>;
        let (root, made) = self.enter(&snapshot.dir)?;
        let mut arranger = Arranger::new(&root, &self.shelf, self.share);
        let before = self.shelf.folder(&snapshot.dir).map_err(other)?;
        if let Some(before) = before.as_ref().filter(|before| !before.snapshot.is_empty() && before.snapshot != snapshot.id)
            && let Some(files) = self.listings.find(&before.snapshot, &before.label)
        {
            arranger.clear(&files, wanted)?;
        }
        // Before the first file comes: whatever ends this early, the next snapshot in this folder knows what is in it.
        let now = shelf::Folder {
            dir: snapshot.dir.clone(),
            label: snapshot.label.clone(),
            snapshot: snapshot.id.clone(),
            made: before.map_or(made, |before| before.made),
            kept: snapshot.keep_files,
            unsent: false,
            used: super::now_ms(),
        };
        self.shelf.keep(&now).map_err(other)?;
        let sources = self.sources(snapshot).map_err(other)?;
        let arranged = arranger.arrange(wanted, &sources)?;
        Ok((root, arranged))
    }

    /// Earlier snapshots: of the same label first, those used last first.
    fn sources(&self, snapshot: &SnapshotIn) -> rusqlite::Result<Vec<Source>> {
        let mut earlier = self.shelf.folders()?;
        earlier.retain(|folder| !folder.snapshot.is_empty() && folder.dir != snapshot.dir);
        let is_kin = |folder: &shelf::Folder| !snapshot.label.is_empty() && folder.label == snapshot.label;
        earlier.sort_by_key(|folder| !is_kin(folder));
        let source = |folder: shelf::Folder| {
            // One that is gone, or was led elsewhere, is none.
            let opened = folder.dir.open_below(&self.fs_dir).ok()??;
            let files = self.listings.find(&folder.snapshot, &folder.label)?;
            Some(Source { folder: opened, files, is_kin: is_kin(&folder) })
        };
        Ok(earlier.into_iter().filter_map(source).take(SOURCES).collect())
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
}
