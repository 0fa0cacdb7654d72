//! What lies in the bucket and how old it is, by the server's clock: objects, and uploads that nobody finished.

use crate::store::Error;
use crate::store::Store;
use crate::store::error::Scope;
use crate::store::size_of;
use aws_sdk_s3::primitives::DateTime;
use jiff::SignedDuration;
use jiff::Timestamp;

/// Differences of the clocks of so many seconds are not seen in dates of whole seconds.
const UNSEEN: i64 = 1;

/// An object that is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// Its key.
    pub key: String,
    /// Bytes.
    pub size: u64,
    /// When it was stored, by the server's clock.
    pub modified: Timestamp,
}

/// An upload in parts that was begun and neither finished nor given up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unfinished {
    /// Key of the object that it is to become.
    pub key: String,
    /// The server's id of it.
    pub id: String,
    /// When it was begun, by the server's clock.
    pub begun: Timestamp,
}

impl Store {
    /// What the clock of the server showed at this moment of ours, as its latest answer tells; the same where none does.
    pub fn server_time(&self, ours: Timestamp) -> Timestamp {
        let skew = self.connector.skew().filter(|skew| skew.abs() > UNSEEN).unwrap_or(0);
        ours.checked_add(SignedDuration::from_secs(skew)).unwrap_or(ours)
    }

    /// All objects whose keys begin with `prefix`. None where there is no bucket.
    ///
    /// # Errors
    /// Any of the transport; [`Error::Refused`].
    pub async fn inventory(&self, prefix: &str) -> Result<Vec<Found>, Error> {
        let scope = self.scope("ListObjectsV2", prefix);
        let mut all = Vec::new();
        let mut token: Option<String> = None;
        loop {
            let request = self.client.list_objects_v2().bucket(self.bucket()).prefix(prefix);
            let reply = match request.set_continuation_token(token.clone()).send().await.map_err(|e| scope.sdk(e)) {
                Ok(reply) => reply,
                Err(error) if error.code() == Some("NoSuchBucket") => return Ok(Vec::new()),
                Err(error) => return Err(error),
            };
            for object in reply.contents() {
                let key = object.key().ok_or_else(|| scope.garbage("an entry without a key"))?;
                // What is to be removed is chosen from this list: nothing gets in that was not asked for.
                if key.starts_with(prefix) {
                    let modified = time_of(&scope, object.last_modified())?;
                    all.push(Found { key: key.to_owned(), size: size_of(&scope, object.size())?, modified });
                }
            }
            let next = reply.next_continuation_token().filter(|_| reply.is_truncated().unwrap_or(false));
            match next.map(str::to_owned) {
                None => return Ok(all),
                Some(next) if Some(&next) == token.as_ref() => return Err(scope.garbage("the next page is the same page again")),
                Some(next) => token = Some(next),
            }
        }
    }

    /// All unfinished uploads of keys that begin with `prefix`. None where there is no bucket.
    ///
    /// Not every server lists them all: some want the whole key for a prefix, and tidy up by themselves.
    ///
    /// # Errors
    /// Any of the transport; [`Error::Refused`].
    pub async fn unfinished(&self, prefix: &str) -> Result<Vec<Unfinished>, Error> {
        let scope = self.scope("ListMultipartUploads", prefix);
        let mut all = Vec::new();
        let mut marker: (Option<String>, Option<String>) = (None, None);
        loop {
            let request = self.client.list_multipart_uploads().bucket(self.bucket()).prefix(prefix);
            let request = request.set_key_marker(marker.0.clone()).set_upload_id_marker(marker.1.clone());
            let reply = match request.send().await.map_err(|e| scope.sdk(e)) {
                Ok(reply) => reply,
                Err(error) if error.code() == Some("NoSuchBucket") => return Ok(Vec::new()),
                Err(error) => return Err(error),
            };
            for upload in reply.uploads() {
                let key = upload.key().ok_or_else(|| scope.garbage("an upload without a key"))?;
                let id = upload.upload_id().ok_or_else(|| scope.garbage("an upload without an id"))?;
                if key.starts_with(prefix) {
                    let begun = time_of(&scope, upload.initiated())?;
                    all.push(Unfinished { key: key.to_owned(), id: id.to_owned(), begun });
                }
            }
            if !reply.is_truncated().unwrap_or(false) {
                return Ok(all);
            }
            let next = (reply.next_key_marker().map(str::to_owned), reply.next_upload_id_marker().map(str::to_owned));
            if next == marker || next.0.is_none() {
                return Err(scope.garbage("the next page is the same page again"));
            }
            marker = next;
        }
    }
}

fn time_of(scope: &Scope<'_>, time: Option<&DateTime>) -> Result<Timestamp, Error> {
    let time = time.and_then(|time| Timestamp::new(time.secs(), i32::try_from(time.subsec_nanos()).ok()?).ok());
    time.ok_or_else(|| scope.garbage("an entry without a time"))
}
