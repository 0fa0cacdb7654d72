//! Bringing one tree in step: look at three trees, plan, carry the plan out file by file, remember what both sides agree on.

use super::Cfs;
use super::Error;
use super::download::download;
use super::list::RemoteFile;
use super::list::RemoteTree;
use super::plan;
use super::plan::Entry;
use super::plan::Plan;
use super::plan::Policy;
use super::plan::Side;
use super::snapshot;
use super::upload::Failed;
use super::upload::upload;
use crate::event::Direction;
use crate::event::Event;
use crate::event::Events;
use crate::event::Tree;
use crate::index::FOLDER_MARKER;
use crate::index::Index;
use crate::index::LocalFile;
use crate::index::LocalTree;
use crate::index::RelPath;
use crate::index::ignore::Rules;
use crate::journal::Journal;
use crate::journal::base::Base;
use crate::journal::base::BaseChange;
use crate::journal::base::BaseFile;
use futures_util::StreamExt;
use sha2::Digest;
use sha2::Sha256;
use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::path::Path;
use std::path::PathBuf;

/// Trees of fewer files may lose any number of them without being asked.
const LARGE_TREE: usize = 100;

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
}

/// What was done.
#[derive(Clone, Debug, Default)]
pub struct SyncReport {
    /// What was planned.
    pub plan: Plan,
    /// Files sent, and their bytes.
    pub uploaded: (u64, u64),
    /// Files fetched, and their bytes.
    pub downloaded: (u64, u64),
    /// Files that were not brought in step, and why.
    pub problems: Vec<(String, String)>,
    /// What is no file and stays behind, and why.
    pub skipped: Vec<(String, String)>,
    /// Removals put off: a process that has not ended still needs the file, or the deletion looks like an accident.
    pub held: Vec<RelPath>,
    /// Digest of the local tree: paths, contents, executable bits.
    pub tree_digest: String,
    /// The files of the colony that make up this tree, as they are now.
    pub files: BTreeMap<RelPath, RemoteFile>,
    /// When rows were last removed from the label, ns since 1970.
    pub last_removal: i64,
}

/// Brings one tree in step. Problems of single files are listed; an error ends it early, with what was done remembered.
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
        return Ok(work.report);
    }
    work.tell_problems();
    if let Policy::Mirror | Policy::LocalWins = options.policy {
        work.hold_what_processes_need().await?;
    }
    let outcome = work.carry_out().await;
    work.remember()?;
    outcome?;
    Ok(work.finish())
}

/// Whether this folder was ever brought in step with this label.
pub fn was_synchronized(cfs: &Cfs, journal: &Journal, label: &str, folder: &Path) -> Result<bool, Error> {
    let root = folder.canonicalize().unwrap_or_else(|_| folder.to_owned());
    Ok(journal.base(&place(cfs, label), &root)?.is_some())
}

/// Where a base belongs to. With our id: a colony that was made anew at the same address is another place.
fn place(cfs: &Cfs, label: &str) -> String {
    format!("{}|{}|{}|{label}", cfs.client.server(), cfs.client.colony(), cfs.client.id())
}

struct Work<'a> {
    cfs: &'a Cfs,
    journal: &'a Journal,
    options: &'a SyncOptions,
    events: &'a Events,
    place: String,
    root: PathBuf,
    local: LocalTree,
    remote: RemoteTree,
    base: Base,
    change: BaseChange,
    report: SyncReport,
}

impl<'a> Work<'a> {
    /// Looks at all three trees and plans.
    async fn look(
        cfs: &'a Cfs,
        index: &Index,
        journal: &'a Journal,
        options: &'a SyncOptions,
        events: &'a Events,
    ) -> Result<Work<'a>, Error> {
        let (local, remote) = tokio::join!(look_here(options, index), cfs.list(&options.label));
        let (local, remote) = (local?, remote?);
        let root = options.folder.canonicalize().unwrap_or_else(|_| options.folder.clone());
        let place = place(cfs, &options.label);
        let base = journal.base(&place, &root)?.unwrap_or_default();
        let here = local
            .files
            .iter()
            .map(|(p, f)| (p.clone(), Side { size: f.size, sha256: f.sha256.clone(), mode: Some(f.mode) }))
            .collect();
        let there =
            remote.files.iter().map(|(p, f)| (p.clone(), Side { size: f.size, sha256: f.sha256.clone(), mode: None })).collect();
        let report = SyncReport {
            plan: plan::plan(&here, &there, &base.files, options.policy),
            problems: local.problems.iter().chain(&remote.problems).cloned().collect(),
            skipped: local.skipped.clone(),
            tree_digest: digest(&local.files),
            last_removal: base.last_removal,
            ..SyncReport::default()
        };
        let change = BaseChange { device: local.device, ..BaseChange::default() };
        let mut work = Work { cfs, journal, options, events, place, root, local, remote, base, change, report };
        work.spare_unreadable();
        for clash in std::mem::take(&mut work.report.plan.clashes) {
            work.report.problems.push((clash.path.to_string(), "is a file on one side and a folder on the other".into()));
            work.report.plan.clashes.push(clash);
        }
        Ok(work)
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
    }

    /// Deletions that look like an unmounted disk or an accident are errors, or put off where the colony wins anyway.
    fn guard(&mut self) -> Result<(), Error> {
        let Err(error) = self.accident() else { return Ok(()) };
        if self.options.allow_deletes {
            return Ok(());
        }
        if self.options.policy != Policy::RemoteWins {
            return Err(error);
        }
        self.events.warn(format!("{error}: nothing is deleted; --allow-deletes carries it out"));
        let put_off = std::mem::take(&mut self.report.plan.remove_remote);
        self.report.held.extend(put_off.into_iter().map(|entry| entry.path));
        self.report.plan.remove_local.clear();
        Ok(())
    }

    fn accident(&self) -> Result<(), Error> {
        let plan = &self.report.plan;
        let (removed, here) = (plan.remove_local.len(), self.local.files.len());
        // A colony that holds nothing of the tree any more was emptied or is another one: what came from it stays here.
        if self.options.policy == Policy::RemoteWins && self.remote.files.is_empty() && removed > 0 {
            return Err(Error::ManyDeletions { tree: self.options.tree, deletions: removed, files: here, side: "here" });
        }
        let files = self.base.files.len();
        let folder = self.options.folder.clone();
        if files > 0 && !plan.remove_remote.is_empty() {
            if !self.local.exists {
                return Err(Error::TreeMissing { folder, files });
            }
            if self.local.files.keys().all(RelPath::is_folder_marker)
                && self.base.files.keys().any(|p| !p.ends_with(FOLDER_MARKER))
            {
                return Err(Error::TreeEmptied { folder, files });
            }
            if self.base.device != self.local.device {
                return Err(Error::OtherFileSystem { folder, missing: plan.remove_remote.len() });
            }
        }
        for (deletions, files, side) in [
            (plan.remove_remote.len(), self.remote.files.len(), "in the colony"),
            (plan.remove_local.len(), self.local.files.len(), "here"),
        ] {
            if files >= LARGE_TREE && deletions * 2 > files {
                return Err(Error::ManyDeletions { tree: self.options.tree, deletions, files, side });
            }
        }
        Ok(())
    }

    /// Puts removals off that would break the snapshot of a process that has not ended.
    async fn hold_what_processes_need(&mut self) -> Result<(), Error> {
        if self.report.plan.remove_remote.is_empty() {
            return Ok(());
        }
        let needed = snapshot::needed_files(self.cfs, &self.options.label).await?;
        let (hold, go): (Vec<Entry>, Vec<Entry>) =
            std::mem::take(&mut self.report.plan.remove_remote).into_iter().partition(|entry| needed.contains(&entry.path));
        self.report.plan.remove_remote = go;
        self.report.held.extend(hold.into_iter().map(|entry| entry.path));
        Ok(())
    }

    async fn carry_out(&mut self) -> Result<(), Error> {
        self.keep_aside();
        self.remove_here();
        self.transfer(Direction::Download).await?;
        self.transfer(Direction::Upload).await?;
        self.remove_there().await
    }

    /// Renames what would be lost.
    fn keep_aside(&mut self) {
        let stamp = jiff::Timestamp::now().strftime("%Y%m%dT%H%M%SZ").to_string();
        for entry in self.report.plan.keep_aside.clone() {
            let full = entry.path.under(&self.root);
            let (kept, target) = free_name(&self.root, &entry.path, &stamp);
            match std::fs::rename(&full, &target) {
                Ok(()) => {
                    self.events.emit(Event::FileKept { tree: self.options.tree, path: entry.path.to_string(), kept_as: kept })
                }
                Err(error) => {
                    self.problem(&entry.path, format!("cannot be kept aside, so it stays as it is: {error}"));
                    self.report.plan.downloads.retain(|d| d.path != entry.path);
                }
            }
        }
    }

    fn remove_here(&mut self) {
        for entry in self.report.plan.remove_local.clone() {
            let full = entry.path.under(&self.root);
            let removed = if entry.path.is_folder_marker() {
                // A folder that holds something now stays.
                full.parent().map_or(Ok(()), std::fs::remove_dir).or(Ok(()))
            } else {
                self.remove_file_here(&entry.path, &full)
            };
            match removed {
                Ok(()) => {
                    self.change.gone.push(entry.path.to_string());
                    self.events.emit(Event::FileRemoved { tree: self.options.tree, path: entry.path.to_string(), local: true });
                }
                Err(error) => self.problem(&entry.path, format!("cannot be removed: {error}")),
            }
        }
    }

    /// Removes a file that is still what was looked at, and the folders above it that are empty then.
    fn remove_file_here(&self, path: &RelPath, full: &Path) -> std::io::Result<()> {
        let size = std::fs::metadata(full).map(|m| m.len());
        match (size, self.local.files.get(path)) {
            (Ok(size), Some(seen)) if size == seen.size => std::fs::remove_file(full)?,
            (Err(error), _) if error.kind() == std::io::ErrorKind::NotFound => {}
            (Err(error), _) => return Err(error),
            _ => return Err(std::io::Error::other("it was changed meanwhile")),
        }
        for folder in path.ancestors() {
            if std::fs::remove_dir(folder.under(&self.root)).is_err() {
                break;
            }
        }
        Ok(())
    }

    async fn transfer(&mut self, direction: Direction) -> Result<(), Error> {
        let entries = match direction {
            Direction::Upload => self.report.plan.uploads.clone(),
            Direction::Download => self.report.plan.downloads.clone(),
        };
        if entries.is_empty() {
            return Ok(());
        }
        if direction == Direction::Upload {
            self.cfs.store.ensure_bucket().await?;
        }
        let tree = self.options.tree;
        let (files, bytes) = (entries.len() as u64, entries.iter().map(|e| e.size).sum());
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
        self.events.emit(Event::TransferFinished { tree, direction, files, bytes, problems });
        outcome
    }

    async fn send_all(&mut self, entries: Vec<Entry>) -> Result<(), Error> {
        let (cfs, label, root) = (self.cfs, &self.options.label, self.root.clone());
        let progress = self.progress(Direction::Upload);
        let mut running = futures_util::stream::iter(entries)
            .map(|entry| {
                let (root, progress) = (&root, &progress);
                async move {
                    let moved = progress(&entry.path);
                    let sent = upload(cfs, label, root, &entry.path, &moved).await;
                    (entry, sent)
                }
            })
            .buffer_unordered(self.options.jobs.max(1));
        while let Some((entry, outcome)) = running.next().await {
            match outcome {
                Ok(sent) => {
                    self.report.uploaded.0 += 1;
                    self.report.uploaded.1 += sent.file.size;
                    done(self.events, self.options.tree, Direction::Upload, &entry.path, sent.file.size);
                    let agreed = BaseFile { sha256: sent.file.sha256.clone(), mode: sent.mode, fetched: false };
                    self.change.agreed.push((entry.path.to_string(), agreed));
                    self.remote.files.insert(entry.path.clone(), sent.file);
                }
                Err(Failed::File(why)) => problem(self.events, &mut self.report, self.options.tree, &entry.path, why),
                Err(Failed::All(error)) => return Err(error),
            }
        }
        Ok(())
    }

    async fn fetch_all(&mut self, entries: Vec<Entry>) -> Result<(), Error> {
        let (cfs, root) = (self.cfs, self.root.clone());
        let progress = self.progress(Direction::Download);
        let files: Vec<RemoteFile> = entries.iter().filter_map(|e| self.remote.files.get(&e.path).cloned()).collect();
        let mut running = futures_util::stream::iter(files)
            .map(|file| {
                let (root, progress) = (&root, &progress);
                async move {
                    let moved = progress(&file.path);
                    let fetched = download(cfs, &file, root, &moved).await;
                    (file, fetched)
                }
            })
            .buffer_unordered(self.options.jobs.max(1));
        while let Some((file, outcome)) = running.next().await {
            match outcome {
                Ok(mode) => {
                    self.report.downloaded.0 += 1;
                    self.report.downloaded.1 += file.size;
                    done(self.events, self.options.tree, Direction::Download, &file.path, file.size);
                    let agreed = BaseFile { sha256: file.sha256, mode, fetched: true };
                    self.change.agreed.push((file.path.to_string(), agreed));
                }
                Err(Failed::File(why)) => problem(self.events, &mut self.report, self.options.tree, &file.path, why),
                Err(Failed::All(error)) => return Err(error),
            }
        }
        Ok(())
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
        // Noted before the first: whatever happens then, no snapshot made until now is taken for whole.
        self.change.removal = Some(now());
        self.report.last_removal = now();
        let (cfs, label) = (self.cfs, &self.options.label);
        let mut running = futures_util::stream::iter(entries)
            .map(|entry| async move {
                let (label, name) = super::labels::place_of(label, &entry.path);
                let removed = cfs.client.remove_file(&label, &name).await;
                (entry, removed)
            })
            .buffer_unordered(self.options.jobs.max(1));
        while let Some((entry, removed)) = running.next().await {
            match removed.map_err(Failed::from) {
                Ok(()) => {
                    self.remote.files.remove(&entry.path);
                    self.change.gone.push(entry.path.to_string());
                    self.events.emit(Event::FileRemoved { tree: self.options.tree, path: entry.path.to_string(), local: false });
                }
                Err(Failed::File(why)) => problem(self.events, &mut self.report, self.options.tree, &entry.path, why),
                Err(Failed::All(error)) => return Err(error),
            }
        }
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
        Ok(self.journal.change_base(&self.place, &self.root, &self.change)?)
    }

    fn tell_problems(&self) {
        for (path, why) in self.report.problems.iter().chain(&self.report.skipped) {
            let problem = why.clone();
            self.events.emit(Event::FileProblem { tree: self.options.tree, path: path.clone(), problem });
        }
    }

    fn problem(&mut self, path: &RelPath, why: String) {
        problem(self.events, &mut self.report, self.options.tree, path, why);
    }

    fn finish(self) -> SyncReport {
        let foreign: BTreeSet<&RelPath> = self.report.plan.foreign.iter().map(|e| &e.path).chain(&self.report.held).collect();
        let files = self.remote.files.iter().filter(|(path, _)| !foreign.contains(path));
        let files = files.map(|(path, file)| (path.clone(), file.clone())).collect();
        SyncReport { files, ..self.report }
    }
}

fn done(events: &Events, tree: Tree, direction: Direction, path: &RelPath, size: u64) {
    if !path.is_folder_marker() {
        events.emit(Event::FileDone { tree, direction, path: path.to_string(), size });
    }
}

fn problem(events: &Events, report: &mut SyncReport, tree: Tree, path: &RelPath, why: String) {
    events.emit(Event::FileProblem { tree, path: path.to_string(), problem: why.clone() });
    report.problems.push((path.to_string(), why));
}

async fn look_here(options: &SyncOptions, index: &Index) -> Result<LocalTree, Error> {
    let (options, index) = (options.clone(), index.clone());
    let folder = options.folder.clone();
    let look = tokio::task::spawn_blocking(move || {
        let root = options.folder.canonicalize().unwrap_or_else(|_| options.folder.clone());
        let mut rules = Rules::new(&root, options.rules_from.as_deref())?;
        let mut tree = crate::index::scan(&options.folder, &mut rules, &index, options.jobs)?;
        mark_root(&mut tree, options.policy);
        Ok::<_, crate::index::Error>(tree)
    });
    Ok(look.await.map_err(|e| Error::Local { path: folder, source: std::io::Error::other(e) })??)
}

/// A root without files of its own gets a marker: the server finds nothing below a label that holds nothing itself, neither
/// for a snapshot nor for other executors' listings. An empty src needs it for its snapshot.
fn mark_root(tree: &mut LocalTree, policy: Policy) {
    let has_own = tree.files.keys().any(|path| path.parent().is_none());
    let wanted = policy == Policy::Mirror || !tree.files.is_empty();
    if tree.exists
        && wanted
        && !has_own
        && let Ok(marker) = RelPath::parse(FOLDER_MARKER)
    {
        let empty = LocalFile { size: 0, sha256: crate::index::empty_sha256().into(), mode: 0o644 };
        tree.files.insert(marker, empty);
    }
}

/// Names, contents and executable bits of a tree, as one digest.
fn digest(files: &BTreeMap<RelPath, LocalFile>) -> String {
    let mut hasher = Sha256::new();
    for (path, file) in files {
        let executable = if file.mode & 0o111 == 0 { "-" } else { "x" };
        hasher.update(format!("{}\0{path}\0{}\0{executable}\n", path.as_str().len(), file.sha256));
    }
    hex::encode(hasher.finalize())
}

/// `name.local-<time>`, with a number where that stands already.
fn free_name(root: &Path, path: &RelPath, stamp: &str) -> (String, PathBuf) {
    let mut kept = format!("{path}.local-{stamp}");
    let mut number = 1;
    while root.join(&kept).symlink_metadata().is_ok() {
        number += 1;
        kept = format!("{path}.local-{stamp}-{number}");
    }
    let full = root.join(&kept);
    (kept, full)
}

fn now() -> i64 {
    i64::try_from(jiff::Timestamp::now().as_nanosecond()).unwrap_or(i64::MAX)
}
