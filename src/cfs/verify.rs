//! Reading back what is stored: every object of a tree is hashed and compared with its row. Nothing is written here; what is
//! damaged there and whole here is sent again.

use super::Cfs;
use super::Error;
use super::MODE;
use super::download::Hashing;
use super::here::digest_of;
use super::list::RemoteFile;
use super::sync;
use super::sync::SyncOptions;
use super::upload::Failed;
use super::upload::new_key;
use super::upload::row;
use super::upload::store_place;
use crate::blocking;
use crate::event::Direction;
use crate::event::Event;
use crate::event::Events;
use crate::index;
use crate::index::Index;
use crate::journal::Journal;
use crate::journal::base::BaseChange;
use crate::store;
use crate::store::Metadata;
use futures_util::StreamExt;
use std::io::Seek;
use std::os::unix::fs::PermissionsExt;
use tokio::io::AsyncReadExt;

/// What [`verify`] found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VerifyReport {
    /// Files whose stored bytes were read and are what is registered.
    pub sound: u64,
    /// Bytes that were read.
    pub bytes: u64,
    /// Files whose stored bytes are not what is registered: their paths, what is wrong, what was done or is to be done.
    pub problems: Vec<(String, String)>,
    /// Those of them that were sent again from here.
    pub sent_again: u64,
}

/// Reads every object of a tree back and compares it with what is registered. A damaged one whose content is here is sent
/// again at once, as an object of its own.
///
/// # Errors
/// Those that befall every file: nobody answers, the journal cannot be written. What is wrong with one file is listed.
pub async fn verify(
    cfs: &Cfs,
    index: &Index,
    journal: &Journal,
    options: &SyncOptions,
    events: &Events,
) -> Result<VerifyReport, Error> {
    let files: Vec<RemoteFile> = cfs.list(&options.label).await?.files.into_values().filter(|file| file.size > 0).collect();
    let (tree, direction) = (options.tree, Direction::Download);
    let (count, bytes) = (files.len() as u64, files.iter().map(|file| file.size).sum());
    let stored = format!("{count} stored file{}", if count == 1 { "" } else { "s" });
    events.emit(Event::Note { message: format!("{tree}: reading {stored} back") });
    events.emit(Event::TransferStarted { tree, direction, files: count, bytes });
    let mut report = VerifyReport::default();
    let outcome = verify_all((cfs, index, journal), options, files, events, &mut report).await;
    report.problems.sort();
    let (files, bytes, problems) = (report.sound, report.bytes, report.problems.len() as u64);
    events.emit(Event::TransferFinished { tree, direction, files, bytes, travelled: bytes, problems });
    outcome?;
    let found = if problems == 0 { "all as registered".into() } else { format!("{problems} not as registered") };
    events.emit(Event::Note { message: format!("{tree}: {stored} read back, {found}") });
    Ok(report)
}

async fn verify_all(
    (cfs, index, journal): (&Cfs, &Index, &Journal),
    options: &SyncOptions,
    files: Vec<RemoteFile>,
    events: &Events,
    report: &mut VerifyReport,
) -> Result<(), Error> {
    let (tree, direction) = (options.tree, Direction::Download);
    let mut running = futures_util::stream::iter(files)
        .map(|file| async move {
            let path = file.path.to_string();
            let moved = |bytes| events.emit(Event::TransferProgress { tree, direction, path: path.clone(), bytes });
            let wrong = read_back(cfs, &file, &moved).await;
            (file, wrong)
        })
        .buffer_unordered(options.jobs.max(1));
    while let Some((file, read)) = running.next().await {
        let (bytes, wrong) = read?;
        report.bytes += bytes;
        let Some(wrong) = wrong else {
            report.sound += 1;
            continue;
        };
        // Nothing is to be copied from it any more.
        index.forget_object(&store_place(cfs), &file.object);
        let outcome = repair(cfs, journal, options, &file).await;
        if let Ok(true) = outcome {
            report.sent_again += 1;
        }
        let remedy = match outcome {
            Ok(true) => "the file here has the registered content and was sent again".to_owned(),
            Ok(false) => "the file here has another content or is not there: whoever has it must bring it again, or put a good \
                          copy in its place here and run the same command again"
                .to_owned(),
            Err(Failed::All(error)) => return Err(error),
            Err(failed) => format!("the file here could not be sent again: {}", failed.text()),
        };
        let (path, problem) = (file.path.to_string(), format!("{wrong}; {remedy}"));
        events.emit(Event::FileProblem { tree, path: path.clone(), problem: problem.clone() });
        report.problems.push((path, problem));
    }
    Ok(())
}

/// Reads one object. Gives how many bytes came, and what is wrong with them.
async fn read_back(cfs: &Cfs, file: &RemoteFile, progress: store::Progress<'_>) -> Result<(u64, Option<String>), Error> {
    let mut hashing = Hashing::new(tokio::io::sink());
    let read = cfs.store.get(&file.object, &mut hashing, progress).await;
    let (_, size, sha256) = hashing.finish();
    let wrong = match read {
        Ok(_) if (size, &sha256) == (file.size, &file.sha256) => None,
        Ok(_) => Some(format!(
            "the stored bytes are not what was registered (SHA-256 {sha256}, {size} bytes, instead of {}, {} bytes)",
            file.sha256, file.size
        )),
        Err(error) if error.is_not_found() && error.code() != Some("NoSuchBucket") => {
            Some("its bytes are no longer in the object store".to_owned())
        }
        Err(error) => match Failed::from(error) {
            Failed::All(error) => return Err(error),
            Failed::File(why) => Some(format!("its stored bytes cannot be read: {why}")),
        },
    };
    Ok((size, wrong))
}

/// Sends the file here again where it has the registered content; false where it has not. The bytes travel: nothing in the
/// store is trusted to hold them. The row gets an object of its own; the damaged one stays for older rows that name it.
async fn repair(cfs: &Cfs, journal: &Journal, options: &SyncOptions, file: &RemoteFile) -> Result<bool, Failed> {
    let (full, wanted) = (file.path.under(&options.folder), (file.size, file.sha256.clone()));
    let opened = blocking::run(move || {
        let (mut opened, metadata) = index::open_regular(&full).ok()?;
        let holds = metadata.len() == wanted.0 && digest_of(&mut opened).is_ok_and(|found| found == wanted);
        (holds && opened.rewind().is_ok()).then(|| (opened, metadata.permissions().mode() & 0o7777))
    });
    let Some((opened, mode)) = opened.await else { return Ok(false) };
    let key = new_key(&options.label)?;
    let metadata = Metadata::from([(MODE.to_owned(), format!("{mode:o}"))]);
    let reader = tokio::fs::File::from_std(opened).take(file.size);
    let stored = cfs.store.put(&key, reader, file.size, &metadata, &|_| ()).await?;
    if (stored.size, &stored.sha256) != (file.size, &file.sha256) {
        cfs.store.delete(&key).await?;
        return Err(Failed::File("it changed meanwhile; run `pollinator sync` again".into()));
    }
    // Snapshots that were made until now list the damaged object: none of them may serve again.
    note_repair(journal, cfs, options)?;
    cfs.client.add_file(&row(cfs, &options.label, &file.path, &key, file.size, &file.sha256)).await?;
    Ok(true)
}

fn note_repair(journal: &Journal, cfs: &Cfs, options: &SyncOptions) -> Result<(), Failed> {
    let root = index::canonical_name(&options.folder);
    let place = sync::place(cfs, &options.label);
    let base = journal.base(&place, &root).map_err(Error::from)?.unwrap_or_default();
    let change = BaseChange { device: base.device, removal: Some(sync::now()), ..BaseChange::default() };
    journal.change_base(&place, &root, &change).map_err(Error::from)?;
    Ok(())
}
