//! One file from the colony: under a temporary name, its checksum verified, synced, then renamed. What is visible is whole.
//!
//! Names come from others: they are [`RelPath`]s here, and no folder on the way may be a symbolic link.

use super::Cfs;
use super::Error;
use super::MODE;
use super::list::RemoteFile;
use super::upload::Failed;
use crate::event::Direction;
use crate::event::Event;
use crate::event::Events;
use crate::event::Tree;
use crate::index::Index;
use crate::index::RelPath;
use crate::index::TEMPORARY;
use crate::index::ignore::Rules;
use crate::store;
use futures_util::StreamExt;
use sha2::Digest;
use sha2::Sha256;
use std::io::ErrorKind;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::path::PathBuf;
use std::pin::Pin;
use std::task::Context;
use std::task::Poll;
use tokio::io::AsyncWrite;

/// Permission bits of a file that came without any.
const DEFAULT_MODE: u32 = 0o644;

/// A file that came: its permission bits.
pub(super) async fn download(
    cfs: &Cfs,
    file: &RemoteFile,
    folder: &Path,
    progress: &(dyn Fn(u64) + Send + Sync),
) -> Result<u32, Failed> {
    let (root, path) = (folder.to_owned(), file.path.clone());
    let target = blocking(move || make_way(&root, &path)).await?;
    if file.path.is_folder_marker() {
        return Ok(DEFAULT_MODE);
    }
    let temporary = Temporary(temporary_beside(&target)?);
    let mode = fetch_to(cfs, file, &temporary.0, progress).await?;
    blocking(move || put_in_place(&temporary.0, &target, mode)).await?;
    Ok(mode)
}

/// An unfinished file. It is removed on drop, so that neither an error nor giving up (the disk is full, Ctrl-C) leaves it.
struct Temporary(PathBuf);

impl Drop for Temporary {
    fn drop(&mut self) {
        match std::fs::remove_file(&self.0) {
            // It was put in place.
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => tracing::warn!(%error, path = %self.0.display(), "an unfinished download is left behind"),
            Ok(()) => {}
        }
    }
}

/// Does file work where blocking is allowed.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, Failed> + Send + 'static) -> Result<T, Failed> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) => Err(Failed::File(format!("a task of ours died: {error}"))),
    }
}

/// A local failure on `path`: no space befalls every file, the rest is this file's matter.
fn local(path: &Path, error: &std::io::Error) -> Failed {
    match error.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge => {
            Failed::All(Error::NoSpace { path: path.to_owned() })
        }
        _ => Failed::File(format!("cannot be written: {error}")),
    }
}

/// Makes the folders that lead to a file, and gives its full path. A folder that is a symbolic link, or a file, is refused:
/// what is written must stay below the tree.
fn make_way(root: &Path, path: &RelPath) -> Result<PathBuf, Failed> {
    std::fs::create_dir_all(root).map_err(|e| local(root, &e))?;
    let mut folders: Vec<RelPath> = path.ancestors().collect();
    folders.reverse();
    for folder in folders {
        let full = folder.under(root);
        match std::fs::symlink_metadata(&full) {
            Ok(metadata) if metadata.is_dir() => {}
            Ok(metadata) if metadata.is_symlink() => {
                return Err(Failed::File(format!("is not written: {folder} is a symbolic link here")));
            }
            Ok(_) => return Err(Failed::File(format!("cannot be written: {folder} is a file here"))),
            Err(error) if error.kind() == ErrorKind::NotFound => match std::fs::create_dir(&full) {
                Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(local(&full, &error)),
                _ => {}
            },
            Err(error) => return Err(local(&full, &error)),
        }
    }
    let full = path.under(root);
    match std::fs::symlink_metadata(&full) {
        Ok(metadata) if metadata.is_dir() && !path.is_folder_marker() => {
            Err(Failed::File("cannot be written: a folder of that name is here".into()))
        }
        _ => Ok(full),
    }
}

/// `.<name>.pollinator-<random>` in the same folder, so that renaming it is one step.
fn temporary_beside(target: &Path) -> Result<PathBuf, Failed> {
    let mut bytes = [0u8; 8];
    getrandom::fill(&mut bytes).map_err(|e| Failed::File(format!("no randomness from the system: {e}")))?;
    let name = target.file_name().unwrap_or_default().to_string_lossy();
    // A name may have 255 bytes; a long one is cut at a character's edge.
    let cut = (0..=name.len().min(200)).rev().find(|at| name.is_char_boundary(*at)).unwrap_or(0);
    Ok(target.with_file_name(format!(".{}{TEMPORARY}{}", &name[..cut], hex::encode(bytes))))
}

/// Brings the bytes to a temporary file and verifies them; gives the permission bits that came along.
async fn fetch_to(cfs: &Cfs, file: &RemoteFile, temporary: &Path, progress: &(dyn Fn(u64) + Send + Sync)) -> Result<u32, Failed> {
    // Opened right here: in a thread of its own it could come into being after we have given up and cleaned away.
    let mut options = std::fs::OpenOptions::new();
    let opened = options.write(true).create_new(true).mode(0o600).open(temporary).map_err(|e| local(temporary, &e))?;
    if file.size == 0 {
        // Nothing is stored for an empty file.
        return Ok(DEFAULT_MODE);
    }
    let mut writer = Hashing { inner: tokio::fs::File::from_std(opened), hasher: Sha256::new(), size: 0 };
    let info = match cfs.store.get(&file.object, &mut writer, progress).await {
        Ok(info) => info,
        Err(store::Error::NoSpace { .. }) => return Err(Failed::All(Error::NoSpace { path: temporary.to_owned() })),
        Err(error) if error.is_not_found() => {
            return Err(Failed::File(
                "its bytes are no longer in the object store; whoever has the file must bring it again".into(),
            ));
        }
        Err(error) => return Err(error.into()),
    };
    let Hashing { inner, hasher, size } = writer;
    let sha256 = hex::encode(hasher.finalize());
    if size != file.size || sha256 != file.sha256 {
        return Err(Failed::File(format!(
            "the stored bytes are not what was registered (SHA-256 {sha256}, {size} bytes, instead of {}, {} bytes)",
            file.sha256, file.size
        )));
    }
    inner.sync_all().await.map_err(|e| local(temporary, &e))?;
    let mode = info.metadata.get(MODE).and_then(|text| u32::from_str_radix(text, 8).ok());
    // Set-id bits of a stranger's file are not taken over.
    Ok(mode.map_or(DEFAULT_MODE, |mode| (mode & 0o777) | 0o600))
}

fn put_in_place(temporary: &Path, target: &Path, mode: u32) -> Result<(), Failed> {
    std::fs::set_permissions(temporary, std::fs::Permissions::from_mode(mode)).map_err(|e| local(target, &e))?;
    std::fs::rename(temporary, target).map_err(|e| local(target, &e))?;
    let folder = target.parent().unwrap_or(Path::new("."));
    std::fs::File::open(folder).and_then(|f| f.sync_all()).map_err(|e| local(folder, &e))
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

/// What [`fetch`] did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FetchReport {
    /// Files that came.
    pub fetched: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Files that were there already, with the right content.
    pub present: u64,
    /// Files that did not come, and why.
    pub problems: Vec<(String, String)>,
}

/// Brings given files into a folder: what is there already by content is not fetched again. For snapshots, whose folder holds
/// nothing else.
pub async fn fetch(
    cfs: &Cfs,
    index: &Index,
    files: &[RemoteFile],
    folder: &Path,
    tree: Tree,
    jobs: usize,
    events: &Events,
) -> Result<FetchReport, Error> {
    let (root, cache) = (folder.to_owned(), index.clone());
    let there = tokio::task::spawn_blocking(move || {
        let mut rules = Rules::new(&root, None)?;
        crate::index::scan(&root, &mut rules, &cache, jobs)
    });
    let there = there.await.map_err(|e| Error::Local { path: folder.into(), source: std::io::Error::other(e) })??;
    let is_there = |f: &&RemoteFile| there.files.get(&f.path).is_some_and(|l| l.sha256 == f.sha256);
    let missing: Vec<RemoteFile> = files.iter().filter(|f| !is_there(f)).cloned().collect();
    let mut report = FetchReport { present: (files.len() - missing.len()) as u64, ..FetchReport::default() };
    events.emit(Event::TransferStarted {
        tree,
        direction: Direction::Download,
        files: missing.len() as u64,
        bytes: missing.iter().map(|f| f.size).sum(),
    });
    let mut fatal = None;
    let mut running = futures_util::stream::iter(missing)
        .map(|file| async move {
            let outcome = download(cfs, &file, folder, &|_| {}).await;
            (file, outcome)
        })
        .buffer_unordered(jobs.max(1));
    while let Some((file, outcome)) = running.next().await {
        match outcome {
            Ok(_) => {
                report.fetched += 1;
                report.bytes += file.size;
            }
            Err(Failed::File(why)) => report.problems.push((file.path.to_string(), why)),
            Err(Failed::All(error)) => {
                fatal = Some(error);
                break;
            }
        }
    }
    report.problems.sort();
    match fatal {
        Some(error) => Err(error),
        None => Ok(report),
    }
}
