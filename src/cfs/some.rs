//! Bringing some paths of a tree in step: those that a save was told of. The cost is that of the paths, whatever the tree holds.
//!
//! The three trees are cut down to the paths (and the markers of the folders that they lie in) and compared as ever. Whatever
//! could be an accident, or needs to be seen as a whole, is left to a look at everything.

use super::Cfs;
use super::Error;
use super::Policy;
use super::SyncOptions;
use super::SyncReport;
use super::sync;
use super::sync::Work;
use crate::blocking;
use crate::event::Events;
use crate::index;
use crate::index::Extent;
use crate::index::FOLDER_MARKER;
use crate::index::Index;
use crate::index::LocalFile;
use crate::index::LocalTree;
use crate::index::RelPath;
use crate::index::ignore::Rules;
use crate::journal::Journal;
use std::collections::BTreeSet;

/// So many deletions at once are looked at as a whole.
const MANY_DELETIONS: usize = 100;

/// As [`super::sync()`], of an extent only; none where the whole tree has to be looked at instead.
pub async fn sync_some(
    cfs: &Cfs,
    index: &Index,
    journal: &Journal,
    options: &SyncOptions,
    extent: &Extent,
    events: &Events,
) -> Result<Option<SyncReport>, Error> {
    let (root, place) = (sync::root_of(options), sync::place(cfs, &options.label));
    let markers = extent.markers();
    let paths: Vec<&str> = extent.paths().iter().chain(&markers).map(RelPath::as_str).collect();
    // A tree that was never in step has no base to compare with.
    let Some((base, total)) = journal.base_below(&place, &root, &paths)? else { return Ok(None) };
    let (local, rules) = look_here(options, index, extent).await?;
    if !local.exists || local.device != base.device {
        return Ok(None);
    }
    // Whether an empty tree of data has a marker depends on all of it.
    let rootless = local.files.keys().any(|path| path.as_str() == FOLDER_MARKER);
    if rootless && options.policy != Policy::Mirror {
        return Ok(None);
    }
    let (mut files, folders) = where_to_look(extent, &local, base.files.keys());
    files.extend(markers.iter().filter(|m| local.files.contains_key(m) || base.files.contains_key(m.as_str())).cloned());
    let remote = cfs.list_some(&options.label, &files, &folders).await?;
    let remote = sync::leave_out(options, rules, &local, remote, &root).await?;
    let mut work = Work::plan((cfs, index, journal), options, events, (local, remote, base)).await?;
    if looks_like_more(&work, total) {
        return Ok(None);
    }
    work.do_it().await?;
    Ok(Some(SyncReport { tree_digest: String::new(), ..work.finish() }))
}

/// Whether this is nothing to be decided from a few paths: deletions by the hundred or of all there was, a removal here, a file
/// that is a folder over there.
fn looks_like_more(work: &Work<'_>, total: usize) -> bool {
    let plan = &work.report.plan;
    let removed = plan.remove_remote.len();
    removed >= MANY_DELETIONS || (removed > 0 && removed >= total) || !plan.remove_local.is_empty() || !plan.clashes.is_empty()
}

async fn look_here(options: &SyncOptions, index: &Index, extent: &Extent) -> Result<(LocalTree, Rules), Error> {
    let (options, index, extent) = (options.clone(), index.clone(), extent.clone());
    blocking::run(move || {
        let root = sync::root_of(&options);
        let mut rules = Rules::of_tree(&options.folder, options.rules_from.as_deref())?;
        let mut tree = index::scan_some(&root, &mut rules, &index, options.jobs, &extent)?;
        // The root has a marker where it has no file of its own.
        if tree.exists
            && extent.touches_root()
            && !index::root_has_files(&root, &mut rules)?
            && let Ok(marker) = RelPath::parse(FOLDER_MARKER)
        {
            tree.files.insert(marker, LocalFile::marker());
        }
        Ok((tree, rules))
    })
    .await
}

/// Which files, and which folders with all that is below them, are asked for.
fn where_to_look<'a>(
    extent: &Extent,
    local: &'a LocalTree,
    base: impl Iterator<Item = &'a String>,
) -> (Vec<RelPath>, Vec<RelPath>) {
    let known: BTreeSet<&str> = local.files.keys().map(RelPath::as_str).chain(base.map(String::as_str)).collect();
    let has_below = |path: &RelPath| {
        let start = format!("{path}/");
        known.range(start.as_str()..).next().is_some_and(|next| next.starts_with(&start))
    };
    let folders = extent.paths().iter().filter(|path| has_below(path)).cloned().collect();
    (extent.paths().to_vec(), folders)
}
