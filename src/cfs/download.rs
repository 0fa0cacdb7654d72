//! One file from the colony: under a temporary name, its checksum verified, synced, then renamed. What is visible is whole.
//!
//! A content that is here already is copied; a large one comes in ranges ([`super::large`]); anything else is streamed.
//! Names come from others: they are [`crate::index::RelPath`]s here, and no folder on the way may be a symbolic link.

use super::Cfs;
use super::Error;
use super::MODE;
use super::here::Sources;
use super::large;
use super::list::RemoteFile;
use super::place;
use super::place::Expected;
use super::place::Way;
use super::place::local;
use super::unfinished::Unfinished;
use super::upload::Failed;
use crate::blocking;
use crate::journal::Journal;
use crate::store;
use sha2::Digest;
use sha2::Sha256;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::pin::Pin;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::task::Context;
use std::task::Poll;
use tempfile::TempPath;
use tokio::io::AsyncWrite;
use tokio::io::AsyncWriteExt;
use tokio::sync::Semaphore;

/// Permission bits of a file that came without any.
const DEFAULT_MODE: u32 = 0o644;

/// What a download needs besides the file.
pub(super) struct Desk<'a> {
    pub(super) cfs: &'a Cfs,
    /// Where it is written down what has come of large files; without it they begin anew each time.
    pub(super) journal: Option<&'a Journal>,
    /// The folder of the tree.
    pub(super) root: &'a Path,
    /// What need not be fetched.
    pub(super) sources: &'a Sources,
    /// Leave for ranges of large files, of all files together: each is a connection and an opened file.
    pub(super) ranges: Semaphore,
}

impl<'a> Desk<'a> {
    /// For `jobs` files at once.
    pub(super) fn new(cfs: &'a Cfs, journal: Option<&'a Journal>, root: &'a Path, sources: &'a Sources, jobs: usize) -> Desk<'a> {
        Desk { cfs, journal, root, sources, ranges: Semaphore::new(jobs.max(large::AT_ONCE)) }
    }
}

/// A file that came.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Fetched {
    /// Its permission bits.
    pub(super) mode: u32,
    /// Path below the tree under which a local file was kept that was written to while we fetched.
    pub(super) kept: Option<String>,
    /// Bytes that travelled for it: none for a copy, fewer than it has where some had come before.
    pub(super) travelled: u64,
    /// It was here already, under another name.
    pub(super) copied: bool,
    /// ETag of the object, where its bytes came from there and were verified.
    pub(super) etag: Option<String>,
}

/// A verified, synced file under a temporary name.
pub(super) struct Brought {
    pub(super) temporary: Temporary,
    /// Permission bits that it is to have.
    pub(super) mode: u32,
    /// ETag of the object that it was fetched from.
    pub(super) etag: Option<String>,
}

/// A file under a temporary name.
pub(super) enum Temporary {
    /// Removed however this ends, by way of its open folder; once renamed there is nothing to remove.
    Passing(TempPath, #[allow(dead_code)] Way),
    /// Stays for the next time.
    Kept(Unfinished),
}

impl Temporary {
    fn path(&self) -> &Path {
        match self {
            Temporary::Passing(path, _) => path,
            Temporary::Kept(unfinished) => unfinished.at(),
        }
    }
}

/// Brings one file to its place; `expected` is what is known to stand there.
pub(super) async fn download(
    desk: &Desk<'_>,
    file: &RemoteFile,
    expected: Expected,
    progress: store::Progress<'_>,
) -> Result<Fetched, Failed> {
    // The path that people know, not the one by way of an open folder.
    bring(desk, file, expected, progress).await.map_err(|failed| match failed {
        Failed::All(Error::NoSpace { .. }) => Failed::All(Error::NoSpace { path: file.path.under(desk.root) }),
        failed => failed,
    })
}

async fn bring(desk: &Desk<'_>, file: &RemoteFile, expected: Expected, progress: store::Progress<'_>) -> Result<Fetched, Failed> {
    let (root, path) = (desk.root.to_owned(), file.path.clone());
    let way = blocking::run(move || place::make_way(&root, &path)).await?;
    if file.path.is_folder_marker() {
        return Ok(Fetched { mode: DEFAULT_MODE, kept: None, travelled: 0, copied: false, etag: None });
    }
    let travelled = AtomicU64::new(0);
    let moved = |bytes| {
        travelled.fetch_add(bytes, Ordering::Relaxed);
        progress(bytes);
    };
    let copied = copy(desk, file, &way).await?;
    let is_copied = copied.is_some();
    let Brought { temporary, mode, etag } = match copied {
        Some(copied) => copied,
        None => fetch(desk, file, &way, &moved).await?,
    };
    let path = file.path.clone();
    let kept = blocking::run(move || {
        let kept = place::put_in_place(temporary.path(), &way.target(), mode, expected)?;
        if let Temporary::Kept(unfinished) = temporary {
            unfinished.forget()?;
        }
        Ok::<_, Failed>(kept.map(|name| path.beside(&name)))
    })
    .await?;
    Ok(Fetched { mode, kept, travelled: travelled.into_inner(), copied: is_copied, etag })
}

/// Copies a content that is here already; none where it is not.
async fn copy(desk: &Desk<'_>, file: &RemoteFile, way: &Way) -> Result<Option<Brought>, Failed> {
    if !desk.sources.may_have(file) {
        return Ok(None);
    }
    let (sources, wanted, temporary) = (desk.sources.clone(), file.clone(), temporary_beside(way)?);
    let copied = blocking::run(move || sources.copy(&wanted, temporary.path()).map(|mode| mode.map(|mode| (temporary, mode))));
    let Some((temporary, mode)) = copied.await? else { return Ok(None) };
    // The bits are what was stored with the object, as for a file that is fetched. Where the object is gone, the content is
    // here all the same, and those of the file it was copied from are the best guess.
    let mode = match desk.cfs.store.head(&file.object).await? {
        Some(object) => mode_of(&object.metadata),
        None => mode | 0o600,
    };
    Ok(Some(Brought { temporary, mode, etag: None }))
}

async fn fetch(desk: &Desk<'_>, file: &RemoteFile, way: &Way, progress: store::Progress<'_>) -> Result<Brought, Failed> {
    if file.size > large::LARGE
        && let Some(brought) = large::fetch(desk, file, way, progress).await?
    {
        return Ok(brought);
    }
    let temporary = temporary_beside(way)?;
    let (mode, etag) = fetch_to(desk.cfs, file, temporary.path(), progress).await?;
    Ok(Brought { temporary, mode, etag })
}

/// Removed however this ends, also when nobody waits for it any more.
fn temporary_beside(way: &Way) -> Result<Temporary, Failed> {
    let temporary = place::temporary_beside(&way.target()).map_err(|e| local(&way.full(), &e))?;
    let path = TempPath::try_from_path(temporary).map_err(|e| local(&way.full(), &e))?;
    Ok(Temporary::Passing(path, way.clone()))
}

/// What the stored permission bits make of a file here. Set-id bits of a stranger's file are not taken over.
pub(super) fn mode_of(metadata: &store::Metadata) -> u32 {
    let mode = metadata.get(MODE).and_then(|text| u32::from_str_radix(text, 8).ok());
    mode.map_or(DEFAULT_MODE, |mode| (mode & 0o777) | 0o600)
}

/// The object of a row is not there.
pub(super) fn gone() -> Failed {
    Failed::File("its bytes are no longer in the object store; whoever has the file must bring it again".into())
}

/// What came is not what was registered.
pub(super) fn differs(file: &RemoteFile, size: u64, sha256: &str) -> Failed {
    Failed::File(format!(
        "the stored bytes are not what was registered (SHA-256 {sha256}, {size} bytes, instead of {}, {} bytes)",
        file.sha256, file.size
    ))
}

/// What an error of the store means for the file that was to be fetched to `temporary`.
pub(super) fn not_fetched(error: store::Error, temporary: &Path) -> Failed {
    match error {
        store::Error::NoSpace { .. } => Failed::All(Error::NoSpace { path: temporary.to_owned() }),
        store::Error::Write { source, .. } => local(temporary, &source),
        error if error.is_not_found() => gone(),
        error => error.into(),
    }
}

/// Brings the bytes to a temporary file and verifies them; gives the permission bits that came along, and the object's ETag.
async fn fetch_to(
    cfs: &Cfs,
    file: &RemoteFile,
    temporary: &Path,
    progress: store::Progress<'_>,
) -> Result<(u32, Option<String>), Failed> {
    // Opened right here: in a thread of its own it could come into being after we have given up and cleaned away.
    let mut options = std::fs::OpenOptions::new();
    let opened = options.write(true).create_new(true).mode(0o600).open(temporary).map_err(|e| local(temporary, &e))?;
    let mut writer = Hashing::new(tokio::fs::File::from_std(opened));
    // Nothing is stored for an empty file, but what is registered for it must be true all the same.
    let object = match file.size {
        0 => None,
        _ => Some(cfs.store.get(&file.object, &mut writer, progress).await.map_err(|e| not_fetched(e, temporary))?),
    };
    // An error of the last write shows here, not when syncing.
    writer.flush().await.map_err(|e| local(temporary, &e))?;
    let (inner, size, sha256) = writer.finish();
    if size != file.size || sha256 != file.sha256 {
        return Err(differs(file, size, &sha256));
    }
    inner.sync_all().await.map_err(|e| local(temporary, &e))?;
    Ok(object.map_or((DEFAULT_MODE, None), |object| (mode_of(&object.metadata), Some(object.etag))))
}

/// Writes on, and hashes what was written.
pub(super) struct Hashing<W> {
    inner: W,
    hasher: Sha256,
    size: u64,
}

impl<W> Hashing<W> {
    /// Writes on to `inner`.
    pub(super) fn new(inner: W) -> Hashing<W> {
        Hashing { inner, hasher: Sha256::new(), size: 0 }
    }

    /// What it wrote to, how many bytes, and their SHA-256, hex.
    pub(super) fn finish(self) -> (W, u64, String) {
        (self.inner, self.size, hex::encode(self.hasher.finalize()))
    }
}

impl<W: AsyncWrite + Unpin> AsyncWrite for Hashing<W> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<std::io::Result<usize>> {
        let written = std::task::ready!(Pin::new(&mut self.inner).poll_write(context, bytes))?;
        self.hasher.update(&bytes[..written]);
        self.size += written as u64;
        Poll::Ready(Ok(written))
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(context)
    }
}
