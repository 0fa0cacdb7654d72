//! The steps of a multipart upload, one request each, and copies inside the store. Whoever takes the steps decides what goes
//! into which part and what happens after a failure.

use crate::store::Error;
use crate::store::Metadata;
use crate::store::ObjectInfo;
use crate::store::Progress;
use crate::store::Store;
use crate::store::bare_etag;
use crate::store::check_key;
use crate::store::copy_source;
use crate::store::http::Meter;
use crate::store::metadata;
use crate::store::size_of;
use crate::store::upload::PARALLEL;
use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::CompletedMultipartUpload;
use aws_sdk_s3::types::CompletedPart;
use aws_sdk_s3::types::MetadataDirective;
use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::TryStreamExt;
use futures_util::stream;
use md5::Digest;
use md5::Md5;
use std::ops::Range;

/// S3's limit on the size of an object that one CopyObject copies, in bytes.
const COPY_LIMIT: u64 = 5 * 1024 * 1024 * 1024;

/// Size of the ranges by which larger objects are copied, in bytes.
const COPY_PART: u64 = 1024 * 1024 * 1024;

/// A part that the server has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SentPart {
    /// From 1 on.
    pub number: u32,
    /// Its ETag, with its quotes removed.
    pub etag: String,
}

/// A part as the server lists it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListedPart {
    /// From 1 on.
    pub number: u32,
    /// Its ETag, with its quotes removed.
    pub etag: String,
    /// Bytes.
    pub size: u64,
}

/// An object that must still be the one that it was, by its ETag.
#[derive(Clone, Copy, Debug)]
pub struct Pinned<'a> {
    /// Its key.
    pub key: &'a str,
    /// What its ETag was.
    pub etag: &'a str,
}

impl Store {
    /// Begins a multipart upload; gives its id.
    ///
    /// # Errors
    /// [`Error::Refused`], and those of the transport.
    pub async fn begin_upload(&self, key: &str, meta: &Metadata) -> Result<String, Error> {
        check_key(key)?;
        let scope = self.scope("CreateMultipartUpload", key);
        let request = self.client.create_multipart_upload().bucket(self.bucket()).key(key);
        let request = request.content_type("application/octet-stream").set_metadata(Some(metadata::to_headers(meta)));
        let reply = request.send().await.map_err(|e| scope.sdk(e))?;
        reply.upload_id().map(str::to_owned).ok_or_else(|| scope.garbage("no upload id in the answer"))
    }

    /// Sends one part; gives its ETag.
    ///
    /// # Errors
    /// As [`Store::begin_upload`].
    pub async fn put_part(
        &self,
        key: &str,
        id: &str,
        number: u32,
        bytes: Bytes,
        progress: Progress<'_>,
    ) -> Result<String, Error> {
        let scope = self.scope("UploadPart", key);
        let size = bytes.len() as u64;
        let meter = Meter::default();
        let request = self.client.upload_part().bucket(self.bucket()).key(key).upload_id(id).part_number(part_number(number));
        let request = request.body(ByteStream::from(bytes)).customize().mutate_request({
            let meter = meter.clone();
            move |request| request.add_extension(meter.clone())
        });
        let reply = meter.watch(request.send(), size, progress).await.map_err(|e| scope.sdk(e))?;
        bare_etag(&scope, reply.e_tag())
    }

    /// Has the server make a part of a range of an object; gives the part's ETag.
    ///
    /// # Errors
    /// [`Error::Changed`] where the object is gone or another one; otherwise as [`Store::begin_upload`].
    pub async fn copy_part(
        &self,
        key: &str,
        id: &str,
        number: u32,
        from: Pinned<'_>,
        range: Range<u64>,
    ) -> Result<String, Error> {
        let scope = self.scope("UploadPartCopy", from.key);
        let request = self.client.upload_part_copy().bucket(self.bucket()).key(key).upload_id(id);
        let request = request
            .part_number(part_number(number))
            .copy_source(copy_source(self.bucket(), from.key))
            .copy_source_if_match(format!("\"{}\"", from.etag))
            .copy_source_range(format!("bytes={}-{}", range.start, range.end.saturating_sub(1)));
        let reply = request.send().await.map_err(|e| replaced(from.key, scope.sdk(e)))?;
        bare_etag(&scope, reply.copy_part_result().and_then(|r| r.e_tag()))
    }

    /// The parts that the server has of an upload; none where it knows no such upload (any more).
    ///
    /// # Errors
    /// As [`Store::begin_upload`].
    pub async fn list_parts(&self, key: &str, id: &str) -> Result<Option<Vec<ListedPart>>, Error> {
        let scope = self.scope("ListParts", key);
        let (mut all, mut marker) = (Vec::new(), None);
        loop {
            let request = self.client.list_parts().bucket(self.bucket()).key(key).upload_id(id);
            let reply = match request.set_part_number_marker(marker.clone()).send().await.map_err(|e| scope.sdk(e)) {
                Ok(reply) => reply,
                Err(error) if error.is_not_found() => return Ok(None),
                Err(error) => return Err(error),
            };
            for part in reply.parts() {
                let number = part.part_number().and_then(|n| u32::try_from(n).ok());
                let number = number.ok_or_else(|| scope.garbage("a part without a number"))?;
                let (etag, size) = (bare_etag(&scope, part.e_tag())?, size_of(&scope, part.size())?);
                all.push(ListedPart { number, etag, size });
            }
            match reply.next_part_number_marker().filter(|_| reply.is_truncated().unwrap_or(false)) {
                None => return Ok(Some(all)),
                Some(next) if Some(next) == marker.as_deref() => {
                    return Err(scope.garbage("the next page is the same page again"));
                }
                Some(next) => marker = Some(next.to_owned()),
            }
        }
    }

    /// Joins parts, which are ordered by their numbers; gives the object's ETag. An answer that got lost is made up for.
    ///
    /// # Errors
    /// As [`Store::begin_upload`]; "NoSuchUpload" where there is neither the upload nor the object.
    pub async fn complete_upload(&self, key: &str, id: &str, parts: &[SentPart]) -> Result<String, Error> {
        let scope = self.scope("CompleteMultipartUpload", key);
        let completed = parts.iter().map(|part| {
            CompletedPart::builder().part_number(part_number(part.number)).e_tag(format!("\"{}\"", part.etag)).build()
        });
        let completed = CompletedMultipartUpload::builder().set_parts(Some(completed.collect())).build();
        let request = self.client.complete_multipart_upload().bucket(self.bucket()).key(key).upload_id(id);
        match request.multipart_upload(completed).send().await.map_err(|e| scope.sdk(e)) {
            Ok(reply) => bare_etag(&scope, reply.e_tag()),
            Err(error) if error.code() == Some("NoSuchUpload") => {
                // Perhaps an earlier attempt was heard, and its answer lost.
                let found = self.head(key).await?.map(|info| info.etag);
                found.filter(|etag| Some(etag) == joined_etag(parts).as_ref()).ok_or(error)
            }
            Err(error) => Err(error),
        }
    }

    /// Removes an upload that is not finished, with its parts. It is no error where there is none.
    ///
    /// # Errors
    /// As [`Store::begin_upload`].
    pub async fn abort_upload(&self, key: &str, id: &str) -> Result<(), Error> {
        let aborted = self.client.abort_multipart_upload().bucket(self.bucket()).key(key).upload_id(id).send().await;
        match aborted.map_err(|e| self.scope("AbortMultipartUpload", key).sdk(e)) {
            Err(error) if error.is_not_found() => Ok(()),
            other => other.map(|_| ()),
        }
    }

    /// As [`Store::abort_upload`]. A failure is only logged: the error that led here is the one that matters.
    pub(super) async fn abort(&self, key: &str, id: &str) {
        if let Err(error) = self.abort_upload(key, id).await {
            tracing::warn!(key, %error, "cannot remove the parts of an unfinished upload");
        }
    }

    /// Copies an object on the server, with its metadata. Objects above 5 GiB are copied by ranges.
    ///
    /// # Errors
    /// [`Error::Refused`] (404: no such object), those of the transport.
    pub async fn copy(&self, from_key: &str, to_key: &str) -> Result<(), Error> {
        check_key(from_key)?;
        check_key(to_key)?;
        let request =
            self.client.copy_object().bucket(self.bucket()).key(to_key).copy_source(copy_source(self.bucket(), from_key));
        let copied = request.metadata_directive(MetadataDirective::Copy).send().await;
        match copied.map_err(|e| self.scope("CopyObject", from_key).sdk(e)) {
            Ok(_) => Ok(()),
            Err(refused @ Error::Refused { status: 400, .. }) => match self.head(from_key).await? {
                Some(info) if info.size > COPY_LIMIT => self.copy_parts(from_key, to_key, &info, COPY_PART).await.map(|_| ()),
                _ => Err(refused),
            },
            Err(error) => Err(error),
        }
    }

    /// Copies an object of `size` bytes on the server if it is still the one that it was. The copy has the metadata `meta`;
    /// `other` says so where the object itself has something else. Gives the copy's ETag.
    ///
    /// # Errors
    /// [`Error::Changed`] where the object is gone or another one; otherwise as [`Store::copy`].
    pub async fn copy_pinned(
        &self,
        from: Pinned<'_>,
        (size, meta): (u64, &Metadata),
        to_key: &str,
        other: Option<&Metadata>,
    ) -> Result<String, Error> {
        check_key(to_key)?;
        if size > COPY_LIMIT {
            let info = ObjectInfo { size, etag: from.etag.to_owned(), metadata: meta.clone() };
            return self.copy_parts(from.key, to_key, &info, COPY_PART).await;
        }
        let scope = self.scope("CopyObject", from.key);
        let request = self.client.copy_object().bucket(self.bucket()).key(to_key);
        let request =
            request.copy_source(copy_source(self.bucket(), from.key)).copy_source_if_match(format!("\"{}\"", from.etag));
        let request = match other {
            Some(meta) => request
                .metadata_directive(MetadataDirective::Replace)
                .content_type("application/octet-stream")
                .set_metadata(Some(metadata::to_headers(meta))),
            None => request,
        };
        let reply = request.send().await.map_err(|e| replaced(from.key, scope.sdk(e)))?;
        bare_etag(&scope, reply.copy_object_result().and_then(|r| r.e_tag()))
    }

    /// Copies by ranges an object that is what `info` says; its metadata is given to the copy. Gives the copy's ETag.
    pub(super) async fn copy_parts(&self, from_key: &str, to_key: &str, info: &ObjectInfo, step: u64) -> Result<String, Error> {
        let id = self.begin_upload(to_key, &info.metadata).await?;
        let ranges = (0..info.size.div_ceil(step)).map(|n| (n as u32 + 1, n * step..((n + 1) * step).min(info.size)));
        let from = Pinned { key: from_key, etag: &info.etag };
        let parts = stream::iter(ranges).map(|(number, range)| {
            let id = &id;
            async move { self.copy_part(to_key, id, number, from, range).await.map(|etag| SentPart { number, etag }) }
        });
        let copied = async {
            let mut parts: Vec<SentPart> = parts.buffer_unordered(PARALLEL).try_collect().await?;
            parts.sort_unstable_by_key(|part| part.number);
            self.complete_upload(to_key, &id, &parts).await
        };
        let copied = copied.await;
        if copied.is_err() {
            self.abort(to_key, &id).await;
        }
        copied
    }
}

/// A source that is gone, or is not the one that was pinned.
fn replaced(key: &str, error: Error) -> Error {
    match &error {
        Error::Refused { status: 412, .. } => Error::Changed { key: key.to_owned() },
        Error::Refused { status: 404, code, .. } if code == "NoSuchKey" => Error::Changed { key: key.to_owned() },
        _ => error,
    }
}

/// The ETag that S3 gives to an object that was joined from these parts: MD5 over the parts' MD5s, and their number. None where
/// the parts' ETags are no MD5s.
pub fn joined_etag(parts: &[SentPart]) -> Option<String> {
    let mut all = Md5::new();
    for part in parts {
        all.update(hex::decode(&part.etag).ok().filter(|md5| md5.len() == 16)?);
    }
    Some(format!("{}-{}", hex::encode(all.finalize()), parts.len()))
}

/// The ETag that S3 gives to bytes that were sent with one request: their MD5.
pub fn plain_etag(bytes: &[u8]) -> String {
    hex::encode(Md5::digest(bytes))
}

fn part_number(number: u32) -> i32 {
    // At most 10,000.
    i32::try_from(number).unwrap_or(i32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_joined_etag_is_the_one_that_s3_gives() {
        let part = |number, etag: &str| SentPart { number, etag: etag.into() };
        // As recorded in tests/wire/s3-requests.json.
        let parts = [part(1, "6a31f7e7ba3abe2b8c36dcca2c9863b2"), part(2, "93c2f35c8192b7986a798e1453ae86f1")];
        assert_eq!(joined_etag(&parts).unwrap(), "927ae5843843598103b6f9f6adb9c442-2");
        assert_eq!(joined_etag(&[part(1, "opaque")]), None);
    }
}
