//! The row of a file: what makes an object a file of the colony.

use super::Sent;
use super::discard;
use crate::cfs::Cfs;
use crate::cfs::failed::Failed;
use crate::cfs::labels;
use crate::cfs::list::RemoteFile;
use crate::colonies::File as Row;
use crate::colonies::FileRef;
use crate::colonies::S3Object;
use crate::index;
use crate::index::RelPath;
use crate::store::Stored;

/// Registers a file with the bytes that were stored for it; nothing is stored for an empty one.
pub(super) async fn register(
    cfs: &Cfs,
    root: &str,
    path: &RelPath,
    sent: Option<(String, Stored)>,
    mode: u32,
) -> Result<Sent, Failed> {
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
    let file = RemoteFile { path: path.clone(), size: stored.size, sha256: stored.sha256, object };
    Ok(Sent { file, mode, etag: stored.etag, travelled: 0 })
}

/// The row of a file. It carries no keys: every member can read it.
pub(in crate::cfs) fn row(cfs: &Cfs, root: &str, path: &RelPath, object: &str, size: u64, sha256: &str) -> Row {
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
