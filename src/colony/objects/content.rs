//! The bytes of objects: small ones go into the catalogue, large ones into files of their own with random names.
//!
//! A file is written and made durable before the catalogue names it, and removed after the catalogue no longer does. So
//! the catalogue is the only truth: a file that it does not name is a leftover, and is removed at the next start.

use crate::blocking;
use crate::colony::objects::digest::Claims;
use crate::colony::objects::digest::Digester;
use crate::colony::objects::digest::Digests;
use crate::colony::objects::error::Error;
use crate::colony::objects::error::disk;
use crate::colony::objects::error::refuse;
use crate::sqlite::private_folder;
use bytes::Bytes;
use bytes::BytesMut;
use futures_util::StreamExt;
use s3s::S3Error;
use s3s::S3ErrorCode;
use s3s::S3Result;
use s3s::dto::StreamingBlob;
use serde::Deserialize;
use serde::Serialize;
use std::collections::HashSet;
use std::fs::File;
use std::fs::OpenOptions;
use std::io::ErrorKind;
use std::io::Read;
use std::io::Seek;
use std::io::SeekFrom;
use std::io::Write;
use std::ops::Range;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::task::spawn_blocking;
use tokio_stream::wrappers::ReceiverStream;

/// Objects up to this size in bytes live in the catalogue: one durable write instead of three.
pub(super) const INLINE: usize = 32 * 1024;

/// How many bytes are hashed and written, or read, at a time.
const BLOCK: usize = 512 * 1024;

/// A whole file that holds all or some bytes of an object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Segment {
    pub(super) file: String,
    pub(super) size: u64,
}

/// Where an object's bytes are.
#[derive(Clone, Debug)]
pub(super) enum Content {
    Inline(Bytes),
    Files(Vec<Segment>),
}

/// Bytes that have arrived, not yet named by the catalogue.
pub(super) enum NewContent {
    Inline(Bytes),
    Files(Vec<NewFile>),
}

/// A body that arrived whole.
pub(super) struct Received {
    pub(super) content: NewContent,
    pub(super) size: u64,
    pub(super) digests: Digests,
}

/// A file that the catalogue does not name yet. It is removed when this is dropped, unless it is kept.
pub(super) struct NewFile {
    folder: Arc<Path>,
    pub(super) segment: Segment,
    keep: bool,
}

impl NewFile {
    /// The catalogue names it now.
    pub(super) fn keep(mut self) {
        self.keep = true;
    }

    fn path(&self) -> PathBuf {
        self.folder.join(&self.segment.file)
    }
}

impl Drop for NewFile {
    fn drop(&mut self) {
        if !self.keep {
            remove(&self.folder, &self.segment.file);
        }
    }
}

/// Removes a file that nobody names. If that fails it is a leftover, for the next start to remove.
pub(super) fn remove(folder: &Path, file: &str) {
    if let Err(error) = std::fs::remove_file(folder.join(file)) {
        tracing::debug!(file, %error, "a file of a removed object stays until the next start");
    }
}

/// The folder with the files.
#[derive(Clone, Debug)]
pub(super) struct Contents {
    folder: Arc<Path>,
}

impl Contents {
    pub(super) fn open(folder: PathBuf) -> Result<Contents, Error> {
        private_folder(&folder).map_err(|source| Error::Folder { path: folder.clone(), source })?;
        Ok(Contents { folder: folder.into() })
    }

    pub(super) fn folder(&self) -> Arc<Path> {
        Arc::clone(&self.folder)
    }

    /// Removes all files but `named`.
    pub(super) fn sweep(&self, named: &HashSet<String>) -> Result<usize, Error> {
        let failed = |source| Error::Folder { path: self.folder.to_path_buf(), source };
        let mut removed = 0;
        for entry in std::fs::read_dir(&self.folder).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let known = entry.file_name().to_str().is_some_and(|name| named.contains(name));
            if !known && entry.file_type().map_err(failed)?.is_file() {
                std::fs::remove_file(entry.path()).map_err(failed)?;
                removed += 1;
            }
        }
        Ok(removed)
    }

    fn new_name(&self) -> S3Result<String> {
        let mut random = [0_u8; 16];
        getrandom::fill(&mut random).map_err(|e| refuse(S3ErrorCode::InternalError, format!("no random numbers: {e}")))?;
        Ok(hex::encode(random))
    }

    fn create(&self) -> S3Result<Sink> {
        let segment = Segment { file: self.new_name()?, size: 0 };
        let new = NewFile { folder: self.folder(), segment, keep: false };
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(new.path()).map_err(|e| disk(&e))?;
        Ok(Sink { file, new })
    }

    /// Makes what was written under new names survive a loss of power.
    fn sync_names(&self) -> S3Result<()> {
        File::open(&self.folder).and_then(|f| f.sync_all()).map_err(|e| disk(&e))
    }

    /// Takes in a whole body, computing the checksums that `claims` needs. `length` is what the sender announced.
    pub(super) async fn receive(
        &self,
        body: Option<StreamingBlob>,
        length: Option<i64>,
        claims: &Claims,
        may_inline: bool,
    ) -> S3Result<Received> {
        let mut intake = Intake { contents: self.clone(), size: 0, working: None, state: Some((Digester::new(claims), None)) };
        let mut block = BytesMut::new();
        if let Some(mut body) = body {
            while let Some(piece) = body.next().await {
                block.extend_from_slice(&piece.map_err(|e| broken_body(&*e))?);
                if block.len() >= BLOCK {
                    intake.take(block.split().freeze()).await?;
                }
            }
        }
        let arrived = intake.size + block.len() as u64;
        if length.and_then(|l| u64::try_from(l).ok()).is_some_and(|l| l != arrived) {
            return Err(refuse(S3ErrorCode::IncompleteBody, format!("{arrived} bytes arrived, and not as many as announced")));
        }
        intake.finish(block.freeze(), may_inline).await
    }

    /// The checksums of a body, without keeping it.
    pub(super) async fn digest(&self, mut body: StreamingBlob, claims: &Claims) -> S3Result<Digests> {
        let mut digester = Digester::new(claims);
        while let Some(piece) = body.next().await {
            let piece = piece.map_err(|e| broken_body(&*e))?;
            let hashed = blocking::run(move || {
                digester.update(&piece);
                digester
            });
            digester = hashed.await;
        }
        Ok(digester.finish())
    }

    /// New names for the same bytes. Files are never changed, so a second name is as good as a copy.
    pub(super) fn duplicate(&self, content: Content) -> S3Result<NewContent> {
        let files = match content {
            Content::Inline(bytes) => return Ok(NewContent::Inline(bytes)),
            Content::Files(files) => files,
        };
        let mut new = Vec::new();
        for segment in files {
            let copy = Segment { file: self.new_name()?, size: segment.size };
            let copy = NewFile { folder: self.folder(), segment: copy, keep: false };
            let from = self.folder.join(&segment.file);
            if std::fs::hard_link(&from, copy.path()).is_err() {
                // A file system without links, or too many of them.
                std::fs::copy(&from, copy.path()).map_err(|e| disk(&e))?;
                File::open(copy.path()).and_then(|f| f.sync_all()).map_err(|e| disk(&e))?;
            }
            new.push(copy);
        }
        self.sync_names()?;
        Ok(NewContent::Files(new))
    }

    /// A stream of the bytes of `content` in `range`. The error is that of a file that is gone: the object was replaced or
    /// removed after it was looked up.
    pub(super) async fn read(&self, content: Content, range: Range<u64>) -> Result<StreamingBlob, std::io::Error> {
        let length = range.end - range.start;
        let files = match content {
            Content::Inline(bytes) => {
                // An inline object is far smaller than usize.
                let part = bytes.slice(range.start as usize..range.end as usize);
                return Ok(StreamingBlob::wrap(futures_util::stream::iter([Ok::<_, std::io::Error>(part)])));
            }
            Content::Files(files) => files,
        };
        let mut reader = Reader { folder: self.folder(), files: files.into(), open: None, skip: range.start, left: length };
        // The first file is opened here, so that a failure can still be answered with a status.
        let (mut reader, first) = blocking::run(move || reader.next_block().map(|first| (reader, first))).await?;
        let (to, from) = mpsc::channel(2);
        tokio::spawn(async move {
            let mut block = Ok(first);
            while let Ok(Some(bytes)) = block {
                if to.send(Ok(bytes)).await.is_err() {
                    return; // The client has gone.
                }
                let next = blocking::run(move || {
                    let block = reader.next_block();
                    (reader, block)
                });
                (reader, block) = next.await;
            }
            if let Err(error) = block {
                // A broken connection tells the client that this is not the whole object.
                let _ = to.send(Err(error)).await;
            }
        });
        Ok(StreamingBlob::wrap(ReceiverStream::new(from)))
    }
}

/// Reads a row of files as if they were one.
struct Reader {
    folder: Arc<Path>,
    files: std::collections::VecDeque<Segment>,
    open: Option<(File, u64)>,
    skip: u64,
    left: u64,
}

impl Reader {
    fn next_block(&mut self) -> std::io::Result<Option<Bytes>> {
        if self.left == 0 {
            return Ok(None);
        }
        loop {
            if let Some((file, rest)) = self.open.as_mut().filter(|(_, rest)| *rest > 0) {
                let want = (*rest).min(self.left).min(BLOCK as u64) as usize;
                let mut block = BytesMut::zeroed(want);
                file.read_exact(&mut block)?;
                *rest -= want as u64;
                self.left -= want as u64;
                return Ok(Some(block.freeze()));
            }
            let Some(segment) = self.files.pop_front() else {
                return Err(std::io::Error::new(ErrorKind::UnexpectedEof, "the object has fewer bytes than the catalogue says"));
            };
            if self.skip >= segment.size {
                self.skip -= segment.size;
                continue;
            }
            let mut file = File::open(self.folder.join(&segment.file))?;
            file.seek(SeekFrom::Start(self.skip))?;
            self.open = Some((file, segment.size - self.skip));
            self.skip = 0;
        }
    }
}

/// A file being written.
struct Sink {
    file: File,
    new: NewFile,
}

type State = (Digester, Option<Sink>);

/// Hashes and writes one block while the next one arrives.
struct Intake {
    contents: Contents,
    size: u64,
    working: Option<JoinHandle<S3Result<State>>>,
    state: Option<State>,
}

impl Intake {
    async fn idle(&mut self) -> S3Result<State> {
        if let Some(working) = self.working.take() {
            return blocking::done(working).await;
        }
        self.state.take().ok_or_else(|| refuse(S3ErrorCode::InternalError, "an upload was continued after it failed"))
    }

    async fn take(&mut self, block: Bytes) -> S3Result<()> {
        let (mut digester, sink) = self.idle().await?;
        self.size += block.len() as u64;
        let contents = self.contents.clone();
        self.working = Some(spawn_blocking(move || {
            let mut sink = sink.map_or_else(|| contents.create(), Ok)?;
            write(&mut sink, &mut digester, &block)?;
            Ok((digester, Some(sink)))
        }));
        Ok(())
    }

    async fn finish(mut self, last: Bytes, may_inline: bool) -> S3Result<Received> {
        let (mut digester, sink) = self.idle().await?;
        let size = self.size + last.len() as u64;
        if sink.is_none() && may_inline && last.len() <= INLINE {
            digester.update(&last);
            return Ok(Received { content: NewContent::Inline(last), size, digests: digester.finish() });
        }
        let contents = self.contents.clone();
        let finished = blocking::run(move || {
            let mut sink = sink.map_or_else(|| contents.create(), Ok)?;
            write(&mut sink, &mut digester, &last)?;
            sink.file.sync_all().map_err(|e| disk(&e))?;
            contents.sync_names()?;
            sink.new.segment.size = size;
            Ok::<_, S3Error>((digester.finish(), sink.new))
        });
        let (digests, file) = finished.await?;
        Ok(Received { content: NewContent::Files(vec![file]), size, digests })
    }
}

fn write(sink: &mut Sink, digester: &mut Digester, block: &[u8]) -> S3Result<()> {
    sink.file.write_all(block).map_err(|e| disk(&e))?;
    digester.update(block);
    Ok(())
}

/// What a body that cannot be read to its end means. s3s keeps the types of these errors to itself, so their words decide.
fn broken_body(error: &(dyn std::error::Error + Send + Sync + 'static)) -> S3Error {
    let text = error.to_string();
    if text.contains("Sha256Mismatch") {
        let code = S3ErrorCode::Custom("XAmzContentSHA256Mismatch".into());
        let mut error = refuse(code, "the provided 'x-amz-content-sha256' header does not match what was computed");
        error.set_status_code(http::StatusCode::BAD_REQUEST);
        error
    } else if text.contains("SignatureMismatch") {
        refuse(S3ErrorCode::SignatureDoesNotMatch, "a chunk of the body is not signed as it should be")
    } else {
        refuse(S3ErrorCode::IncompleteBody, "the body did not arrive whole")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn all(mut blob: StreamingBlob) -> Vec<u8> {
        let mut bytes = Vec::new();
        while let Some(piece) = blob.next().await {
            bytes.extend_from_slice(&piece.unwrap());
        }
        bytes
    }

    async fn receive(contents: &Contents, bytes: Vec<u8>, may_inline: bool) -> Received {
        let body = StreamingBlob::wrap(futures_util::stream::iter(
            bytes.chunks(70_000).map(|c| Ok::<_, std::io::Error>(Bytes::copy_from_slice(c))).collect::<Vec<_>>(),
        ));
        contents.receive(Some(body), Some(bytes.len() as i64), &Claims::default(), may_inline).await.unwrap()
    }

    #[tokio::test]
    async fn ranges_over_several_files_are_read_as_one() {
        let folder = tempfile::tempdir().unwrap();
        let contents = Contents::open(folder.path().join("data")).unwrap();
        let (mut whole, mut files) = (Vec::new(), Vec::new());
        for n in 0..4_u32 {
            let part: Vec<u8> = (0..600_000 * n + 1).map(|i| (i / 7 + n) as u8).collect();
            let NewContent::Files(mut new) = receive(&contents, part.clone(), false).await.content else { panic!("inline") };
            whole.extend(part);
            files.push(new.pop().unwrap());
        }
        let segments: Vec<Segment> = files.iter().map(|f| f.segment.clone()).collect();
        let size = whole.len() as u64;
        for range in [0..size, 0..1, 1..2, 1..600_002, 600_001..600_003, size - 1..size, 5..5] {
            let got = all(contents.read(Content::Files(segments.clone()), range.clone()).await.unwrap()).await;
            assert!(got == whole[range.start as usize..range.end as usize], "{range:?}");
        }
    }

    #[tokio::test]
    async fn what_is_not_kept_is_gone() {
        let folder = tempfile::tempdir().unwrap();
        let contents = Contents::open(folder.path().join("data")).unwrap();
        let count = || std::fs::read_dir(folder.path().join("data")).unwrap().count();
        let received = receive(&contents, vec![1; INLINE + 1], true).await;
        assert_eq!(count(), 1);
        drop(received);
        assert_eq!(count(), 0);
        assert!(matches!(receive(&contents, vec![1; INLINE], true).await.content, NewContent::Inline(_)));
        std::fs::write(folder.path().join("data/leftover"), b"x").unwrap();
        assert_eq!(contents.sweep(&HashSet::new()).unwrap(), 1);
        assert_eq!(count(), 0);
    }
}
