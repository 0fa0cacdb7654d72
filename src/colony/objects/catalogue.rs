//! The catalogue of the S3 endpoint: buckets, objects and unfinished uploads, in one SQLite database.
//!
//! One thread writes, and takes as many changes into one transaction as are waiting: many small objects at once share the
//! durable write. Reading goes on beside it.

use crate::blocking;
use crate::colony::objects::content::NewContent;
use crate::colony::objects::content::NewFile;
use crate::colony::objects::content::remove;
use crate::colony::objects::error::Error;
use crate::colony::objects::error::catalogue as failed;
use crate::colony::objects::error::refuse;
use crate::sqlite;
use crate::sqlite::Durability;
use rusqlite::Connection;
use rusqlite::Transaction;
use rusqlite::TransactionBehavior;
use s3s::S3Error;
use s3s::S3ErrorCode;
use s3s::S3Result;
use std::collections::HashSet;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;
use tokio::sync::mpsc;
use tokio::sync::oneshot;

const MIGRATIONS: &[&str] = &["
CREATE TABLE buckets (name TEXT PRIMARY KEY, made INTEGER NOT NULL) STRICT;
-- `about` is JSON: user metadata, headers, checksums. `files` is a JSON list, NULL where `inline` holds the bytes.
CREATE TABLE objects (
  bucket TEXT NOT NULL REFERENCES buckets(name),
  key TEXT NOT NULL,
  size INTEGER NOT NULL,
  etag TEXT NOT NULL,
  modified INTEGER NOT NULL,
  about TEXT NOT NULL,
  files TEXT,
  inline BLOB,
  UNIQUE (bucket, key)
) STRICT;
CREATE TABLE uploads (
  id TEXT PRIMARY KEY,
  bucket TEXT NOT NULL REFERENCES buckets(name),
  key TEXT NOT NULL,
  begun INTEGER NOT NULL,
  about TEXT NOT NULL
) STRICT;
CREATE INDEX uploads_by_key ON uploads (bucket, key, id);
CREATE TABLE parts (
  upload TEXT NOT NULL REFERENCES uploads(id) ON DELETE CASCADE,
  number INTEGER NOT NULL,
  size INTEGER NOT NULL,
  etag TEXT NOT NULL,
  modified INTEGER NOT NULL,
  sums TEXT NOT NULL,
  file TEXT NOT NULL,
  PRIMARY KEY (upload, number)
) STRICT;
"];

/// How many changes may share a transaction.
const BATCH: usize = 256;

/// What a change has come to, if its transaction can be committed.
pub(super) struct Change<T> {
    pub(super) value: T,
    /// Files that the catalogue names from now on.
    pub(super) kept: Vec<NewFile>,
    /// Files that it no longer names.
    pub(super) dropped: Vec<String>,
}

impl<T> Change<T> {
    pub(super) fn of(value: T) -> Change<T> {
        Change { value, kept: Vec::new(), dropped: Vec::new() }
    }

    /// Takes the files of `content` into the catalogue's care; gives the columns `files` and `inline`.
    pub(super) fn keep(&mut self, content: NewContent) -> S3Result<(Option<String>, Option<Vec<u8>>)> {
        match content {
            NewContent::Inline(bytes) => Ok((None, Some(bytes.to_vec()))),
            NewContent::Files(files) => {
                let segments: Vec<_> = files.iter().map(|f| &f.segment).collect();
                let text = serde_json::to_string(&segments).map_err(S3Error::internal_error)?;
                self.kept.extend(files);
                Ok((Some(text), None))
            }
        }
    }
}

/// Called with whether the transaction was committed.
type Settle = Box<dyn FnOnce(bool) + Send>;
type Job = Box<dyn FnOnce(&Transaction<'_>) -> Settle + Send>;

/// The catalogue. Clones share it.
#[derive(Clone)]
pub(super) struct Catalogue {
    path: Arc<Path>,
    data: Arc<Path>,
    jobs: mpsc::UnboundedSender<Job>,
    readers: Arc<Mutex<Vec<Connection>>>,
}

impl Catalogue {
    /// Opens the database at `path`; files of objects are in `data`. The receiver fires when the
    /// last change is written, after the last clone was dropped.
    pub(super) fn open(path: PathBuf, data: Arc<Path>) -> Result<(Catalogue, oneshot::Receiver<()>), Error> {
        let writer = sqlite::open(&path, Durability::Full, MIGRATIONS)?;
        let (jobs, queue) = mpsc::unbounded_channel();
        let (end, ended) = oneshot::channel();
        let thread = std::thread::Builder::new().name("objects".into()).spawn(move || {
            write_all(writer, queue);
            // Nobody waits where the endpoint was dropped instead of stopped.
            let _ = end.send(());
        });
        thread.map_err(|source| Error::Folder { path: path.clone(), source })?;
        Ok((Catalogue { path: path.into(), data, jobs, readers: Arc::default() }, ended))
    }

    /// The names of all files that objects and parts consist of.
    pub(super) fn named_files(&self) -> Result<HashSet<String>, Error> {
        let sql = "SELECT json_extract(f.value, '$.file') FROM objects, json_each(objects.files) f WHERE files IS NOT NULL
                   UNION ALL SELECT file FROM parts";
        let db = sqlite::open(&self.path, Durability::Full, MIGRATIONS)?;
        let names = || db.prepare(sql)?.query_map([], |row| row.get(0))?.collect::<rusqlite::Result<HashSet<String>>>();
        names().map_err(|source| Error::Read { path: self.path.to_path_buf(), source })
    }

    /// Looks something up, on a thread that may block.
    pub(super) async fn read<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Connection) -> S3Result<T> + Send + 'static,
    ) -> S3Result<T> {
        let (path, readers) = (Arc::clone(&self.path), Arc::clone(&self.readers));
        let read = blocking::run(move || {
            let ready = readers.lock().unwrap_or_else(PoisonError::into_inner).pop();
            let db = match ready {
                Some(db) => db,
                None => sqlite::open(&path, Durability::Full, MIGRATIONS).map_err(S3Error::internal_error)?,
            };
            let found = work(&db);
            readers.lock().unwrap_or_else(PoisonError::into_inner).push(db);
            found
        });
        read.await
    }

    /// Changes something. When this returns without an error the change is durable; with one, nothing has changed.
    /// It happens (or not) as a whole also when the caller goes away.
    pub(super) async fn write<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Transaction<'_>) -> S3Result<Change<T>> + Send + 'static,
    ) -> S3Result<T> {
        let (reply, answer) = oneshot::channel();
        let data = Arc::clone(&self.data);
        let job: Job = Box::new(move |tx| {
            let change = apart(tx, work);
            Box::new(move |committed| {
                let outcome = match change {
                    Ok(change) if committed => {
                        change.kept.into_iter().for_each(NewFile::keep);
                        change.dropped.iter().for_each(|file| remove(&data, file));
                        Ok(change.value)
                    }
                    Ok(_) => Err(refuse(S3ErrorCode::InternalError, "the change could not be made durable")),
                    Err(error) => Err(error),
                };
                // Nobody waits any more where the client has gone; the change stands all the same.
                let _ = reply.send(outcome);
            })
        });
        let stopped = || refuse(S3ErrorCode::ServiceUnavailable, "the local colony is stopping");
        self.jobs.send(job).map_err(|_| stopped())?;
        answer.await.map_err(|_| stopped())?
    }
}

/// Runs one change so that it leaves nothing behind when it fails.
fn apart<T>(tx: &Transaction<'_>, work: impl FnOnce(&Transaction<'_>) -> S3Result<Change<T>>) -> S3Result<Change<T>> {
    tx.execute_batch("SAVEPOINT change").map_err(|e| failed(&e))?;
    let change = work(tx);
    let end = if change.is_ok() { "RELEASE change" } else { "ROLLBACK TO change; RELEASE change" };
    tx.execute_batch(end).map_err(|e| failed(&e))?;
    change
}

fn write_all(mut db: Connection, mut queue: mpsc::UnboundedReceiver<Job>) {
    while let Some(first) = queue.blocking_recv() {
        let mut batch = vec![first];
        while batch.len() < BATCH
            && let Ok(next) = queue.try_recv()
        {
            batch.push(next);
        }
        let mut settle: Vec<Settle> = Vec::with_capacity(batch.len());
        let committed = commit(&mut db, batch, &mut settle);
        if let Err(error) = &committed {
            tracing::error!(%error, "changes of objects could not be committed");
        }
        for settle in settle {
            settle(committed.is_ok());
        }
    }
}

fn commit(db: &mut Connection, batch: Vec<Job>, settle: &mut Vec<Settle>) -> rusqlite::Result<()> {
    // Where the transaction cannot begin the jobs are dropped, and their callers told that nobody will answer.
    let tx = db.transaction_with_behavior(TransactionBehavior::Immediate)?;
    settle.extend(batch.into_iter().map(|job| job(&tx)));
    tx.commit()
}

/// The time now, in milliseconds since 1970.
pub(super) fn now() -> i64 {
    jiff::Timestamp::now().as_millisecond()
}
