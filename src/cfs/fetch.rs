//! Bringing given files into a folder that holds nothing else: snapshots, at an executor.

use super::Cfs;
use super::Error;
use super::download::Desk;
use super::download::download;
use super::here::Sources;
use super::list::RemoteFile;
use super::place::Expected;
use super::upload::Failed;
use crate::blocking;
use crate::event::Direction;
use crate::event::Event;
use crate::event::Events;
use crate::event::Tree;
use crate::index;
use crate::index::Index;
use crate::index::LocalTree;
use crate::index::ignore::Rules;
use futures_util::StreamExt;
use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::path::Path;
use std::path::PathBuf;

/// What [`fetch`] did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FetchReport {
    /// Files that came.
    pub fetched: u64,
    /// Bytes that travelled for them; none for those that were on this machine already.
    pub bytes: u64,
    /// Files that were there already, with the right content.
    pub present: u64,
    /// Files that did not come, and why.
    pub problems: Vec<(String, String)>,
}

/// Brings given files into a folder: what is there already by content is not fetched again, what is there under their names
/// with another content is replaced. For snapshots, whose folder holds nothing else.
///
/// # Errors
/// Those that befall every file: nobody answers, no space, the folder cannot be read. What is wrong with one file is listed.
pub async fn fetch(
    cfs: &Cfs,
    index: &Index,
    files: &[RemoteFile],
    folder: &Path,
    tree: Tree,
    jobs: usize,
    events: &Events,
) -> Result<FetchReport, Error> {
    let folder = &index::canonical_name(folder);
    let (root, cache) = (folder.to_owned(), index.clone());
    let there = blocking::run(move || {
        let mut rules = Rules::new(&root, None)?;
        crate::index::scan(&root, &mut rules, &cache, jobs)
    });
    let there = there.await?;
    let is_there = |f: &&RemoteFile| there.files.get(&f.path).is_some_and(|l| l.sha256 == f.sha256);
    let missing: Vec<RemoteFile> = files.iter().filter(|f| !is_there(f)).cloned().collect();
    let present = (files.len() - missing.len()) as u64;
    let (cache, root, wanted) = (index.clone(), folder.to_owned(), missing.clone());
    let sources = blocking::run(move || {
        let names = wanted.iter().map(|f| f.path.clone()).collect();
        Sources::find(&cache, &there, &root, &contents(&wanted), &names)
    });
    let report = bring(cfs, &sources.await, missing, (folder, tree), jobs, events).await?;
    Ok(FetchReport { present, ..report })
}

/// Files that are known not to be in a folder.
#[derive(Clone, Debug)]
pub struct Missing<'a> {
    /// What is to be brought.
    pub files: Vec<RemoteFile>,
    /// Where their contents may stand on this machine beside where the index knows them: SHA-256 and paths.
    pub elsewhere: BTreeMap<String, Vec<PathBuf>>,
    /// The folder.
    pub folder: &'a Path,
    /// For events.
    pub tree: Tree,
}

/// As [`fetch`], of files that are known to be missing: the folder is not looked at.
///
/// # Errors
/// As of [`fetch`].
pub async fn fetch_missing(
    cfs: &Cfs,
    index: &Index,
    missing: Missing<'_>,
    jobs: usize,
    events: &Events,
) -> Result<FetchReport, Error> {
    let Missing { files, elsewhere, folder, tree } = missing;
    let folder = &index::canonical_name(folder);
    let (cache, root, wanted) = (index.clone(), folder.to_owned(), files.clone());
    let sources = blocking::run(move || {
        let mut sources = Sources::find(&cache, &LocalTree::default(), &root, &contents(&wanted), &BTreeSet::new());
        for (sha256, paths) in elsewhere {
            paths.into_iter().rev().for_each(|path| sources.add(&sha256, path));
        }
        sources
    });
    bring(cfs, &sources.await, files, (folder, tree), jobs, events).await
}

fn contents(files: &[RemoteFile]) -> BTreeSet<&str> {
    files.iter().filter(|f| f.size > 0).map(|f| f.sha256.as_str()).collect()
}

async fn bring(
    cfs: &Cfs,
    sources: &Sources,
    missing: Vec<RemoteFile>,
    (folder, tree): (&Path, Tree),
    jobs: usize,
    events: &Events,
) -> Result<FetchReport, Error> {
    let mut report = FetchReport::default();
    if missing.is_empty() {
        return Ok(report);
    }
    let (count, bytes) = (missing.len() as u64, missing.iter().map(|f| f.size).sum());
    let direction = Direction::Download;
    events.emit(Event::TransferStarted { tree, direction, files: count, bytes });
    // What is fetched here belongs to one run: an unfinished part of it serves nobody later.
    let desk = Desk::new(cfs, None, folder, sources, jobs);
    let outcome = fetch_all(&desk, missing, tree, jobs, events, &mut report).await;
    report.problems.sort();
    let (files, bytes, problems) = (report.fetched, report.bytes, report.problems.len() as u64);
    events.emit(Event::TransferFinished { tree, direction, files, bytes, travelled: bytes, problems });
    outcome.map(|()| report)
}

async fn fetch_all(
    desk: &Desk<'_>,
    missing: Vec<RemoteFile>,
    tree: Tree,
    jobs: usize,
    events: &Events,
    report: &mut FetchReport,
) -> Result<(), Error> {
    let direction = Direction::Download;
    let mut running = futures_util::stream::iter(missing)
        .map(|file| async move {
            let path = file.path.to_string();
            let moved = |bytes| events.emit(Event::TransferProgress { tree, direction, path: path.clone(), bytes });
            let outcome = download(desk, &file, Expected::Anything, &moved).await;
            (file, outcome)
        })
        .buffer_unordered(jobs.max(1));
    while let Some((file, outcome)) = running.next().await {
        let path = file.path.to_string();
        match outcome {
            Ok(fetched) => {
                report.fetched += 1;
                report.bytes += fetched.travelled;
                if !file.path.is_folder_marker() {
                    events.emit(Event::FileDone { tree, direction, path, size: file.size, travelled: file.size });
                }
            }
            Err(Failed::File(why)) => {
                events.emit(Event::FileProblem { tree, path: path.clone(), problem: why.clone() });
                report.problems.push((path, why));
            }
            Err(Failed::All(error)) => return Err(error),
        }
    }
    Ok(())
}
