//! The three-way comparison: local, remote, and what was there when both were last in step. Pure.
//!
//! What is planned follows from what is observed, each time anew: a synchronization that was cut off leaves nothing behind
//! that the next comparison would not see.

use crate::index::RelPath;
use crate::journal::base::BaseFile;
use serde::Serialize;
use std::collections::BTreeMap;
use std::collections::BTreeSet;

/// Who is right in a tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policy {
    /// src: this side is the truth; nothing comes down.
    Mirror,
    /// data: both ways; this side wins.
    LocalWins,
    /// result: both ways; the colony wins, and what would be lost here is kept aside.
    RemoteWins,
    /// An executor's start: one way in.
    FetchOnly {
        /// Where both sides changed, this one stays.
        keep_local: bool,
    },
    /// An executor's start in a folder where other jobs are at work: only what is new there, or newer than what nobody here
    /// touched, comes. Nothing is removed.
    FetchBeside,
    /// An executor's end: one way out.
    SendOnly {
        /// Where both sides changed, this one wins.
        keep_local: bool,
    },
    /// An executor's end in a folder where other jobs are at work: as [`Policy::SendOnly`], but nothing is removed in the colony,
    /// for what is missing here may be about to come.
    SendBeside {
        /// Where both sides changed, this one wins.
        keep_local: bool,
    },
}

impl Policy {
    /// Whether files may go to the colony.
    pub(super) fn sends(self) -> bool {
        !self.only_fetches()
    }

    /// Whether files may only come from there.
    pub(super) fn only_fetches(self) -> bool {
        matches!(self, Policy::FetchOnly { .. } | Policy::FetchBeside)
    }
}

/// A file of one side. Borrowed, because trees are large.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Side<'a> {
    /// Bytes.
    pub size: u64,
    /// SHA-256, hex.
    pub sha256: &'a str,
    /// Permission bits; only known locally.
    pub mode: Option<u32>,
}

/// One file of a plan.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Entry {
    /// Path below the tree.
    pub path: RelPath,
    /// Bytes that would travel, or be removed.
    pub size: u64,
}

/// What a synchronization would do.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Plan {
    /// To the colony.
    pub uploads: Vec<Entry>,
    /// From the colony.
    pub downloads: Vec<Entry>,
    /// Removed from the colony.
    pub remove_remote: Vec<Entry>,
    /// Removed here.
    pub remove_local: Vec<Entry>,
    /// Renamed here when the colony's file has come down (those are in `downloads`, too).
    pub keep_aside: Vec<Entry>,
    /// Files of others in a mirrored tree: left alone, and not part of it.
    pub foreign: Vec<Entry>,
    /// Cannot be done: a file on one side stands where the other has a folder.
    pub clashes: Vec<Entry>,
    /// The same on both sides.
    pub unchanged: u64,
    /// Equal on both sides and not so in the base: only noted.
    #[serde(skip)]
    pub agree: Vec<RelPath>,
    /// Gone on both sides: only noted.
    #[serde(skip)]
    pub forget: Vec<String>,
}

impl Plan {
    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.uploads.is_empty() && self.downloads.is_empty() && self.remove_remote.is_empty() && self.remove_local.is_empty()
    }
}

type Files<'a> = BTreeMap<&'a RelPath, Side<'a>>;

/// What one file needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Unchanged,
    Upload,
    Download,
    /// Download, with the local file kept under another name.
    DownloadAside,
    RemoveRemote,
    RemoveLocal,
    Foreign,
    Leave,
}

/// Compares. `base` is what was there at the last synchronization; nothing where there was none.
pub fn plan(local: &Files<'_>, remote: &Files<'_>, base: &BTreeMap<String, BaseFile>, policy: Policy) -> Plan {
    let mut plan = Plan::default();
    let paths: BTreeSet<&RelPath> = local.keys().chain(remote.keys()).copied().collect();
    for path in paths {
        let (here, there, was) = (local.get(path), remote.get(path), base.get(path.as_str()));
        let entry = |side: Option<&Side<'_>>| Entry { path: path.clone(), size: side.map_or(0, |s| s.size) };
        match verdict(here, there, was, policy) {
            Verdict::Unchanged => {
                plan.unchanged += 1;
                if was.map(|w| w.sha256.as_str()) != here.map(|h| h.sha256) || was.map(|w| w.mode) != here.and_then(|h| h.mode) {
                    plan.agree.push(path.clone());
                }
            }
            Verdict::Upload => plan.uploads.push(entry(here)),
            Verdict::Download => plan.downloads.push(entry(there)),
            Verdict::DownloadAside => {
                plan.keep_aside.push(entry(here));
                plan.downloads.push(entry(there));
            }
            Verdict::RemoveRemote => plan.remove_remote.push(entry(there)),
            Verdict::RemoveLocal => plan.remove_local.push(entry(here)),
            Verdict::Foreign => plan.foreign.push(entry(there)),
            Verdict::Leave => {}
        }
    }
    let gone = |path: &&String| RelPath::parse(path).is_ok_and(|p| !local.contains_key(&p) && !remote.contains_key(&p));
    plan.forget = base.keys().filter(gone).cloned().collect();
    part_clashes(&mut plan, local);
    plan
}

fn verdict(here: Option<&Side<'_>>, there: Option<&Side<'_>>, was: Option<&BaseFile>, policy: Policy) -> Verdict {
    match (here, there) {
        (Some(here), Some(there)) if here.sha256 == there.sha256 => same_content(here, was, policy),
        (Some(here), Some(there)) => differs(here, there, was, policy),
        (Some(here), None) => only_here(here, was, policy),
        (None, Some(there)) => only_there(there, was, policy),
        (None, None) => Verdict::Leave,
    }
}

/// Invariant: equal content never travels. The executable bit is content to a run, and is stored with the object: where it was
/// changed here since both agreed, the file is sent again.
fn same_content(here: &Side<'_>, was: Option<&BaseFile>, policy: Policy) -> Verdict {
    let executable = |mode: u32| mode & 0o111 != 0;
    let changed = match (here.mode, was) {
        (Some(now), Some(was)) => executable(now) != executable(was.mode) && here.size > 0,
        _ => false,
    };
    if changed && policy.sends() { Verdict::Upload } else { Verdict::Unchanged }
}

/// Both sides have it, and differ. Invariant: what only one side changed is brought to the other where the policy lets it
/// travel that way; where both changed (or nothing is known of before), the policy decides, and no byte that was written
/// here is lost: it is sent, or kept aside.
fn differs(here: &Side<'_>, there: &Side<'_>, was: Option<&BaseFile>, policy: Policy) -> Verdict {
    let only_here_changed = was.is_some_and(|w| w.sha256 == there.sha256);
    let only_there_changed = was.is_some_and(|w| w.sha256 == here.sha256);
    match policy {
        Policy::Mirror => Verdict::Upload,
        Policy::LocalWins if only_there_changed => Verdict::Download,
        Policy::LocalWins => Verdict::Upload,
        Policy::RemoteWins if only_here_changed => Verdict::Upload,
        // Unchanged since it came from the colony, or since the colony got it: the newer one replaces it. What was written
        // here is a revision of the colony then, but a copy here is what the user can see.
        Policy::RemoteWins if only_there_changed && was.is_some_and(|w| w.fetched) => Verdict::Download,
        Policy::RemoteWins => Verdict::DownloadAside,
        Policy::FetchOnly { keep_local } if only_here_changed && keep_local => Verdict::Leave,
        Policy::FetchOnly { keep_local: true } if !only_there_changed => Verdict::Leave,
        Policy::FetchOnly { .. } => Verdict::Download,
        Policy::FetchBeside if only_there_changed => Verdict::Download,
        Policy::FetchBeside => Verdict::Leave,
        // Fetched at the start, replaced by somebody since: the newer one stays.
        Policy::SendOnly { .. } | Policy::SendBeside { .. } if only_there_changed => Verdict::Leave,
        Policy::SendOnly { keep_local } | Policy::SendBeside { keep_local } if only_here_changed || keep_local => Verdict::Upload,
        Policy::SendOnly { .. } | Policy::SendBeside { .. } => Verdict::Leave,
    }
}

/// Only here. Invariant: what the base does not know is new and sent; what it knows was removed in the colony, and is removed
/// here only if it came from there and nobody touched it.
fn only_here(here: &Side<'_>, was: Option<&BaseFile>, policy: Policy) -> Verdict {
    let untouched = was.is_some_and(|w| w.sha256 == here.sha256);
    match policy {
        Policy::Mirror => Verdict::Upload,
        Policy::LocalWins | Policy::RemoteWins if untouched && was.is_some_and(|w| w.fetched) => Verdict::RemoveLocal,
        Policy::LocalWins | Policy::RemoteWins => Verdict::Upload,
        Policy::FetchOnly { .. } if untouched => Verdict::RemoveLocal,
        Policy::FetchOnly { .. } | Policy::FetchBeside => Verdict::Leave,
        // Fetched at the start and removed by somebody since: not brought back.
        Policy::SendOnly { .. } | Policy::SendBeside { .. } if untouched => Verdict::Leave,
        Policy::SendOnly { .. } | Policy::SendBeside { .. } => Verdict::Upload,
    }
}

/// Only in the colony. Invariant: what the base knows unchanged was deleted here, and the deletion is carried over; a newer
/// revision of it beats the deletion; what the base does not know is somebody else's and never deleted.
fn only_there(there: &Side<'_>, was: Option<&BaseFile>, policy: Policy) -> Verdict {
    let deleted_here = was.is_some_and(|w| w.sha256 == there.sha256);
    match policy {
        Policy::FetchOnly { .. } => Verdict::Download,
        Policy::SendOnly { keep_local: true } if deleted_here => Verdict::RemoveRemote,
        // Another job removed it: whoever is last there carries that over.
        Policy::FetchBeside if deleted_here => Verdict::Leave,
        Policy::FetchBeside => Verdict::Download,
        Policy::SendOnly { .. } | Policy::SendBeside { .. } => Verdict::Leave,
        _ if deleted_here => Verdict::RemoveRemote,
        Policy::Mirror => Verdict::Foreign,
        Policy::LocalWins | Policy::RemoteWins => Verdict::Download,
    }
}

/// Takes out of the downloads what cannot be written: below a file that stays, or over a folder that stays.
fn part_clashes(plan: &mut Plan, local: &Files<'_>) {
    if plan.downloads.is_empty() {
        return;
    }
    let leaving: BTreeSet<&RelPath> = plan.remove_local.iter().map(|e| &e.path).collect();
    let stays = |path: &RelPath| local.contains_key(path) && !path.is_folder_marker() && !leaving.contains(path);
    let folders: BTreeSet<RelPath> = local.keys().filter(|p| stays(p)).flat_map(|p| p.ancestors()).collect();
    let clashes = |entry: &Entry| {
        !entry.path.is_folder_marker() && folders.contains(&entry.path) || entry.path.ancestors().any(|above| stays(&above))
    };
    let (clashing, fine) = std::mem::take(&mut plan.downloads).into_iter().partition(clashes);
    plan.downloads = fine;
    plan.clashes = clashing;
    let clashing: BTreeSet<&RelPath> = plan.clashes.iter().map(|e| &e.path).collect();
    plan.keep_aside.retain(|entry| !clashing.contains(&entry.path));
}

#[cfg(test)]
mod tests;
