//! One file to the colony: its bytes as an object of its own, then its row. A row is registered only with the checksum of the
//! bytes that were sent, and only for a file that did not change while they were read.

use super::Cfs;
use super::Error;
use super::MODE;
use super::download::blocking;
use super::labels;
use super::list::RemoteFile;
use crate::colonies;
use crate::colonies::File as Row;
use crate::colonies::FileRef;
use crate::colonies::S3Object;
use crate::index;
use crate::index::RelPath;
use crate::index::Stat;
use crate::store;
use crate::store::Metadata;
use crate::store::Stored;
use std::io::ErrorKind;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use tokio::io::AsyncReadExt;

/// How often a file that changes while it is sent is begun anew.
const TRIES: u32 = 3;

/// Why one file did not arrive.
#[derive(Debug)]
pub(super) enum Failed {
    /// Its own matter: the others go on.
    File(String),
    /// Would befall the others, too.
    All(Error),
}

impl Failed {
    /// For a list of problems.
    pub(super) fn text(&self) -> String {
        match self {
            Failed::File(why) => why.clone(),
            Failed::All(error) => error.to_string(),
        }
    }
}

impl From<Error> for Failed {
    fn from(error: Error) -> Failed {
        Failed::All(error)
    }
}

/// A refusal of one name is that file's matter; who cannot be reached or does not let us in is everybody's.
impl From<colonies::Error> for Failed {
    fn from(error: colonies::Error) -> Failed {
        match &error {
            colonies::Error::Refused { status: 200 | 400, .. } => Failed::File(error.to_string()),
            _ => Failed::All(error.into()),
        }
    }
}

impl From<store::Error> for Failed {
    fn from(error: store::Error) -> Failed {
        match &error {
            store::Error::Refused { status: 400 | 404 | 413, .. } => Failed::File(error.to_string()),
            store::Error::Refused { .. }
            | store::Error::Unreachable { .. }
            | store::Error::Timeout { .. }
            | store::Error::Untrusted { .. } => Failed::All(error.into()),
            store::Error::Setup { .. } | store::Error::Garbage { .. } => Failed::All(error.into()),
            store::Error::NoSpace { .. } => Failed::All(error.into()),
            _ => Failed::File(error.to_string()),
        }
    }
}

/// What was stored of a file, and the permission bits it had.
pub(super) struct Sent {
    /// As registered.
    pub(super) file: RemoteFile,
    /// Its permission bits.
    pub(super) mode: u32,
}

/// Sends one file of the tree in `folder` to the label tree at `root`.
pub(super) async fn upload(
    cfs: &Cfs,
    root: &str,
    folder: &Path,
    path: &RelPath,
    progress: &(dyn Fn(u64) + Send + Sync),
) -> Result<Sent, Failed> {
    if path.is_folder_marker() {
        return register(cfs, root, path, None, 0o644).await;
    }
    let full = path.under(folder);
    for _ in 0..TRIES {
        match send(cfs, root, &full, progress).await? {
            Some((object, stored, mode)) => return register(cfs, root, path, Some((object, stored)), mode).await,
            None => tracing::debug!(%path, "changed while it was sent; once more"),
        }
    }
    Err(Failed::File("changes again and again while it is sent; it will be brought over when it is still".into()))
}

/// Sends the bytes; none where the file changed meanwhile. An empty file has no object.
async fn send(
    cfs: &Cfs,
    root: &str,
    full: &Path,
    progress: &(dyn Fn(u64) + Send + Sync),
) -> Result<Option<(String, Stored, u32)>, Failed> {
    let path = full.to_owned();
    let opened = blocking(move || index::open_regular(&path).map_err(|e| Failed::File(unreadable(&e)))).await?;
    let (file, before) = (tokio::fs::File::from_std(opened.0), opened.1);
    let mode = before.permissions().mode() & 0o7777;
    let (key, stored) = if before.len() == 0 {
        let nothing = Stored { size: 0, sha256: index::empty_sha256().into(), etag: String::new() };
        (String::new(), nothing)
    } else {
        let key = new_key(root)?;
        let meta = Metadata::from([(MODE.to_owned(), format!("{mode:o}"))]);
        let reader = file.try_clone().await.map_err(|e| Failed::File(unreadable(&e)))?;
        // A file that grows as fast as it is sent has no end.
        let reader = reader.take(before.len());
        let stored = cfs.store.put(&key, reader, before.len(), &meta, progress).await?;
        (key, stored)
    };
    let after = file.metadata().await.map_err(|e| Failed::File(unreadable(&e)))?;
    // The time of the inode tells of a new mode, too, and of another file that took this one's name.
    if Stat::of(&before) == Stat::of(&after) && stored.size == before.len() {
        return Ok(Some((key, stored, mode)));
    }
    discard(cfs, &key).await;
    Ok(None)
}

fn unreadable(error: &std::io::Error) -> String {
    match error.kind() {
        ErrorKind::NotFound => "vanished before it was sent".into(),
        _ => format!("cannot be read: {error}"),
    }
}

/// Removes an object that no row will name. Left behind it costs space only.
async fn discard(cfs: &Cfs, key: &str) {
    if key.is_empty() {
        return;
    }
    if let Err(error) = cfs.store.delete(key).await {
        tracing::warn!(%error, key, "an object without a row is left behind");
    }
}

/// A key that nobody else uses: two rows never share an object, since other clients delete it together with its row.
pub(super) fn new_key(root: &str) -> Result<String, Failed> {
    let mut bytes = [0u8; 32];
    getrandom::fill(&mut bytes).map_err(|e| Failed::File(format!("no randomness from the system: {e}")))?;
    Ok(format!("{}/{}", labels::key_prefix(root), hex::encode(bytes)))
}

async fn register(cfs: &Cfs, root: &str, path: &RelPath, sent: Option<(String, Stored)>, mode: u32) -> Result<Sent, Failed> {
    let (object, stored) = match sent {
        Some(sent) => sent,
        None => (String::new(), Stored { size: 0, sha256: index::empty_sha256().into(), etag: String::new() }),
    };
    let row = row(cfs, root, path, &object, stored.size, &stored.sha256);
    let registered = match cfs.client.add_file(&row).await {
        Ok(registered) => registered,
        Err(error) => {
            // After a lost answer the row may be there all the same, and then needs its object.
            if !error.is_unreachable() {
                discard(cfs, &object).await;
            }
            return Err(error.into());
        }
    };
    if registered.checksum != row.checksum || registered.size != row.size {
        return Err(Failed::File("the server registered something else than it was given".into()));
    }
    Ok(Sent { file: RemoteFile { path: path.clone(), size: stored.size, sha256: stored.sha256, object }, mode })
}

/// The row of a file. It carries no keys: every member can read it.
pub(super) fn row(cfs: &Cfs, root: &str, path: &RelPath, object: &str, size: u64, sha256: &str) -> Row {
    let (label, name) = labels::place_of(root, path);
    let access = cfs.store.access();
    // The Python client connects to server and port as they stand here; the Go client takes no notice of either.
    let (server, port) = match access.endpoint.rsplit_once(':').map(|(host, port)| (host, port.parse())) {
        Some((host, Ok(port))) => (host.to_owned(), port),
        _ => (access.endpoint.clone(), if access.tls { 443 } else { 80 }),
    };
    Row {
        colonyname: cfs.client.colony().to_owned(),
        label,
        name,
        size: i64::try_from(size).unwrap_or(i64::MAX),
        checksum: sha256.to_owned(),
        checksumalg: "SHA256".into(),
        reference: FileRef {
            protocol: "s3".into(),
            s3object: S3Object {
                server,
                port,
                tls: access.tls,
                region: access.region.clone(),
                object: object.to_owned(),
                bucket: access.bucket.clone(),
                ..S3Object::default()
            },
        },
        ..Row::default()
    }
}
