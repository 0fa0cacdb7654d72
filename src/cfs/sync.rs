//! Bringing one tree in step: look at three trees, plan, carry the plan out file by file, remember what both sides agree on.

use super::Cfs;
use super::Error;
use super::MODE;
use super::here::Sources;
use super::list::RemoteFile;
use super::list::RemoteTree;
use super::plan;
use super::plan::Entry;
use super::plan::Plan;
use super::plan::Policy;
use super::plan::Side;
use super::snapshot;
use super::tree;
use super::unfinished;
use crate::blocking;
use crate::event::Event;
use crate::event::Events;
use crate::event::Tree;
use crate::index;
use crate::index::FOLDER_MARKER;
use crate::index::Index;
use crate::index::KnownObject;
use crate::index::LocalTree;
use crate::index::RelPath;
use crate::index::ignore::Rules;
use crate::journal::Journal;
use crate::journal::base::Base;
use crate::journal::base::BaseChange;
use crate::journal::base::BaseFile;
use crate::journal::uploads::OpenUpload;
use futures_util::StreamExt;
use futures_util::TryStreamExt;
use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::collections::HashMap;
use std::path::Path;
use std::path::PathBuf;
use std::time::Duration;
use std::time::Instant;

/// Trees of fewer files may lose any number of them without being asked.
const LARGE_TREE: usize = 100;
/// Where deletions happen, in words.
const HERE: &str = "here";
const THERE: &str = "in the colony";
/// A file that nobody wrote to for so long (ns) is taken up though somebody holds it open: a log, a database.
const WRITTEN_JUST_NOW: i64 = 60_000_000_000;
/// So many files are confirmed before they are written down together, or so long.
const BATCH: usize = 256;
const BATCH_TIME: Duration = Duration::from_secs(1);

/// What is brought in step, and how.
#[derive(Clone, Debug)]
pub struct SyncOptions {
    /// Which tree it is, for events.
    pub tree: Tree,
    /// Root label.
    pub label: String,
    /// Local folder.
    pub folder: PathBuf,
    /// Folder above it from which ignore rules count; none: the folder itself.
    pub rules_from: Option<PathBuf>,
    /// Who is right.
    pub policy: Policy,
    /// Files handled at once.
    pub jobs: usize,
    /// Carry out deletions that look like an accident.
    pub allow_deletes: bool,
    /// Only plan.
    pub dry_run: bool,
    /// Leave files that somebody holds open for writing, and wrote to a short time ago.
    pub leave_open: bool,
}

/// What was done.
#[derive(Clone, Debug, Default)]
pub struct SyncReport {
    /// What was planned.
    pub plan: Plan,
    /// Files sent, and their bytes. Folders' markers count as files.
    pub uploaded: (u64, u64),
    /// Bytes that travelled for them: what is in the store already is copied there.
    pub sent: u64,
    /// Files that came, and the bytes that travelled for them. Folders' markers count as files.
    pub downloaded: (u64, u64),
    /// Those of them that were on this machine already under another name, and their bytes: none of these travelled.
    pub copied: (u64, u64),
    /// The files that came, under their names here; no folders' markers.
    pub arrived: BTreeSet<RelPath>,
    /// Files that were not brought in step, and why.
    pub problems: Vec<(String, String)>,
    /// What is no file and stays behind, and why.
    pub skipped: Vec<(String, String)>,
    /// Removals put off: a process that has not ended still needs the file, or the deletion looks like an accident.
    pub held: Vec<RelPath>,
    /// Files that were left because somebody writes them.
    pub busy: Vec<RelPath>,
    /// Digest of the local tree as it now is in the colony: paths, contents, executable bits.
    pub tree_digest: String,
    /// The files of the colony that make up this tree, as they are now.
    pub files: BTreeMap<RelPath, RemoteFile>,
    /// When rows were last removed from the label, as far as we know, ns since 1970.
    pub last_removal: i64,
}

/// Brings one tree in step. Problems of single files are listed; an error ends it early, with what was done remembered.
///
/// # Errors
/// Nobody answers, no space, the tree cannot be looked at; and deletions that look like an unmounted disk or an accident
/// ([`Error::TreeMissing`], [`Error::TreeEmptied`], [`Error::OtherFileSystem`], [`Error::ManyDeletions`]) unless they are
/// allowed. With `dry_run` the latter are warnings.
pub async fn sync(
    cfs: &Cfs,
    index: &Index,
    journal: &Journal,
    options: &SyncOptions,
    events: &Events,
) -> Result<SyncReport, Error> {
    let mut work = Work::look(cfs, index, journal, options, events).await?;
    work.guard()?;
    if options.dry_run {
        return Ok(work.finish());
    }
    work.do_it().await?;
    Ok(work.finish())
}

/// Whether this folder was ever brought in step with this label.
pub fn was_synchronized(cfs: &Cfs, journal: &Journal, label: &str, folder: &Path) -> Result<bool, Error> {
    let root = index::canonical_name(folder);
    Ok(journal.base_below(&place(cfs, label), &root, &[])?.is_some())
}

/// Forgets what a folder and a label held when they were last in step: for a folder that is not there for long.
pub fn forget_tree(cfs: &Cfs, journal: &Journal, label: &str, folder: &Path) -> Result<(), Error> {
    let root = index::canonical_name(folder);
    Ok(journal.forget_base(&place(cfs, label), &root)?)
}

/// Where a base belongs to. With our id: a colony that was made anew at the same address is another place.
pub(super) fn place(cfs: &Cfs, label: &str) -> String {
    format!("{}|{}|{}|{label}", cfs.client.server(), cfs.client.colony(), cfs.client.id())
}

/// One synchronization under way.
pub(super) struct Work<'a> {
    pub(super) cfs: &'a Cfs,
    pub(super) index: &'a Index,
    pub(super) journal: &'a Journal,
    pub(super) options: &'a SyncOptions,
    pub(super) events: &'a Events,
    pub(super) place: String,
    pub(super) root: PathBuf,
    pub(super) local: LocalTree,
    pub(super) remote: RemoteTree,
    pub(super) base: Base,
    pub(super) change: BaseChange,
    /// Objects whose content is known: of uploads that are over, because rows name them, and of downloads that were verified.
    pub(super) known: Vec<KnownObject>,
    /// Uploads that were cut off and can be taken up.
    pub(super) resumable: HashMap<RelPath, OpenUpload>,
    last_write: Instant,
    pub(super) report: SyncReport,
    /// What is on this machine already of what is to come.
    pub(super) sources: Sources,
}

impl<'a> Work<'a> {
    /// Looks at all three trees and plans.
    async fn look(
        cfs: &'a Cfs,
        index: &'a Index,
        journal: &'a Journal,
        options: &'a SyncOptions,
        events: &'a Events,
    ) -> Result<Work<'a>, Error> {
        let (local, remote) = tokio::join!(look_here(options, index, journal), cfs.list(&options.label));
        let (local, rules) = local?;
        let root = root_of(options);
        let remote = leave_out(options, rules, &local, remote?, &root).await?;
        let base = journal.base(&place(cfs, &options.label), &root)?.unwrap_or_default();
        Work::plan((cfs, index, journal), options, events, (local, remote, base)).await
    }

    /// Plans from what was looked at: here, there, and what was there at the last synchronization.
    pub(super) async fn plan(
        (cfs, index, journal): (&'a Cfs, &'a Index, &'a Journal),
        options: &'a SyncOptions,
        events: &'a Events,
        (local, remote, mut base): (LocalTree, RemoteTree, Base),
    ) -> Result<Work<'a>, Error> {
        let root = root_of(options);
        let place = place(cfs, &options.label);
        let confirmed = confirmed_before(cfs, journal, (&place, &root), &local, &remote)?;
        base.files.extend(confirmed.iter().cloned());
        let here = local.files.iter().map(|(path, f)| (path, side(f.size, &f.sha256, Some(f.mode)))).collect();
        let there = remote.files.iter().map(|(path, f)| (path, side(f.size, &f.sha256, None))).collect();
        let report = SyncReport {
            plan: plan::plan(&here, &there, &base.files, options.policy),
            problems: local.problems.iter().chain(&remote.problems).cloned().collect(),
            skipped: local.skipped.clone(),
            last_removal: base.last_removal,
            ..SyncReport::default()
        };
        let change = BaseChange { device: local.device, agreed: confirmed, ..BaseChange::default() };
        let last_write = Instant::now();
        let (known, resumable) = (Vec::new(), HashMap::new());
        let mut work = Work {
            cfs,
            index,
            journal,
            options,
            events,
            place,
            root,
            local,
            remote,
            base,
            change,
            known,
            resumable,
            last_write,
            report,
            sources: Sources::default(),
        };
        work.note_others_removals();
        work.spare_unreadable();
        let clashes = work.report.plan.clashes.iter().map(|clash| clash.path.to_string());
        let why = "is a file on one side and a folder on the other";
        work.report.problems.extend(clashes.map(|path| (path, why.to_owned())));
        if options.leave_open {
            work.leave_open_files().await?;
        }
        Ok(work)
    }

    /// Carries the plan out, and remembers what came of it whatever happens.
    pub(super) async fn do_it(&mut self) -> Result<(), Error> {
        self.tell_problems();
        self.check_modes().await?;
        if let Policy::Mirror | Policy::LocalWins = self.options.policy {
            self.hold_what_processes_need().await?;
        }
        let outcome = self.carry_out().await;
        self.remember()?;
        outcome
    }

    /// Takes out of the plan what somebody is writing: it is not what it is going to be.
    async fn leave_open_files(&mut self) -> Result<(), Error> {
        let just_now = now() - WRITTEN_JUST_NOW;
        let is_new = |path: &RelPath| self.local.files.get(path).is_some_and(|file| file.stat.mtime > just_now);
        let new: Vec<RelPath> = self.report.plan.uploads.iter().map(|e| &e.path).filter(|path| is_new(path)).cloned().collect();
        let root = self.root.clone();
        let probe = move || new.into_iter().filter(|path| index::is_being_written(&path.under(&root))).collect();
        let busy: BTreeSet<RelPath> = blocking::run(probe).await;
        self.report.plan.uploads.retain(|entry| !busy.contains(&entry.path));
        self.report.busy = busy.into_iter().collect();
        Ok(())
    }

    /// Rows that were there and are not: somebody else removed them, and broke the snapshots that list them.
    fn note_others_removals(&mut self) {
        let gone = |path: &String| RelPath::parse(path).is_ok_and(|path| !self.remote.files.contains_key(&path));
        if self.base.files.keys().any(gone) {
            self.change.removal = Some(now());
            self.report.last_removal = now();
        }
    }

    /// What could not be looked at here was not deleted here.
    fn spare_unreadable(&mut self) {
        let unseen: Vec<&str> = self.local.problems.iter().chain(&self.local.skipped).map(|(path, _)| path.as_str()).collect();
        if unseen.is_empty() {
            return;
        }
        let hidden = |entry: &Entry| {
            let path = entry.path.as_str();
            unseen.iter().any(|u| path == *u || path.strip_prefix(u).is_some_and(|rest| rest.starts_with('/')))
        };
        self.report.plan.remove_remote.retain(|entry| !hidden(entry));
        self.report.plan.downloads.retain(|entry| !hidden(entry));
        self.report.plan.forget.retain(|path| !unseen.contains(&path.as_str()));
    }

    /// Deletions that look like an unmounted disk or an accident are errors, or put off where the colony wins anyway. Those on
    /// this side are put off: what stays here harms nobody.
    fn guard(&mut self) -> Result<(), Error> {
        let Err(error) = self.accident() else { return Ok(()) };
        if self.options.allow_deletes {
            return Ok(());
        }
        if self.options.dry_run {
            self.events.warn(format!("{error}; --allow-deletes carries it out"));
            return Ok(());
        }
        let is_here = matches!(error, Error::ManyDeletions { side: HERE, .. });
        let may_go_on = match self.options.policy {
            Policy::RemoteWins => true,
            Policy::LocalWins => is_here,
            _ => false,
        };
        if !may_go_on {
            return Err(error);
        }
        self.events.warn(format!("{error}: nothing is deleted; --allow-deletes carries it out"));
        self.report.plan.remove_local.clear();
        if !is_here {
            let put_off = std::mem::take(&mut self.report.plan.remove_remote);
            self.report.held.extend(put_off.into_iter().map(|entry| entry.path));
        }
        Ok(())
    }

    fn accident(&self) -> Result<(), Error> {
        let plan = &self.report.plan;
        let (removed, here) = (plan.remove_local.len(), self.local.files.len());
        // A colony that holds nothing of the tree any more was emptied or is another one: what came from it stays here.
        let both_ways = matches!(self.options.policy, Policy::LocalWins | Policy::RemoteWins);
        if both_ways && self.remote.files.is_empty() && removed > 0 {
            return Err(Error::ManyDeletions { tree: self.options.tree, deletions: removed, files: here, side: HERE });
        }
        let files = self.base.files.len();
        let folder = self.options.folder.clone();
        let kept_here = self.base.files.keys().any(|p| !p.ends_with(FOLDER_MARKER));
        // One way in, whatever is missing here is brought again.
        if kept_here && !self.options.policy.only_fetches() {
            if !self.local.exists {
                return Err(Error::TreeMissing { folder, files });
            }
            let emptied = self.local.files.keys().all(RelPath::is_folder_marker) && self.local.problems.is_empty();
            if emptied && !plan.remove_remote.is_empty() && files > plan.forget.len() {
                return Err(Error::TreeEmptied { folder, files });
            }
            // A folder that was not there at the last synchronization was on no file system.
            if ![0, self.local.device].contains(&self.base.device) && !plan.remove_remote.is_empty() {
                return Err(Error::OtherFileSystem { folder, missing: plan.remove_remote.len() });
            }
        }
        for (deletions, files, side) in
            [(plan.remove_remote.len(), self.remote.files.len(), THERE), (plan.remove_local.len(), self.local.files.len(), HERE)]
        {
            if files >= LARGE_TREE && deletions * 2 > files {
                return Err(Error::ManyDeletions { tree: self.options.tree, deletions, files, side });
            }
        }
        Ok(())
    }

    /// Files that are equal on both sides when they are first compared: what others stored may lack the executable bit.
    async fn check_modes(&mut self) -> Result<(), Error> {
        if !self.options.policy.sends() {
            return Ok(());
        }
        let plan = &self.report.plan;
        let unknown = plan.agree.iter().filter(|path| !self.base.files.contains_key(path.as_str())).filter_map(|path| {
            let (here, there) = (self.local.files.get(path)?, self.remote.files.get(path)?);
            (here.mode & 0o111 != 0 && there.size > 0).then(|| there.clone())
        });
        let cfs = self.cfs;
        let lacking: Vec<Option<Entry>> = futures_util::stream::iter(unknown.collect::<Vec<_>>())
            .map(|file| async move {
                let stored = cfs.store.head(&file.object).await?;
                let mode = stored.and_then(|info| u32::from_str_radix(info.metadata.get(MODE)?, 8).ok());
                let lacks = mode.is_none_or(|mode| mode & 0o111 == 0);
                Ok::<_, Error>(lacks.then_some(Entry { path: file.path, size: file.size }))
            })
            .buffer_unordered(self.options.jobs.max(1))
            .try_collect()
            .await?;
        let plan = &mut self.report.plan;
        plan.uploads.extend(lacking.into_iter().flatten());
        plan.uploads.sort_by(|a, b| a.path.cmp(&b.path));
        let sent: BTreeSet<&RelPath> = plan.uploads.iter().map(|entry| &entry.path).collect();
        plan.agree.retain(|path| !sent.contains(path));
        Ok(())
    }

    /// Puts removals off that would break the snapshot of a process that has not ended.
    async fn hold_what_processes_need(&mut self) -> Result<(), Error> {
        if self.report.plan.remove_remote.is_empty() {
            return Ok(());
        }
        let needed = snapshot::needed_files(self.cfs, &self.options.label).await?;
        let (hold, go): (Vec<Entry>, Vec<Entry>) =
            std::mem::take(&mut self.report.plan.remove_remote).into_iter().partition(|entry| needed.holds(&entry.path));
        self.report.plan.remove_remote = go;
        self.report.held.extend(hold.into_iter().map(|entry| entry.path));
        Ok(())
    }

    /// Writes down what was confirmed so far, when it is worth it.
    pub(super) fn remember_some(&mut self) -> Result<(), Error> {
        let confirmed = self.change.agreed.len() + self.change.gone.len();
        if confirmed >= BATCH || (confirmed > 0 && self.last_write.elapsed() >= BATCH_TIME) {
            self.write_down()?;
        }
        Ok(())
    }

    /// Notes, durably and before the first, that rows are about to be removed: whatever happens then, no snapshot made until
    /// now is taken for whole.
    pub(super) fn note_removal(&mut self) -> Result<(), Error> {
        let now = now();
        self.change.removal = Some(now);
        self.report.last_removal = now;
        self.write_down()
    }

    fn write_down(&mut self) -> Result<(), Error> {
        let next = BaseChange { device: self.change.device, ..BaseChange::default() };
        let change = std::mem::replace(&mut self.change, next);
        self.journal.change_base(&self.place, &self.root, &change)?;
        // After the base: an upload that is forgotten too late is found to be a file of the colony.
        let known = std::mem::take(&mut self.known);
        let keys: Vec<String> = known.iter().map(|object| object.key.clone()).collect();
        self.journal.end_uploads(&super::upload::place_of_uploads(self.cfs, &self.place), &keys)?;
        self.index.note_objects(&super::upload::store_place(self.cfs), &known);
        self.last_write = Instant::now();
        Ok(())
    }

    /// Writes down what both sides agree on.
    fn remember(&mut self) -> Result<(), Error> {
        for path in std::mem::take(&mut self.report.plan.agree) {
            if let Some(file) = self.local.files.get(&path) {
                let fetched = self.base.files.get(path.as_str()).is_some_and(|b| b.fetched && b.sha256 == file.sha256);
                let agreed = BaseFile { sha256: file.sha256.clone(), mode: file.mode, fetched };
                self.change.agreed.push((path.to_string(), agreed));
            }
        }
        self.change.gone.append(&mut self.report.plan.forget);
        let nothing = self.change.agreed.is_empty() && self.change.gone.is_empty() && self.change.removal.is_none();
        if nothing && self.base.device == self.local.device {
            return Ok(());
        }
        self.write_down()
    }

    fn tell_problems(&self) {
        for (path, why) in self.report.problems.iter().chain(&self.report.skipped) {
            let problem = why.clone();
            self.events.emit(Event::FileProblem { tree: self.options.tree, path: path.clone(), problem });
        }
    }

    /// Lists what is wrong with one file.
    pub(super) fn problem(&mut self, path: &RelPath, why: String) {
        self.events.emit(Event::FileProblem { tree: self.options.tree, path: path.to_string(), problem: why.clone() });
        self.report.problems.push((path.to_string(), why));
    }

    pub(super) fn finish(self) -> SyncReport {
        let mut files = self.remote.files;
        for other in self.report.plan.foreign.iter().map(|e| &e.path).chain(&self.report.held) {
            files.remove(other);
        }
        SyncReport { files, tree_digest: tree::digest(&self.local.files), ..self.report }
    }
}

/// Files of ours that a synchronization had registered when it was cut off, before it wrote that down.
fn confirmed_before(
    cfs: &Cfs,
    journal: &Journal,
    (place, root): (&str, &Path),
    local: &LocalTree,
    remote: &RemoteTree,
) -> Result<Vec<(String, BaseFile)>, Error> {
    let open = journal.open_uploads(&super::upload::place_of_uploads(cfs, place), root)?;
    let confirmed = open.into_iter().filter_map(|upload| {
        let path = RelPath::parse(&upload.path).ok()?;
        let row = remote.files.get(&path).filter(|row| row.object == upload.key)?;
        let mode = local.files.get(&path).map_or(0o644, |file| file.mode);
        Some((upload.path, BaseFile { sha256: row.sha256.clone(), mode, fetched: false }))
    });
    Ok(confirmed.collect())
}

fn side(size: u64, sha256: &str, mode: Option<u32>) -> Side<'_> {
    Side { size, sha256, mode }
}

pub(super) fn root_of(options: &SyncOptions) -> PathBuf {
    index::canonical_name(&options.folder)
}

async fn look_here(options: &SyncOptions, index: &Index, journal: &Journal) -> Result<(LocalTree, Rules), Error> {
    let (options, index, journal) = (options.clone(), index.clone(), journal.clone());
    blocking::run(move || {
        let mut rules = Rules::of_tree(&options.folder, options.rules_from.as_deref())?;
        let mut tree = index::scan(&options.folder, &mut rules, &index, options.jobs)?;
        tree::mark_root(&mut tree, options.policy);
        if !options.dry_run {
            unfinished::sweep(&tree.leftovers, &journal);
        }
        Ok((tree, rules))
    })
    .await
}

/// Takes out of the colony's tree what the rules leave out here: it is neither brought here nor removed there. A mirrored tree
/// keeps it: what was sent before the rule was written is to go, so that the tree in the colony is the one here.
pub(super) async fn leave_out(
    options: &SyncOptions,
    mut rules: Rules,
    local: &LocalTree,
    mut remote: RemoteTree,
    root: &Path,
) -> Result<RemoteTree, Error> {
    if options.policy == Policy::Mirror {
        return Ok(remote);
    }
    let unknown: Vec<RelPath> = remote.files.keys().filter(|path| !local.files.contains_key(path)).cloned().collect();
    let root = root.to_owned();
    let left_out = blocking::run(move || {
        let mut left_out = Vec::new();
        for path in unknown {
            let verdict = match path.parent() {
                _ if !path.is_folder_marker() => rules.explain_as(&path.under(&root), false)?,
                Some(folder) => rules.explain_as(&folder.under(&root), true)?,
                None => continue,
            };
            if verdict.ignored {
                left_out.push(path);
            }
        }
        Ok::<_, index::Error>(left_out)
    })
    .await?;
    for path in left_out {
        remote.files.remove(&path);
    }
    Ok(remote)
}

/// Nanoseconds since 1970.
pub(super) fn now() -> i64 {
    i64::try_from(jiff::Timestamp::now().as_nanosecond()).unwrap_or(i64::MAX)
}
