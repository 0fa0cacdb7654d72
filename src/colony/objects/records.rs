//! Rows of the catalogue: objects, unfinished uploads and their parts.

use crate::colony::objects::catalogue::Change;
use crate::colony::objects::catalogue::now;
use crate::colony::objects::content::Content;
use crate::colony::objects::content::NewContent;
use crate::colony::objects::content::Segment;
use crate::colony::objects::digest::Algorithm;
use crate::colony::objects::digest::Sums;
use crate::colony::objects::error::catalogue as failed;
use crate::colony::objects::error::refuse;
use rusqlite::Connection;
use rusqlite::OptionalExtension;
use rusqlite::Row;
use rusqlite::Transaction;
use rusqlite::params;
use s3s::S3Error;
use s3s::S3ErrorCode;
use s3s::S3Result;
use s3s::dto::ETag;
use s3s::dto::ETagCondition;
use serde::Deserialize;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::collections::BTreeMap;

/// What is known about an object besides its bytes.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct About {
    pub(super) content_type: Option<String>,
    pub(super) cache_control: Option<String>,
    pub(super) content_disposition: Option<String>,
    pub(super) content_encoding: Option<String>,
    pub(super) content_language: Option<String>,
    pub(super) metadata: BTreeMap<String, String>,
    pub(super) sums: Sums,
    /// Whether `sums` are over the checksums of parts.
    pub(super) composite: bool,
}

/// An object as the catalogue has it.
#[derive(Clone, Debug)]
pub(super) struct Object {
    pub(super) size: u64,
    pub(super) etag: String,
    /// Milliseconds since 1970.
    pub(super) modified: i64,
    pub(super) about: About,
    pub(super) content: Content,
}

/// An object that is about to be stored.
pub(super) struct NewObject {
    pub(super) bucket: String,
    pub(super) key: String,
    pub(super) size: u64,
    pub(super) etag: String,
    pub(super) about: About,
    pub(super) content: NewContent,
    pub(super) conditions: Conditions,
}

/// Under which conditions an object may be written.
#[derive(Clone, Debug, Default)]
pub(super) struct Conditions {
    pub(super) if_match: Option<ETagCondition>,
    pub(super) if_none_match: Option<ETagCondition>,
}

/// An unfinished upload.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct UploadAbout {
    pub(super) object: About,
    pub(super) algorithm: Option<Algorithm>,
    /// The checksum is one over the whole object, not over the parts' checksums.
    pub(super) full_object: bool,
}

/// A part of an unfinished upload.
#[derive(Clone, Debug)]
pub(super) struct Part {
    pub(super) number: i32,
    pub(super) size: u64,
    pub(super) etag: String,
    /// Milliseconds since 1970.
    pub(super) modified: i64,
    pub(super) sums: Sums,
    pub(super) file: String,
}

/// Whether an ETag is what a condition asks for.
pub(super) fn matches(condition: &ETagCondition, etag: &str) -> bool {
    match condition {
        ETagCondition::Any => true,
        ETagCondition::ETag(tag) => tag.value() == etag,
    }
}

pub(super) fn strong(etag: &str) -> ETag {
    ETag::Strong(etag.to_owned())
}

pub(super) fn json<T: Serialize>(value: &T) -> S3Result<String> {
    serde_json::to_string(value).map_err(S3Error::internal_error)
}

fn from_json<T: DeserializeOwned>(text: &str) -> S3Result<T> {
    serde_json::from_str(text).map_err(S3Error::internal_error)
}

pub(super) fn no_such_key() -> S3Error {
    refuse(S3ErrorCode::NoSuchKey, "the specified key does not exist")
}

/// # Errors
/// `NoSuchBucket`.
pub(super) fn require_bucket(db: &Connection, bucket: &str) -> S3Result<()> {
    let found = db.prepare_cached("SELECT 1 FROM buckets WHERE name = ?").and_then(|mut q| q.exists([bucket]));
    if found.map_err(|e| failed(&e))? {
        return Ok(());
    }
    Err(refuse(S3ErrorCode::NoSuchBucket, "the specified bucket does not exist"))
}

/// The object under a key.
///
/// # Errors
/// `NoSuchBucket`.
pub(super) fn find(db: &Connection, bucket: &str, key: &str) -> S3Result<Option<Object>> {
    type Columns = (i64, String, i64, String, Option<String>, Option<Vec<u8>>);
    let sql = "SELECT size, etag, modified, about, files, inline FROM objects WHERE bucket = ? AND key = ?";
    let columns = |row: &Row<'_>| -> rusqlite::Result<Columns> {
        Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?, row.get(5)?))
    };
    let found = db.prepare_cached(sql).and_then(|mut q| q.query_row([bucket, key], columns).optional());
    let Some((size, etag, modified, about, files, inline)) = found.map_err(|e| failed(&e))? else {
        require_bucket(db, bucket)?;
        return Ok(None);
    };
    let content = match files {
        Some(files) => Content::Files(from_json(&files)?),
        None => Content::Inline(inline.unwrap_or_default().into()),
    };
    Ok(Some(Object { size: size.cast_unsigned(), etag, modified, about: from_json(&about)?, content }))
}

/// Stores an object in the place of what is there.
///
/// # Errors
/// `NoSuchBucket`, `PreconditionFailed`, `NoSuchKey` (If-Match on nothing), `NotImplemented` (If-None-Match other than `*`).
pub(super) fn store(tx: &Transaction<'_>, new: NewObject) -> S3Result<Change<()>> {
    require_bucket(tx, &new.bucket)?;
    let etag = tx
        .prepare_cached("SELECT etag FROM objects WHERE bucket = ? AND key = ?")
        .and_then(|mut q| q.query_row([&new.bucket, &new.key], |row| row.get::<_, String>(0)).optional())
        .map_err(|e| failed(&e))?;
    check(&new.conditions, etag.as_deref())?;
    let mut change = Change::of(());
    if etag.is_some() {
        change.dropped = delete(tx, &new.bucket, &new.key)?;
    }
    let (files, inline) = change.keep(new.content)?;
    let values = params![new.bucket, new.key, new.size.cast_signed(), new.etag, now(), json(&new.about)?, files, inline];
    tx.prepare_cached("INSERT INTO objects (bucket, key, size, etag, modified, about, files, inline) VALUES (?,?,?,?,?,?,?,?)")
        .and_then(|mut q| q.execute(values))
        .map_err(|e| failed(&e))?;
    Ok(change)
}

fn check(conditions: &Conditions, etag: Option<&str>) -> S3Result<()> {
    let not_met = || refuse(S3ErrorCode::PreconditionFailed, "at least one of the preconditions you specified did not hold");
    match &conditions.if_none_match {
        None => {}
        Some(ETagCondition::Any) if etag.is_some() => return Err(not_met()),
        Some(ETagCondition::Any) => {}
        Some(_) => return Err(refuse(S3ErrorCode::NotImplemented, "If-None-Match takes only * for a write")),
    }
    match (&conditions.if_match, etag) {
        (None, _) => Ok(()),
        (Some(_), None) => Err(no_such_key()),
        (Some(condition), Some(etag)) if matches(condition, etag) => Ok(()),
        _ => Err(not_met()),
    }
}

/// Removes an object, if there is one. Gives the files that nobody names any more.
pub(super) fn delete(tx: &Transaction<'_>, bucket: &str, key: &str) -> S3Result<Vec<String>> {
    let gone = tx
        .prepare_cached("DELETE FROM objects WHERE bucket = ? AND key = ? RETURNING files")
        .and_then(|mut q| q.query_row([bucket, key], |row| row.get::<_, Option<String>>(0)).optional());
    let files: Option<Vec<Segment>> = gone.map_err(|e| failed(&e))?.flatten().map(|text| from_json(&text)).transpose()?;
    Ok(files.into_iter().flatten().map(|segment| segment.file).collect())
}

/// # Errors
/// `NoSuchUpload`.
pub(super) fn find_upload(db: &Connection, bucket: &str, key: &str, id: &str) -> S3Result<UploadAbout> {
    let sql = "SELECT about FROM uploads WHERE id = ? AND bucket = ? AND key = ?";
    let found = db.prepare_cached(sql).and_then(|mut q| q.query_row([id, bucket, key], |row| row.get::<_, String>(0)).optional());
    match found.map_err(|e| failed(&e))? {
        Some(about) => from_json(&about),
        None => {
            require_bucket(db, bucket)?;
            Err(refuse(S3ErrorCode::NoSuchUpload, "the upload does not exist: it was completed or aborted, or its id is wrong"))
        }
    }
}

/// The parts of an upload with numbers above `after`, `limit` at most.
pub(super) fn parts(db: &Connection, id: &str, after: i32, limit: usize) -> S3Result<Vec<Part>> {
    let sql =
        "SELECT number, size, etag, modified, sums, file FROM parts WHERE upload = ? AND number > ? ORDER BY number LIMIT ?";
    let part = |row: &Row<'_>| {
        let size: i64 = row.get(1)?;
        let sums = row.get::<_, String>(4)?;
        let part = Part {
            number: row.get(0)?,
            size: size.cast_unsigned(),
            etag: row.get(2)?,
            modified: row.get(3)?,
            sums: Sums::new(),
            file: row.get(5)?,
        };
        Ok((part, sums))
    };
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let found = db
        .prepare_cached(sql)
        .and_then(|mut q| q.query_map(params![id, after, limit], part)?.collect::<rusqlite::Result<Vec<_>>>());
    found.map_err(|e| failed(&e))?.into_iter().map(|(part, sums)| Ok(Part { sums: from_json(&sums)?, ..part })).collect()
}
