//! Uploads that were cut off: taken up again where their file is still to be sent, otherwise cleaned away. An object that any
//! revision of a row names is a file of the colony and stays.

use super::Cfs;
use super::Failed;
use crate::cfs::Error;
use crate::cfs::RemoteFile;
use crate::cfs::labels;
use crate::content::CHUNKED_ABOVE;
use crate::index::LocalFile;
use crate::index::RelPath;
use crate::journal::Journal;
use crate::journal::uploads::OpenUpload;
use crate::store;
use futures_util::StreamExt;
use futures_util::TryStreamExt;
use std::collections::BTreeMap;
use std::collections::HashMap;
use std::collections::HashSet;
use std::path::Path;

/// Requests under way at once.
const AT_ONCE: usize = 8;

/// Goes through what the journal knows of unfinished uploads of a tree. `wanted` are the files that are to be sent, `rows` those
/// of the colony. Gives the uploads that can be taken up, by their files.
pub(in crate::cfs) async fn settle(
    (cfs, journal): (&Cfs, &Journal),
    (root, folder, place): (&str, &Path, &str),
    wanted: &HashMap<&RelPath, &LocalFile>,
    rows: &BTreeMap<RelPath, RemoteFile>,
) -> Result<HashMap<RelPath, OpenUpload>, Error> {
    let open = journal.open_uploads(place, folder)?;
    if open.is_empty() {
        return Ok(HashMap::new());
    }
    let named: HashSet<&str> = rows.values().map(|row| row.object.as_str()).collect();
    let (mut ended, mut settled, mut taken) = (Vec::new(), Vec::new(), HashSet::new());
    for upload in open {
        if named.contains(upload.key.as_str()) {
            ended.push(upload.key);
            continue;
        }
        let path = RelPath::parse(&upload.path).ok().filter(|_| upload.part_of.is_none());
        let wanted_as = path.as_ref().and_then(|path| wanted.get(path).copied()).filter(|_| taken.insert(upload.path.clone()));
        let has_row = path.as_ref().is_some_and(|path| rows.contains_key(path));
        settled.push(settle_one(cfs, root, upload, path, wanted_as, has_row));
    }
    let settled: Vec<Settled> = futures_util::stream::iter(settled).buffer_unordered(AT_ONCE).try_collect().await?;
    let mut again = HashMap::new();
    for one in settled {
        match one {
            Settled::Over(key) => ended.push(key),
            Settled::Again(path, upload) => drop(again.insert(path, *upload)),
            Settled::Later => {}
        }
    }
    journal.end_uploads(place, &ended)?;
    Ok(again)
}

enum Settled {
    /// Nothing is left of it, or it is a file of the colony.
    Over(String),
    /// To be taken up.
    Again(RelPath, Box<OpenUpload>),
    /// It could not be cleaned away.
    Later,
}

async fn settle_one(
    cfs: &Cfs,
    root: &str,
    mut upload: OpenUpload,
    path: Option<RelPath>,
    wanted: Option<&LocalFile>,
    has_row: bool,
) -> Result<Settled, Error> {
    // It may have been registered, and been followed by a newer revision since.
    if let Some(path) = path.as_ref().filter(|_| has_row) {
        let (label, name) = labels::place_of(root, path);
        let revisions = cfs.client.file_revisions(&label, &name).await?;
        if revisions.iter().any(|row| row.reference.s3object.object == upload.key) {
            return Ok(Settled::Over(upload.key));
        }
    }
    let cleaned = match (path, wanted) {
        (Some(path), Some(file)) => {
            let same = upload.sha256 == file.sha256 && upload.size == file.size;
            if upload.upload_id.is_some() && same {
                return Ok(Settled::Again(path, Box::new(upload)));
            }
            // The key serves again; what was begun under it does not.
            let cleaned = end_multipart(cfs, &upload).await;
            upload.upload_id = None;
            if cleaned.is_ok() {
                return Ok(Settled::Again(path, Box::new(upload)));
            }
            cleaned
        }
        _ => clean(cfs, &upload).await,
    };
    match cleaned {
        Ok(()) => Ok(Settled::Over(upload.key)),
        Err(Failed::All(error)) => Err(error),
        Err(Failed::File(why)) => {
            tracing::warn!(key = upload.key, why, "an unfinished upload is left behind for now");
            Ok(Settled::Later)
        }
    }
}

/// Removes whatever was stored by an upload: the multipart upload, and the object.
pub(super) async fn clean(cfs: &Cfs, upload: &OpenUpload) -> Result<(), Failed> {
    end_multipart(cfs, upload).await?;
    Ok(cfs.store.delete(&upload.key).await?)
}

/// Removes the multipart upload. Where its id is not known it may have been begun all the same.
async fn end_multipart(cfs: &Cfs, upload: &OpenUpload) -> Result<(), Failed> {
    let may_be_multipart = upload.part_of.is_some() || upload.size > CHUNKED_ABOVE;
    let ids = match &upload.upload_id {
        Some(id) => vec![id.clone()],
        None if may_be_multipart => match cfs.store.unfinished(&upload.key).await {
            Ok(found) => found.into_iter().filter(|u| u.key == upload.key).map(|u| u.id).collect(),
            // Some servers cannot tell; then there is nothing that could be done.
            Err(error @ store::Error::Refused { status: 400 | 403 | 405 | 501, .. }) => {
                tracing::debug!(%error, key = upload.key, "unfinished uploads cannot be listed");
                Vec::new()
            }
            Err(error) => return Err(error.into()),
        },
        None => Vec::new(),
    };
    for id in ids {
        cfs.store.abort_upload(&upload.key, &id).await?;
    }
    Ok(())
}
