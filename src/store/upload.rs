//! Uploads: one request for small objects, parts for large ones. The bytes that are hashed are the bytes that are sent:
//! both come from the same buffer.

use crate::blocking;
use crate::store::Error;
use crate::store::Metadata;
use crate::store::PART;
use crate::store::Progress;
use crate::store::SentPart;
use crate::store::Store;
use crate::store::Stored;
use crate::store::bare_etag;
use crate::store::check_key;
use crate::store::http::Meter;
use crate::store::metadata;
use aws_sdk_s3::primitives::ByteStream;
use bytes::Bytes;
use bytes::BytesMut;
use futures_util::StreamExt;
use futures_util::TryStreamExt;
use futures_util::stream::FuturesUnordered;
use sha2::Digest;
use sha2::Sha256;
use std::sync::Arc;
use tokio::io::AsyncRead;
use tokio::io::AsyncReadExt;
use tokio::sync::OwnedSemaphorePermit;

const MIB: u64 = 1024 * 1024;

/// S3's limit on the number of parts of an upload.
const MAX_PARTS: u64 = 10_000;

/// How many parts of one upload are under way at once.
pub(super) const PARALLEL: usize = 4;

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
        let id = self.begin_upload(key, meta).await?;
        let upload = Upload { store: self.clone(), key: key.to_owned(), id, open: true };
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
    pub async fn put_bytes(&self, key: &str, bytes: Bytes, meta: &Metadata, progress: Progress<'_>) -> Result<Stored, Error> {
        check_key(key)?;
        let hasher = hash(Sha256::new(), bytes.clone()).await;
        let stored = self.put_once(key, bytes, meta, progress).await?;
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
        running.push(self.put_numbered(key, id, 1, first, progress));
        for number in 2u32.. {
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
            if u64::from(number) > MAX_PARTS {
                return Err(Error::TooLarge { key: key.to_owned(), limit: MAX_PARTS * part_size });
            }
            running.push(self.put_numbered(key, id, number, part, progress));
        }
        while let Some(done) = running.try_next().await? {
            sent.push(done);
        }
        sent.sort_unstable_by_key(|part: &SentPart| part.number);
        self.complete_upload(key, id, &sent).await
    }

    async fn put_numbered(
        &self,
        key: &str,
        id: &str,
        number: u32,
        part: Part,
        progress: Progress<'_>,
    ) -> Result<SentPart, Error> {
        // The memory is given back when the part has been sent.
        let (bytes, _permit) = part;
        let etag = self.put_part(key, id, number, bytes, progress).await?;
        Ok(SentPart { number, etag })
    }

    async fn next_part<R: AsyncRead + Send + Unpin>(&self, source: &mut Source<'_, R>) -> Result<Option<Part>, Error> {
        if !source.has_more().await? {
            return Ok(None);
        }
        let permit = self.memory(source.part_size).await;
        Ok(Some((source.part(source.part_size).await?, permit)))
    }

    /// Takes a share of the memory that uploads may use, for a buffer of `bytes`. It is given back on drop.
    pub async fn memory(&self, bytes: u64) -> OwnedSemaphorePermit {
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
    let work = blocking::run(move || {
        hasher.update(&bytes);
        hasher
    });
    work.await
}

/// The same size for all parts (some servers insist), at least 16 MiB, in whole MiB, such that 10,000 parts suffice.
fn part_size(size_hint: u64) -> u64 {
    size_hint.div_ceil(MAX_PARTS).next_multiple_of(MIB).max(PART)
}

#[cfg(test)]
mod tests {
    use super::*;

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
