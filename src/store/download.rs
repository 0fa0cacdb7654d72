//! Downloads: streamed, and taken up again where a connection broke.

use crate::store::Error;
use crate::store::ObjectInfo;
use crate::store::Progress;
use crate::store::Store;
use crate::store::bare_etag;
use crate::store::check_key;
use crate::store::error::Scope;
use crate::store::error::find_wire;
use crate::store::metadata;
use crate::store::size_of;
use aws_sdk_s3::operation::get_object::GetObjectOutput;
use aws_sdk_s3::primitives::ByteStreamError;
use backon::BackoffBuilder;
use backon::ExponentialBuilder;
use std::io::ErrorKind;
use std::time::Duration;
use tokio::io::AsyncWrite;
use tokio::io::AsyncWriteExt;

impl Store {
    /// Downloads an object into `writer`. A broken connection is taken up again at the byte where it broke, and only if
    /// the object is still the same.
    ///
    /// # Errors
    /// [`Error::Refused`] (404: no such object), [`Error::Changed`], [`Error::NoSpace`], [`Error::Write`], and those of the
    /// transport when it broke too often without a new byte. What was written until then stays with the writer.
    pub async fn get(
        &self,
        key: &str,
        mut writer: impl AsyncWrite + Send + Unpin,
        progress: Progress<'_>,
    ) -> Result<ObjectInfo, Error> {
        check_key(key)?;
        let scope = self.scope("GetObject", key);
        let mut reply = self.open(&scope, None, 0).await?;
        let info = ObjectInfo {
            size: size_of(&scope, reply.content_length())?,
            etag: bare_etag(&scope, reply.e_tag())?,
            metadata: metadata::from_headers(reply.metadata()),
        };
        let mut done = 0;
        let mut pauses = self.pauses();
        loop {
            let before = done;
            let Err(broken) = copy(&scope, &mut reply, &mut writer, info.size, &mut done, progress).await? else { break };
            if done > before {
                pauses = self.pauses();
            }
            tracing::debug!(key, done, size = info.size, error = %broken, "download broke");
            let Some(pause) = pauses.next() else { return Err(broken) };
            tokio::time::sleep(pause).await;
            reply = self.open(&scope, Some(&info), done).await?;
        }
        writer.flush().await.map_err(|e| write_error(key, e))?;
        Ok(info)
    }

    /// How long to wait before a broken download is taken up again, time after time.
    pub(super) fn pauses(&self) -> impl Iterator<Item = Duration> + use<> {
        ExponentialBuilder::default()
            .with_min_delay(Duration::from_millis(100))
            .with_max_delay(Duration::from_secs(8))
            .with_max_times(self.patience.attempts.saturating_sub(1) as usize)
            .with_jitter()
            .build()
    }

    /// Asks for the object from byte `from` on; `first` is what it was when we began.
    async fn open(&self, scope: &Scope<'_>, first: Option<&ObjectInfo>, from: u64) -> Result<GetObjectOutput, Error> {
        let mut request = self.client.get_object().bucket(self.bucket()).key(scope.key);
        if let Some(first) = first {
            request = request.if_match(format!("\"{}\"", first.etag));
            if from > 0 {
                request = request.range(format!("bytes={from}-"));
            }
        }
        let reply = match request.send().await.map_err(|e| scope.sdk(e)) {
            Err(Error::Refused { status: 412, .. }) => return Err(Error::Changed { key: scope.key.into() }),
            // It was there when we began.
            Err(Error::Refused { status: 404, .. }) if first.is_some() => return Err(Error::Changed { key: scope.key.into() }),
            other => other?,
        };
        if let Some(first) = first {
            check_continuation(scope, &reply, first, from)?;
        }
        Ok(reply)
    }
}

/// Whether `reply` is the rest of the object that we began to read.
fn check_continuation(scope: &Scope<'_>, reply: &GetObjectOutput, first: &ObjectInfo, from: u64) -> Result<(), Error> {
    if bare_etag(scope, reply.e_tag())? != first.etag {
        return Err(Error::Changed { key: scope.key.into() });
    }
    let expected = format!("bytes {from}-{}/{}", first.size.saturating_sub(1), first.size);
    match reply.content_range() {
        Some(range) if range == expected => Ok(()),
        None if from == 0 && size_of(scope, reply.content_length())? == first.size => Ok(()),
        other => Err(scope.garbage(format!("asked for {expected:?}, got {other:?}"))),
    }
}

/// Copies what comes. The inner error is that of a broken connection, which may be taken up again.
pub(super) async fn copy(
    scope: &Scope<'_>,
    reply: &mut GetObjectOutput,
    writer: &mut (impl AsyncWrite + Send + Unpin),
    size: u64,
    done: &mut u64,
    progress: Progress<'_>,
) -> Result<Result<(), Error>, Error> {
    loop {
        let piece = match reply.body.try_next().await {
            Ok(Some(piece)) => piece,
            Ok(None) if *done == size => return Ok(Ok(())),
            Ok(None) => return Ok(Err(broken(scope, format!("it ended after {done} of {size} bytes")))),
            Err(error) => return Ok(Err(stream_error(scope, &error))),
        };
        if *done + piece.len() as u64 > size {
            return Err(scope.garbage(format!("more than the {size} bytes that were announced")));
        }
        writer.write_all(&piece).await.map_err(|e| write_error(scope.key, e))?;
        *done += piece.len() as u64;
        progress(piece.len() as u64);
    }
}

fn stream_error(scope: &Scope<'_>, error: &ByteStreamError) -> Error {
    match find_wire(error) {
        Some(wire) => scope.wire(wire),
        None => broken(scope, crate::net::describe(error)),
    }
}

fn broken(scope: &Scope<'_>, reason: String) -> Error {
    Error::Unreachable { server: scope.server.into(), call: scope.call.into(), key: scope.key.into(), reason }
}

/// What a failed write to the local disk means.
pub(super) fn write_error(key: &str, source: std::io::Error) -> Error {
    match source.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => Error::NoSpace { key: key.into() },
        _ => Error::Write { key: key.into(), source },
    }
}
