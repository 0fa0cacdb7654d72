//! Snapshots on this machine: each in a folder of its own, what an earlier one holds shared with it, the rest from the store.

use super::FilesError;
use super::cfs::AT_ONCE;
use super::cfs::CfsFiles;
use super::cfs::list;
use super::cfs::refused;
use super::share::Arranged;
use super::share::Arranger;
use super::share::Source;
use super::shelf;
use crate::blocking;
use crate::cfs;
use crate::cfs::RemoteFile;
use crate::event::Events;
use crate::event::Tree;
use crate::executor::place::Inside;
use crate::executor::spec::Job;
use crate::executor::spec::SnapshotIn;
use crate::index::Folder;
use std::collections::BTreeSet;
use std::io;
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
                let tree = self.cfs.snapshot_tree(&snapshot.id, &snapshot.label).await.map_err(|e| self.failed(what(), &e))?;
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
        let is_left = arranged.is_left;
        let missing = self.bring(&root, arranged).await.map_err(|e| self.failed(what(), &e))?;
        if !missing.is_empty() {
            return Err(refused(what(), list(&missing)));
        }
        let mut lines: Vec<String> =
            odd.iter().map(|(name, why)| format!("left out of {}: {name}: {why}", snapshot.label)).collect();
        if is_left {
            lines.push(format!("{} is not for snapshots alone: files of an earlier one may be left in it", snapshot.dir));
        }
        Ok(lines)
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
        let taken = blocking::run(move || {
            let lost: BTreeSet<&str> = not_come.iter().map(|(path, _)| path.as_str()).collect();
            let came: Vec<&RemoteFile> = missing.iter().filter(|file| !lost.contains(file.path.as_str())).collect();
            Arranger::new(&root, &here.shelf, here.share).take(&came)
        });
        let local = |source| cfs::Error::Local { path: folder.clone(), source };
        taken.await.map_err(local)?;
        Ok(report.problems)
    }

    /// Finds what is in the folder of a snapshot and what earlier ones hold of it. Blocks.
    fn arrange(&self, snapshot: &SnapshotIn, wanted: &[RemoteFile]) -> io::Result<(Arc<Folder>, Arranged)> {
        let other = io::Error::other::<rusqlite::Error>;
        let (root, made) = self.enter(&snapshot.dir)?;
        let known = self.shelf.folders().map_err(other)?;
        let before = known.iter().find(|folder| folder.dir == snapshot.dir);
        let spared = self.spared(&snapshot.dir, &known);
        let mut arranger = Arranger::new(&root, &self.shelf, self.share).sparing(spared);
        let is_left = match before {
            Some(before) if !before.snapshot.is_empty() && before.snapshot != snapshot.id => {
                self.clear(&mut arranger, wanted, before, &known)?
            }
            _ => false,
        };
        // Before the first file comes: whatever ends this early, the next snapshot in this folder knows what is in it.
        let now = shelf::Folder {
            dir: snapshot.dir.clone(),
            label: snapshot.label.clone(),
            snapshot: snapshot.id.clone(),
            made: before.map_or(made, |before| before.made),
            kept: snapshot.keep_files,
            unsent: before.is_some_and(|before| before.unsent),
            used: super::now_ms(),
        };
        self.shelf.keep(&now).map_err(other)?;
        let sources = self.sources(snapshot).map_err(other)?;
        let arranged = arranger.arrange(wanted, &sources)?;
        Ok((root, Arranged { is_left, ..arranged }))
    }

    /// Removes what an earlier snapshot brought and this one does not hold: by its listing, or else everything, as long as
    /// nothing but files of snapshots can be there. Gives whether something may be left.
    fn clear(
        &self,
        arranger: &mut Arranger<'_>,
        wanted: &[RemoteFile],
        before: &shelf::Folder,
        known: &[shelf::Folder],
    ) -> io::Result<bool> {
        if let Some(files) = self.listings.find(&before.snapshot, &before.label) {
            arranger.clear(&files, wanted)?;
            return Ok(false);
        }
        if !self.is_for_snapshots(before, known) {
            return Ok(true);
        }
        tracing::info!(dir = %before.dir, snapshot = before.snapshot, "what it brought is not known");
        arranger.clear_all(wanted)?;
        Ok(false)
    }

    /// Whether a folder was made for snapshots and lies in none whose files are those of a label or of a live job: what is
    /// missing in a label's folder would be removed from the colony, too.
    fn is_for_snapshots(&self, folder: &shelf::Folder, known: &[shelf::Folder]) -> bool {
        let is_around = |dir: &Inside| folder.dir.is_within(dir) && folder.dir != *dir;
        let in_label = known.iter().any(|other| other.snapshot.is_empty() && is_around(&other.dir));
        folder.made && !folder.unsent && !in_label && !self.places.used().iter().any(is_around)
    }

    /// The folders within a snapshot's that stand for themselves, as paths below it: of results, of other snapshots, whether they
    /// are known from earlier or a live job uses them.
    fn spared(&self, dir: &Inside, known: &[shelf::Folder]) -> BTreeSet<String> {
        let used = self.places.used();
        let all = known.iter().map(|folder| &folder.dir).chain(&used);
        let below = |other: &Inside| other.as_str().strip_prefix(dir.as_str())?.strip_prefix('/').map(str::to_owned);
        all.filter_map(below).collect()
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
        blocking::run(move || listings.find(&id, &label)).await
    }

    async fn remember(&self, snapshot: &SnapshotIn, files: Vec<RemoteFile>) {
        let (listings, id, label) = (self.listings.clone(), snapshot.id.clone(), snapshot.label.clone());
        if let Err(error) = blocking::run(move || listings.keep(&id, &label, &files)).await {
            tracing::warn!(snapshot = snapshot.id, %error, "what the snapshot holds is not kept: it will be asked for again");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::cfs::tests::files_of;
    use super::*;
    use crate::index::RelPath;
    use sha2::Digest;
    use sha2::Sha256;

    fn dir(text: &str) -> Inside {
        Inside::read(text).unwrap()
    }

    fn remote(path: &str) -> RemoteFile {
        let sha256 = hex::encode(Sha256::digest("content"));
        RemoteFile { path: RelPath::parse(path).unwrap(), size: 7, sha256, object: "o".into() }
    }

    fn note(files: &CfsFiles, path: &str, snapshot: &str, made: bool) {
        let (dir, label, snapshot) = (dir(path), "/l".into(), snapshot.into());
        files.shelf.keep(&shelf::Folder { dir, label, snapshot, made, kept: true, unsent: false, used: 1 }).unwrap();
    }

    fn write(files: &CfsFiles, path: &str) {
        let full = files.fs_dir.join(path);
        std::fs::create_dir_all(full.parent().unwrap()).unwrap();
        std::fs::write(full, "content").unwrap();
    }

    fn arrange(files: &CfsFiles, path: &str, wanted: &[RemoteFile]) -> Arranged {
        let snapshot = SnapshotIn { id: "new".into(), label: "/l".into(), dir: dir(path), keep_files: true, keep_snapshot: true };
        files.arrange(&snapshot, wanted).unwrap().1
    }

    #[tokio::test]
    async fn without_a_listing_everything_of_the_snapshot_goes_and_nothing_else() {
        let home = tempfile::tempdir().unwrap();
        let files = files_of(home.path());
        for path in ["p/src/stale", "p/src/a", "p/src/deep/stale", "p/src/out/result", "p/src/deep/out/result"] {
            write(&files, path);
        }
        note(&files, "p/src", "old", true);
        note(&files, "p/src/out", "", true);
        note(&files, "p/src/deep/out", "", false);
        // A file of the snapshot has the name of a folder with results.
        let arranged = arrange(&files, "p/src", &[remote("a"), remote("out")]);
        assert!(!arranged.is_left);
        assert_eq!(arranged.missing, [remote("out")]);
        let there = |path: &str| files.fs_dir.join(path).exists();
        assert!(there("p/src/a") && there("p/src/out/result") && there("p/src/deep/out/result"));
        assert!(!there("p/src/stale") && !there("p/src/deep/stale"));
    }

    #[tokio::test]
    async fn a_folder_that_is_not_for_snapshots_alone_is_left_and_that_is_told() {
        let home = tempfile::tempdir().unwrap();
        let files = files_of(home.path());
        for path in ["hand/stale", "label/src/stale"] {
            write(&files, path);
        }
        note(&files, "hand", "old", false);
        note(&files, "label", "", true);
        note(&files, "label/src", "old", true);
        for path in ["hand", "label/src"] {
            assert!(arrange(&files, path, &[remote("a")]).is_left, "{path}");
            assert!(files.fs_dir.join(path).join("stale").exists(), "{path}");
            // Told once: the same snapshot again brings nothing new.
            assert!(!arrange(&files, path, &[remote("a")]).is_left, "{path}");
        }
    }
}
