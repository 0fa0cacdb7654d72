//! What this bucket can do, found out by trying: for `pollinator doctor`.
//!
//! Everything is tried on throw-away objects below `pollinator/.probe/`, which are removed at the end.

use crate::store::Error;
use crate::store::Metadata;
use crate::store::Store;
use crate::store::copy_source;
use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::ChecksumAlgorithm;
use aws_sdk_s3::types::CompletedMultipartUpload;
use aws_sdk_s3::types::CompletedPart;
use bytes::Bytes;
use serde::Serialize;

/// S3's smallest size of a part that is not the last, in bytes.
const SMALLEST_PART: usize = 5 * 1024 * 1024;

/// By how many seconds a server's clock may differ from ours before S3 refuses (15 minutes), with some distance.
const SKEW_LIMIT: i64 = 300;

/// An ETag that no object here has.
const OTHER_ETAG: &str = "\"00000000000000000000000000000000\"";

/// The check that tells whether changed files can be made of what is in the store.
pub const PART_COPY: &str = "part copy with range";

/// One thing that was tried.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Check {
    /// What: `reachable`, `bucket`, `put and get`, ….
    pub name: &'static str,
    /// Whether it works as S3 says.
    pub ok: bool,
    /// What was seen, in words.
    pub detail: String,
    /// What can be done about it.
    pub remedy: Option<String>,
    /// Whether a run needs it. What is not required and does not work is done in another way.
    pub required: bool,
}

/// The outcome of an attempt: what was seen, or what is wrong with it.
type Seen = Result<String, String>;

impl Store {
    /// Tries what Pollinator does and would like to do with this bucket. Stops after the first check that leaves no sense in
    /// the others (nobody answers, the key is wrong).
    pub async fn probe(&self) -> Vec<Check> {
        let mut checks = Vec::new();
        let bucket = self.ensure_bucket().await;
        let usable = bucket.is_ok();
        checks.push(required("bucket", bucket.map(|()| format!("{} at {} can be used", self.bucket(), self.access.endpoint))));
        checks.push(self.clock());
        if !usable {
            return checks;
        }
        let Some(folder) = probe_folder() else {
            checks.push(required(
                "put and get",
                Err(Error::Setup { server: self.access.endpoint.clone(), reason: "no random numbers".into() }),
            ));
            return checks;
        };
        let (whole, parts, copy) = (format!("{folder}/object é+%20"), format!("{folder}/parts"), format!("{folder}/copy"));
        checks.push(required("put and get", self.try_round_trip(&whole).await));
        checks.push(required(
            "path style",
            Ok(format!("http{}://{}/{}/…", if self.access.tls { "s" } else { "" }, self.access.endpoint, self.bucket())),
        ));
        checks.push(required("list", self.try_list(&folder, &whole).await));
        checks.push(required("multipart", self.try_multipart(&parts).await));
        checks.push(wanted("copy", self.try_copy(&whole, &copy).await, "renamed files are uploaded again"));
        checks.push(wanted(PART_COPY, self.try_part_copy(&parts, &copy).await, "changed files are uploaded whole"));
        checks.push(wanted(
            "copy only if unchanged",
            self.try_copy_if_match(&parts, &copy).await,
            "objects are looked at before they are copied from, and their keys are never used twice",
        ));
        checks.push(wanted(
            "conditional write",
            self.try_conditional_put(&whole).await,
            "Pollinator's keys are random, so that nothing is overwritten",
        ));
        checks.push(wanted("SDK checksums", self.try_checksum(&copy).await, "Pollinator does not send them"));
        checks.push(required("delete", self.clean(&[&whole, &parts, &copy]).await));
        checks
    }

    fn clock(&self) -> Check {
        let remedy = "set this machine's clock (NTP): S3 refuses requests that are 15 minutes off".to_owned();
        let (ok, detail) = match self.connector.skew() {
            Some(skew) if skew.abs() <= 1 => (true, "this machine and the server agree".into()),
            Some(skew) if skew > 0 => (skew <= SKEW_LIMIT, format!("the server is {skew} s ahead of this machine")),
            Some(skew) => (-skew <= SKEW_LIMIT, format!("the server is {} s behind this machine", -skew)),
            None => (true, "the server does not tell its time".into()),
        };
        Check { name: "clock", ok, detail, remedy: (!ok).then_some(remedy), required: true }
    }

    async fn try_round_trip(&self, key: &str) -> Result<String, Error> {
        let metadata = Metadata::from([("pollinator-mode".to_owned(), "755".to_owned())]);
        let stored = self.put_bytes(key, Bytes::from_static(b"pollinator"), &metadata, &|_| ()).await?;
        let mut back = Vec::new();
        let info = self.get(key, &mut back, &|_| ()).await?;
        let scope = self.scope("GetObject", key);
        if back != b"pollinator" || info.etag != stored.etag {
            return Err(scope.garbage("what came back is not what was stored"));
        }
        if info.metadata != metadata {
            return Err(scope.garbage(format!("the object's metadata was not kept: {:?}", info.metadata)));
        }
        Ok("an object came back as it was stored, with its metadata".into())
    }

    async fn try_list(&self, folder: &str, key: &str) -> Result<String, Error> {
        let found = self.list(&format!("{folder}/")).await?;
        if found != [(key.to_owned(), 10)] {
            return Err(self.scope("ListObjectsV2", folder).garbage(format!("expected one object, found {found:?}")));
        }
        Ok("an object is listed as soon as it is stored".into())
    }

    async fn try_multipart(&self, key: &str) -> Result<String, Error> {
        let id = self.probe_begin(key).await?;
        let joined = self.join_two(key, &id).await;
        if joined.is_err() {
            self.abort(key, &id).await;
        }
        joined?;
        let size = self.head(key).await?.map(|info| info.size);
        if size != Some(SMALLEST_PART as u64 + 1) {
            return Err(self.scope("HeadObject", key).garbage(format!("two parts were joined to {size:?} bytes")));
        }
        Ok("two parts were joined".into())
    }

    async fn join_two(&self, key: &str, id: &str) -> Result<(), Error> {
        let mut parts = CompletedMultipartUpload::builder();
        for (number, size) in [(1, SMALLEST_PART), (2, 1)] {
            let request = self.client.upload_part().bucket(self.bucket()).key(key).upload_id(id).part_number(number);
            let reply = request.body(ByteStream::from(vec![b'p'; size])).send().await;
            let reply = reply.map_err(|e| self.scope("UploadPart", key).sdk(e))?;
            parts = parts.parts(CompletedPart::builder().part_number(number).set_e_tag(reply.e_tag).build());
        }
        let request = self.client.complete_multipart_upload().bucket(self.bucket()).key(key).upload_id(id);
        let reply = request.multipart_upload(parts.build()).send().await;
        reply.map(|_| ()).map_err(|e| self.scope("CompleteMultipartUpload", key).sdk(e))
    }

    async fn probe_begin(&self, key: &str) -> Result<String, Error> {
        let scope = self.scope("CreateMultipartUpload", key);
        let reply = self.client.create_multipart_upload().bucket(self.bucket()).key(key).send().await;
        let reply = reply.map_err(|e| scope.sdk(e))?;
        reply.upload_id.ok_or_else(|| scope.garbage("no upload id in the answer"))
    }

    async fn try_copy(&self, from: &str, to: &str) -> Seen {
        self.copy(from, to).await.map_err(said)?;
        match self.head(to).await.map_err(said)? {
            Some(info) if info.size == 10 && info.metadata.contains_key("pollinator-mode") => {
                Ok("copied on the server, metadata kept".into())
            }
            Some(info) if info.size == 10 => Err("the copy lost its metadata".into()),
            other => Err(format!("the copy is not there or not whole ({other:?})")),
        }
    }

    /// Copies the second half of `from` into a part, and looks whether exactly that arrived.
    async fn try_part_copy(&self, from: &str, to: &str) -> Seen {
        let id = self.probe_begin(to).await.map_err(said)?;
        let copied = async {
            let request = self.client.upload_part_copy().bucket(self.bucket()).key(to).upload_id(&id).part_number(1);
            let request = request.copy_source(copy_source(self.bucket(), from)).copy_source_range("bytes=1-3");
            let reply = request.send().await.map_err(|e| said(self.scope("UploadPartCopy", to).sdk(e)))?;
            let etag = reply.copy_part_result.and_then(|r| r.e_tag).ok_or("no ETag in the answer")?;
            let part = CompletedPart::builder().part_number(1).e_tag(etag).build();
            let parts = CompletedMultipartUpload::builder().parts(part).build();
            let request = self.client.complete_multipart_upload().bucket(self.bucket()).key(to).upload_id(&id);
            let reply = request.multipart_upload(parts).send().await;
            reply.map_err(|e| said(self.scope("CompleteMultipartUpload", to).sdk(e)))
        };
        if let Err(reason) = copied.await {
            self.abort(to, &id).await;
            return Err(reason);
        }
        let size = self.head(to).await.map_err(said)?.map(|info| info.size);
        if size == Some(3) {
            Ok("a range was copied on the server".into())
        } else {
            Err(format!("a range of 3 bytes became {size:?} bytes"))
        }
    }

    async fn try_copy_if_match(&self, from: &str, to: &str) -> Seen {
        let id = self.probe_begin(to).await.map_err(said)?;
        let request = self.client.upload_part_copy().bucket(self.bucket()).key(to).upload_id(&id).part_number(1);
        let request = request.copy_source(copy_source(self.bucket(), from)).copy_source_if_match(OTHER_ETAG);
        let reply = request.copy_source_range("bytes=0-2").send().await;
        let seen = match reply.map_err(|e| self.scope("UploadPartCopy", to).sdk(e)) {
            Ok(_) => Err("the condition was ignored".into()),
            Err(Error::Refused { status: 412, .. }) => Ok("a copy from a replaced object is refused".into()),
            Err(error) => Err(said(error)),
        };
        self.abort(to, &id).await;
        seen
    }

    async fn try_conditional_put(&self, key: &str) -> Seen {
        let request = self.client.put_object().bucket(self.bucket()).key(key).if_none_match("*");
        let reply = request.body(ByteStream::from_static(b"pollinator")).send().await;
        match reply.map_err(|e| self.scope("PutObject", key).sdk(e)) {
            Ok(_) => Err("the condition was ignored".into()),
            Err(Error::Refused { status: 412, .. }) => Ok("If-None-Match keeps an object from being overwritten".into()),
            Err(error) => Err(said(error)),
        }
    }

    async fn try_checksum(&self, key: &str) -> Seen {
        let request = self.client.put_object().bucket(self.bucket()).key(key).checksum_algorithm(ChecksumAlgorithm::Crc32);
        let reply = request.body(ByteStream::from_static(b"pollinator")).send().await;
        reply.map(|_| "CRC32 is taken".to_owned()).map_err(|e| said(self.scope("PutObject", key).sdk(e)))
    }

    /// Removes the throw-away objects; every one is tried.
    async fn clean(&self, keys: &[&str]) -> Result<String, Error> {
        let mut failed = None;
        for key in keys {
            failed = self.delete(key).await.err().or(failed);
        }
        match failed {
            Some(error) => Err(error),
            None => Ok("the throw-away objects are gone".into()),
        }
    }
}

fn required(name: &'static str, seen: Result<String, Error>) -> Check {
    match seen {
        Ok(detail) => Check { name, ok: true, detail, remedy: None, required: true },
        Err(error) => Check { name, ok: false, detail: error.to_string(), remedy: error.hint(), required: true },
    }
}

fn wanted(name: &'static str, seen: Seen, without: &str) -> Check {
    match seen {
        Ok(detail) => Check { name, ok: true, detail, remedy: None, required: false },
        Err(reason) => {
            Check { name, ok: false, detail: format!("not supported: {reason}; {without}"), remedy: None, required: false }
        }
    }
}

fn said(error: Error) -> String {
    error.to_string()
}

fn probe_folder() -> Option<String> {
    let mut random = [0_u8; 12];
    getrandom::fill(&mut random).ok()?;
    Some(format!("pollinator/.probe/{}", hex::encode(random)))
}
