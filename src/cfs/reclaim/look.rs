//! Looking at everything that a decision needs: processes that have not ended, rows of all revisions.

use super::decide;
use crate::cfs::Cfs;
use crate::cfs::Error;
use crate::cfs::labels;
use crate::colonies;
use crate::colonies::Client;
use crate::colonies::File;
use crate::colonies::FileData;
use crate::colonies::Process;
use crate::colonies::ProcessFilter;
use crate::colonies::ProcessState;
use futures_util::StreamExt;
use futures_util::TryStreamExt;
use jiff::Timestamp;
use std::collections::BTreeMap;
use std::collections::BTreeSet;

/// Most processes of one state that the server lists. There is no paging.
const LISTED: u32 = 100;

/// Processes that have not ended.
#[derive(Clone, Debug, Default)]
pub(super) struct Processes {
    /// The snapshots that they use.
    pub(super) snapshots: BTreeSet<String>,
    /// When the first of those that run with files of the project began.
    pub(super) running_since: Option<Timestamp>,
    /// There may be more than the server lists.
    pub(super) incomplete: bool,
}

impl Processes {
    fn take(&mut self, root: &str, process: &Process) {
        let fs = &process.spec.fs;
        let mounts = fs.snapshots.iter().flatten();
        self.snapshots.extend(mounts.clone().map(|m| m.snapshotid.clone()).filter(|id| !id.is_empty()));
        let mut labels = mounts.map(|m| &m.label).chain(fs.dirs.iter().flatten().map(|d| &d.label));
        let concerns_us = labels.any(|label| labels::is_below(root, label) || labels::is_below(label, root));
        // The server lists those that run by their start: where it does not list all, the first of them bounds the others.
        if process.state == ProcessState::Running && (concerns_us || self.incomplete) {
            let since = process.starttime.get().unwrap_or(Timestamp::MIN);
            self.running_since = Some(self.running_since.map_or(since, |earlier| earlier.min(since)));
        }
    }
}

/// The processes of the colony that wait or run. `root` is that of the project's labels.
pub(super) async fn processes(client: &Client, root: &str) -> Result<Processes, Error> {
    let mut all = Processes::default();
    // Waiting twice: a process that goes back to waiting in between would be in neither list.
    for state in [ProcessState::Waiting, ProcessState::Running, ProcessState::Waiting] {
        let listed = client.processes(state, LISTED, &ProcessFilter::None).await?;
        all.incomplete |= listed.len() >= LISTED as usize;
        listed.iter().for_each(|process| all.take(root, process));
    }
    Ok(all)
}

/// One revision of a file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Row {
    /// Its id; not asked for where the file has one revision only.
    pub(super) id: Option<String>,
    pub(super) label: String,
    pub(super) name: String,
    /// Key of its bytes; empty for an empty file.
    pub(super) object: String,
    pub(super) size: u64,
    /// When it was registered.
    pub(super) added: Option<Timestamp>,
    /// When the next revision of the file was registered.
    pub(super) replaced: Option<Timestamp>,
    /// It is the latest.
    pub(super) latest: bool,
    /// It looks as Pollinator writes it, and its bytes are in this bucket.
    pub(super) ours: bool,
}

/// The rows of a project.
#[derive(Debug, Default)]
pub(super) struct Rows {
    pub(super) rows: Vec<Row>,
    /// What could not be looked at, and why.
    pub(super) problems: Vec<(String, String)>,
}

/// Whose rows are looked at, and how.
#[derive(Clone, Copy)]
pub(super) struct View<'a> {
    pub(super) cfs: &'a Cfs,
    /// Root of the project's labels.
    pub(super) root: &'a str,
    /// Prefix of its keys, with a slash at its end.
    pub(super) prefix: &'a str,
    /// Frozen trees that stay: the ids of their rows do not matter.
    pub(super) held: &'a BTreeSet<String>,
    /// Requests at once.
    pub(super) jobs: usize,
}

/// A file of a listing, as far as it can change.
type Listed = BTreeMap<String, (String, i64)>;

impl View<'_> {
    /// All revisions of all files of the project.
    pub(super) async fn rows(&self) -> Result<Rows, Error> {
        let before = self.labels().await?;
        let first = self.list(before.keys().cloned().collect()).await?;
        let counts = self.labels().await?;
        // Where a label holds as many revisions as names, each file has one: this is known for sure where the listing was the
        // same before and after the counting, since no key is ever used again. Elsewhere each file is asked for.
        let even = |label: &String| {
            let listed = first.get(label).map(Listed::len);
            listed.is_some() && listed == counts.get(label).and_then(|count| usize::try_from(*count).ok())
        };
        let second = self.list(counts.keys().cloned().collect()).await?;
        let mut all = Rows::default();
        let mut unclear = Vec::new();
        for (label, files) in second {
            let is_frozen = decide::frozen_of(self.root, &label).is_some_and(|frozen| !self.held.contains(&frozen));
            if even(&label) && first.get(&label) == Some(&files) && !is_frozen {
                all.rows.extend(files.into_iter().map(|(name, file)| single(&label, name, file)));
            } else {
                let earlier = first.get(&label).into_iter().flat_map(Listed::keys).cloned();
                let names: BTreeSet<String> = files.into_keys().chain(earlier).collect();
                unclear.extend(names.into_iter().map(|name| (label.clone(), name)));
            }
        }
        self.ask(unclear, &mut all).await?;
        Ok(all)
    }

    /// The project's labels, with the number of revisions in each.
    async fn labels(&self) -> Result<BTreeMap<String, i64>, Error> {
        // All labels of the colony are asked for: to the server a text is a pattern, and it must not overlook one of ours.
        // Other clients may have left out the first slash.
        let all = self.cfs.client.labels("").await?;
        Ok(all.into_iter().filter(|label| is_of(self.prefix, &label.name)).map(|label| (label.name, label.files)).collect())
    }

    async fn list(&self, labels: Vec<String>) -> Result<BTreeMap<String, Listed>, Error> {
        let client = &self.cfs.client;
        let listed = futures_util::stream::iter(labels)
            .map(|label| async move {
                let files = client.files(&label).await?;
                let file = |file: FileData| (file.name, (file.s3filename, file.size));
                Ok::<_, Error>((label, files.into_iter().map(file).collect()))
            })
            .buffer_unordered(self.jobs.max(1));
        listed.try_collect().await
    }

    /// Every revision of these files.
    async fn ask(&self, files: Vec<(String, String)>, all: &mut Rows) -> Result<(), Error> {
        let client = &self.cfs.client;
        let mut asked = futures_util::stream::iter(files)
            .map(|(label, name)| async move {
                let revisions = client.file_revisions(&label, &name).await;
                (label, name, revisions)
            })
            .buffer_unordered(self.jobs.max(1));
        while let Some((label, name, revisions)) = asked.next().await {
            match revisions {
                Ok(revisions) => all.rows.extend(self.read(&label, &name, revisions)),
                Err(error @ colonies::Error::Refused { .. }) => all.problems.push((format!("{label}/{name}"), error.to_string())),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    fn read(&self, label: &str, name: &str, mut revisions: Vec<File>) -> Vec<Row> {
        revisions.sort_by_key(|file| std::cmp::Reverse(file.sequencenr));
        let mut replaced = None;
        let row = |(number, file): (usize, File)| {
            let row = Row {
                ours: self.is_ours(&file),
                id: Some(file.fileid),
                label: label.to_owned(),
                name: name.to_owned(),
                object: file.reference.s3object.object,
                size: u64::try_from(file.size).unwrap_or(0),
                added: file.added.get(),
                replaced,
                latest: number == 0,
            };
            replaced = row.added;
            row
        };
        revisions.into_iter().enumerate().map(row).collect()
    }

    /// Other clients put their objects elsewhere. For an empty file there is none; they fill in their keys, or no port.
    fn is_ours(&self, file: &File) -> bool {
        let at = &file.reference.s3object;
        let as_we_write = at.accesskey.is_empty() && at.secretkey.is_empty() && at.port > 0;
        let ours = if at.object.is_empty() { file.size == 0 && as_we_write } else { decide::is_our_key(self.prefix, &at.object) };
        ours && at.bucket == self.cfs.store.access().bucket
    }
}

/// Whether files of a label have their objects below this prefix.
fn is_of(prefix: &str, label: &str) -> bool {
    prefix.strip_suffix('/').is_some_and(|prefix| labels::key_prefix(label) == prefix)
}

fn single(label: &str, name: String, (object, size): (String, i64)) -> Row {
    let size = u64::try_from(size).unwrap_or(0);
    Row { label: label.to_owned(), name, object, size, latest: true, ..Row::default() }
}
