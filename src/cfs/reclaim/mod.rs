//! Removing what a project no longer needs: old snapshots, replaced revisions, copies of trees that were frozen for runs, objects
//! that no row names, uploads that nobody finished.
//!
//! Others work on the project meanwhile, on other machines, and the server has no transactions. What keeps them safe:
//! - Nothing younger than the grace goes, by the servers' clocks. An object gets its row, and a snapshot its process, within
//!   minutes; a revision is as old as the one that replaced it; nobody uses an old snapshot again or adds to an old frozen tree
//!   (`cfs::snapshot`).
//! - The order of looking: objects before processes before rows. An executor names what it stored before its process ends.
//! - The order of removing: snapshots before rows before objects. A row never names an object that is gone.
//! - Keys, labels and names that are not of our making are never touched, and where another colony keeps objects in the same
//!   place (`cfs::claim`), only objects go whose row went.

mod decide;
mod look;

#[cfg(test)]
mod tests;

use super::Cfs;
use super::Error;
use super::claim;
use super::labels;
use crate::colonies;
use crate::colonies::Snapshot;
use crate::store;
use crate::store::Found;
use crate::store::Unfinished;
use decide::Rest;
use decide::Rules;
use decide::Seen;
use futures_util::StreamExt;
use jiff::SignedDuration;
use jiff::Timestamp;
use look::Processes;
use look::Row;
use look::View;
use serde::Serialize;
use std::collections::BTreeSet;

/// What is reclaimed, and how.
#[derive(Clone, Debug)]
pub struct ReclaimOptions {
    /// Root of the project's labels: `/pollinator/<project>`.
    pub root: String,
    /// What is younger stays.
    pub older_than: SignedDuration,
    /// So many of the newest snapshots stay however old they are.
    pub keep: usize,
    /// Requests at once.
    pub jobs: usize,
    /// Go on where the colony knows no file of the project, though the store holds objects of it.
    pub allow_deletes: bool,
    /// Only say what would go.
    pub dry_run: bool,
}

/// One thing that went.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Removed {
    /// Its name.
    pub name: String,
    /// Bytes that its removal freed.
    pub bytes: u64,
}

/// What went; with `dry_run`, what would go.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Reclaimed {
    /// Nothing was removed: this is what would be.
    pub dry_run: bool,
    /// Snapshots, by their names.
    pub snapshots: Vec<Removed>,
    /// Replaced revisions of files. Their bytes are told with their objects.
    pub revisions: Vec<Removed>,
    /// Files of trees that were frozen for runs.
    pub frozen: Vec<Removed>,
    /// Objects, by their keys.
    pub objects: Vec<Removed>,
    /// Unfinished uploads, by their keys. What their parts take is not known.
    pub uploads: Vec<Removed>,
    /// What could not be looked at or removed, and why.
    pub problems: Vec<(String, String)>,
    /// What was left alone on purpose, and why.
    pub notes: Vec<String>,
}

/// Removes what nothing needs. `spared` are keys that uploads of this machine still work on. Called with the project's lock held.
///
/// # Errors
/// Nobody answers; the colony's snapshots or processes cannot be listed; [`Error::NothingRegistered`] unless it is allowed.
/// What is wrong with single objects is listed among the problems.
pub async fn reclaim(cfs: &Cfs, options: &ReclaimOptions, spared: &BTreeSet<String>) -> Result<Reclaimed, Error> {
    let mut work = Work { cfs, options, prefix: format!("{}/", labels::key_prefix(&options.root)), report: Reclaimed::default() };
    work.report.dry_run = options.dry_run;
    let begun = Timestamp::now();
    let objects = cfs.store.inventory(&work.prefix).await?;
    let unfinished = work.unfinished().await?;
    // Not later than the listing: what came while it was made is new.
    let now = cfs.store.server_time(begun);
    let alone = objects.is_empty() && unfinished.is_empty() || claim::is_alone(cfs, &options.root).await?;
    let processes = look::processes(&cfs.client, &options.root).await?;
    let snapshots = cfs.client.snapshots().await?;
    let cut = decide::cut(now, options.older_than, processes.running_since);
    let serves_until = decide::serves_until(now, options.older_than, cut);
    let mut rules = Rules { root: &options.root, cut, serves_until, keep: options.keep, spared };
    let going: Vec<Snapshot> = decide::snapshots(&rules, &snapshots, &processes).into_iter().cloned().collect();
    let gone = work.remove_snapshots(going).await?;
    // A process that came meanwhile, and uses a snapshot that went, has lost it; at least its files stay.
    let later = if options.dry_run { processes } else { work.look_again(&gone).await? };
    rules.cut = cut.min(decide::cut(now, options.older_than, later.running_since));
    let mut seen = Seen { objects, unfinished, alone, keep_rows: later.incomplete, ..Seen::default() };
    for snapshot in &snapshots {
        if !gone.contains(&snapshot.snapshotid) || later.snapshots.contains(&snapshot.snapshotid) {
            seen.needed.extend(snapshot.fileids.iter().flatten().cloned());
            seen.held.extend(decide::frozen_of(&options.root, &snapshot.label));
        }
    }
    let view = View { cfs, root: &options.root, prefix: &work.prefix, held: &seen.held, jobs: options.jobs };
    let rows = view.rows().await?;
    // Whatever an unreadable file names must stay, and that may be any object.
    seen.alone &= rows.problems.is_empty();
    seen.rows = rows.rows;
    work.report.problems.extend(rows.problems);
    work.tell_what_stays(&later, alone);
    let registered = !seen.rows.is_empty();
    let rest = decide::rest(&rules, &work.prefix, seen);
    if !registered && !rest.objects.is_empty() && !options.allow_deletes {
        return Err(Error::NothingRegistered { root: options.root.clone(), objects: rest.objects.len() });
    }
    work.remove(rest).await?;
    work.report.problems.sort();
    Ok(work.report)
}

struct Work<'a> {
    cfs: &'a Cfs,
    options: &'a ReclaimOptions,
    /// Of the project's keys, with a slash at its end.
    prefix: String,
    report: Reclaimed,
}

impl Work<'_> {
    async fn unfinished(&mut self) -> Result<Vec<Unfinished>, Error> {
        match self.cfs.store.unfinished(&self.prefix).await {
            Ok(unfinished) => Ok(unfinished),
            // Not every server has this call, and everything else can go on without it.
            Err(error @ store::Error::Refused { .. }) => {
                self.report.notes.push(format!("unfinished uploads are left alone, since they cannot be listed: {error}"));
                Ok(Vec::new())
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Looks once more for processes that use a snapshot which went.
    async fn look_again(&mut self, gone: &BTreeSet<String>) -> Result<Processes, Error> {
        let later = look::processes(&self.cfs.client, &self.options.root).await?;
        for id in gone.intersection(&later.snapshots) {
            let why = "was removed while a process that uses it was submitted: that process cannot start; run it again";
            self.report.problems.push((format!("snapshot {id}"), why.into()));
        }
        Ok(later)
    }

    fn tell_what_stays(&mut self, processes: &Processes, alone: bool) {
        if processes.incomplete {
            let note = "the colony has more processes than its server lists (100 waiting or running), and each may need any \
                        snapshot: all snapshots and revisions stay";
            self.report.notes.push(note.into());
        }
        if !alone {
            let note = format!(
                "another colony may keep objects below {} in bucket {}: objects that no file of this colony names stay",
                self.prefix,
                self.cfs.store.access().bucket
            );
            self.report.notes.push(note);
        }
    }

    /// Gives the ids of those that went.
    async fn remove_snapshots(&mut self, going: Vec<Snapshot>) -> Result<BTreeSet<String>, Error> {
        let client = &self.cfs.client;
        let remove = async |snapshot: &Snapshot| match client.remove_snapshot(&snapshot.snapshotid).await {
            // Another machine that cleans up at the same time may have been faster. That one is not there is told by words only.
            Err(colonies::Error::Refused { .. })
                if client.snapshot(&snapshot.snapshotid).await.is_err_and(|e| !e.is_unreachable()) =>
            {
                Ok(())
            }
            removed => Ok(removed?),
        };
        let gone = self.each(going, |snapshot| snapshot.name.clone(), remove).await?;
        self.report.snapshots = gone.iter().map(|s| Removed { name: s.name.clone(), bytes: 0 }).collect();
        self.report.snapshots.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(gone.into_iter().map(|snapshot| snapshot.snapshotid).collect())
    }

    async fn remove(&mut self, rest: Rest) -> Result<(), Error> {
        let (client, store) = (&self.cfs.client, &self.cfs.store);
        let planned: Vec<(Option<String>, String)> = rest.rows.iter().map(|row| (row.id.clone(), row.object.clone())).collect();
        let mut removed_ids = BTreeSet::new();
        let remove = async |row: &Row| Ok(client.remove_file_by_id(row.id.as_deref().unwrap_or_default()).await?);
        for row in self.each(rest.rows, name_of, remove).await? {
            removed_ids.insert(row.id.clone());
            let removed = Removed { name: name_of(&row), bytes: 0 };
            match decide::frozen_of(&self.options.root, &row.label) {
                Some(_) => self.report.frozen.push(removed),
                None => self.report.revisions.push(removed),
            }
        }
        // A row that could not be removed keeps its object.
        let kept: BTreeSet<&str> =
            planned.iter().filter(|(id, _)| !removed_ids.contains(id)).map(|(_, object)| object.as_str()).collect();
        let going = rest.objects.into_iter().filter(|object| !kept.contains(object.key.as_str())).collect();
        let remove = async |object: &Found| Ok(store.delete(&object.key).await?);
        let gone = self.each(going, |object| object.key.clone(), remove).await?;
        self.report.objects = gone.into_iter().map(|object| Removed { name: object.key, bytes: object.size }).collect();
        let remove = async |upload: &Unfinished| Ok(store.abort_upload(&upload.key, &upload.id).await?);
        let gone = self.each(rest.unfinished, |upload| upload.key.clone(), remove).await?;
        self.report.uploads = gone.into_iter().map(|upload| Removed { name: upload.key, bytes: 0 }).collect();
        let report = &mut self.report;
        for list in [&mut report.revisions, &mut report.frozen, &mut report.objects, &mut report.uploads] {
            list.sort_by(|a, b| a.name.cmp(&b.name));
        }
        Ok(())
    }

    /// Removes each of these, several at once, and gives those that went. What is refused is a problem of that one; who cannot
    /// be reached ends it.
    async fn each<T>(
        &mut self,
        going: Vec<T>,
        name: impl Fn(&T) -> String,
        remove: impl AsyncFn(&T) -> Result<(), Error>,
    ) -> Result<Vec<T>, Error> {
        if self.options.dry_run {
            return Ok(going);
        }
        let mut gone = Vec::new();
        let remove = &remove;
        let mut running = futures_util::stream::iter(going)
            .map(|one| async move {
                let removed = remove(&one).await;
                (one, removed)
            })
            .buffer_unordered(self.options.jobs.max(1));
        while let Some((one, removed)) = running.next().await {
            match removed {
                Ok(()) => gone.push(one),
                Err(error) if is_its_own(&error) => self.report.problems.push((name(&one), error.to_string())),
                Err(error) => return Err(error),
            }
        }
        Ok(gone)
    }
}

/// Whether an error is the matter of one thing that was to go, and the others may still.
fn is_its_own(error: &Error) -> bool {
    matches!(error, Error::Colony(colonies::Error::Refused { .. }) | Error::Store(store::Error::Refused { .. }))
}

/// A revision, as it is listed.
fn name_of(row: &Row) -> String {
    let id = row.id.as_deref().unwrap_or_default();
    format!("{}/{} ({})", row.label, row.name, &id[..id.len().min(12)])
}
