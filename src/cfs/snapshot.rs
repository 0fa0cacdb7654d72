//! Snapshots: a tree frozen for a run, exactly as it was brought over.
//!
//! The server makes a snapshot of a label by a query with two faults (see `tests/wire`): `_` and `%` are wildcards, so files
//! of other projects may get in, and a label without files of its own gives nothing. And removing a file breaks every snapshot
//! that lists it. So what comes back is counted, and where it is not the tree, the tree is copied inside the store to a label of
//! its own.

use super::Cfs;
use super::Error;
use super::SyncReport;
use super::claim;
use super::labels;
use super::list::RemoteFile;
use super::upload::fatal;
use super::upload::new_key;
use super::upload::row;
use crate::colonies::ProcessFilter;
use crate::colonies::ProcessState;
use crate::colonies::Snapshot;
use crate::index::LocalFile;
use crate::index::LocalTree;
use crate::index::RelPath;
use futures_util::StreamExt;
use futures_util::TryStreamExt;
use jiff::Timestamp;
use std::collections::BTreeSet;

/// Copies under way at once.
const AT_ONCE: usize = 8;
/// For so long (seconds) a snapshot serves again, and a frozen tree is added to: a week. `gc` on another machine removes what is
/// twice as old, and cannot see that somebody is about to use it.
pub(super) const SERVES: i64 = 7 * 24 * 3600;
/// The label below a project's where trees stand that were frozen for runs.
pub(super) const FROZEN: &str = "runs";
/// Most processes of one state that the server lists.
const LISTED: u32 = 100;

/// A snapshot of the tree that `report` tells of. `earlier` is one that was made of the very same tree, with when (ns since
/// 1970): it serves again where no row was removed since and it is still there.
pub async fn snapshot(cfs: &Cfs, label: &str, report: &SyncReport, earlier: Option<(&str, i64)>) -> Result<Snapshot, Error> {
    let expected = report.files.len();
    if let Some((id, made)) = earlier
        && made > report.last_removal
        && let Some(snapshot) = still_there(cfs, id, expected).await?
    {
        return Ok(snapshot);
    }
    if report.plan.foreign.is_empty() && report.held.is_empty() {
        let snapshot = cfs.client.create_snapshot(label, &name(report)?).await?;
        if count(&snapshot) == expected && is_unchanged(cfs, label, report).await? {
            return Ok(snapshot);
        }
        tracing::debug!(label, expected, found = count(&snapshot), "the snapshot is not the tree; a label of its own is made");
        cfs.client.remove_snapshot(&snapshot.snapshotid).await?;
    }
    let own = own_label(label, &report.tree_digest, Timestamp::now());
    fill(cfs, &own, report).await?;
    let snapshot = cfs.client.create_snapshot(&own, &name(report)?).await?;
    match count(&snapshot) {
        found if found == expected => Ok(snapshot),
        found => Err(Error::WrongSnapshot { label: own, expected, found }),
    }
}

/// An earlier snapshot of a tree that stands alone ([`own_label`] of `label`) and that `local` is the same as: given where it may
/// serve again and the colony still has every file of it. Nothing is known of removals from such a label, so it is looked at.
pub async fn frozen_again(cfs: &Cfs, label: &str, id: &str, local: &LocalTree) -> Result<Option<Snapshot>, Error> {
    let Some(snapshot) = still_there(cfs, id, local.files.len()).await? else { return Ok(None) };
    let (project, _) = label.rsplit_once('/').unwrap_or((label, ""));
    if !labels::is_below(&format!("{project}/{FROZEN}"), &snapshot.label) {
        return Ok(None);
    }
    let there = cfs.list(&snapshot.label).await?;
    let is_there = |(path, file): (&RelPath, &LocalFile)| there.files.get(path).is_some_and(|t| t.sha256 == file.sha256);
    let whole = there.files.len() == local.files.len() && local.files.iter().all(is_there);
    Ok(whole.then_some(snapshot))
}

/// Whether the label still holds the very rows that `report` tells of. Then it held them when the snapshot was made, too: each
/// revision has an object of its own, so nothing can have come and gone unseen.
async fn is_unchanged(cfs: &Cfs, label: &str, report: &SyncReport) -> Result<bool, Error> {
    let now = cfs.list(label).await?;
    Ok(now.problems.is_empty() && now.files == report.files)
}

fn count(snapshot: &Snapshot) -> usize {
    snapshot.fileids.as_ref().map_or(0, Vec::len)
}

/// Whether a snapshot is young enough to be used again.
fn serves(snapshot: &Snapshot, now: Timestamp) -> bool {
    snapshot.added.get().is_some_and(|added| now.as_second() - added.as_second() <= SERVES)
}

async fn still_there(cfs: &Cfs, id: &str, expected: usize) -> Result<Option<Snapshot>, Error> {
    match cfs.client.snapshot(id).await {
        Ok(snapshot) if count(&snapshot) == expected && serves(&snapshot, Timestamp::now()) => Ok(Some(snapshot)),
        Ok(_) => Ok(None),
        Err(error) if error.is_unreachable() => Err(error.into()),
        // The server answers an unknown snapshot with 500 and words of its database.
        Err(error) => {
            tracing::debug!(%error, id, "the earlier snapshot cannot be used again");
            Ok(None)
        }
    }
}

/// A name that is new in the colony. It must hold no `:`, or the server can read no snapshot any more.
fn name(report: &SyncReport) -> Result<String, Error> {
    let mut bytes = [0u8; 8];
    getrandom::fill(&mut bytes)
        .map_err(|e| Error::Local { path: "randomness".into(), source: std::io::Error::other(e.to_string()) })?;
    Ok(format!("pollinator-{}-{}", short(&report.tree_digest), hex::encode(bytes)))
}

fn short(digest: &str) -> &str {
    &digest[..digest.len().min(16)]
}

/// Where a tree stands alone: `/pollinator/<project>/runs/<digest>-<week>/src`. Nothing is added to it when that time is
/// over.
pub fn own_label(label: &str, digest: &str, now: Timestamp) -> String {
    let (project, tree) = label.rsplit_once('/').unwrap_or((label, "src"));
    format!("{project}/{FROZEN}/{}-{}/{tree}", short(digest), now.as_second() / SERVES)
}

/// Makes a label hold exactly this tree, by copies inside the store. What is there already from an earlier run stays.
async fn fill(cfs: &Cfs, own: &str, report: &SyncReport) -> Result<(), Error> {
    let there = cfs.list(own).await?;
    if report.files.values().any(|f| f.size > 0) {
        claim::claim(cfs, own).await?;
    }
    let is_missing = |f: &&RemoteFile| there.files.get(&f.path).is_none_or(|t| t.sha256 != f.sha256);
    let missing: Vec<RemoteFile> = report.files.values().filter(is_missing).cloned().collect();
    let copy = |file: RemoteFile| async move {
        let object = if file.size == 0 {
            String::new()
        } else {
            let key = new_key(own).map_err(fatal)?;
            cfs.store.copy(&file.object, &key).await?;
            key
        };
        cfs.client.add_file(&row(cfs, own, &file.path, &object, file.size, &file.sha256)).await?;
        Ok::<(), Error>(())
    };
    futures_util::stream::iter(missing.into_iter().map(copy)).buffer_unordered(AT_ONCE).try_collect::<Vec<()>>().await?;
    Ok(())
}

/// Files that snapshots of processes which have not ended still list.
#[derive(Debug, Default)]
pub(super) struct Needed {
    files: BTreeSet<RelPath>,
    /// There are more processes than the server lists: any file may be needed.
    unknown: bool,
}

impl Needed {
    /// Whether a file may be needed.
    pub(super) fn holds(&self, path: &RelPath) -> bool {
        self.unknown || self.files.contains(path)
    }
}

/// Files below `root` that a snapshot of a process that has not ended still lists. By path, not by id: removing a file removes
/// all its revisions.
pub(super) async fn needed_files(cfs: &Cfs, root: &str) -> Result<Needed, Error> {
    let mut snapshots = BTreeSet::new();
    let mut needed = Needed::default();
    for state in [ProcessState::Waiting, ProcessState::Running] {
        let processes = cfs.client.processes(state, LISTED, &ProcessFilter::None).await?;
        needed.unknown |= processes.len() >= LISTED as usize;
        for process in processes {
            let mounts = process.spec.fs.snapshots.unwrap_or_default();
            let ours = mounts.into_iter().filter(|m| labels::is_below(root, &m.label) || labels::is_below(&m.label, root));
            snapshots.extend(ours.map(|m| m.snapshotid).filter(|id| !id.is_empty()));
        }
    }
    for id in snapshots {
        match cfs.snapshot_tree(&id, root).await {
            Ok(tree) => needed.files.extend(tree.files.into_keys()),
            Err(error) if error.is_unreachable() => return Err(error),
            // A snapshot that is gone needs nothing.
            Err(error) => tracing::debug!(%error, id, "the snapshot of a process cannot be read"),
        }
    }
    Ok(needed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::colonies::time::Time;

    #[test]
    fn what_is_about_to_be_used_is_far_younger_than_what_gc_removes() {
        let now: Timestamp = "2026-11-23T12:00:00Z".parse().unwrap();
        let made = |text: &str| Snapshot { added: Time::parse(text).unwrap(), ..Snapshot::default() };
        // Also one from a server whose clock is ahead of ours.
        for young in ["2026-11-16T12:00:00Z", "2026-11-23T12:10:00Z"] {
            assert!(serves(&made(young), now), "{young}");
        }
        for old in ["2026-11-16T11:59:59Z", ""] {
            assert!(!serves(&made(old), now), "{old}");
        }
        let label = |text: &str| own_label("/pollinator/p/src", "0123456789abcdef0", text.parse().unwrap());
        assert_eq!(label("1970-01-07T23:59:59Z"), "/pollinator/p/runs/0123456789abcdef-0/src");
        assert_ne!(label("1970-01-07T23:59:59Z"), label("1970-01-08T00:00:00Z"));
    }
}
