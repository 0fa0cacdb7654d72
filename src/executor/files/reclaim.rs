//! Snapshots that nobody used for long go, and those used least lately where there is no room: decided by a pure function, done
//! at the start, every hour, and when a disk is full. So do folders that were not to be kept and are here all the same.

use super::FilesError;
use super::cfs::CfsFiles;
use super::shelf;
use crate::executor::place::Inside;
use crate::panics;
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// How often snapshots are looked through.
const EVERY: Duration = Duration::from_secs(3600);
const DAY_MS: i64 = 24 * 3600 * 1000;
/// A folder that was not to be kept stays for so long after its last use, ms: the process that was taken away may come back.
const LEFT_MS: i64 = 3600 * 1000;
/// Room that is made at least where the disk is full: less would be full again at once.
const LEAST: u64 = 256 << 20;

/// How long snapshots stay on an executor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keep {
    /// Days after the last use; 0: for ever.
    pub days: u32,
    /// Bytes that all snapshots take; 0: no limit.
    pub max_bytes: u64,
    /// Bytes that are left free on the disk; 0: nothing is done about it before it is full.
    pub min_free: u64,
}

impl Default for Keep {
    fn default() -> Keep {
        Keep { days: 14, max_bytes: 0, min_free: 0 }
    }
}

/// A snapshot on the disk, as far as the decision needs to know it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Candidate {
    dir: Inside,
    /// Ms since 1970.
    used: i64,
    /// It may not go: a live job uses it, or something in it is not its own.
    busy: bool,
    /// Device and inode, and bytes, of each file.
    files: BTreeMap<(u64, u64), u64>,
}

/// Which go, in this order. `free` is what the disk has left; bytes that several share count once, and are free only when the
/// last of them is gone.
fn decide(candidates: &[Candidate], keep: Keep, free: u64, now: i64) -> Vec<Inside> {
    let mut names: BTreeMap<(u64, u64), (u32, u64)> = BTreeMap::new();
    for (inode, bytes) in candidates.iter().flat_map(|candidate| &candidate.files) {
        names.entry(*inode).or_insert((0, *bytes)).0 += 1;
    }
    let (mut held, mut free): (u64, u64) = (names.values().map(|(_, bytes)| bytes).sum(), free);
    let mut oldest: Vec<&Candidate> = candidates.iter().filter(|candidate| !candidate.busy).collect();
    oldest.sort_by_key(|candidate| candidate.used);
    let mut gone = Vec::new();
    for candidate in oldest {
        let old = keep.days > 0 && now - candidate.used > i64::from(keep.days) * DAY_MS;
        let full = (keep.max_bytes > 0 && held > keep.max_bytes) || free < keep.min_free;
        if !old && !full {
            break;
        }
        for (inode, bytes) in &candidate.files {
            if let Some((left, _)) = names.get_mut(inode) {
                *left -= 1;
                if *left == 0 {
                    held -= bytes;
                    free += bytes;
                }
            }
        }
        gone.push(candidate.dir.clone());
    }
    gone
}

impl CfsFiles {
    /// Removes old snapshots until `shutdown`.
    pub async fn keep_tidy(self, shutdown: CancellationToken) {
        loop {
            match panics::caught(self.reclaim(0)).await {
                Ok(Ok(_)) => {}
                Ok(Err(error)) => tracing::warn!(%error, "old snapshots are not removed"),
                Err(error) => tracing::error!(error, "removing old snapshots broke"),
            }
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = tokio::time::sleep(EVERY) => {}
            }
        }
    }

    /// Removes what was left behind, and snapshots that are old or too many; where the disk is full, so many that there is room
    /// for `needed` more bytes. Gives how many folders went.
    pub(super) async fn reclaim(&self, needed: u64) -> Result<usize, FilesError> {
        self.places.all_here().await;
        let mut count = self.sweep().await?;
        let what = || format!("old snapshots in {}", self.fs_dir.display());
        let gone = self.on_disk(what(), move |here| here.to_reclaim(needed)).await?;
        for dir in gone {
            let _alone = self.places.alone(&dir).await;
            // Somebody may have come since.
            if self.places.used_beside(&dir, "") {
                continue;
            }
            let removed = dir.clone();
            if self.on_disk(what(), move |here| here.remove_unneeded(&removed)).await? {
                tracing::info!(%dir, "an old snapshot is removed");
                count += 1;
            }
        }
        Ok(count)
    }

    /// Removes folders that were not to be kept and are here all the same: the executor died before it had cleaned up, or the
    /// process was taken away. Snapshots of the colony are left alone: whoever has the process now may need them. Gives how many
    /// folders went.
    async fn sweep(&self) -> Result<usize, FilesError> {
        let what = format!("what processes left in {}", self.fs_dir.display());
        let left = self.on_disk(what, |here| here.left_over(super::now_ms())).await?;
        let mut count = 0;
        for folder in left {
            match self.remove_left(&folder).await {
                Ok(true) => {
                    tracing::info!(dir = %folder.dir, "what a process left behind is removed");
                    count += 1;
                }
                Ok(false) => {}
                // One that cannot be looked at now holds up no other; it is tried again.
                Err(error) => tracing::warn!(dir = %folder.dir, %error, "what a process left behind stays"),
            }
        }
        Ok(count)
    }

    /// Folders that were left behind, those within others first. What is in use is noted to be so. Blocks.
    fn left_over(&self, now: i64) -> io::Result<Vec<shelf::Folder>> {
        let known = self.shelf.folders().map_err(io::Error::other)?;
        let (used, mut left): (Vec<_>, Vec<_>) = known.into_iter().partition(|folder| self.places.used_beside(&folder.dir, ""));
        let dirs: Vec<&Inside> = used.iter().map(|folder| &folder.dir).collect();
        self.shelf.touch(&dirs, now).map_err(io::Error::other)?;
        left.retain(|folder| !folder.kept && !folder.unsent && now - folder.used > LEFT_MS);
        left.sort_by_key(|folder| std::cmp::Reverse(folder.dir.as_str().len()));
        Ok(left)
    }

    async fn remove_left(&self, folder: &shelf::Folder) -> Result<bool, FilesError> {
        let _alone = self.places.alone(&folder.dir).await;
        // Of a process that was taken away nothing was sent.
        if folder.snapshot.is_empty() && !self.is_sent(folder).await? {
            return Ok(false);
        }
        // Somebody may have come since.
        if self.places.used_beside(&folder.dir, "") {
            return Ok(false);
        }
        let seen = folder.clone();
        self.on_disk(format!("folder {}", folder.dir), move |here| here.remove_as_seen(&seen)).await
    }

    /// Removes a folder of which still the same is known. Blocks.
    fn remove_as_seen(&self, seen: &shelf::Folder) -> io::Result<bool> {
        if self.shelf.folder(&seen.dir).map_err(io::Error::other)?.as_ref() != Some(seen) {
            return Ok(false);
        }
        if seen.made {
            return self.remove_unneeded(&seen.dir);
        }
        // Somebody else's folder, which stays: nothing in it is ours any more.
        let known = self.shelf.folders().map_err(io::Error::other)?;
        if seen.snapshot.is_empty() && !self.holds_others(&known, &seen.dir) {
            self.shelf.forget(&seen.dir).map_err(io::Error::other)?;
        }
        Ok(false)
    }

    /// Removes a folder unless there is something in it that is not its own, or was not sent. Gives whether it went. Blocks.
    fn remove_unneeded(&self, dir: &Inside) -> io::Result<bool> {
        let known = self.shelf.folders().map_err(io::Error::other)?;
        let is_unsent = known.iter().any(|folder| folder.dir == *dir && folder.unsent);
        if is_unsent || self.holds_others(&known, dir) {
            return Ok(false);
        }
        self.remove_folder(dir).map(|()| true)
    }

    /// Whether a folder holds another one that is known, of results or of another snapshot: each goes by a rule of its own, and
    /// before the one around it.
    fn holds_others(&self, known: &[shelf::Folder], dir: &Inside) -> bool {
        let is_there = |other: &Inside| !matches!(other.open_below(&self.fs_dir), Ok(None));
        known.iter().any(|other| other.dir.is_within(dir) && other.dir != *dir && is_there(&other.dir))
    }

    fn to_reclaim(&self, needed: u64) -> io::Result<Vec<Inside>> {
        let free = free_bytes(&self.fs_dir)?;
        let min_free = self.keep.min_free.max(if needed > 0 { free + needed.max(LEAST) } else { 0 });
        let keep = Keep { min_free, ..self.keep };
        let known = self.shelf.folders().map_err(io::Error::other)?;
        let mut candidates = Vec::new();
        for folder in known.iter().filter(|folder| !folder.snapshot.is_empty() && folder.made) {
            // Only where bytes count the files are looked at.
            let files = match keep.max_bytes > 0 || min_free > free {
                true => self.files_of(folder)?,
                false => BTreeMap::new(),
            };
            let used = self.places.used_beside(&folder.dir, "");
            let busy = used || folder.unsent || self.holds_others(&known, &folder.dir);
            candidates.push(Candidate { dir: folder.dir.clone(), used: folder.used, busy, files });
        }
        Ok(decide(&candidates, keep, free, super::now_ms()))
    }

    fn files_of(&self, folder: &shelf::Folder) -> io::Result<BTreeMap<(u64, u64), u64>> {
        let mut files = BTreeMap::new();
        let Some(root) = folder.dir.open_below(&self.fs_dir)? else { return Ok(files) };
        let mut folders = vec![root];
        while let Some(within) = folders.pop() {
            for entry in std::fs::read_dir(within.here())? {
                let entry = entry?;
                let Ok(found) = entry.metadata() else { continue };
                if found.is_dir() {
                    // What was swapped for a link meanwhile is passed by.
                    folders.extend(within.enter(&entry.file_name()).ok());
                } else {
                    files.insert((found.dev(), found.ino()), found.blocks() * 512);
                }
            }
        }
        Ok(files)
    }

    /// Removes a folder and what is known of it; of a snapshot also the folder that is named after it, and empty then.
    pub(super) fn remove_folder(&self, dir: &Inside) -> io::Result<()> {
        let Some(folder) = self.shelf.folder(dir).map_err(io::Error::other)? else { return Ok(()) };
        let of_snapshot = !folder.snapshot.is_empty();
        let files = if of_snapshot { self.files_of(&folder)? } else { BTreeMap::new() };
        dir.remove_below(&self.fs_dir)?;
        let above: Vec<&str> = dir.as_str().rsplitn(3, '/').collect();
        if let [_, name, way] = above[..]
            && name == folder.snapshot
            && let Some(within) = Inside::read(way).map_err(io::Error::other)?.open_below(&self.fs_dir)?
        {
            // It stays where it holds something.
            let _ = std::fs::remove_dir(within.at(OsStr::new(name)));
        }
        self.shelf.forget(dir).map_err(io::Error::other)?;
        // Files that have other names, too, are known again when they are read.
        self.shelf.unseal(&files.into_keys().collect::<Vec<_>>()).map_err(io::Error::other)
    }
}

/// Bytes that are left for us on the disk of a folder.
pub(super) fn free_bytes(folder: &std::path::Path) -> io::Result<u64> {
    use std::os::unix::ffi::OsStrExt;
    let text = std::ffi::CString::new(folder.as_os_str().as_bytes())?;
    let mut found = std::mem::MaybeUninit::<libc::statvfs>::zeroed();
    // SAFETY: a C string and a buffer of the right type, both alive during the call.
    if unsafe { libc::statvfs(text.as_ptr(), found.as_mut_ptr()) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: statvfs filled it in.
    let found = unsafe { found.assume_init() };
    #[allow(clippy::unnecessary_cast)] // Narrower on other systems.
    Ok(found.f_bavail as u64 * found.f_frsize as u64)
}

#[cfg(test)]
mod tests {
    use super::super::cfs::tests::files_of;
    use super::*;
    use crate::executor::backend::process::tests::task;
    use crate::executor::spec::SnapshotIn;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn candidate(dir: &str, used: i64, files: &[(u64, u64)]) -> Candidate {
        let files = files.iter().map(|(inode, bytes)| ((1, *inode), *bytes)).collect();
        Candidate { dir: Inside::read(dir).unwrap(), used, busy: false, files }
    }

    fn gone(candidates: &[Candidate], keep: Keep, free: u64) -> Vec<String> {
        decide(candidates, keep, free, 100 * DAY_MS).iter().map(Inside::to_string).collect()
    }

    #[test]
    fn what_nobody_used_for_days_goes() {
        let all = [candidate("new", 99 * DAY_MS, &[]), candidate("old", 80 * DAY_MS, &[]), candidate("used", 0, &[])];
        let mut all = all.to_vec();
        all[2].busy = true;
        assert_eq!(gone(&all, Keep::default(), 0), ["old"]);
        assert!(gone(&all, Keep { days: 0, ..Keep::default() }, 0).is_empty());
    }

    #[test]
    fn shared_bytes_count_once_and_are_free_with_the_last_name() {
        // a and b share inode 1; c stands alone.
        let all = [
            candidate("a", 97 * DAY_MS, &[(1, 100), (2, 1)]),
            candidate("b", 98 * DAY_MS, &[(1, 100), (3, 1)]),
            candidate("c", 99 * DAY_MS, &[(4, 100)]),
        ];
        let keep = |max_bytes, min_free| Keep { days: 0, max_bytes, min_free };
        assert!(gone(&all, keep(202, 0), 0).is_empty());
        assert_eq!(gone(&all, keep(201, 0), 0), ["a"]);
        assert_eq!(gone(&all, keep(200, 0), 0), ["a", "b"]);
        assert_eq!(gone(&all, keep(0, 51), 50), ["a"]);
        assert_eq!(gone(&all, keep(0, 52), 50), ["a", "b"]);
        assert_eq!(gone(&all, keep(0, 1 << 40), 50), ["a", "b", "c"]);
    }

    /// A folder with a file in it: its snapshot (empty: a label's), whether it is kept, whether something was not sent, and how
    /// many hours ago it was used.
    fn note(files: &CfsFiles, dir: &str, (snapshot, kept, unsent): (&str, bool, bool), hours: i64) {
        std::fs::create_dir_all(files.fs_dir.join(dir)).unwrap();
        std::fs::write(files.fs_dir.join(dir).join("f"), "content").unwrap();
        let used = crate::executor::files::now_ms() - hours * 3600 * 1000;
        let (dir, label, snapshot) = (Inside::read(dir).unwrap(), "/l".into(), snapshot.into());
        files.shelf.keep(&shelf::Folder { dir, label, snapshot, made: true, kept, unsent, used }).unwrap();
    }

    fn is_there(files: &CfsFiles, dir: &str) -> bool {
        files.fs_dir.join(dir).join("f").exists()
    }

    #[tokio::test]
    async fn a_snapshot_stays_as_long_as_results_lie_in_it() {
        let home = tempfile::tempdir().unwrap();
        let files = files_of(home.path());
        files.places.expect(BTreeSet::new());
        let (snapshot, unsent, kept) = (("s", true, false), ("", false, true), ("", true, false));
        for (dir, of, hours) in [
            ("a/src", snapshot, 20 * 24),
            ("a/src/out", unsent, 20 * 24),
            ("b/src", snapshot, 20 * 24),
            ("b/src/deep/data", kept, 1),
            ("c/src", snapshot, 20 * 24),
            ("d/src", snapshot, 1),
        ] {
            note(&files, dir, of, hours);
        }
        // By age, and where the disk is full.
        assert_eq!(files.reclaim(0).await.unwrap(), 1);
        assert!(!is_there(&files, "c/src") && is_there(&files, "d/src"));
        assert_eq!(files.reclaim(1).await.unwrap(), 1);
        assert!(!is_there(&files, "d/src"));
        for kept in ["a/src", "a/src/out", "b/src", "b/src/deep/data"] {
            assert!(is_there(&files, kept), "{kept}");
        }
        // A job has removed it itself.
        std::fs::remove_dir_all(files.fs_dir.join("b/src/deep")).unwrap();
        assert_eq!(files.reclaim(0).await.unwrap(), 1);
        assert!(!is_there(&files, "b/src") && is_there(&files, "a/src/out"));
        assert_eq!(files.shelf.folders().unwrap().len(), 2);
    }

    #[tokio::test]
    async fn what_was_left_behind_goes_when_nobody_came_back_for_it() {
        let home = tempfile::tempdir().unwrap();
        let files = files_of(home.path());
        files.places.expect(BTreeSet::new());
        for (dir, kept, unsent, hours) in [
            ("left", false, false, 2),
            ("recent", false, false, 0),
            ("kept", true, false, 2),
            ("unsent", false, true, 2),
            ("used", false, false, 2),
            ("around", false, false, 2),
            ("around/kept", true, false, 2),
        ] {
            note(&files, dir, ("s", kept, unsent), hours);
        }
        let mut job = (*task(home.path(), "true", &[], serde_json::json!({})).job).clone();
        let dir = Inside::read("used").unwrap();
        job.snapshots = vec![SnapshotIn { id: "s".into(), label: "/l".into(), dir, keep_files: false, keep_snapshot: false }];
        let using = files.places.enter(&job, false);
        assert_eq!(files.reclaim(0).await.unwrap(), 1);
        assert!(!is_there(&files, "left"));
        for stays in ["recent", "kept", "unsent", "used", "around", "around/kept"] {
            assert!(is_there(&files, stays), "{stays}");
        }
        drop(using);
        // Until now it was in use.
        assert_eq!(files.reclaim(0).await.unwrap(), 0);
        assert!(is_there(&files, "used"));
    }

    proptest! {
        #[test]
        fn no_more_goes_than_has_to(
            files in prop::collection::vec((0i64..100, any::<bool>(), prop::collection::btree_map((Just(1u64), 0u64..6), 1u64..50, 0..4)), 0..8),
            days in 0u32..100, max_bytes in 0u64..200, min_free in 0u64..100, free in 0u64..100,
        ) {
            let all: Vec<Candidate> = files.into_iter().enumerate().map(|(n, (day, busy, files))| {
                // One inode has one size.
                let files = files.into_keys().map(|inode| (inode, 10 + inode.1)).collect();
                Candidate { dir: Inside::read(&format!("d{n}")).unwrap(), used: day * DAY_MS, busy, files }
            }).collect();
            let keep = Keep { days, max_bytes, min_free };
            let gone = decide(&all, keep, free, 100 * DAY_MS);
            let left: Vec<&Candidate> = all.iter().filter(|c| !gone.contains(&c.dir)).collect();
            prop_assert!(all.iter().filter(|c| c.busy).all(|c| !gone.contains(&c.dir)));
            let bytes = |of: &[&Candidate]| of.iter().flat_map(|c| &c.files).collect::<BTreeMap<_, _>>().into_values().sum::<u64>();
            let (before, after) = (bytes(&all.iter().collect::<Vec<_>>()), bytes(&left));
            let idle = left.iter().any(|c| !c.busy);
            // What should have gone is gone, or nothing is left that may.
            let still_full = (max_bytes > 0 && after > max_bytes) || free + (before - after) < min_free;
            prop_assert!(!(idle && still_full));
            prop_assert!(!left.iter().any(|c| !c.busy && days > 0 && 100 * DAY_MS - c.used > i64::from(days) * DAY_MS));
            // Those that went were used before those that stay.
            let last = all.iter().filter(|c| gone.contains(&c.dir)).map(|c| c.used).max();
            prop_assert!(left.iter().filter(|c| !c.busy).all(|c| last.is_none_or(|last| last <= c.used)));
        }
    }
}
