//! Uploads in parts: begun, filled by bytes or by ranges of other objects, and joined by the catalogue alone: the parts'
//! files become the object's, and no byte is copied.

use crate::colony::objects::catalogue::Change;
use crate::colony::objects::catalogue::now;
use crate::colony::objects::content::Content;
use crate::colony::objects::content::NewContent;
use crate::colony::objects::content::Received;
use crate::colony::objects::content::Segment;
use crate::colony::objects::digest::Algorithm;
use crate::colony::objects::digest::Claims;
use crate::colony::objects::digest::Sums;
use crate::colony::objects::digest::claimed_sums;
use crate::colony::objects::digest::composite;
use crate::colony::objects::digest::joined_etag;
use crate::colony::objects::error::catalogue as failed;
use crate::colony::objects::error::disk;
use crate::colony::objects::error::refuse;
use crate::colony::objects::lists::page_size;
use crate::colony::objects::records;
use crate::colony::objects::records::About;
use crate::colony::objects::records::Conditions;
use crate::colony::objects::records::NewObject;
use crate::colony::objects::records::Part as PartRow;
use crate::colony::objects::records::UploadAbout;
use crate::colony::objects::records::json;
use crate::colony::objects::records::strong;
use crate::colony::objects::service::Endpoint;
use crate::colony::objects::service::Reading;
use crate::colony::objects::service::about;
use crate::colony::objects::service::checked_metadata;
use crate::colony::objects::service::length;
use crate::colony::objects::service::stored_encoding;
use crate::colony::objects::service::timestamp;
use crate::colony::objects::service::with_sums;
use rusqlite::OptionalExtension;
use rusqlite::Transaction;
use rusqlite::params;
use s3s::S3ErrorCode;
use s3s::S3Request;
use s3s::S3Result;
use s3s::dto::*;
use std::ops::Range;

/// S3's smallest size of a part that is not the last, in bytes.
const SMALLEST_PART: u64 = 5 * 1024 * 1024;

/// S3's largest size of a part, in bytes.
const LARGEST_PART: u64 = 5 * 1024 * 1024 * 1024;

/// S3's limit on the number of parts.
const MAX_PARTS: i32 = 10_000;

pub(super) async fn create(endpoint: &Endpoint, mut input: CreateMultipartUploadInput) -> S3Result<CreateMultipartUploadOutput> {
    let object = about!(input);
    let algorithm = match &input.checksum_algorithm {
        None => None,
        Some(named) => Some(
            Algorithm::named(named.as_str())
                .ok_or_else(|| refuse(S3ErrorCode::InvalidRequest, "the checksum algorithm is unknown"))?,
        ),
    };
    let full_object = input.checksum_type.as_ref().is_some_and(|t| t.as_str() == ChecksumType::FULL_OBJECT);
    let about = json(&UploadAbout { object, algorithm, full_object })?;
    let mut random = [0_u8; 24];
    getrandom::fill(&mut random).map_err(|e| refuse(S3ErrorCode::InternalError, format!("no random numbers: {e}")))?;
    let id = hex::encode(random);
    let (bucket, key, upload_id) = (input.bucket.clone(), input.key.clone(), id.clone());
    endpoint
        .catalogue
        .write(move |tx| {
            records::require_bucket(tx, &bucket)?;
            let sql = "INSERT INTO uploads (id, bucket, key, begun, about) VALUES (?,?,?,?,?)";
            tx.execute(sql, params![upload_id, bucket, key, now(), about]).map_err(|e| failed(&e))?;
            Ok(Change::of(()))
        })
        .await?;
    Ok(CreateMultipartUploadOutput {
        bucket: Some(input.bucket),
        key: Some(input.key),
        upload_id: Some(id),
        checksum_algorithm: input.checksum_algorithm,
        checksum_type: input.checksum_type,
        ..Default::default()
    })
}

async fn find_upload(endpoint: &Endpoint, bucket: &str, key: &str, id: &str) -> S3Result<UploadAbout> {
    let (bucket, key, id) = (bucket.to_owned(), key.to_owned(), id.to_owned());
    endpoint.catalogue.read(move |db| records::find_upload(db, &bucket, &key, &id)).await
}

fn check_number(number: i32) -> S3Result<()> {
    if (1..=MAX_PARTS).contains(&number) {
        return Ok(());
    }
    Err(refuse(S3ErrorCode::InvalidArgument, "the part number must be between 1 and 10000"))
}

pub(super) async fn upload(endpoint: &Endpoint, req: S3Request<UploadPartInput>) -> S3Result<UploadPartOutput> {
    let input = req.input;
    check_number(input.part_number)?;
    // Before the body is read: an upload that is gone is refused without taking its bytes.
    let about = find_upload(endpoint, &input.bucket, &input.key, &input.upload_id).await?;
    let claims = Claims::read(&req.headers)?.and(about.algorithm);
    let received = endpoint.contents.receive(input.body, input.content_length, &claims, false).await?;
    claims.verify(&received.digests, req.trailing_headers)?;
    let (etag, sums) = keep_part(endpoint, input.bucket, input.key, input.upload_id, input.part_number, received).await?;
    let mut reply = UploadPartOutput { e_tag: Some(strong(&etag)), ..Default::default() };
    with_sums!(reply, &sums);
    Ok(reply)
}

pub(super) async fn copy(endpoint: &Endpoint, input: UploadPartCopyInput) -> S3Result<UploadPartCopyOutput> {
    check_number(input.part_number)?;
    let about = find_upload(endpoint, &input.bucket, &input.key, &input.upload_id).await?;
    let conditions = Reading {
        if_match: input.copy_source_if_match,
        if_none_match: input.copy_source_if_none_match,
        if_modified_since: input.copy_source_if_modified_since,
        if_unmodified_since: input.copy_source_if_unmodified_since,
    };
    let object = endpoint.copy_source(&input.copy_source, &conditions).await?;
    let range = match input.copy_source_range.as_deref() {
        Some(text) => copy_range(text, object.size)?,
        None => 0..object.size,
    };
    let size = range.end - range.start;
    if size > LARGEST_PART {
        return Err(refuse(S3ErrorCode::InvalidRequest, "a part has at most 5 GiB"));
    }
    let body = endpoint.contents.read(object.content, range).await.map_err(|e| disk(&e))?;
    let claims = Claims::default().and(about.algorithm);
    let received = endpoint.contents.receive(Some(body), length(size), &claims, false).await?;
    let (etag, sums) = keep_part(endpoint, input.bucket, input.key, input.upload_id, input.part_number, received).await?;
    let mut result = CopyPartResult { e_tag: Some(strong(&etag)), last_modified: Some(timestamp(now())), ..Default::default() };
    with_sums!(result, &sums);
    Ok(UploadPartCopyOutput { copy_part_result: Some(result), ..Default::default() })
}

/// `bytes=first-last`, both given and inside the object, as S3 wants it for copies.
fn copy_range(text: &str, size: u64) -> S3Result<Range<u64>> {
    let numbers = text.strip_prefix("bytes=").and_then(|r| r.split_once('-'));
    let numbers = numbers.and_then(|(first, last)| Some((first.parse::<u64>().ok()?, last.parse::<u64>().ok()?)));
    match numbers {
        Some((first, last)) if first <= last && last < size => Ok(first..last + 1),
        Some((first, last)) if first <= last => {
            Err(refuse(S3ErrorCode::InvalidArgument, format!("range {text} is not valid for a source object of {size} bytes")))
        }
        _ => Err(refuse(S3ErrorCode::InvalidArgument, "the x-amz-copy-source-range must be of the form bytes=first-last")),
    }
}

async fn keep_part(
    endpoint: &Endpoint,
    bucket: String,
    key: String,
    id: String,
    number: i32,
    received: Received,
) -> S3Result<(String, Sums)> {
    let etag = hex::encode(&received.digests.md5);
    let NewContent::Files(mut files) = received.content else {
        return Err(refuse(S3ErrorCode::InternalError, "a part did not become a file"));
    };
    let file = files.pop().ok_or_else(|| refuse(S3ErrorCode::InternalError, "a part did not become a file"))?;
    let (reply, sums) = ((etag.clone(), received.digests.sums.clone()), json(&received.digests.sums)?);
    endpoint
        .catalogue
        .write(move |tx| {
            // It may have been completed or aborted while the bytes came.
            records::find_upload(tx, &bucket, &key, &id)?;
            let mut change = Change::of(());
            let old = tx
                .prepare_cached("DELETE FROM parts WHERE upload = ? AND number = ? RETURNING file")
                .and_then(|mut q| q.query_row(params![id, number], |row| row.get::<_, String>(0)).optional());
            change.dropped.extend(old.map_err(|e| failed(&e))?);
            let sql = "INSERT INTO parts (upload, number, size, etag, modified, sums, file) VALUES (?,?,?,?,?,?,?)";
            let values = params![id, number, file.segment.size.cast_signed(), etag, now(), sums, file.segment.file];
            tx.prepare_cached(sql).and_then(|mut q| q.execute(values)).map_err(|e| failed(&e))?;
            change.kept.push(file);
            Ok(change)
        })
        .await?;
    Ok(reply)
}

pub(super) async fn complete(
    endpoint: &Endpoint,
    req: S3Request<CompleteMultipartUploadInput>,
) -> S3Result<CompleteMultipartUploadOutput> {
    let claimed = claimed_sums(&req.headers);
    let input = req.input;
    let listed = input.multipart_upload.and_then(|u| u.parts).unwrap_or_default();
    let (bucket, key, id) = (input.bucket.clone(), input.key.clone(), input.upload_id);
    let (upload, found) = endpoint
        .catalogue
        .read({
            let (bucket, key, id) = (bucket.clone(), key.clone(), id.clone());
            move |db| Ok((records::find_upload(db, &bucket, &key, &id)?, records::parts(db, &id, 0, MAX_PARTS as usize)?))
        })
        .await?;
    let parts = chosen_parts(&listed, &found)?;
    let size = parts.iter().map(|p| p.size).sum();
    if input.mpu_object_size.is_some_and(|said| length(size) != Some(said)) {
        return Err(refuse(S3ErrorCode::InvalidRequest, format!("the parts have {size} bytes, and not as many as announced")));
    }
    let about = joined_about(endpoint, upload, &parts, &claimed).await?;
    let etag = joined_etag(parts.iter().map(|p| p.etag.as_str()));
    let mut reply = CompleteMultipartUploadOutput {
        location: Some(format!("/{bucket}/{key}")),
        bucket: Some(input.bucket),
        key: Some(input.key),
        e_tag: Some(strong(&etag)),
        ..Default::default()
    };
    with_sums!(reply, &about.sums);
    let conditions = Conditions { if_match: input.if_match, if_none_match: input.if_none_match };
    let new = NewObject { bucket, key, size, etag, about, content: NewContent::Files(Vec::new()), conditions };
    endpoint.catalogue.write(move |tx| join(tx, &id, &parts, new)).await?;
    Ok(reply)
}

/// The parts that the client lists, if they are there as it says and can be joined.
fn chosen_parts(listed: &[CompletedPart], found: &[PartRow]) -> S3Result<Vec<PartRow>> {
    if listed.is_empty() {
        return Err(refuse(S3ErrorCode::MalformedXML, "no parts are listed"));
    }
    let mut chosen: Vec<PartRow> = Vec::with_capacity(listed.len());
    for part in listed {
        let number = part.part_number.ok_or_else(|| refuse(S3ErrorCode::MalformedXML, "a part without a number"))?;
        if chosen.last().is_some_and(|last| number <= last.number) {
            return Err(refuse(S3ErrorCode::InvalidPartOrder, "the parts are not listed in ascending order"));
        }
        let row = found.binary_search_by_key(&number, |p| p.number).ok().map(|at| &found[at]);
        let row = row.filter(|row| part.e_tag.as_ref().is_some_and(|tag| tag.value() == row.etag) && sums_agree(part, row));
        let missing =
            || refuse(S3ErrorCode::InvalidPart, format!("part {number} was not uploaded, or is not the one that you list"));
        chosen.push(row.ok_or_else(missing)?.clone());
    }
    if let Some(small) = chosen.split_last().and_then(|(_, front)| front.iter().find(|p| p.size < SMALLEST_PART)) {
        let message = format!("part {} has {} bytes; all but the last need at least {SMALLEST_PART}", small.number, small.size);
        return Err(refuse(S3ErrorCode::EntityTooSmall, message));
    }
    Ok(chosen)
}

fn sums_agree(part: &CompletedPart, row: &PartRow) -> bool {
    let said = [
        (Algorithm::Crc32, &part.checksum_crc32),
        (Algorithm::Crc32c, &part.checksum_crc32c),
        (Algorithm::Crc64nvme, &part.checksum_crc64nvme),
        (Algorithm::Sha1, &part.checksum_sha1),
        (Algorithm::Sha256, &part.checksum_sha256),
    ];
    said.iter().all(|(algorithm, said)| said.as_ref().is_none_or(|said| row.sums.get(algorithm) == Some(said)))
}

/// What is known about the joined object, with its checksum, which is compared with what the client claims.
async fn joined_about(endpoint: &Endpoint, upload: UploadAbout, parts: &[PartRow], claimed: &Sums) -> S3Result<About> {
    let mut about = upload.object;
    let Some(algorithm) = upload.algorithm else { return Ok(about) };
    let wrong = || refuse(S3ErrorCode::BadDigest, "the checksum of the whole object is not the one that you specified");
    if upload.full_object {
        let segments = parts.iter().map(|p| Segment { file: p.file.clone(), size: p.size }).collect();
        let size = parts.iter().map(|p| p.size).sum();
        let body = endpoint.contents.read(Content::Files(segments), 0..size).await.map_err(|e| disk(&e))?;
        about.sums = endpoint.contents.digest(body, &Claims::default().and(Some(algorithm))).await?.sums;
        let differs = claimed.get(&algorithm).is_some_and(|said| about.sums.get(&algorithm) != Some(said));
        return if differs { Err(wrong()) } else { Ok(about) };
    }
    let Some(sum) = composite(algorithm, parts.iter().map(|p| &p.sums)) else { return Ok(about) };
    let whole = format!("{sum}-{}", parts.len());
    // S3 writes the number of parts behind it; the Go client leaves it out.
    if claimed.get(&algorithm).is_some_and(|said| *said != sum && *said != whole) {
        return Err(wrong());
    }
    about.sums.insert(algorithm, whole);
    about.composite = true;
    Ok(about)
}

/// Makes an object of the parts, in one change.
fn join(tx: &Transaction<'_>, id: &str, parts: &[PartRow], new: NewObject) -> S3Result<Change<()>> {
    records::find_upload(tx, &new.bucket, &new.key, id)?;
    let now_there = records::parts(tx, id, 0, MAX_PARTS as usize)?;
    let unchanged = |part: &PartRow| now_there.iter().any(|p| p.file == part.file);
    if !parts.iter().all(unchanged) {
        return Err(refuse(S3ErrorCode::InvalidPart, "a part was replaced while the upload was completed"));
    }
    let (bucket, key) = (new.bucket.clone(), new.key.clone());
    let mut change = records::store(tx, new)?;
    let segments: Vec<Segment> = parts.iter().map(|p| Segment { file: p.file.clone(), size: p.size }).collect();
    tx.execute("UPDATE objects SET files = ? WHERE bucket = ? AND key = ?", params![json(&segments)?, bucket, key])
        .map_err(|e| failed(&e))?;
    let unused = now_there.into_iter().map(|p| p.file).filter(|file| !segments.iter().any(|s| s.file == *file));
    change.dropped.extend(unused);
    tx.execute("DELETE FROM uploads WHERE id = ?", [id]).map_err(|e| failed(&e))?;
    Ok(change)
}

pub(super) async fn abort(endpoint: &Endpoint, input: AbortMultipartUploadInput) -> S3Result<()> {
    let remove = move |tx: &Transaction<'_>| {
        records::find_upload(tx, &input.bucket, &input.key, &input.upload_id)?;
        let parts = records::parts(tx, &input.upload_id, 0, MAX_PARTS as usize)?;
        tx.execute("DELETE FROM uploads WHERE id = ?", [&input.upload_id]).map_err(|e| failed(&e))?;
        Ok(Change { dropped: parts.into_iter().map(|p| p.file).collect(), ..Change::of(()) })
    };
    endpoint.catalogue.write(remove).await
}

pub(super) async fn list_parts(endpoint: &Endpoint, input: ListPartsInput) -> S3Result<ListPartsOutput> {
    let limit = page_size(input.max_parts)?;
    let (bucket, key, id) = (input.bucket.clone(), input.key.clone(), input.upload_id.clone());
    let after = input.part_number_marker.unwrap_or(0);
    let (upload, mut found) = endpoint
        .catalogue
        .read(move |db| Ok((records::find_upload(db, &bucket, &key, &id)?, records::parts(db, &id, after, limit + 1)?)))
        .await?;
    let more = found.len() > limit;
    found.truncate(limit);
    let last = found.last().map(|p| p.number);
    let part = |row: PartRow| {
        let mut part = Part {
            e_tag: Some(strong(&row.etag)),
            last_modified: Some(timestamp(row.modified)),
            part_number: Some(row.number),
            size: length(row.size),
            ..Default::default()
        };
        with_sums!(part, &row.sums);
        part
    };
    let algorithm = upload.algorithm.map(|a| ChecksumAlgorithm::from(format!("{a:?}").to_uppercase()));
    Ok(ListPartsOutput {
        bucket: Some(input.bucket),
        key: Some(input.key),
        upload_id: Some(input.upload_id),
        max_parts: i32::try_from(limit).ok(),
        part_number_marker: Some(after),
        next_part_number_marker: last.filter(|_| more),
        is_truncated: Some(more),
        checksum_algorithm: algorithm,
        parts: Some(found.into_iter().map(part).collect()),
        ..Default::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(number: i32, size: u64) -> PartRow {
        PartRow { number, size, etag: format!("e{number}"), modified: 0, sums: Sums::new(), file: format!("f{number}") }
    }

    fn listed(number: i32, etag: &str) -> CompletedPart {
        CompletedPart { part_number: Some(number), e_tag: Some(strong(etag)), ..Default::default() }
    }

    fn code(listed: &[CompletedPart], found: &[PartRow]) -> S3ErrorCode {
        chosen_parts(listed, found).unwrap_err().code().clone()
    }

    #[test]
    fn only_the_right_parts_in_order_are_joined() {
        let found = [row(1, SMALLEST_PART), row(2, SMALLEST_PART - 1), row(5, SMALLEST_PART), row(9, 0)];
        assert_eq!(code(&[], &found), S3ErrorCode::MalformedXML);
        assert_eq!(code(&[listed(5, "e5"), listed(1, "e1")], &found), S3ErrorCode::InvalidPartOrder);
        assert_eq!(code(&[listed(1, "e1"), listed(1, "e1")], &found), S3ErrorCode::InvalidPartOrder);
        assert_eq!(code(&[listed(1, "e2")], &found), S3ErrorCode::InvalidPart);
        assert_eq!(code(&[listed(3, "e3")], &found), S3ErrorCode::InvalidPart);
        assert_eq!(code(&[listed(1, "e1"), listed(2, "e2"), listed(5, "e5")], &found), S3ErrorCode::EntityTooSmall);
        assert_eq!(chosen_parts(&[listed(2, "e2")], &found).unwrap().len(), 1);
        assert_eq!(chosen_parts(&[listed(1, "e1"), listed(5, "e5"), listed(9, "e9")], &found).unwrap().len(), 3);
    }

    #[test]
    fn a_copied_range_lies_inside_its_source() {
        assert_eq!(copy_range("bytes=0-9", 10).unwrap(), 0..10);
        assert_eq!(copy_range("bytes=9-9", 10).unwrap(), 9..10);
        for bad in ["bytes=0-10", "bytes=5-4", "bytes=-5", "bytes=5-", "0-5", "bytes=a-b"] {
            assert_eq!(*copy_range(bad, 10).unwrap_err().code(), S3ErrorCode::InvalidArgument, "{bad}");
        }
    }

    #[test]
    fn errors_of_a_wrong_checksum_in_the_list_are_noticed() {
        let mut row = row(1, 1);
        row.sums.insert(Algorithm::Crc32, "AAAA".into());
        let mut part = listed(1, "e1");
        part.checksum_crc32 = Some("AAAA".into());
        assert!(sums_agree(&part, &row));
        part.checksum_crc32 = Some("BBBB".into());
        assert!(!sums_agree(&part, &row));
    }
}
