//! A large object, part by part: copied from objects that hold the bytes, or sent and checked chunk by chunk on the way. What
//! is finished is written down, so that no part is sent twice, whatever cuts it off.

use super::Failed;
use super::Job;
use super::Tally;
use super::Uploader;
use super::bases::Base;
use super::bases::Composition;
use super::bases::PART_COPY;
use super::source::Source;
use super::source::Spot;
use crate::cfs::download::Hashing;
use crate::content::Content;
use crate::content::parts::Kind;
use crate::content::parts::Part;
use crate::journal::uploads::OpenUpload;
use crate::store;
use crate::store::Metadata;
use crate::store::Pinned;
use crate::store::SentPart;
use crate::store::Stored;
use crate::store::joined_etag;
use crate::store::plain_etag;
use futures_util::StreamExt;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::Mutex;

/// Parts of one object that are made at once.
const PARALLEL: usize = 4;
/// How often an object is begun anew because bases vanish.
const BEGINNINGS: u32 = 4;

/// Why the parts did not become an object.
pub(super) enum Trouble {
    /// The file holds something else by now.
    FileChanged,
    /// A base object is gone, or is another one.
    BaseGone(String),
    /// The server does not copy as it should; whether that is worth remembering.
    NoCopies(String, bool),
    /// The upload is gone.
    UploadGone,
    /// Anything else.
    Failed(Failed),
}

impl<E: Into<Failed>> From<E> for Trouble {
    fn from(error: E) -> Trouble {
        Trouble::Failed(error.into())
    }
}

/// A multipart upload under way.
pub(super) struct Attempt<'a> {
    pub(super) job: &'a Job,
    pub(super) upload_id: String,
    pub(super) composition: Composition,
    pub(super) source: &'a Source,
    pub(super) tally: &'a Tally<'a>,
    /// Finished parts by their numbers.
    done: BTreeMap<u32, String>,
    /// Scratch objects that are not removed yet.
    pub(super) scratch: Mutex<Vec<OpenUpload>>,
}

impl Attempt<'_> {
    pub(super) fn base(&self, source: usize) -> Pinned<'_> {
        let Base { key, etag } = &self.composition.bases[source];
        Pinned { key, etag }
    }
}

impl Uploader<'_> {
    /// Makes the object; none where the file is not what was looked at. Without a composition all of it is sent.
    pub(super) async fn compose(
        &self,
        job: &Job,
        full: &Spot,
        content: Content,
        composition: Option<Composition>,
        meta: &Metadata,
        tally: &Tally<'_>,
    ) -> Result<Option<Stored>, Failed> {
        let (size, sha256) = (content.size, content.sha256.clone());
        let stored = |etag| Stored { size, sha256: sha256.clone(), etag };
        let source = Source::new(full, Arc::new(content));
        let mut composition = composition.unwrap_or_else(|| Composition::whole(size));
        let mut resumed = match self.taken_up(job, &source, &stored(String::new()), meta, tally).await? {
            TakenUp::Finished(etag) => return Ok(Some(stored(etag))),
            TakenUp::Parts(attempt) => Some(attempt),
            TakenUp::Nothing => None,
        };
        for _ in 0..BEGINNINGS {
            let attempt = match resumed.take() {
                Some(attempt) => attempt,
                None => self.begin(job, &source, &stored(String::new()), composition.clone(), meta, tally).await?,
            };
            let trouble = match self.carry_on(&attempt, size).await {
                Ok(etag) => return Ok(Some(stored(etag))),
                Err(trouble) => trouble,
            };
            // What nobody can be reached for stays in the journal and is taken up at the next synchronization.
            if let Trouble::Failed(failed @ Failed::All(_)) = trouble {
                return Err(failed);
            }
            self.give_up(&attempt).await?;
            match trouble {
                Trouble::Failed(failed) => return Err(failed),
                Trouble::FileChanged => return Ok(None),
                Trouble::UploadGone => {}
                Trouble::BaseGone(key) => {
                    tracing::debug!(key, "a base object is gone");
                    self.index.forget_object(&self.store_place, &key);
                    composition = Composition::whole(size);
                }
                Trouble::NoCopies(why, remember) => {
                    tracing::debug!(why, remember, "nothing can be copied into parts; all of it is sent");
                    if remember {
                        self.index.note_store_trait(&self.store_place, PART_COPY, "no");
                    }
                    composition = Composition::whole(size);
                }
            }
        }
        Err(Failed::File("its upload was begun again and again and came to no end; somebody else removes what we store".into()))
    }

    async fn begin<'b>(
        &self,
        job: &'b Job,
        source: &'b Source,
        wanted: &Stored,
        composition: Composition,
        meta: &Metadata,
        tally: &'b Tally<'b>,
    ) -> Result<Attempt<'b>, Failed> {
        let upload_id = self.cfs.store.begin_upload(&job.key, meta).await?;
        let plan = Plan { composition: composition.clone(), meta: meta.clone() };
        let open = OpenUpload {
            key: job.key.clone(),
            path: job.path.to_string(),
            sha256: wanted.sha256.clone(),
            size: wanted.size,
            upload_id: Some(upload_id.clone()),
            plan: serde_json::to_string(&plan).ok(),
            ..OpenUpload::default()
        };
        self.journal.note_upload(&self.place, &open)?;
        Ok(Attempt { job, upload_id, composition, source, tally, done: BTreeMap::new(), scratch: Mutex::default() })
    }

    /// An earlier upload of the very same bytes to this key: what is finished of it is not sent again.
    async fn taken_up<'b>(
        &self,
        job: &'b Job,
        source: &'b Source,
        wanted: &Stored,
        meta: &Metadata,
        tally: &'b Tally<'b>,
    ) -> Result<TakenUp<'b>, Failed> {
        let Some(open) = &job.resume else { return Ok(TakenUp::Nothing) };
        let Some(upload_id) = open.upload_id.clone() else { return Ok(TakenUp::Nothing) };
        let plan = open.plan.as_deref().and_then(|plan| serde_json::from_str::<Plan>(plan).ok());
        let plan = plan.filter(|plan| plan.meta == *meta && open.sha256 == wanted.sha256 && open.size == wanted.size);
        let Some(Plan { composition, .. }) = plan else {
            self.cfs.store.abort_upload(&job.key, &upload_id).await?;
            return Ok(TakenUp::Nothing);
        };
        let Some(listed) = self.cfs.store.list_parts(&job.key, &upload_id).await? else {
            return self.perhaps_completed(job, open, &composition, wanted.size, tally).await;
        };
        let mut done = BTreeMap::new();
        for part in listed {
            let Some(planned) = (part.number as usize).checked_sub(1).and_then(|n| composition.parts.get(n)) else { continue };
            let noted = open.parts.get(&part.number) == Some(&part.etag);
            if part.size == planned.end - planned.begin && (noted || is_sent(planned, &part.etag, source).await?) {
                tally.spared(part.size);
                done.insert(part.number, part.etag);
            }
        }
        tracing::debug!(path = %job.path, done = done.len(), of = composition.parts.len(), "an upload is taken up again");
        Ok(TakenUp::Parts(Attempt { job, upload_id, composition, source, tally, done, scratch: Mutex::default() }))
    }

    /// The server knows the upload no more: because it was joined before we heard of it, or because it was removed.
    async fn perhaps_completed<'b>(
        &self,
        job: &Job,
        open: &OpenUpload,
        composition: &Composition,
        size: u64,
        tally: &Tally<'_>,
    ) -> Result<TakenUp<'b>, Failed> {
        let parts: Vec<SentPart> =
            open.parts.iter().map(|(number, etag)| SentPart { number: *number, etag: etag.clone() }).collect();
        let expected = joined_etag(&parts).filter(|_| parts.len() == composition.parts.len());
        let found =
            self.cfs.store.head(&job.key).await?.filter(|info| info.size == size && Some(&info.etag) == expected.as_ref());
        Ok(match found {
            Some(info) => {
                tally.spared(size);
                TakenUp::Finished(info.etag)
            }
            None => TakenUp::Nothing,
        })
    }

    /// Makes the parts that are missing, and joins all of them. Gives the object's ETag.
    async fn carry_on(&self, attempt: &Attempt<'_>, size: u64) -> Result<String, Trouble> {
        let mut missing: Vec<(u32, Part)> = (1..).zip(attempt.composition.parts.iter().copied()).collect();
        missing.retain(|(number, _)| !attempt.done.contains_key(number));
        let mut running = futures_util::stream::iter(missing)
            .map(|(number, part)| async move {
                let etag = self.make_part(attempt, number, &part).await?;
                Ok::<_, Trouble>((number, etag))
            })
            .buffer_unordered(PARALLEL);
        let mut done = attempt.done.clone();
        while let Some(made) = running.next().await {
            let (number, etag) = made?;
            self.journal.note_part(&self.place, &attempt.job.key, number, &etag)?;
            done.insert(number, etag);
        }
        drop(running);
        let parts: Vec<SentPart> = done.into_iter().map(|(number, etag)| SentPart { number, etag }).collect();
        self.join(attempt, &parts, size).await
    }

    async fn make_part(&self, attempt: &Attempt<'_>, number: u32, part: &Part) -> Result<String, Trouble> {
        let (key, id, length) = (&attempt.job.key, &attempt.upload_id, part.end - part.begin);
        let etag = match part.kind {
            Kind::Upload => self.send(attempt, (key, id, number), part.begin, part.end).await?,
            Kind::Copy { source, offset } => {
                let copied = self.cfs.store.copy_part(key, id, number, attempt.base(source), offset..offset + length).await;
                copied.map_err(copy_trouble)?
            }
            Kind::Tail { .. } | Kind::Head { .. } => self.part_from_scratch(attempt, number, part).await?,
        };
        attempt.tally.spared(length - part.uploaded());
        Ok(etag)
    }

    /// Sends bytes of the file as a part of an upload.
    pub(super) async fn send(
        &self,
        attempt: &Attempt<'_>,
        (key, id, number): (&str, &str, u32),
        begin: u64,
        end: u64,
    ) -> Result<String, Trouble> {
        let _memory = self.cfs.store.memory(end - begin).await;
        let Some(bytes) = attempt.source.read(begin, end).await? else { return Err(Trouble::FileChanged) };
        let sent = self.cfs.store.put_part(key, id, number, bytes, &|bytes| attempt.tally.sent(bytes)).await;
        sent.map_err(|error| if error.code() == Some("NoSuchUpload") { Trouble::UploadGone } else { error.into() })
    }

    async fn join(&self, attempt: &Attempt<'_>, parts: &[SentPart], size: u64) -> Result<String, Trouble> {
        let key = &attempt.job.key;
        let copies = !attempt.composition.bases.is_empty();
        let etag = match self.cfs.store.complete_upload(key, &attempt.upload_id, parts).await {
            Ok(etag) => etag,
            Err(error) if error.code() == Some("NoSuchUpload") => return Err(Trouble::UploadGone),
            // Some servers want all parts to be of the same size.
            Err(error @ store::Error::Refused { status: 400, .. }) if copies => {
                return Err(Trouble::NoCopies(error.to_string(), false));
            }
            Err(error) => return Err(error.into()),
        };
        let found = self.cfs.store.head(key).await?;
        if found.as_ref().is_none_or(|info| info.size != size) {
            let why = format!("{} parts became {:?} bytes instead of {size}", parts.len(), found.map(|info| info.size));
            return Err(if copies { Trouble::NoCopies(why, true) } else { Trouble::Failed(Failed::File(why)) });
        }
        if joined_etag(parts).is_some_and(|expected| expected != etag) {
            self.read_back(attempt, &etag).await?;
        }
        Ok(etag)
    }

    /// Some servers name joined objects in a way of their own: what they hold is seen by reading it, once for each server.
    async fn read_back(&self, attempt: &Attempt<'_>, etag: &str) -> Result<(), Trouble> {
        const JOINED_ETAG: &str = "joined-etag";
        if self.index.store_trait(&self.store_place, JOINED_ETAG).as_deref() == Some("other") {
            return Ok(());
        }
        let mut sink = Hashing::new(tokio::io::sink());
        self.cfs.store.get(&attempt.job.key, &mut sink, &|_| ()).await?;
        if sink.finish().2 != attempt.source.sha256() {
            return Err(Trouble::NoCopies(format!("the joined object (ETag {etag}) is not what its parts were"), true));
        }
        self.index.note_store_trait(&self.store_place, JOINED_ETAG, "other");
        Ok(())
    }

    /// Removes what was made of an attempt.
    async fn give_up(&self, attempt: &Attempt<'_>) -> Result<(), Failed> {
        self.cfs.store.abort_upload(&attempt.job.key, &attempt.upload_id).await?;
        let scratch = std::mem::take(&mut *attempt.scratch.lock().unwrap_or_else(std::sync::PoisonError::into_inner));
        for left in scratch {
            super::leftover::clean(self.cfs, &left).await?;
            self.journal.end_uploads(&self.place, &[left.key])?;
        }
        super::discard(self.cfs, &attempt.job.key).await;
        Ok(())
    }
}

/// What of a multipart upload is written down.
#[derive(serde::Serialize, serde::Deserialize)]
struct Plan {
    composition: Composition,
    meta: Metadata,
}

enum TakenUp<'a> {
    Finished(String),
    Parts(Attempt<'a>),
    Nothing,
}

/// Whether a part that the journal does not know is what we would send.
async fn is_sent(part: &Part, etag: &str, source: &Source) -> Result<bool, Failed> {
    if part.kind != Kind::Upload {
        return Ok(false);
    }
    Ok(source.read(part.begin, part.end).await?.is_some_and(|bytes| plain_etag(&bytes) == etag))
}

/// What a refused copy means.
pub(super) fn copy_trouble(error: store::Error) -> Trouble {
    match error {
        store::Error::Changed { key } => Trouble::BaseGone(key),
        error if error.code() == Some("NoSuchUpload") => Trouble::UploadGone,
        error @ store::Error::Refused { .. } if !error.is_temporary() => {
            let lacks = matches!(error, store::Error::Refused { status: 403 | 405 | 501, .. });
            Trouble::NoCopies(error.to_string(), lacks)
        }
        error => error.into(),
    }
}
