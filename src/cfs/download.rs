//! One file from the colony: under a temporary name, its checksum verified, synced, then renamed. What is visible is whole.
//!
//! Names come from others: they are [`crate::index::RelPath`]s here, and no folder on the way may be a symbolic link.

use super::Cfs;
use super::Error;
use super::MODE;
use super::list::RemoteFile;
use super::place;
use super::place::Expected;
use super::place::local;
use super::upload::Failed;
use crate::store;
use sha2::Digest;
use sha2::Sha256;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::pin::Pin;
use std::task::Context;
use std::task::Poll;
use tempfile::TempPath;
use tokio::io::AsyncWrite;
use tokio::io::AsyncWriteExt;

/// Permission bits of a file that came without any.
const DEFAULT_MODE: u32 = 0o644;

/// A file that came.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Fetched {
    /// Its permission bits.
    pub(super) mode: u32,
    /// Path below the tree under which a local file was kept that was written to while we fetched.
    pub(super) kept: Option<String>,
}

/// Brings one file below `folder`; `expected` is what is known to stand in its place.
pub(super) async fn download(
    cfs: &Cfs,
    file: &RemoteFile,
    folder: &Path,
    expected: Expected,
    progress: &(dyn Fn(u64) + Send + Sync),
) -> Result<Fetched, Failed> {
    let (root, path) = (folder.to_owned(), file.path.clone());
    let target = blocking(move || place::make_way(&root, &path)).await?;
    if file.path.is_folder_marker() {
        return Ok(Fetched { mode: DEFAULT_MODE, kept: None });
    }
    let temporary = place::temporary_beside(&target).map_err(|e| local(&target, &e))?;
    // Removed however this ends, also when nobody waits for it any more; once renamed there is nothing to remove.
    let temporary = TempPath::try_from_path(temporary).map_err(|e| local(&target, &e))?;
    let mode = fetch_to(cfs, file, &temporary, progress).await?;
    let path = file.path.clone();
    blocking(move || {
        let kept = place::put_in_place(&temporary, &target, mode, expected)?;
        Ok(Fetched { mode, kept: kept.map(|name| path.beside(&name)) })
    })
    .await
}

/// Does file work where blocking is allowed.
pub(super) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, Failed> + Send + 'static) -> Result<T, Failed> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) => Err(Failed::File(format!("a task of ours died: {error}"))),
    }
}

/// Brings the bytes to a temporary file and verifies them; gives the permission bits that came along.
async fn fetch_to(cfs: &Cfs, file: &RemoteFile, temporary: &Path, progress: &(dyn Fn(u64) + Send + Sync)) -> Result<u32, Failed> {
    // Opened right here: in a thread of its own it could come into being after we have given up and cleaned away.
    let mut options = std::fs::OpenOptions::new();
    let opened = options.write(true).create_new(true).mode(0o600).open(temporary).map_err(|e| local(temporary, &e))?;
    let mut writer = Hashing { inner: tokio::fs::File::from_std(opened), hasher: Sha256::new(), size: 0 };
    // Nothing is stored for an empty file, but what is registered for it must be true all the same.
    let metadata = match file.size {
        0 => store::Metadata::new(),
        _ => get(cfs, file, &mut writer, temporary, progress).await?.metadata,
    };
    // An error of the last write shows here, not when syncing.
    writer.flush().await.map_err(|e| local(temporary, &e))?;
    let Hashing { inner, hasher, size } = writer;
    let sha256 = hex::encode(hasher.finalize());
    if size != file.size || sha256 != file.sha256 {
        return Err(Failed::File(format!(
            "the stored bytes are not what was registered (SHA-256 {sha256}, {size} bytes, instead of {}, {} bytes)",
            file.sha256, file.size
        )));
    }
    inner.sync_all().await.map_err(|e| local(temporary, &e))?;
    let mode = metadata.get(MODE).and_then(|text| u32::from_str_radix(text, 8).ok());
    // Set-id bits of a stranger's file are not taken over.
    Ok(mode.map_or(DEFAULT_MODE, |mode| (mode & 0o777) | 0o600))
}

async fn get(
    cfs: &Cfs,
    file: &RemoteFile,
    writer: &mut Hashing,
    temporary: &Path,
    progress: &(dyn Fn(u64) + Send + Sync),
) -> Result<store::ObjectInfo, Failed> {
    match cfs.store.get(&file.object, writer, progress).await {
        Ok(info) => Ok(info),
        Err(store::Error::NoSpace { .. }) => Err(Failed::All(Error::NoSpace { path: temporary.to_owned() })),
        Err(store::Error::Write { source, .. }) => Err(local(temporary, &source)),
        Err(error) if error.is_not_found() => {
            Err(Failed::File("its bytes are no longer in the object store; whoever has the file must bring it again".into()))
        }
        Err(error) => Err(error.into()),
    }
}

/// Writes on, and hashes what was written.
struct Hashing {
    inner: tokio::fs::File,
    hasher: Sha256,
    size: u64,
}

impl AsyncWrite for Hashing {
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
