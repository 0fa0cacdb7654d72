//! The S3 operations on buckets and objects. Those on uploads in parts are in `multipart`.

use crate::blocking;
use crate::colony::objects::catalogue::Catalogue;
use crate::colony::objects::catalogue::Change;
use crate::colony::objects::catalogue::now;
use crate::colony::objects::content::Contents;
use crate::colony::objects::digest::Algorithm;
use crate::colony::objects::digest::Claims;
use crate::colony::objects::digest::Sums;
use crate::colony::objects::error::catalogue as failed;
use crate::colony::objects::error::disk;
use crate::colony::objects::error::refuse;
use crate::colony::objects::lists;
use crate::colony::objects::multipart;
use crate::colony::objects::records;
use crate::colony::objects::records::About;
use crate::colony::objects::records::Conditions;
use crate::colony::objects::records::NewObject;
use crate::colony::objects::records::Object;
use crate::colony::objects::records::matches;
use crate::colony::objects::records::no_such_key;
use crate::colony::objects::records::strong;
use s3s::S3;
use s3s::S3Error;
use s3s::S3ErrorCode;
use s3s::S3Request;
use s3s::S3Response;
use s3s::S3Result;
use s3s::dto::*;
use std::collections::HashMap;
use std::io::ErrorKind;
use std::time::Duration;
use std::time::SystemTime;

/// How often a read is begun again when its object is replaced between being looked up and being opened.
const REOPEN: usize = 5;

/// S3's limit on the sum of names and values of user metadata, in bytes.
const METADATA_LIMIT: usize = 2048;

/// The S3 endpoint.
#[derive(Clone)]
pub(super) struct Endpoint {
    pub(super) catalogue: Catalogue,
    pub(super) contents: Contents,
}

impl Endpoint {
    /// The object under a key.
    ///
    /// # Errors
    /// `NoSuchBucket`, `NoSuchKey`.
    pub(super) async fn find(&self, bucket: &str, key: &str) -> S3Result<Object> {
        let (bucket, key) = (bucket.to_owned(), key.to_owned());
        self.catalogue.read(move |db| records::find(db, &bucket, &key)?.ok_or_else(no_such_key)).await
    }

    /// The object that a copy is made from, if it is as the copy's conditions want it.
    pub(super) async fn copy_source(&self, source: &CopySource, conditions: &Reading) -> S3Result<Object> {
        let CopySource::Bucket { bucket, key, version_id: None } = source else {
            return Err(refuse(S3ErrorCode::NotImplemented, "the copy source must be bucket/key without a version"));
        };
        let object = self.find(bucket, key).await?;
        // For copies S3 answers 412 where a GET would be answered with 304.
        match conditions.check(&object) {
            Err(error) if *error.code() == S3ErrorCode::NotModified => Err(not_met()),
            other => other.map(|()| object),
        }
    }

    async fn stream(
        &self,
        input: &GetObjectInput,
        conditions: &Reading,
    ) -> S3Result<(Object, std::ops::Range<u64>, StreamingBlob)> {
        let mut tries = 0;
        loop {
            let object = self.find(&input.bucket, &input.key).await?;
            conditions.check(&object)?;
            let range = match &input.range {
                Some(range) => range.check(object.size)?,
                None => 0..object.size,
            };
            match self.contents.read(object.content.clone(), range.clone()).await {
                Ok(body) => return Ok((object, range, body)),
                Err(error) if error.kind() == ErrorKind::NotFound && tries < REOPEN => tries += 1,
                Err(error) => return Err(disk(&error)),
            }
        }
    }
}

/// Conditions on reading an object.
#[derive(Default)]
pub(super) struct Reading {
    pub(super) if_match: Option<ETagCondition>,
    pub(super) if_none_match: Option<ETagCondition>,
    pub(super) if_modified_since: Option<Timestamp>,
    pub(super) if_unmodified_since: Option<Timestamp>,
}

impl Reading {
    /// In the order of RFC 9110, section 13.2.2.
    fn check(&self, object: &Object) -> S3Result<()> {
        // HTTP dates are whole seconds.
        let modified = timestamp(object.modified / 1000 * 1000);
        match (&self.if_match, &self.if_unmodified_since) {
            (Some(condition), _) if !matches(condition, &object.etag) => return Err(not_met()),
            (None, Some(since)) if modified > *since => return Err(not_met()),
            _ => {}
        }
        match (&self.if_none_match, &self.if_modified_since) {
            (Some(condition), _) if matches(condition, &object.etag) => Err(not_modified()),
            (None, Some(since)) if modified <= *since => Err(not_modified()),
            _ => Ok(()),
        }
    }
}

fn not_met() -> S3Error {
    refuse(S3ErrorCode::PreconditionFailed, "at least one of the preconditions you specified did not hold")
}

fn not_modified() -> S3Error {
    refuse(S3ErrorCode::NotModified, "not modified")
}

pub(super) fn timestamp(millis: i64) -> Timestamp {
    let since = Duration::from_millis(u64::try_from(millis).unwrap_or(0));
    Timestamp::from(SystemTime::UNIX_EPOCH + since)
}

/// What a request says about an object besides its bytes.
macro_rules! about {
    ($input:expr) => {
        About {
            content_type: $input.content_type.take(),
            cache_control: $input.cache_control.take(),
            content_disposition: $input.content_disposition.take(),
            content_encoding: stored_encoding($input.content_encoding.take()),
            content_language: $input.content_language.take(),
            metadata: checked_metadata($input.metadata.take())?,
            sums: Sums::new(),
            composite: false,
        }
    };
}
pub(super) use about;

/// `aws-chunked` is how the body came, not what it is.
pub(super) fn stored_encoding(encoding: Option<String>) -> Option<String> {
    let kept: Vec<&str> =
        encoding.as_deref()?.split(',').map(str::trim).filter(|e| !e.is_empty() && *e != "aws-chunked").collect();
    (!kept.is_empty()).then(|| kept.join(","))
}

pub(super) fn checked_metadata(
    metadata: Option<HashMap<String, String>>,
) -> S3Result<std::collections::BTreeMap<String, String>> {
    let metadata: std::collections::BTreeMap<String, String> = metadata.unwrap_or_default().into_iter().collect();
    let size: usize = metadata.iter().map(|(name, value)| name.len() + value.len()).sum();
    if size > METADATA_LIMIT {
        return Err(refuse(
            S3ErrorCode::MetadataTooLarge,
            format!("your metadata exceed the {METADATA_LIMIT} bytes that are allowed"),
        ));
    }
    Ok(metadata)
}

/// Fills the checksum fields of a reply.
macro_rules! with_sums {
    ($reply:expr, $sums:expr) => {{
        let (reply, sums): (_, &$crate::colony::objects::digest::Sums) = (&mut $reply, $sums);
        reply.checksum_crc32 = sums.get(&Algorithm::Crc32).cloned();
        reply.checksum_crc32c = sums.get(&Algorithm::Crc32c).cloned();
        reply.checksum_crc64nvme = sums.get(&Algorithm::Crc64nvme).cloned();
        reply.checksum_sha1 = sums.get(&Algorithm::Sha1).cloned();
        reply.checksum_sha256 = sums.get(&Algorithm::Sha256).cloned();
    }};
}
pub(super) use with_sums;

pub(super) fn length(size: u64) -> Option<i64> {
    i64::try_from(size).ok()
}

fn wants_sums(mode: Option<&ChecksumMode>) -> bool {
    mode.is_some_and(|mode| mode.as_str().eq_ignore_ascii_case(ChecksumMode::ENABLED))
}

fn checksum_type(about: &About) -> Option<ChecksumType> {
    let word = if about.composite { ChecksumType::COMPOSITE } else { ChecksumType::FULL_OBJECT };
    (!about.sums.is_empty()).then(|| ChecksumType::from_static(word))
}

#[async_trait::async_trait]
impl S3 for Endpoint {
    async fn list_buckets(&self, _: S3Request<ListBucketsInput>) -> S3Result<S3Response<ListBucketsOutput>> {
        lists::buckets(self).await.map(S3Response::new)
    }

    async fn create_bucket(&self, req: S3Request<CreateBucketInput>) -> S3Result<S3Response<CreateBucketOutput>> {
        let bucket = req.input.bucket;
        let location = Some(format!("/{bucket}"));
        self.catalogue
            .write(move |tx| {
                let made = tx.execute("INSERT OR IGNORE INTO buckets (name, made) VALUES (?, ?)", (&bucket, now()));
                match made.map_err(|e| failed(&e))? {
                    0 => Err(refuse(S3ErrorCode::BucketAlreadyOwnedByYou, "you have made this bucket already")),
                    _ => Ok(Change::of(())),
                }
            })
            .await?;
        Ok(S3Response::new(CreateBucketOutput { location }))
    }

    async fn delete_bucket(&self, req: S3Request<DeleteBucketInput>) -> S3Result<S3Response<DeleteBucketOutput>> {
        let bucket = req.input.bucket;
        self.catalogue
            .write(move |tx| {
                records::require_bucket(tx, &bucket)?;
                let used = "SELECT 1 FROM objects WHERE bucket = ?1 UNION ALL SELECT 1 FROM uploads WHERE bucket = ?1";
                if tx.prepare(used).and_then(|mut q| q.exists([&bucket])).map_err(|e| failed(&e))? {
                    return Err(refuse(S3ErrorCode::BucketNotEmpty, "the bucket is not empty"));
                }
                tx.execute("DELETE FROM buckets WHERE name = ?", [&bucket]).map_err(|e| failed(&e))?;
                Ok(Change::of(()))
            })
            .await?;
        Ok(S3Response::with_status(DeleteBucketOutput {}, http::StatusCode::NO_CONTENT))
    }

    async fn head_bucket(&self, req: S3Request<HeadBucketInput>) -> S3Result<S3Response<HeadBucketOutput>> {
        self.catalogue.read(move |db| records::require_bucket(db, &req.input.bucket)).await?;
        Ok(S3Response::new(HeadBucketOutput { bucket_region: Some("us-east-1".into()), ..Default::default() }))
    }

    async fn get_bucket_location(&self, req: S3Request<GetBucketLocationInput>) -> S3Result<S3Response<GetBucketLocationOutput>> {
        self.catalogue.read(move |db| records::require_bucket(db, &req.input.bucket)).await?;
        // An empty location is us-east-1.
        Ok(S3Response::new(GetBucketLocationOutput::default()))
    }

    async fn put_object(&self, mut req: S3Request<PutObjectInput>) -> S3Result<S3Response<PutObjectOutput>> {
        let claims = Claims::read(&req.headers)?;
        let input = &mut req.input;
        let mut about = about!(input);
        let received = self.contents.receive(input.body.take(), input.content_length, &claims, true).await?;
        claims.verify(&received.digests, req.trailing_headers)?;
        let etag = hex::encode(&received.digests.md5);
        about.sums = received.digests.sums;
        let mut reply =
            PutObjectOutput { e_tag: Some(strong(&etag)), checksum_type: checksum_type(&about), ..Default::default() };
        with_sums!(reply, &about.sums);
        let new = NewObject {
            bucket: req.input.bucket,
            key: req.input.key,
            size: received.size,
            etag,
            about,
            content: received.content,
            conditions: Conditions { if_match: req.input.if_match, if_none_match: req.input.if_none_match },
        };
        self.catalogue.write(move |tx| records::store(tx, new)).await?;
        Ok(S3Response::new(reply))
    }

    async fn get_object(&self, req: S3Request<GetObjectInput>) -> S3Result<S3Response<GetObjectOutput>> {
        let mut input = req.input;
        if input.part_number.is_some() || input.version_id.is_some() {
            return Err(refuse(S3ErrorCode::NotImplemented, "objects are not read by part or version here"));
        }
        let conditions = Reading {
            if_match: input.if_match.take(),
            if_none_match: input.if_none_match.take(),
            if_modified_since: input.if_modified_since.take(),
            if_unmodified_since: input.if_unmodified_since.take(),
        };
        let (object, range, body) = self.stream(&input, &conditions).await?;
        let part = input.range.is_some();
        let mut reply = GetObjectOutput {
            accept_ranges: Some("bytes".into()),
            body: Some(body),
            content_length: length(range.end - range.start),
            content_range: part.then(|| format!("bytes {}-{}/{}", range.start, range.end - 1, object.size)),
            cache_control: object.about.cache_control.clone(),
            content_disposition: object.about.content_disposition.clone(),
            content_encoding: object.about.content_encoding.clone(),
            content_language: object.about.content_language.clone(),
            content_type: Some(object.about.content_type.clone().unwrap_or_else(|| "binary/octet-stream".into())),
            e_tag: Some(strong(&object.etag)),
            last_modified: Some(timestamp(object.modified)),
            metadata: Some(object.about.metadata.clone().into_iter().collect()),
            ..Default::default()
        };
        if wants_sums(input.checksum_mode.as_ref()) && !part {
            with_sums!(reply, &object.about.sums);
            reply.checksum_type = checksum_type(&object.about);
        }
        Ok(S3Response::new(reply))
    }

    async fn head_object(&self, req: S3Request<HeadObjectInput>) -> S3Result<S3Response<HeadObjectOutput>> {
        let input = req.input;
        let conditions = Reading {
            if_match: input.if_match,
            if_none_match: input.if_none_match,
            if_modified_since: input.if_modified_since,
            if_unmodified_since: input.if_unmodified_since,
        };
        let object = self.find(&input.bucket, &input.key).await?;
        conditions.check(&object)?;
        let about = object.about;
        let mut reply = HeadObjectOutput {
            accept_ranges: Some("bytes".into()),
            content_length: length(object.size),
            e_tag: Some(strong(&object.etag)),
            last_modified: Some(timestamp(object.modified)),
            ..Default::default()
        };
        if wants_sums(input.checksum_mode.as_ref()) {
            with_sums!(reply, &about.sums);
            reply.checksum_type = checksum_type(&about);
        }
        reply.cache_control = about.cache_control;
        reply.content_disposition = about.content_disposition;
        reply.content_encoding = about.content_encoding;
        reply.content_language = about.content_language;
        reply.content_type = Some(about.content_type.unwrap_or_else(|| "binary/octet-stream".into()));
        reply.metadata = Some(about.metadata.into_iter().collect());
        Ok(S3Response::new(reply))
    }

    async fn delete_object(&self, req: S3Request<DeleteObjectInput>) -> S3Result<S3Response<DeleteObjectOutput>> {
        let (bucket, key) = (req.input.bucket, req.input.key);
        if req.input.if_match.is_some() {
            return Err(refuse(S3ErrorCode::NotImplemented, "there are no conditional deletes here"));
        }
        self.catalogue
            .write(move |tx| {
                records::require_bucket(tx, &bucket)?;
                Ok(Change { dropped: records::delete(tx, &bucket, &key)?, ..Change::of(()) })
            })
            .await?;
        Ok(S3Response::with_status(DeleteObjectOutput::default(), http::StatusCode::NO_CONTENT))
    }

    async fn delete_objects(&self, req: S3Request<DeleteObjectsInput>) -> S3Result<S3Response<DeleteObjectsOutput>> {
        let (bucket, delete) = (req.input.bucket, req.input.delete);
        let keys: Vec<String> = delete.objects.into_iter().map(|object| object.key).collect();
        if keys.is_empty() || keys.len() > 1000 {
            return Err(refuse(S3ErrorCode::MalformedXML, "1 to 1000 objects can be deleted at once"));
        }
        let deleted = keys.iter().map(|key| DeletedObject { key: Some(key.clone()), ..Default::default() }).collect();
        self.catalogue
            .write(move |tx| {
                records::require_bucket(tx, &bucket)?;
                let mut change = Change::of(());
                for key in keys {
                    change.dropped.extend(records::delete(tx, &bucket, &key)?);
                }
                Ok(change)
            })
            .await?;
        let deleted = (!delete.quiet.unwrap_or(false)).then_some(deleted);
        Ok(S3Response::new(DeleteObjectsOutput { deleted, ..Default::default() }))
    }

    async fn copy_object(&self, req: S3Request<CopyObjectInput>) -> S3Result<S3Response<CopyObjectOutput>> {
        let mut input = req.input;
        let conditions = Reading {
            if_match: input.copy_source_if_match.take(),
            if_none_match: input.copy_source_if_none_match.take(),
            if_modified_since: input.copy_source_if_modified_since.take(),
            if_unmodified_since: input.copy_source_if_unmodified_since.take(),
        };
        let replace = input.metadata_directive.as_ref().is_some_and(|d| d.as_str() == MetadataDirective::REPLACE);
        let onto_itself = matches!(&input.copy_source, CopySource::Bucket { bucket, key, .. } if **bucket == *input.bucket && **key == *input.key);
        if onto_itself && !replace {
            return Err(refuse(
                S3ErrorCode::InvalidRequest,
                "an object cannot be copied onto itself without a change of its metadata",
            ));
        }
        let object = self.copy_source(&input.copy_source, &conditions).await?;
        let about = if replace {
            About { sums: object.about.sums.clone(), composite: object.about.composite, ..about!(input) }
        } else {
            object.about
        };
        let contents = self.contents.clone();
        let copied = blocking::run(move || contents.duplicate(object.content));
        let new = NewObject {
            bucket: input.bucket,
            key: input.key,
            size: object.size,
            etag: object.etag.clone(),
            about,
            content: copied.await?,
            conditions: Conditions::default(),
        };
        self.catalogue.write(move |tx| records::store(tx, new)).await?;
        let result =
            CopyObjectResult { e_tag: Some(strong(&object.etag)), last_modified: Some(timestamp(now())), ..Default::default() };
        Ok(S3Response::new(CopyObjectOutput { copy_object_result: Some(result), ..Default::default() }))
    }

    async fn list_objects(&self, req: S3Request<ListObjectsInput>) -> S3Result<S3Response<ListObjectsOutput>> {
        lists::objects_v1(self, req.input).await.map(S3Response::new)
    }

    async fn list_objects_v2(&self, req: S3Request<ListObjectsV2Input>) -> S3Result<S3Response<ListObjectsV2Output>> {
        lists::objects_v2(self, req.input).await.map(S3Response::new)
    }

    async fn create_multipart_upload(
        &self,
        req: S3Request<CreateMultipartUploadInput>,
    ) -> S3Result<S3Response<CreateMultipartUploadOutput>> {
        multipart::create(self, req.input).await.map(S3Response::new)
    }

    async fn upload_part(&self, req: S3Request<UploadPartInput>) -> S3Result<S3Response<UploadPartOutput>> {
        multipart::upload(self, req).await.map(S3Response::new)
    }

    async fn upload_part_copy(&self, req: S3Request<UploadPartCopyInput>) -> S3Result<S3Response<UploadPartCopyOutput>> {
        multipart::copy(self, req.input).await.map(S3Response::new)
    }

    async fn complete_multipart_upload(
        &self,
        req: S3Request<CompleteMultipartUploadInput>,
    ) -> S3Result<S3Response<CompleteMultipartUploadOutput>> {
        multipart::complete(self, req).await.map(S3Response::new)
    }

    async fn abort_multipart_upload(
        &self,
        req: S3Request<AbortMultipartUploadInput>,
    ) -> S3Result<S3Response<AbortMultipartUploadOutput>> {
        multipart::abort(self, req.input).await?;
        Ok(S3Response::with_status(AbortMultipartUploadOutput::default(), http::StatusCode::NO_CONTENT))
    }

    async fn list_parts(&self, req: S3Request<ListPartsInput>) -> S3Result<S3Response<ListPartsOutput>> {
        multipart::list_parts(self, req.input).await.map(S3Response::new)
    }

    async fn list_multipart_uploads(
        &self,
        req: S3Request<ListMultipartUploadsInput>,
    ) -> S3Result<S3Response<ListMultipartUploadsOutput>> {
        lists::uploads(self, req.input).await.map(S3Response::new)
    }
}
