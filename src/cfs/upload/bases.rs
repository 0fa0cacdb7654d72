//! Which objects a changed file can be made of, and whether that is worth its requests.

use super::Cfs;
use super::Failed;
use super::Job;
use super::Uploader;
use super::source;
use super::source::Spot;
use crate::blocking;
use crate::content::Content;
use crate::content::matching;
use crate::content::parts;
use crate::content::parts::Limits;
use crate::content::parts::Part;
use crate::content::parts::Price;
use crate::index::Index;
use crate::index::KnownObject;
use crate::index::LocalFile;
use crate::store::PART;
use futures_util::StreamExt;
use futures_util::TryStreamExt;
use serde::Deserialize;
use serde::Serialize;

/// Objects that are looked at.
const BASES: usize = 4;

/// What is assumed of a link before anything was measured: 100 Mbit/s and 30 ms.
const UPLINK: f64 = 12_500_000.0;
const ROUND_TRIP: f64 = 0.03;

/// Names of what is noted of a store.
pub(in crate::cfs) const PART_COPY: &str = "part-copy";
const UPLINK_TRAIT: &str = "uplink";
const ROUND_TRIP_TRAIT: &str = "round-trip";

/// Remembers whether a store copies ranges of objects into parts, as somebody has found out by trying.
pub fn note_part_copy(cfs: &Cfs, index: &Index, works: bool) {
    index.note_store_trait(&super::store_place(cfs), PART_COPY, if works { "yes" } else { "no" });
}

/// An object whose ranges become parts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Base {
    pub(super) key: String,
    pub(super) etag: String,
}

/// What a large object is made of.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Composition {
    pub(super) parts: Vec<Part>,
    pub(super) bases: Vec<Base>,
}

impl Composition {
    /// All of it sent.
    pub(super) fn whole(size: u64) -> Composition {
        Composition { parts: parts::whole(size, Limits::S3), bases: Vec::new() }
    }
}

impl Uploader<'_> {
    /// What a file was found to hold; none where it holds something else by now.
    pub(super) async fn content(&self, full: &Spot, local: &LocalFile) -> Result<Option<Content>, Failed> {
        if let Some(content) = self.index.content(&local.sha256) {
            return Ok(Some(content));
        }
        // The index lost it.
        let content = source::look(full).await?.content;
        if content.sha256 != local.sha256 {
            return Ok(None);
        }
        self.index.note_content(&content);
        Ok(Some(content))
    }

    /// The cheapest way to make this content of what is in the store; none where sending all of it is cheapest.
    pub(super) async fn composition(&self, job: &Job, content: &Content) -> Result<Option<Composition>, Failed> {
        if self.index.store_trait(&self.store_place, PART_COPY).as_deref() == Some("no") {
            return Ok(None);
        }
        let bases = self.bases(job, content).await?;
        if bases.is_empty() {
            return Ok(None);
        }
        let (chunks, size, price) = (content.chunks.clone(), content.size, self.price());
        let lists: Vec<Content> = bases.iter().map(|(_, content)| content.clone()).collect();
        let planned = blocking::run(move || {
            let lists: Vec<_> = lists.iter().map(|content| content.chunks.as_slice()).collect();
            let runs = matching::runs(&chunks, &lists, Limits::S3.smallest);
            parts::plan(size, &runs, Limits::S3, price)
        })
        .await;
        // Beginning and completing are two requests more than one request for all of it.
        let all = if size <= PART { size + price.request } else { u64::MAX };
        if parts::uploaded(&planned) == size || parts::cost(&planned, price) + 2 * price.request >= all {
            return Ok(None);
        }
        let bases = bases.into_iter().map(|(object, _)| Base { key: object.key, etag: object.etag }).collect();
        Ok(Some(Composition { parts: planned, bases }))
    }

    /// Objects that have something in common with this content, and are still there.
    async fn bases(&self, job: &Job, content: &Content) -> Result<Vec<(KnownObject, Content)>, Failed> {
        let before = self.rows.get(&job.path).and_then(|row| {
            let object = self.index.object(&self.store_place, &row.object)?;
            (object.sha256 == row.sha256).then_some(object)
        });
        let mut candidates: Vec<KnownObject> = before.into_iter().collect();
        for object in self.index.similar(&self.store_place, content, BASES) {
            if candidates.iter().all(|c| c.sha256 != object.sha256) {
                candidates.push(object);
            }
        }
        candidates.retain(|object| object.size > Limits::S3.smallest);
        candidates.truncate(BASES);
        let looked: Vec<Option<(KnownObject, Content)>> = futures_util::stream::iter(candidates)
            .map(|object| async move {
                let info = self.cfs.store.head(&object.key).await?;
                if info.is_none_or(|info| info.etag != object.etag || info.size != object.size) {
                    self.index.forget_object(&self.store_place, &object.key);
                    return Ok::<_, Failed>(None);
                }
                Ok(self.index.content(&object.sha256).map(|content| (object, content)))
            })
            .buffered(BASES)
            .try_collect()
            .await?;
        Ok(looked.into_iter().flatten().collect())
    }

    /// What a request is worth in bytes on this link, as it was measured now or before.
    fn price(&self) -> Price {
        let measured = self.cfs.store.measured();
        let noted = |name| self.index.store_trait(&self.store_place, name).and_then(|value| value.parse::<f64>().ok());
        let uplink = measured.uplink.or_else(|| noted(UPLINK_TRAIT)).unwrap_or(UPLINK);
        let round_trip = measured.round_trip.or_else(|| noted(ROUND_TRIP_TRAIT)).unwrap_or(ROUND_TRIP);
        let request = (uplink * round_trip).clamp(1024.0, (4 << 20) as f64);
        Price { request: request as u64, scratch: true }
    }

    /// Remembers what was measured, for the next time.
    pub(in crate::cfs) fn note_link(&self) {
        let measured = self.cfs.store.measured();
        for (name, value) in [(UPLINK_TRAIT, measured.uplink), (ROUND_TRIP_TRAIT, measured.round_trip)] {
            if let Some(value) = value {
                self.index.note_store_trait(&self.store_place, name, &value.to_string());
            }
        }
    }
}
