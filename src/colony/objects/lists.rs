//! Listings of buckets, objects and unfinished uploads.

use crate::colony::objects::error::catalogue as failed;
use crate::colony::objects::error::refuse;
use crate::colony::objects::listing;
use crate::colony::objects::listing::PAGE;
use crate::colony::objects::listing::Page;
use crate::colony::objects::listing::Query;
use crate::colony::objects::listing::encoded;
use crate::colony::objects::records::require_bucket;
use crate::colony::objects::records::strong;
use crate::colony::objects::service::Endpoint;
use crate::colony::objects::service::length;
use crate::colony::objects::service::timestamp;
use s3s::S3ErrorCode;
use s3s::S3Result;
use s3s::dto::*;

struct Entry {
    key: String,
    size: i64,
    etag: String,
    modified: i64,
}

/// All buckets, by name.
pub(super) async fn buckets(endpoint: &Endpoint) -> S3Result<ListBucketsOutput> {
    let buckets = endpoint
        .catalogue
        .read(|db| {
            let bucket = |row: &rusqlite::Row<'_>| Ok((row.get(0)?, row.get(1)?));
            let all =
                |mut q: rusqlite::CachedStatement<'_>| q.query_map([], bucket)?.collect::<rusqlite::Result<Vec<(String, i64)>>>();
            db.prepare_cached("SELECT name, made FROM buckets ORDER BY name").and_then(all).map_err(|e| failed(&e))
        })
        .await?;
    let bucket = |(name, made)| Bucket { name: Some(name), creation_date: Some(timestamp(made)), ..Default::default() };
    let owner = Owner { display_name: Some("local".into()), id: Some("local".into()) };
    Ok(ListBucketsOutput { buckets: Some(buckets.into_iter().map(bucket).collect()), owner: Some(owner), ..Default::default() })
}

/// The second version of listing objects.
pub(super) async fn objects_v2(endpoint: &Endpoint, input: ListObjectsV2Input) -> S3Result<ListObjectsV2Output> {
    let limit = page_size(input.max_keys)?;
    let mut query = Query {
        prefix: input.prefix.clone().unwrap_or_default(),
        delimiter: input.delimiter.clone(),
        from: String::new(),
        limit,
    };
    if let Some(token) = input.continuation_token.as_deref().filter(|t| !t.is_empty()) {
        let from = hex::decode(token).ok().and_then(|bytes| String::from_utf8(bytes).ok());
        query.from = from.ok_or_else(|| refuse(S3ErrorCode::InvalidArgument, "the continuation token is not one of ours"))?;
    } else if let Some(after) = input.start_after.as_deref().filter(|a| !a.is_empty()) {
        query.from = format!("{after}\0");
    }
    let page = read_page(endpoint, input.bucket.clone(), query).await?;
    let url = by_url(input.encoding_type.as_ref());
    Ok(ListObjectsV2Output {
        name: Some(input.bucket),
        key_count: i32::try_from(page.entries.len() + page.prefixes.len()).ok(),
        max_keys: i32::try_from(limit).ok(),
        is_truncated: Some(page.next.is_some()),
        next_continuation_token: page.next.as_ref().map(hex::encode),
        continuation_token: input.continuation_token,
        prefix: Some(encoded(&input.prefix.unwrap_or_default(), url)),
        delimiter: input.delimiter.map(|d| encoded(&d, url)),
        start_after: input.start_after.map(|a| encoded(&a, url)),
        encoding_type: input.encoding_type,
        common_prefixes: Some(common_prefixes(page.prefixes, url)),
        contents: Some(page.entries.into_iter().map(|e| object(e, url)).collect()),
        ..Default::default()
    })
}

/// The first version of listing objects.
pub(super) async fn objects_v1(endpoint: &Endpoint, input: ListObjectsInput) -> S3Result<ListObjectsOutput> {
    let limit = page_size(input.max_keys)?;
    let mut query = Query {
        prefix: input.prefix.clone().unwrap_or_default(),
        delimiter: input.delimiter.clone(),
        from: String::new(),
        limit,
    };
    if let Some(marker) = input.marker.as_deref().filter(|m| !m.is_empty()) {
        query.from = listing::behind(marker, &query);
    }
    let page = read_page(endpoint, input.bucket.clone(), query).await?;
    let url = by_url(input.encoding_type.as_ref());
    Ok(ListObjectsOutput {
        name: Some(input.bucket),
        max_keys: i32::try_from(limit).ok(),
        is_truncated: Some(page.next.is_some()),
        next_marker: page.next.as_ref().and(page.last).map(|m| encoded(&m, url)),
        marker: Some(encoded(&input.marker.unwrap_or_default(), url)),
        prefix: Some(encoded(&input.prefix.unwrap_or_default(), url)),
        delimiter: input.delimiter.map(|d| encoded(&d, url)),
        encoding_type: input.encoding_type,
        common_prefixes: Some(common_prefixes(page.prefixes, url)),
        contents: Some(page.entries.into_iter().map(|e| object(e, url)).collect()),
        ..Default::default()
    })
}

/// Uploads that were begun and neither completed nor aborted, by key and id.
pub(super) async fn uploads(endpoint: &Endpoint, input: ListMultipartUploadsInput) -> S3Result<ListMultipartUploadsOutput> {
    if input.delimiter.as_deref().is_some_and(|d| !d.is_empty()) {
        return Err(refuse(S3ErrorCode::NotImplemented, "uploads are not grouped by a delimiter here"));
    }
    let limit = page_size(input.max_uploads)?;
    let (bucket, prefix) = (input.bucket.clone(), input.prefix.clone().unwrap_or_default());
    let after = input.key_marker.clone().unwrap_or_default();
    // Without an id the marker stands behind all uploads of its key.
    let after_id = input.upload_id_marker.clone().filter(|id| !id.is_empty()).unwrap_or_else(|| "\u{10ffff}".into());
    let mut found = endpoint
        .catalogue
        .read(move |db| {
            require_bucket(db, &bucket)?;
            let sql = "SELECT key, id, begun FROM uploads
                       WHERE bucket = ?1 AND (key, id) > (?2, ?3) AND substr(key, 1, length(?4)) = ?4 ORDER BY key, id LIMIT ?5";
            let upload = |row: &rusqlite::Row<'_>| Ok((row.get(0)?, row.get(1)?, row.get(2)?));
            let after_id = if after.is_empty() { String::new() } else { after_id };
            let limit = i64::try_from(limit + 1).unwrap_or(i64::MAX);
            let values = rusqlite::params![bucket, after, after_id, prefix, limit];
            let all = |mut q: rusqlite::CachedStatement<'_>| {
                q.query_map(values, upload)?.collect::<rusqlite::Result<Vec<(String, String, i64)>>>()
            };
            db.prepare_cached(sql).and_then(all).map_err(|e| failed(&e))
        })
        .await?;
    let more = found.len() > limit;
    found.truncate(limit);
    let last = found.last().filter(|_| more).cloned();
    let url = by_url(input.encoding_type.as_ref());
    let upload = |(key, id, begun): (String, String, i64)| MultipartUpload {
        key: Some(encoded(&key, url)),
        upload_id: Some(id),
        initiated: Some(timestamp(begun)),
        ..Default::default()
    };
    Ok(ListMultipartUploadsOutput {
        bucket: Some(input.bucket),
        prefix: Some(encoded(&input.prefix.unwrap_or_default(), url)),
        key_marker: Some(encoded(&input.key_marker.unwrap_or_default(), url)),
        upload_id_marker: Some(input.upload_id_marker.unwrap_or_default()),
        max_uploads: i32::try_from(limit).ok(),
        is_truncated: Some(more),
        next_key_marker: last.as_ref().map(|l| encoded(&l.0, url)),
        next_upload_id_marker: last.map(|l| l.1),
        encoding_type: input.encoding_type,
        uploads: Some(found.into_iter().map(upload).collect()),
        ..Default::default()
    })
}

async fn read_page(endpoint: &Endpoint, bucket: String, query: Query) -> S3Result<Page<Entry>> {
    endpoint
        .catalogue
        .read(move |db| {
            require_bucket(db, &bucket)?;
            let sql = "SELECT key, size, etag, modified FROM objects WHERE bucket = ? AND key >= ? ORDER BY key LIMIT ?";
            let mut rows = db.prepare_cached(sql).map_err(|e| failed(&e))?;
            let entry = |row: &rusqlite::Row<'_>| {
                Ok(Entry { key: row.get(0)?, size: row.get(1)?, etag: row.get(2)?, modified: row.get(3)? })
            };
            listing::page(
                &query,
                |entry: &Entry| &entry.key,
                |from, count| {
                    let count = i64::try_from(count).unwrap_or(i64::MAX);
                    let found = rows.query_map(rusqlite::params![bucket, from, count], entry);
                    found.and_then(Iterator::collect).map_err(|e| failed(&e))
                },
            )
        })
        .await
}

/// # Errors
/// `InvalidArgument` for a negative number.
pub(super) fn page_size(asked: Option<i32>) -> S3Result<usize> {
    let asked = usize::try_from(asked.unwrap_or(i32::MAX));
    let asked = asked.map_err(|_| refuse(S3ErrorCode::InvalidArgument, "the size of a page cannot be negative"))?;
    Ok(asked.min(PAGE))
}

fn by_url(encoding: Option<&EncodingType>) -> bool {
    encoding.is_some_and(|e| e.as_str() == EncodingType::URL)
}

fn common_prefixes(prefixes: Vec<String>, url: bool) -> Vec<CommonPrefix> {
    prefixes.into_iter().map(|p| CommonPrefix { prefix: Some(encoded(&p, url)) }).collect()
}

fn object(entry: Entry, url: bool) -> Object {
    Object {
        key: Some(encoded(&entry.key, url)),
        size: length(entry.size.cast_unsigned()),
        e_tag: Some(strong(&entry.etag)),
        last_modified: Some(timestamp(entry.modified)),
        storage_class: Some(ObjectStorageClass::from_static(ObjectStorageClass::STANDARD)),
        ..Default::default()
    }
}
