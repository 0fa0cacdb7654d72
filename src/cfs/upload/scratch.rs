//! Scratch objects: new bytes that are too few for a part get into one next to bytes of a base object, because the last part of
//! an object may be of any size. They are written down before they are made and removed when the part is copied.

use super::Failed;
use super::Uploader;
use super::compose::Attempt;
use super::compose::Trouble;
use super::compose::copy_trouble;
use super::new_key;
use crate::content::parts::Kind;
use crate::content::parts::Limits;
use crate::content::parts::Part;
use crate::journal::uploads::OpenUpload;
use crate::store::Metadata;
use crate::store::Pinned;
use crate::store::SentPart;
use std::ops::Range;
use std::sync::PoisonError;

/// A scratch object under way, or whole.
struct Scratch {
    key: String,
    upload_id: String,
    parts: Vec<SentPart>,
}

impl Scratch {
    /// Number of the next part.
    fn next(&self) -> u32 {
        self.parts.len() as u32 + 1
    }

    fn add(&mut self, etag: String) {
        let number = self.next();
        self.parts.push(SentPart { number, etag });
    }
}

impl Uploader<'_> {
    /// Makes a part of bytes that are partly sent and partly in a base object; gives its ETag.
    pub(super) async fn part_from_scratch(&self, attempt: &Attempt<'_>, number: u32, part: &Part) -> Result<String, Trouble> {
        let length = part.end - part.begin;
        match part.kind {
            Kind::Tail { source, offset, copied } => {
                let mut object = self.begin_scratch(attempt).await?;
                self.copy_into(&mut object, attempt.base(source), offset..offset + copied).await?;
                self.send_into(attempt, &mut object, part.begin + copied, part.end).await?;
                let etag = self.complete_scratch(&object).await?;
                let from = Pinned { key: &object.key, etag: &etag };
                let made = self.copy_to_target(attempt, number, from, 0..length).await?;
                self.remove_scratch(attempt, &object.key).await?;
                Ok(made)
            }
            Kind::Head { uploaded, source, offset } => {
                // Bytes that nobody wants, so that the wanted ones may be the last part.
                let unwanted = Limits::S3.smallest;
                let mut first = self.begin_scratch(attempt).await?;
                self.copy_into(&mut first, attempt.base(source), offset..offset + unwanted).await?;
                self.send_into(attempt, &mut first, part.begin, part.begin + uploaded).await?;
                let etag = self.complete_scratch(&first).await?;
                let mut second = self.begin_scratch(attempt).await?;
                self.copy_into(&mut second, Pinned { key: &first.key, etag: &etag }, 0..unwanted + uploaded).await?;
                self.copy_into(&mut second, attempt.base(source), offset..offset + (length - uploaded)).await?;
                let etag = self.complete_scratch(&second).await?;
                let from = Pinned { key: &second.key, etag: &etag };
                let made = self.copy_to_target(attempt, number, from, unwanted..unwanted + length).await?;
                self.remove_scratch(attempt, &first.key).await?;
                self.remove_scratch(attempt, &second.key).await?;
                Ok(made)
            }
            Kind::Copy { .. } | Kind::Upload => Err(Trouble::Failed(Failed::File("such a part needs no scratch object".into()))),
        }
    }

    async fn begin_scratch(&self, attempt: &Attempt<'_>) -> Result<Scratch, Trouble> {
        let key = new_key(&self.root)?;
        let mut open = OpenUpload {
            key: key.clone(),
            path: attempt.job.path.to_string(),
            part_of: Some(attempt.job.key.clone()),
            ..OpenUpload::default()
        };
        let now = i64::try_from(jiff::Timestamp::now().as_nanosecond()).unwrap_or(i64::MAX);
        self.journal.begin_uploads(&self.place, self.folder, std::slice::from_ref(&open), now)?;
        attempt.scratch.lock().unwrap_or_else(PoisonError::into_inner).push(open.clone());
        let upload_id = self.cfs.store.begin_upload(&key, &Metadata::new()).await?;
        open.upload_id = Some(upload_id.clone());
        self.journal.note_upload(&self.place, &open)?;
        for known in attempt.scratch.lock().unwrap_or_else(PoisonError::into_inner).iter_mut().filter(|s| s.key == key) {
            known.upload_id = Some(upload_id.clone());
        }
        Ok(Scratch { key, upload_id, parts: Vec::new() })
    }

    async fn copy_into(&self, object: &mut Scratch, from: Pinned<'_>, range: Range<u64>) -> Result<(), Trouble> {
        let copied = self.cfs.store.copy_part(&object.key, &object.upload_id, object.next(), from, range).await;
        object.add(copied.map_err(copy_trouble)?);
        Ok(())
    }

    async fn send_into(&self, attempt: &Attempt<'_>, object: &mut Scratch, begin: u64, end: u64) -> Result<(), Trouble> {
        let place = (object.key.as_str(), object.upload_id.as_str(), object.next());
        let etag = self.send(attempt, place, begin, end).await?;
        object.add(etag);
        Ok(())
    }

    async fn complete_scratch(&self, object: &Scratch) -> Result<String, Trouble> {
        let completed = self.cfs.store.complete_upload(&object.key, &object.upload_id, &object.parts).await;
        completed.map_err(copy_trouble)
    }

    async fn copy_to_target(
        &self,
        attempt: &Attempt<'_>,
        number: u32,
        from: Pinned<'_>,
        range: Range<u64>,
    ) -> Result<String, Trouble> {
        let copied = self.cfs.store.copy_part(&attempt.job.key, &attempt.upload_id, number, from, range).await;
        copied.map_err(copy_trouble)
    }

    async fn remove_scratch(&self, attempt: &Attempt<'_>, key: &str) -> Result<(), Trouble> {
        self.cfs.store.delete(key).await?;
        self.journal.end_uploads(&self.place, &[key.to_owned()])?;
        attempt.scratch.lock().unwrap_or_else(PoisonError::into_inner).retain(|open| open.key != key);
        Ok(())
    }
}
