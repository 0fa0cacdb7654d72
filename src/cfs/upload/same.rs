//! Content that is in the store already: it is copied there, and does not travel. An object is only copied when its bytes are
//! known by more than somebody's word: because we stored or verified it and its ETag is still the same, or because its ETag is
//! the MD5 of what we have.

use super::Failed;
use super::Job;
use super::Uploader;
use super::source::Spot;
use crate::blocking;
use crate::index::KnownObject;
use crate::index::LocalFile;
use crate::store;
use crate::store::Metadata;
use crate::store::Pinned;
use crate::store::Stored;
use crate::store::plain_etag;
use bytes::Bytes;
use md5::Digest;
use md5::Md5;
use std::sync::PoisonError;

/// Smaller files are sent: asking for a copy takes as many bytes.
const WORTH_COPYING: u64 = 1024;

impl Uploader<'_> {
    /// Has the store copy an object with this content, if it has one.
    pub(super) async fn copy_same(
        &self,
        job: &Job,
        full: &Spot,
        (local, mode): (&LocalFile, u32),
        known: Vec<KnownObject>,
        meta: &Metadata,
    ) -> Result<Option<Stored>, Failed> {
        if local.size < WORTH_COPYING {
            return Ok(None);
        }
        for object in self.objects_with(full, local, known).await? {
            let from = Pinned { key: &object.key, etag: &object.etag };
            // What is stored with it serves again, where it is the same.
            let other = (object.mode != Some(mode)).then_some(meta);
            match self.cfs.store.copy_pinned(from, (object.size, meta), &job.key, other).await {
                Ok(etag) => return Ok(Some(Stored { size: local.size, sha256: local.sha256.clone(), etag })),
                Err(store::Error::Changed { .. }) => self.index.forget_object(&self.store_place, &object.key),
                // Whatever it is that the server does not like about copies: the bytes can be sent.
                Err(error @ store::Error::Refused { .. }) if !error.is_temporary() => {
                    tracing::debug!(%error, "cannot be copied inside the store; it is sent");
                    return Ok(None);
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(None)
    }

    /// Objects that are known to hold this content.
    pub(super) fn known_objects(&self, local: &LocalFile) -> Vec<KnownObject> {
        if local.size < WORTH_COPYING {
            return Vec::new();
        }
        let fresh = self.fresh.lock().unwrap_or_else(PoisonError::into_inner).get(&local.sha256).cloned();
        let mut found: Vec<KnownObject> = fresh.into_iter().collect();
        found.extend(self.index.objects_with(&self.store_place, &local.sha256));
        found.retain(|object| object.size == local.size);
        found
    }

    async fn objects_with(&self, full: &Spot, local: &LocalFile, known: Vec<KnownObject>) -> Result<Vec<KnownObject>, Failed> {
        let mut found = known;
        if found.is_empty()
            && let Some(row) = self.rows_by_content.get(&local.sha256).filter(|row| row.size == local.size)
            && let Some(info) = self.cfs.store.head(&row.object).await?
            && info.size == local.size
            && is_md5(&info.etag)
            && md5_of(full).await? == info.etag
        {
            found.push(KnownObject {
                key: row.object.clone(),
                sha256: local.sha256.clone(),
                size: info.size,
                etag: info.etag,
                mode: None,
            });
        }
        Ok(found)
    }

    /// Whether an upload that was cut off had stored these very bytes, with one request.
    pub(super) async fn stored_before(&self, job: &Job, bytes: &Bytes, meta: &Metadata) -> Result<Option<Stored>, Failed> {
        if job.resume.is_none() {
            return Ok(None);
        }
        let Some(info) = self.cfs.store.head(&job.key).await? else { return Ok(None) };
        let (copy, size) = (bytes.clone(), bytes.len() as u64);
        let (etag, sha256) = blocking::run(move || (plain_etag(&copy), hex::encode(sha2::Sha256::digest(&copy)))).await;
        let same = info.size == size && info.etag == etag && info.metadata == *meta;
        Ok(same.then_some(Stored { size, sha256, etag }))
    }
}

fn is_md5(etag: &str) -> bool {
    etag.len() == 32 && etag.bytes().all(|b| b.is_ascii_hexdigit())
}

async fn md5_of(full: &Spot) -> Result<String, Failed> {
    let full = full.clone();
    blocking::run(move || {
        let failed = |e: std::io::Error| Failed::File(format!("cannot be read: {e}"));
        let (mut file, _) = full.open().map_err(failed)?;
        let mut hasher = Md5::new();
        let mut writer = Writer(&mut hasher);
        std::io::copy(&mut file, &mut writer).map_err(failed)?;
        Ok(hex::encode(hasher.finalize()))
    })
    .await
}

struct Writer<'a>(&'a mut Md5);

impl std::io::Write for Writer<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
