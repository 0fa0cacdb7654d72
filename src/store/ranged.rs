//! Ranges of an object, so that several can travel at once and none has to travel twice.

use super::Error;
use super::ObjectInfo;
use super::Progress;
use super::Store;
use super::bare_etag;
use super::check_key;
use super::download::copy;
use super::download::write_error;
use super::error::Scope;
use aws_sdk_s3::operation::get_object::GetObjectOutput;
use std::ops::Range;
use tokio::io::AsyncWrite;
use tokio::io::AsyncWriteExt;

/// How a server took the wish for a range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ranged {
    /// The range is written, every byte of it.
    Whole,
    /// It gives whole objects only; nothing was written.
    Unsupported,
}

impl Store {
    /// Downloads the bytes in `range` of an object into `writer`. `object` is what the object was when it was first looked at:
    /// nothing of another one is written. A broken connection is taken up again at the byte where it broke.
    ///
    /// # Errors
    /// As [`Store::get`]; [`Error::Changed`] also where the object is gone.
    pub async fn get_range(
        &self,
        key: &str,
        object: &ObjectInfo,
        range: Range<u64>,
        mut writer: impl AsyncWrite + Send + Unpin,
        progress: Progress<'_>,
    ) -> Result<Ranged, Error> {
        check_key(key)?;
        let scope = self.scope("GetObject", key);
        let (size, mut done, mut pauses) = (range.end.saturating_sub(range.start), 0, self.pauses());
        loop {
            let Some(mut reply) = self.open_range(&scope, object, range.start + done..range.end).await? else {
                return match done {
                    0 => Ok(Ranged::Unsupported),
                    _ => Err(scope.garbage("it gave a range of the object before, and gives the whole of it now")),
                };
            };
            let before = done;
            let Err(broken) = copy(&scope, &mut reply, &mut writer, size, &mut done, progress).await? else { break };
            if done > before {
                pauses = self.pauses();
            }
            tracing::debug!(key, ?range, done, error = %broken, "download of a range broke");
            let Some(pause) = pauses.next() else { return Err(broken) };
            tokio::time::sleep(pause).await;
        }
        writer.flush().await.map_err(|e| write_error(key, e))?;
        Ok(Ranged::Whole)
    }

    /// Asks for a range; none where the server does not know how to give one.
    async fn open_range(
        &self,
        scope: &Scope<'_>,
        object: &ObjectInfo,
        range: Range<u64>,
    ) -> Result<Option<GetObjectOutput>, Error> {
        let (first, last) = (range.start, range.end.saturating_sub(1));
        let request = self.client.get_object().bucket(self.bucket()).key(scope.key);
        let request = request.if_match(format!("\"{}\"", object.etag)).range(format!("bytes={first}-{last}"));
        let reply = match request.send().await.map_err(|e| scope.sdk(e)) {
            // It was there, and long enough, when we began.
            Err(Error::Refused { status: 404 | 412 | 416, .. }) => return Err(Error::Changed { key: scope.key.into() }),
            Err(Error::Refused { status: 501, .. }) => return Ok(None),
            other => other?,
        };
        if bare_etag(scope, reply.e_tag())? != object.etag {
            return Err(Error::Changed { key: scope.key.into() });
        }
        let expected = format!("bytes {first}-{last}/{}", object.size);
        match reply.content_range() {
            Some(given) if given == expected => Ok(Some(reply)),
            None => Ok(None),
            Some(other) => Err(scope.garbage(format!("asked for {expected:?}, got {other:?}"))),
        }
    }
}
