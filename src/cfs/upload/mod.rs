//! One file to the colony: its bytes as an object of its own, then its row. A row is registered only with the checksum of the
//! bytes that are in the object.
//!
//! What is in the store already does not travel: the same content is copied there ([`same`]), and of a changed large file only
//! what changed is sent ([`compose`], from objects that [`bases`] finds). Whatever cuts an upload off, the journal knows of it,
//! and [`leftover`] takes it up again or cleans it away.

mod bases;
mod compose;
pub(super) mod leftover;
mod register;
mod same;
mod scratch;
mod source;

pub(super) use super::failed::Failed;
pub use bases::note_part_copy;
pub(super) use register::row;

use super::Cfs;
use super::Error;
use super::MODE;
use super::labels;
use super::list::RemoteFile;
use crate::content::CHUNKED_ABOVE;
use crate::index::Index;
use crate::index::KnownObject;
use crate::index::LocalFile;
use crate::index::RelPath;
use crate::journal::Journal;
use crate::journal::uploads::OpenUpload;
use crate::store::Metadata;
use crate::store::PART;
use crate::store::Stored;
use source::Look;
use source::Spot;
use std::collections::BTreeSet;
use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;

/// How often a file that changes while it is sent is begun anew.
const TRIES: u32 = 3;

/// A file that is to be sent.
#[derive(Clone, Debug)]
pub(super) struct Job {
    /// Below the tree.
    pub(super) path: RelPath,
    /// As it was when it was looked at.
    pub(super) local: LocalFile,
    /// Of the object that it becomes: nobody else uses it, and the journal knows it.
    pub(super) key: String,
    /// An earlier upload to that key that was cut off.
    pub(super) resume: Option<OpenUpload>,
}

/// What was stored of a file.
#[derive(Debug)]
pub(super) struct Sent {
    /// As registered.
    pub(super) file: RemoteFile,
    /// The permission bits it had.
    pub(super) mode: u32,
    /// ETag of its object; empty for an empty file.
    pub(super) etag: String,
    /// Bytes that travelled for it.
    pub(super) travelled: u64,
}

/// Counts bytes of one file.
struct Tally<'a> {
    show: &'a (dyn Fn(u64) + Send + Sync),
    travelled: AtomicU64,
}

impl Tally<'_> {
    fn sent(&self, bytes: u64) {
        self.travelled.fetch_add(bytes, Ordering::Relaxed);
        (self.show)(bytes);
    }

    /// Bytes that are there without having been sent.
    fn spared(&self, bytes: u64) {
        (self.show)(bytes);
    }
}

/// Sends the files of one tree.
pub(super) struct Uploader<'a> {
    cfs: &'a Cfs,
    index: &'a Index,
    journal: &'a Journal,
    /// Root label of the tree.
    root: String,
    /// Canonical local folder of the tree.
    folder: &'a Path,
    /// Where objects are, for the index.
    store_place: String,
    /// The tree and where its objects are, for the journal.
    place: String,
    /// Rows of the tree as they were before.
    rows: HashMap<RelPath, RemoteFile>,
    /// Rows by those contents that are to be sent.
    rows_by_content: HashMap<String, RemoteFile>,
    /// What was stored just now, by content.
    fresh: Mutex<HashMap<String, KnownObject>>,
    /// Contents that several files have are sent one after the other: the first travels, the others are copies of it.
    turns: HashMap<String, Arc<tokio::sync::Mutex<()>>>,
}

/// Where objects of a store are, as the index names it.
pub fn store_place(cfs: &Cfs) -> String {
    let access = cfs.store.access();
    format!("{}/{}", access.endpoint, access.bucket)
}

/// A tree as the journal names it for its uploads: with the store, because objects of another one cannot be taken up there.
pub(super) fn place_of_uploads(cfs: &Cfs, place: &str) -> String {
    format!("{}|{place}", store_place(cfs))
}

/// Keys of objects that uploads to this store are still to finish, from folders that are there.
///
/// # Errors
/// Those of the journal.
pub fn keys_under_way(cfs: &Cfs, journal: &Journal) -> Result<BTreeSet<String>, Error> {
    let keys = journal.keys_under_way(&place_of_uploads(cfs, ""))?;
    Ok(keys.into_iter().filter(|(_, folder)| folder.is_dir()).map(|(key, _)| key).collect())
}

/// Forgets objects that were removed, and contents that nothing has any more.
pub fn forget_objects<'k>(cfs: &Cfs, index: &Index, keys: impl Iterator<Item = &'k str>) {
    index.forget_objects(&store_place(cfs), keys);
    index.forget_unused_contents();
}

impl<'a> Uploader<'a> {
    /// For `jobs` of the tree that has these `rows`. `place` is the tree's in the journal.
    pub(super) fn new<'b>(
        (cfs, index, journal): (&'a Cfs, &'a Index, &'a Journal),
        (root, folder, place): (&str, &'a Path, &str),
        rows: impl Iterator<Item = &'b RemoteFile>,
        jobs: &[Job],
    ) -> Uploader<'a> {
        let mut wanted: HashMap<&str, usize> = HashMap::new();
        for job in jobs.iter().filter(|job| job.local.size > 0) {
            *wanted.entry(&job.local.sha256).or_default() += 1;
        }
        let paths: std::collections::HashSet<&RelPath> = jobs.iter().map(|job| &job.path).collect();
        let (mut by_path, mut by_content) = (HashMap::new(), HashMap::new());
        for row in rows.filter(|row| !row.object.is_empty()) {
            if wanted.contains_key(row.sha256.as_str()) {
                by_content.insert(row.sha256.clone(), row.clone());
            }
            if paths.contains(&row.path) {
                by_path.insert(row.path.clone(), row.clone());
            }
        }
        let several = wanted.iter().filter(|(_, count)| **count > 1);
        Uploader {
            cfs,
            index,
            journal,
            root: root.to_owned(),
            folder,
            store_place: store_place(cfs),
            place: place.to_owned(),
            rows: by_path,
            rows_by_content: by_content,
            fresh: Mutex::default(),
            turns: several.map(|(sha256, _)| ((*sha256).to_owned(), Arc::default())).collect(),
        }
    }

    /// Sends one file, and registers it.
    pub(super) async fn upload(&self, job: &Job, show: &(dyn Fn(u64) + Send + Sync)) -> Result<Sent, Failed> {
        if job.path.is_folder_marker() {
            return register::register(self.cfs, &self.root, &job.path, None, 0o644).await;
        }
        let full = Spot { root: self.folder.to_owned(), path: job.path.clone() };
        let mut local = job.local.clone();
        let tally = Tally { show, travelled: AtomicU64::new(0) };
        for _ in 0..TRIES {
            let turn = self.turns.get(&local.sha256).cloned();
            let turn = match &turn {
                Some(turn) => Some(turn.lock().await),
                None => None,
            };
            if let Some((stored, mode)) = self.store(job, &full, &local, &tally).await? {
                if stored.size > 0 {
                    self.note_fresh(&job.key, &stored, mode);
                }
                drop(turn);
                let stored = (stored.size > 0).then(|| (job.key.clone(), stored));
                let sent = register::register(self.cfs, &self.root, &job.path, stored, mode).await?;
                return Ok(Sent { travelled: tally.travelled.into_inner(), ..sent });
            }
            tracing::debug!(path = %job.path, "changed while it was sent; once more");
            local = self.look_again(&full).await?;
        }
        Err(Failed::File("changes again and again while it is sent; it will be brought over when it is still".into()))
    }

    /// Brings the bytes into the store; none where the file is not what was looked at. Gives its permission bits, too. An empty
    /// file has no object.
    async fn store(&self, job: &Job, full: &Spot, local: &LocalFile, tally: &Tally<'_>) -> Result<Option<(Stored, u32)>, Failed> {
        let known = self.known_objects(local);
        if local.size <= CHUNKED_ABOVE && known.is_empty() && !self.rows_by_content.contains_key(&local.sha256) {
            return self.store_whole(job, full, local.size, tally).await;
        }
        let Some(mode) = source::mode_if_unchanged(full, local).await? else { return Ok(None) };
        let meta = Metadata::from([(MODE.to_owned(), format!("{mode:o}"))]);
        if let Some(stored) = self.copy_same(job, full, (local, mode), known, &meta).await? {
            tally.spared(local.size);
            return Ok(Some((stored, mode)));
        }
        if local.size > CHUNKED_ABOVE {
            let Some(content) = self.content(full, local).await? else { return Ok(None) };
            let composition = self.composition(job, &content).await?;
            if composition.is_some() || local.size > PART {
                let stored = self.compose(job, full, content, composition, &meta, tally).await?;
                return Ok(stored.map(|stored| (stored, mode)));
            }
        }
        self.store_whole(job, full, local.size, tally).await
    }

    /// One request for all of it.
    async fn store_whole(&self, job: &Job, full: &Spot, size: u64, tally: &Tally<'_>) -> Result<Option<(Stored, u32)>, Failed> {
        let _memory = self.cfs.store.memory(size).await;
        let Some((bytes, mode)) = source::read_whole(full, size).await? else { return Ok(None) };
        if bytes.is_empty() {
            let sha256 = crate::index::empty_sha256().into();
            return Ok(Some((Stored { size: 0, sha256, etag: String::new() }, mode)));
        }
        let meta = Metadata::from([(MODE.to_owned(), format!("{mode:o}"))]);
        if let Some(stored) = self.stored_before(job, &bytes, &meta).await? {
            tally.spared(stored.size);
            return Ok(Some((stored, mode)));
        }
        let stored = self.cfs.store.put_bytes(&job.key, bytes, &meta, &|bytes| tally.sent(bytes)).await?;
        Ok(Some((stored, mode)))
    }

    /// Looks at a file that changed since the tree was looked at.
    async fn look_again(&self, full: &Spot) -> Result<LocalFile, Failed> {
        let Look { local, content } = source::look(full).await?;
        if !content.chunks.is_empty() {
            self.index.note_content(&content);
        }
        Ok(local)
    }

    fn note_fresh(&self, key: &str, stored: &Stored, mode: u32) {
        let object = KnownObject {
            key: key.to_owned(),
            sha256: stored.sha256.clone(),
            size: stored.size,
            etag: stored.etag.clone(),
            mode: Some(mode),
        };
        // Whole at any time.
        self.fresh.lock().unwrap_or_else(PoisonError::into_inner).insert(stored.sha256.clone(), object);
    }
}

/// Removes an object that no row will name. Left behind it costs space only, and the journal knows of it.
async fn discard(cfs: &Cfs, key: &str) {
    if key.is_empty() {
        return;
    }
    if let Err(error) = cfs.store.delete(key).await {
        tracing::warn!(%error, key, "an object without a row is left behind for now");
    }
}

/// A key that nobody else uses: two rows never share an object, since other clients delete it together with its row.
pub(super) fn new_key(root: &str) -> Result<String, Failed> {
    let mut bytes = [0u8; 16];
    getrandom::fill(&mut bytes).map_err(|e| Failed::File(format!("no randomness from the system: {e}")))?;
    Ok(format!("{}/{}", labels::key_prefix(root), hex::encode(bytes)))
}

/// What is no single file's matter.
pub(super) fn fatal(failed: Failed) -> Error {
    match failed {
        Failed::All(error) => error,
        Failed::File(why) => Error::Local { path: "randomness".into(), source: std::io::Error::other(why) },
    }
}
