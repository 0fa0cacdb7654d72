//! The object store: any server that speaks S3.
//!
//! Requests are signed and retried by the AWS SDK and carried by the one HTTP client that everything here uses.
//! Checksum headers beyond the signed SHA-256 of the payload are sent only where S3 requires them, because many
//! servers refuse the SDK's default.

mod download;
mod error;
mod http;
mod inventory;
mod metadata;
mod multipart;
mod pace;
mod probe;
mod ranged;
mod upload;

pub use error::Error;
pub use inventory::Found;
pub use inventory::Unfinished;
pub use multipart::ListedPart;
pub use multipart::Pinned;
pub use multipart::SentPart;
pub use multipart::joined_etag;
pub use multipart::plain_etag;
pub use pace::Measured;
pub use probe::Check;
pub use probe::PART_COPY;
pub use ranged::Ranged;

use crate::config::StoreAccess;
use crate::net;
use aws_sdk_s3::Client;
use aws_sdk_s3::config::BehaviorVersion;
use aws_sdk_s3::config::Credentials;
use aws_sdk_s3::config::Region;
use aws_sdk_s3::config::RequestChecksumCalculation;
use aws_sdk_s3::config::ResponseChecksumValidation;
use aws_sdk_s3::config::StalledStreamProtectionConfig;
use aws_sdk_s3::config::retry::RetryConfig;
use aws_sdk_s3::config::timeout::TimeoutConfig;
use aws_sdk_s3::types::BucketLocationConstraint;
use aws_sdk_s3::types::CreateBucketConfiguration;
use error::Scope;
use percent_encoding::AsciiSet;
use percent_encoding::NON_ALPHANUMERIC;
use percent_encoding::utf8_percent_encode;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;

/// User metadata of an object (`x-amz-meta-*`): names without the prefix, in lower case; values any text that neither begins
/// nor ends with a space. S3 takes 2 KiB altogether.
pub type Metadata = BTreeMap<String, String>;

/// Is told how many bytes have moved since the last call.
pub type Progress<'a> = &'a (dyn Fn(u64) + Send + Sync);

/// Objects up to this size in bytes are stored with one request; larger ones in parts of at least this size.
pub const PART: u64 = 16 * 1024 * 1024;

/// Memory in MiB that all uploads of one store may take for their buffers.
const BUFFERS_MIB: u32 = 96;

/// What stays as it is in the path of a copy source.
const PATH: &AsciiSet = &NON_ALPHANUMERIC.remove(b'/').remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// An object as it was stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    /// Bytes.
    pub size: u64,
    /// SHA-256 of the bytes that were sent, in hexadecimal digits.
    pub sha256: String,
    /// The server's ETag, with its quotes removed.
    pub etag: String,
}

/// What the server knows about an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectInfo {
    /// Bytes.
    pub size: u64,
    /// The server's ETag, with its quotes removed.
    pub etag: String,
    /// User metadata.
    pub metadata: Metadata,
}

/// How patient a store is, and how much of the link it may take.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// How long nothing may move on a connection before the attempt is given up. Long work of the server (copying,
    /// joining parts) gets ten times as much.
    pub stall: Duration,
    /// How often a request is tried altogether; also how often in a row a broken download is taken up again without a new byte.
    pub attempts: u32,
    /// Most bytes a second that leave this machine; none: as fast as it goes.
    pub limit_up: Option<u64>,
}

impl Default for Patience {
    fn default() -> Patience {
        Patience { stall: Duration::from_secs(30), attempts: 4, limit_up: None }
    }
}

/// One bucket of one S3 server. Cheap to clone; clones share connections and the memory limit.
#[derive(Clone, Debug)]
pub struct Store {
    client: Client,
    connector: http::Connector,
    access: Arc<StoreAccess>,
    buffers: Arc<Semaphore>,
    patience: Patience,
}

impl Store {
    /// A client for the bucket in `access`. Nothing is sent yet.
    ///
    /// # Errors
    /// [`Error::Setup`] where the endpoint is no `host[:port]`, or TLS cannot be set up.
    pub fn new(access: &StoreAccess) -> Result<Store, Error> {
        Store::with_patience(access, Patience::default())
    }

    /// As [`Store::new`], with other limits.
    ///
    /// # Errors
    /// As [`Store::new`].
    pub fn with_patience(access: &StoreAccess, patience: Patience) -> Result<Store, Error> {
        let setup = |reason: String| Error::Setup { server: access.endpoint.clone(), reason };
        let scheme = if access.tls { "https" } else { "http" };
        let endpoint = url::Url::parse(&format!("{scheme}://{}", access.endpoint)).map_err(|e| setup(e.to_string()))?;
        let bare = endpoint.path() == "/" && endpoint.query().is_none() && endpoint.username().is_empty();
        if !bare || access.endpoint.contains(['/', '@', '#', '?']) {
            return Err(setup("the endpoint is not of the form host or host:port".into()));
        }
        if access.bucket.is_empty() {
            return Err(setup("no bucket is named (AWS_S3_BUCKET)".into()));
        }
        let connector = http::Connector::new(
            net::http_client(access.skip_verify).map_err(setup)?,
            patience.stall,
            pace::Pace::new(patience.limit_up),
        );
        let region = if access.region.is_empty() { "us-east-1" } else { &access.region };
        let retry = RetryConfig::standard()
            .with_max_attempts(patience.attempts.max(1))
            .with_initial_backoff(Duration::from_millis(250))
            .with_max_backoff(Duration::from_secs(8));
        let config = aws_sdk_s3::Config::builder()
            .behavior_version(BehaviorVersion::v2026_01_12())
            .region(Region::new(region.to_owned()))
            .endpoint_url(endpoint.as_str().trim_end_matches('/'))
            .credentials_provider(Credentials::new(&access.access_key, access.secret_key.expose(), None, None, "pollinator"))
            .force_path_style(true)
            .request_checksum_calculation(RequestChecksumCalculation::WhenRequired)
            .response_checksum_validation(ResponseChecksumValidation::WhenRequired)
            .retry_config(retry)
            .timeout_config(TimeoutConfig::disabled())
            .stalled_stream_protection(StalledStreamProtectionConfig::disabled())
            .interceptor(http::Plain)
            .http_client(connector.clone())
            .build();
        Ok(Store {
            client: Client::from_conf(config),
            connector,
            access: Arc::new(access.clone()),
            buffers: Arc::new(Semaphore::new(BUFFERS_MIB as usize)),
            patience,
        })
    }

    /// Where this store is, and as whom we speak to it.
    pub fn access(&self) -> &StoreAccess {
        &self.access
    }

    /// How fast the way to it was until now.
    pub fn measured(&self) -> Measured {
        self.connector.pace().measured()
    }

    fn bucket(&self) -> &str {
        &self.access.bucket
    }

    fn scope<'a>(&'a self, call: &'static str, key: &'a str) -> Scope<'a> {
        Scope { server: &self.access.endpoint, bucket: &self.access.bucket, call, key }
    }

    /// Makes sure that the bucket is there: creates it when it is missing.
    ///
    /// # Errors
    /// Any of the transport; [`Error::Refused`] where the bucket is another's or may not be created.
    pub async fn ensure_bucket(&self) -> Result<(), Error> {
        let head = self.client.head_bucket().bucket(self.bucket()).send().await;
        let Err(head) = head.map_err(|e| self.scope("HeadBucket", "").sdk(e)) else { return Ok(()) };
        match &head {
            Error::Refused { status: 404, .. } => self.create_bucket().await,
            // An answer to HEAD has no body, so it cannot say what is wrong: another call can.
            Error::Refused { .. } => self.list_some("", 1).await.map(|_| ()),
            _ => Err(head),
        }
    }

    async fn create_bucket(&self) -> Result<(), Error> {
        let region = self.access.region.as_str();
        let place = (!region.is_empty() && region != "us-east-1")
            .then(|| CreateBucketConfiguration::builder().location_constraint(BucketLocationConstraint::from(region)).build());
        let made = self.client.create_bucket().bucket(self.bucket()).set_create_bucket_configuration(place).send().await;
        match made.map_err(|e| self.scope("CreateBucket", "").sdk(e)) {
            Ok(_) => Ok(()),
            // Somebody else made it at the same moment. Where it is not ours the next call says so.
            Err(Error::Refused { code, .. }) if code == "BucketAlreadyOwnedByYou" => Ok(()),
            Err(Error::Refused { code, .. }) if code == "BucketAlreadyExists" => self.list_some("", 1).await.map(|_| ()),
            Err(error) => Err(error),
        }
    }

    /// What is stored under `key`; nothing where there is no such object.
    ///
    /// # Errors
    /// Any of the transport; [`Error::Refused`] for anything but "not found".
    pub async fn head(&self, key: &str) -> Result<Option<ObjectInfo>, Error> {
        check_key(key)?;
        let scope = self.scope("HeadObject", key);
        match self.client.head_object().bucket(self.bucket()).key(key).send().await.map_err(|e| scope.sdk(e)) {
            Ok(found) => Ok(Some(ObjectInfo {
                size: size_of(&scope, found.content_length())?,
                etag: bare_etag(&scope, found.e_tag())?,
                metadata: metadata::from_headers(found.metadata()),
            })),
            Err(Error::Refused { status: 404, .. }) => Ok(None),
            Err(refused @ Error::Refused { status: 400 | 403, .. }) => {
                // HEAD cannot say why; a call with a body in its answer can.
                self.list_some(key, 1).await?;
                Err(refused)
            }
            Err(error) => Err(error),
        }
    }

    /// Removes an object. It is no error if it is not there.
    ///
    /// # Errors
    /// Any of the transport; [`Error::Refused`].
    pub async fn delete(&self, key: &str) -> Result<(), Error> {
        check_key(key)?;
        match self.client.delete_object().bucket(self.bucket()).key(key).send().await {
            Ok(_) => Ok(()),
            Err(error) => match self.scope("DeleteObject", key).sdk(error) {
                Error::Refused { status: 404, code, .. } if code != "NoSuchBucket" => Ok(()),
                error => Err(error),
            },
        }
    }

    /// Keys that begin with `prefix`, with the objects' sizes in bytes, in the server's order.
    ///
    /// # Errors
    /// Any of the transport; [`Error::Refused`].
    pub async fn list(&self, prefix: &str) -> Result<Vec<(String, u64)>, Error> {
        let mut all = Vec::new();
        let mut token: Option<String> = None;
        loop {
            let (mut page, next) = self.list_page(prefix, None, token.clone()).await?;
            all.append(&mut page);
            match next {
                None => return Ok(all),
                Some(next) if Some(&next) == token.as_ref() => {
                    return Err(self.scope("ListObjectsV2", prefix).garbage("the next page is the same page again"));
                }
                Some(next) => token = Some(next),
            }
        }
    }

    async fn list_some(&self, prefix: &str, count: i32) -> Result<Vec<(String, u64)>, Error> {
        Ok(self.list_page(prefix, Some(count), None).await?.0)
    }

    async fn list_page(
        &self,
        prefix: &str,
        count: Option<i32>,
        token: Option<String>,
    ) -> Result<(Vec<(String, u64)>, Option<String>), Error> {
        let scope = self.scope("ListObjectsV2", prefix);
        let request = self.client.list_objects_v2().bucket(self.bucket()).prefix(prefix).set_max_keys(count);
        let reply = request.set_continuation_token(token).send().await.map_err(|e| scope.sdk(e))?;
        let mut page = Vec::new();
        for object in reply.contents() {
            let key = object.key().ok_or_else(|| scope.garbage("an entry without a key"))?;
            page.push((key.to_owned(), size_of(&scope, object.size())?));
        }
        let next = reply.next_continuation_token().filter(|_| reply.is_truncated().unwrap_or(false)).map(str::to_owned);
        Ok((page, next))
    }
}

/// Refuses keys that an HTTP client or server would change on the way, or that S3 does not take.
fn check_key(key: &str) -> Result<(), Error> {
    let climbs = key.split('/').any(|part| part == "." || part == "..");
    if key.is_empty() || key.len() > 1024 || climbs {
        return Err(Error::BadKey { key: key.to_owned() });
    }
    Ok(())
}

/// `bucket/key` as a copy source: percent-encoded, slashes kept.
fn copy_source(bucket: &str, key: &str) -> String {
    format!("{bucket}/{}", utf8_percent_encode(key, PATH))
}

fn size_of(scope: &Scope<'_>, size: Option<i64>) -> Result<u64, Error> {
    size.and_then(|s| u64::try_from(s).ok()).ok_or_else(|| scope.garbage("no size in the answer"))
}

fn bare_etag(scope: &Scope<'_>, etag: Option<&str>) -> Result<String, Error> {
    etag.map(|e| e.trim_matches('"').to_owned()).ok_or_else(|| scope.garbage("no ETag in the answer"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Secret;

    fn access(endpoint: &str) -> StoreAccess {
        StoreAccess {
            endpoint: endpoint.into(),
            tls: false,
            skip_verify: false,
            access_key: "key".into(),
            secret_key: Secret::new("very-secret"),
            region: String::new(),
            bucket: "bucket".into(),
        }
    }

    #[test]
    fn an_endpoint_is_host_and_port_and_nothing_else() {
        for good in ["localhost", "localhost:9000", "127.0.0.1:1", "[::1]:9000", "s3.example.org"] {
            assert!(Store::new(&access(good)).is_ok(), "{good}");
        }
        for bad in ["", "http://localhost", "localhost/path", "me@localhost", "localhost:port", "a b", "host?x"] {
            let error = Store::new(&access(bad)).unwrap_err();
            assert!(matches!(error, Error::Setup { .. }), "{bad}: {error}");
            assert!(error.hint().is_some());
        }
    }

    #[test]
    fn transfers_can_be_spawned() {
        fn is_send<T: Send>(_: &T) {}
        let store = Store::new(&access("localhost:1")).unwrap();
        let metadata = Metadata::new();
        is_send(&store.put("k", tokio::io::empty(), 0, &metadata, &|_| ()));
        is_send(&store.get("k", tokio::io::sink(), &|_| ()));
        is_send(&store.copy("k", "l"));
        is_send(&store.probe());
    }

    #[test]
    fn the_secret_is_never_shown() {
        let store = Store::new(&access("localhost:1")).unwrap();
        assert!(!format!("{store:?}").contains("very-secret"));
    }

    #[test]
    fn keys_that_would_be_changed_on_the_way_are_refused() {
        for bad in ["", "a/../b", "..", "./a", "a/."] {
            assert!(check_key(bad).is_err(), "{bad}");
        }
        assert!(check_key(&"k".repeat(1025)).is_err());
        for good in ["a", "a/b", "...", "a..b/.c", "ä ö%+", "a//b", "a/"] {
            assert!(check_key(good).is_ok(), "{good}");
        }
    }

    #[test]
    fn a_copy_source_is_encoded_but_for_its_slashes() {
        assert_eq!(copy_source("b", "a/ö %+~"), "b/a/%C3%B6%20%25%2B~");
    }
}
