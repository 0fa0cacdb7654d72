//! Uploads: one request for small objects, parts for large ones. The bytes that are hashed are the bytes that are sent:
//! both come from the same buffer.

use crate::store::Error;
use crate::store::Metadata;
use crate::store::ObjectInfo;
use crate::store::PART;
use crate::store::Progress;
use crate::store::Store;
use crate::store::Stored;
use crate::store::bare_etag;
use crate::store::check_key;
use crate::store::copy_source;
use crate::store::http::Meter;
use crate::store::metadata;
use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::CompletedMultipartUpload;
use aws_sdk_s3::types::CompletedPart;
use aws_sdk_s3::types::MetadataDirective;
use bytes::Bytes;
use bytes::BytesMut;
use futures_util::StreamExt;
use futures_util::TryStreamExt;
use futures_util::stream;
use futures_util::stream::FuturesUnordered;
use md5::Md5;
use sha2::Digest;
use sha2::Sha256;
use std::sync::Arc;
use tokio::io::AsyncRead;
use tokio::io::AsyncReadExt;
use tokio::sync::OwnedSemaphorePermit;

const MIB: u64 = 1024 * 1024;

/// S3's limit on the number of parts of an upload.
const MAX_PARTS: u64 = 10_000;

/// S3's limit on the size of an object that one CopyObject copies, in bytes.
const COPY_LIMIT: u64 = 5 * 1024 * MIB;

/// Size of the ranges by which larger objects are copied, in bytes.
const COPY_PART: u64 = 1024 * MIB;

/// How many parts of one upload are under way at once.
const PARALLEL: usize = 4;

/// Buffers up to this size are hashed where we stand; larger ones on a thread that may block.
const HASH_HERE: usize = 64 * 1024;

impl Store {
    /// Stores what `reader` gives, up to its end. `size_hint` is how many bytes that is expected to be: it decides the size
    /// of the parts and how much memory is taken.
    ///
    /// Dropping the future ends the upload; its parts are then removed in the background.
    ///
    /// # Errors
    /// [`Error::Read`], [`Error::TooLarge`], [`Error::Refused`] and those of the transport. Nothing is visible under the key then.
    pub async fn put(
        &self,
        key: &str,
        reader: impl AsyncRead + Send + Unpin,
        size_hint: u64,
        meta: &Metadata,
        progress: Progress<'_>,
    ) -> Result<Stored, Error> {
        check_key(key)?;
        let part_size = part_size(size_hint);
        let mut source = Source { key, reader, part_size, hasher: Sha256::new(), total: 0, ahead: None, over: false };
        let permit = self.memory(size_hint.min(part_size)).await;
        let first = source.part(size_hint.min(part_size)).await?;
        if !source.has_more().await? {
            let stored = self.put_once(key, first, meta, progress).await?;
            return Ok(Stored { sha256: source.digest(), ..stored });
        }
        let upload = self.begin(key, meta).await?;
        match self.put_parts(&upload.id, &mut source, (first, permit), progress).await {
            Ok(etag) => {
                upload.done();
                Ok(Stored { size: source.total, sha256: source.digest(), etag })
            }
            Err(error) => {
                upload.abort().await;
                Err(error)
            }
        }
    }

    /// Stores `bytes` with one request.
    ///
    /// # Errors
    /// As [`Store::put`].
    pub async fn put_bytes(&self, key: &str, bytes: Bytes, meta: &Metadata) -> Result<Stored, Error> {
        check_key(key)?;
        let hasher = hash(Sha256::new(), bytes.clone()).await;
        let stored = self.put_once(key, bytes, meta, &|_| ()).await?;
        Ok(Stored { sha256: hex::encode(hasher.finalize()), ..stored })
    }

    /// One PUT. The checksum is filled in by the caller.
    async fn put_once(&self, key: &str, bytes: Bytes, meta: &Metadata, progress: Progress<'_>) -> Result<Stored, Error> {
        let scope = self.scope("PutObject", key);
        let size = bytes.len() as u64;
        let meter = Meter::default();
        let request = self
            .client
            .put_object()
            .bucket(self.bucket())
            .key(key)
            .content_type("application/octet-stream")
            .set_metadata(Some(metadata::to_headers(meta)))
            .body(ByteStream::from(bytes))
            .customize()
            .mutate_request({
                let meter = meter.clone();
                move |request| request.add_extension(meter.clone())
            });
        let reply = meter.watch(request.send(), size, progress).await.map_err(|e| scope.sdk(e))?;
        Ok(Stored { size, sha256: String::new(), etag: bare_etag(&scope, reply.e_tag())? })
    }

    async fn begin(&self, key: &str, meta: &Metadata) -> Result<Upload, Error> {
        let scope = self.scope("CreateMultipartUpload", key);
        let request = self.client.create_multipart_upload().bucket(self.bucket()).key(key);
        let request = request.content_type("application/octet-stream").set_metadata(Some(metadata::to_headers(meta)));
        let reply = request.send().await.map_err(|e| scope.sdk(e))?;
        let id = reply.upload_id().ok_or_else(|| scope.garbage("no upload id in the answer"))?;
        Ok(Upload { store: self.clone(), key: key.to_owned(), id: id.to_owned(), open: true })
    }

    /// Sends `first` and the rest of `source` in parts, some at once, and joins them.
    async fn put_parts<R: AsyncRead + Send + Unpin>(
        &self,
        id: &str,
        source: &mut Source<'_, R>,
        first: Part,
        progress: Progress<'_>,
    ) -> Result<String, Error> {
        let (key, part_size) = (source.key, source.part_size);
        let mut running = FuturesUnordered::new();
        let mut sent = Vec::new();
        running.push(self.put_part(key, id, 1, first, progress));
        for number in 2.. {
            while running.len() >= PARALLEL {
                sent.extend(running.try_next().await?);
            }
            // Parts go on being sent while the next one is read (and while memory for it is waited for).
            let mut reading = std::pin::pin!(self.next_part(source));
            let part = loop {
                tokio::select! {
                    part = &mut reading => break part?,
                    Some(done) = running.next(), if !running.is_empty() => sent.push(done?),
                }
            };
            let Some(part) = part else { break };
            if number > MAX_PARTS {
                return Err(Error::TooLarge { key: key.to_owned(), limit: MAX_PARTS * part_size });
            }
            running.push(self.put_part(key, id, number, part, progress));
        }
        while let Some(done) = running.try_next().await? {
            sent.push(done);
        }
        sent.sort_by_key(CompletedPart::part_number);
        self.complete(key, id, sent).await
    }

    async fn next_part<R: AsyncRead + Send + Unpin>(&self, source: &mut Source<'_, R>) -> Result<Option<Part>, Error> {
        if !source.has_more().await? {
            return Ok(None);
        }
        let permit = self.memory(source.part_size).await;
        Ok(Some((source.part(source.part_size).await?, permit)))
    }

    async fn put_part(
        &self,
        key: &str,
        id: &str,
        number: u64,
        part: Part,
        progress: Progress<'_>,
    ) -> Result<CompletedPart, Error> {
        // The memory is given back when the part has been sent.
        let (bytes, _permit) = part;
        let scope = self.scope("UploadPart", key);
        let size = bytes.len() as u64;
        let meter = Meter::default();
        let request = self
            .client
            .upload_part()
            .bucket(self.bucket())
            .key(key)
            .upload_id(id)
            .part_number(part_number(number))
            .body(ByteStream::from(bytes))
            .customize()
            .mutate_request({
                let meter = meter.clone();
                move |request| request.add_extension(meter.clone())
            });
        let reply = meter.watch(request.send(), size, progress).await.map_err(|e| scope.sdk(e))?;
        let etag = bare_etag(&scope, reply.e_tag())?;
        Ok(completed(number, &etag))
    }

    async fn complete(&self, key: &str, id: &str, parts: Vec<CompletedPart>) -> Result<String, Error> {
        let scope = self.scope("CompleteMultipartUpload", key);
        let expected = joined_etag(&parts);
        let parts = CompletedMultipartUpload::builder().set_parts(Some(parts)).build();
        let request = self.client.complete_multipart_upload().bucket(self.bucket()).key(key).upload_id(id);
        match request.multipart_upload(parts).send().await.map_err(|e| scope.sdk(e)) {
            Ok(reply) => bare_etag(&scope, reply.e_tag()),
            Err(error) if error.code() == Some("NoSuchUpload") => {
                // Perhaps an earlier attempt was heard, and its answer lost.
                let found = self.head(key).await?.map(|info| info.etag);
                found.filter(|etag| Some(etag) == expected.as_ref()).ok_or(error)
            }
            Err(error) => Err(error),
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
                Some(info) if info.size > COPY_LIMIT => self.copy_parts(from_key, to_key, &info, COPY_PART).await,
                _ => Err(refused),
            },
            Err(error) => Err(error),
        }
    }

    pub(super) async fn copy_parts(&self, from_key: &str, to_key: &str, info: &ObjectInfo, step: u64) -> Result<(), Error> {
        let upload = self.begin(to_key, &info.metadata).await?;
        let id = upload.id.as_str();
        let ranges = (0..info.size.div_ceil(step)).map(|n| (n + 1, n * step, ((n + 1) * step).min(info.size) - 1));
        let parts = stream::iter(ranges).map(|(number, first, last)| async move {
            let scope = self.scope("UploadPartCopy", from_key);
            let request = self.client.upload_part_copy().bucket(self.bucket()).key(to_key).upload_id(id);
            let request = request
                .part_number(part_number(number))
                .copy_source(copy_source(self.bucket(), from_key))
                .copy_source_if_match(format!("\"{}\"", info.etag))
                .copy_source_range(format!("bytes={first}-{last}"));
            let reply = request.send().await.map_err(|e| scope.sdk(e))?;
            let etag = bare_etag(&scope, reply.copy_part_result().and_then(|r| r.e_tag()))?;
            Ok::<_, Error>(completed(number, &etag))
        });
        let copied = async {
            let mut parts: Vec<CompletedPart> = parts.buffer_unordered(PARALLEL).try_collect().await?;
            parts.sort_by_key(CompletedPart::part_number);
            self.complete(to_key, id, parts).await
        };
        match copied.await {
            Ok(_) => {
                upload.done();
                Ok(())
            }
            Err(error) => {
                upload.abort().await;
                Err(error)
            }
        }
    }

    /// Takes a share of the memory that uploads may use, for a buffer of `bytes`.
    async fn memory(&self, bytes: u64) -> OwnedSemaphorePermit {
        let mib = u32::try_from(bytes.div_ceil(MIB)).unwrap_or(u32::MAX).clamp(1, super::BUFFERS_MIB);
        // The semaphore is never closed. Were it, no limit would hold, and nothing else would break.
        match Arc::clone(&self.buffers).acquire_many_owned(mib).await {
            Ok(permit) => permit,
            Err(_) => unreachable!("the semaphore of a store lives as long as the store and is never closed"),
        }
    }
}

/// Bytes, and the share of memory that they take.
type Part = (Bytes, OwnedSemaphorePermit);

/// A multipart upload that is not finished: it is removed from the server when this is dropped.
struct Upload {
    store: Store,
    key: String,
    id: String,
    open: bool,
}

impl Upload {
    fn done(mut self) {
        self.open = false;
    }

    /// Removes the parts. A failure is only logged: the error that led here is the one that matters.
    async fn abort(mut self) {
        self.open = false;
        self.store.abort(&self.key, &self.id).await;
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        // Without a runtime (at the very end of the program) nothing can be sent any more.
        if let (true, Ok(runtime)) = (self.open, tokio::runtime::Handle::try_current()) {
            let (store, key, id) = (self.store.clone(), std::mem::take(&mut self.key), std::mem::take(&mut self.id));
            runtime.spawn(async move { store.abort(&key, &id).await });
        }
    }
}

impl Store {
    pub(super) async fn abort(&self, key: &str, id: &str) {
        let aborted = self.client.abort_multipart_upload().bucket(self.bucket()).key(key).upload_id(id).send().await;
        match aborted.map_err(|e| self.scope("AbortMultipartUpload", key).sdk(e)) {
            Ok(_) => {}
            Err(error) if error.is_not_found() => {}
            Err(error) => tracing::warn!(key, %error, "cannot remove the parts of an unfinished upload"),
        }
    }
}

/// Reads parts and hashes them.
struct Source<'a, R> {
    key: &'a str,
    reader: R,
    part_size: u64,
    hasher: Sha256,
    total: u64,
    /// A byte that was read to see whether there is more.
    ahead: Option<u8>,
    /// The end was seen. What a file grows by afterwards does not count: only the last part may be short.
    over: bool,
}

impl<R: AsyncRead + Send + Unpin> Source<'_, R> {
    /// The next bytes, `part_size` of them unless the end comes first; `expected` of them are made room for at once.
    async fn part(&mut self, expected: u64) -> Result<Bytes, Error> {
        // One byte more than expected, so that the end is seen without growing the buffer. Part sizes fit into memory.
        let mut buffer = BytesMut::with_capacity(usize::try_from(expected).unwrap_or(0) + 1);
        buffer.extend(self.ahead.take());
        let mut limited = (&mut self.reader).take(self.part_size - buffer.len() as u64);
        while limited.read_buf(&mut buffer).await.map_err(|source| Error::Read { key: self.key.to_owned(), source })? > 0 {}
        let bytes = buffer.freeze();
        self.over = (bytes.len() as u64) < self.part_size;
        self.total += bytes.len() as u64;
        self.hasher = hash(std::mem::take(&mut self.hasher), bytes.clone()).await;
        Ok(bytes)
    }

    async fn has_more(&mut self) -> Result<bool, Error> {
        if self.ahead.is_none() && !self.over {
            let mut byte = [0];
            let read = self.reader.read(&mut byte).await.map_err(|source| Error::Read { key: self.key.to_owned(), source })?;
            self.ahead = (read == 1).then_some(byte[0]);
        }
        Ok(self.ahead.is_some())
    }

    fn digest(self) -> String {
        hex::encode(self.hasher.finalize())
    }
}

async fn hash(mut hasher: Sha256, bytes: Bytes) -> Sha256 {
    if bytes.len() <= HASH_HERE {
        hasher.update(&bytes);
        return hasher;
    }
    let work = tokio::task::spawn_blocking(move || {
        hasher.update(&bytes);
        hasher
    });
    match work.await {
        Ok(hasher) => hasher,
        // Hashing does not panic; the task is cancelled only when the runtime ends, and we with it.
        Err(error) => std::panic::resume_unwind(Box::new(error.to_string())),
    }
}

/// The ETag that S3 gives to an object that was joined from these parts: MD5 over the parts' MD5s, and their number.
fn joined_etag(parts: &[CompletedPart]) -> Option<String> {
    let mut all = Md5::new();
    for part in parts {
        all.update(hex::decode(part.e_tag()?.trim_matches('"')).ok().filter(|md5| md5.len() == 16)?);
    }
    Some(format!("{}-{}", hex::encode(all.finalize()), parts.len()))
}

/// The same size for all parts (some servers insist), at least 16 MiB, in whole MiB, such that 10,000 parts suffice.
fn part_size(size_hint: u64) -> u64 {
    size_hint.div_ceil(MAX_PARTS).next_multiple_of(MIB).max(PART)
}

fn part_number(number: u64) -> i32 {
    // At most 10,000.
    i32::try_from(number).unwrap_or(i32::MAX)
}

fn completed(number: u64, etag: &str) -> CompletedPart {
    CompletedPart::builder().part_number(part_number(number)).e_tag(format!("\"{etag}\"")).build()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_joined_etag_is_the_one_that_s3_gives() {
        // As recorded in tests/wire/s3-requests.json.
        let parts = [completed(1, "6a31f7e7ba3abe2b8c36dcca2c9863b2"), completed(2, "93c2f35c8192b7986a798e1453ae86f1")];
        assert_eq!(joined_etag(&parts).unwrap(), "927ae5843843598103b6f9f6adb9c442-2");
        assert_eq!(joined_etag(&[completed(1, "opaque")]), None);
    }

    #[test]
    fn ten_thousand_parts_hold_any_size() {
        assert_eq!(part_size(0), PART);
        assert_eq!(part_size(PART * MAX_PARTS), PART);
        assert_eq!(part_size(PART * MAX_PARTS + 1), PART + MIB);
        let largest = 5 * MIB * MIB;
        assert!(part_size(largest) * MAX_PARTS >= largest);
        assert_eq!(part_size(largest) % MIB, 0);
    }
}
