//! What an object store has to do for Pollinator, as checks that run against any S3 server: our own endpoint
//! (`tests/store.rs`) and one of others (`tests/real_s3.rs`).

use crate::cut_proxy::CutProxy;
use crate::noise::bytes;
use crate::raw_s3::Call;
use crate::raw_s3::Payload;
use crate::raw_s3::Raw;
use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream;
use pollinator::config::Secret;
use pollinator::config::StoreAccess;
use pollinator::store::Error;
use pollinator::store::Metadata;
use pollinator::store::PART;
use pollinator::store::Patience;
use pollinator::store::Store;
use sha2::Digest;
use sha2::Sha256;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::time::Duration;

const MIB: usize = 1024 * 1024;

pub fn sha256(data: &[u8]) -> String {
    hex::encode(Sha256::digest(data))
}

pub fn no_progress(_: u64) {}

async fn round_trip(store: &Store, key: &str, size: usize) {
    let data = bytes(size);
    let (up, down) = (AtomicU64::new(0), AtomicU64::new(0));
    let count_up = |n| _ = up.fetch_add(n, Ordering::Relaxed);
    let stored = store.put(key, &data[..], size as u64, &Metadata::new(), &count_up).await.unwrap();
    assert_eq!((stored.size, stored.sha256), (size as u64, sha256(&data)), "{key}");
    assert_eq!(up.load(Ordering::Relaxed), size as u64, "{key}: reported as sent");
    let mut back = Vec::new();
    let count_down = |n| _ = down.fetch_add(n, Ordering::Relaxed);
    let info = store.get(key, &mut back, &count_down).await.unwrap();
    assert!(back == data, "{key}: other bytes came back");
    assert_eq!(down.load(Ordering::Relaxed), size as u64, "{key}: reported as received");
    assert_eq!((info.size, &info.etag), (size as u64, &stored.etag), "{key}");
    let head = store.head(key).await.unwrap().unwrap();
    assert_eq!(head, info, "{key}");
    assert_eq!(stored.etag.contains('-'), size as u64 > PART, "{key}: {}", stored.etag);
}

/// Bytes come back as they were stored, whatever the size; large ones travel in parts.
pub async fn sizes(access: &StoreAccess) {
    let store = Store::new(access).unwrap();
    for (name, size) in
        [("empty", 0), ("one", 1), ("part", PART as usize), ("part-and-one", PART as usize + 1), ("parts", 40 * MIB)]
    {
        round_trip(&store, &format!("sizes/{name}"), size).await;
    }
}

/// A size that was guessed wrong costs nothing but time.
pub async fn wrong_size_hints(access: &StoreAccess) {
    let store = Store::new(access).unwrap();
    for (size, hint) in [(100, 0), (100, 50 * MIB as u64), (17 * MIB, 3)] {
        let data = bytes(size);
        let stored = store.put("hints/object", &data[..], hint, &Metadata::new(), &no_progress).await.unwrap();
        assert_eq!((stored.size, stored.sha256), (size as u64, sha256(&data)));
        assert_eq!(store.head("hints/object").await.unwrap().unwrap().size, size as u64);
    }
}

/// User metadata stays with the object, also through a copy.
pub async fn metadata(access: &StoreAccess) {
    let store = Store::new(access).unwrap();
    let long = "ä ö 日本 ".repeat(12).trim().to_owned();
    let metadata: Metadata = [("pollinator-mode", "755"), ("note", "spaces = and; punctuation"), ("unicode", &long)]
        .map(|(k, v)| (k.to_owned(), v.to_owned()))
        .into();
    store.put_bytes("metadata/a", Bytes::from_static(b"x"), &metadata, &|_| ()).await.unwrap();
    assert_eq!(store.head("metadata/a").await.unwrap().unwrap().metadata, metadata);
    let large = bytes(PART as usize + 9);
    store.put("metadata/large", &large[..], large.len() as u64, &metadata, &no_progress).await.unwrap();
    assert_eq!(store.head("metadata/large").await.unwrap().unwrap().metadata, metadata);
    for (from, to) in [("metadata/a", "metadata/b"), ("metadata/large", "metadata/large-copy")] {
        store.copy(from, to).await.unwrap();
        let (mut one, mut other) = (Vec::new(), Vec::new());
        store.get(from, &mut one, &no_progress).await.unwrap();
        let info = store.get(to, &mut other, &no_progress).await.unwrap();
        assert!(one == other, "{to} is not a copy");
        assert_eq!(info.metadata, metadata, "{to}");
    }
    let missing = store.copy("metadata/none", "metadata/c").await.unwrap_err();
    assert!(missing.is_not_found(), "{missing}");
}

/// Keys are opaque: nothing in them is taken for a path, an escape or a pattern.
pub async fn odd_keys(access: &StoreAccess) {
    let store = Store::new(access).unwrap();
    let keys = [
        "a b",
        "ä/ö ü/日本",
        "100%",
        "%41",
        "a+b",
        "a&b=c?d#e",
        "~tilde",
        "quote\"'",
        "...",
        "a..b",
        "x*y[z]",
        "(paren)",
        "semi;colon,comma",
    ];
    for key in keys {
        let key = format!("odd/{key}");
        let stored = store.put_bytes(&key, Bytes::from(key.clone()), &Metadata::new(), &|_| ()).await.unwrap();
        assert_eq!(stored.sha256, sha256(key.as_bytes()));
    }
    let mut listed: Vec<String> = store.list("odd/").await.unwrap().into_iter().map(|(key, _)| key).collect();
    let mut expected: Vec<String> = keys.iter().map(|key| format!("odd/{key}")).collect();
    listed.sort();
    expected.sort();
    assert_eq!(listed, expected);
    for key in &expected {
        let mut back = Vec::new();
        store.get(key, &mut back, &no_progress).await.unwrap();
        assert_eq!(String::from_utf8(back).unwrap(), *key);
        let copy = format!("{key}.copy");
        store.copy(key, &copy).await.unwrap();
        assert_eq!(store.head(&copy).await.unwrap().unwrap().size, key.len() as u64, "{copy}");
        store.delete(key).await.unwrap();
        store.delete(&copy).await.unwrap();
        assert_eq!(store.head(key).await.unwrap(), None);
    }
}

/// What is not there is said not to be there.
pub async fn missing_objects(access: &StoreAccess) {
    let store = Store::new(access).unwrap();
    assert_eq!(store.head("missing/none").await.unwrap(), None);
    let error = store.get("missing/none", &mut Vec::new(), &no_progress).await.unwrap_err();
    assert!(error.is_not_found() && !error.is_temporary(), "{error}");
    assert_eq!(error.code(), Some("NoSuchKey"));
    store.delete("missing/none").await.unwrap();
    assert_eq!(store.list("missing/").await.unwrap(), []);
}

/// More keys than a page holds; sent many at once.
pub async fn many_small_objects(access: &StoreAccess) {
    let store = Store::new(access).unwrap();
    let put = |n: usize| {
        let store = store.clone();
        async move { store.put_bytes(&format!("many/{n:05}"), Bytes::from(bytes(n % 300)), &Metadata::new(), &|_| ()).await.unwrap() }
    };
    let count = stream::iter(0..1234).map(put).buffer_unordered(32).count().await;
    let listed = store.list("many/").await.unwrap();
    assert_eq!((count, listed.len()), (1234, 1234));
    for (n, (key, size)) in listed.iter().enumerate() {
        assert_eq!((key, *size), (&format!("many/{n:05}"), (n % 300) as u64));
    }
}

/// Wrong keys are refused, and the message says which variable to look at.
pub async fn wrong_keys(access: &StoreAccess) {
    let wrong_secret = StoreAccess { secret_key: Secret::new("not-the-secret"), ..access.clone() };
    let wrong_key = StoreAccess { access_key: "NOTTHEKEY".into(), ..access.clone() };
    for (access, variable) in [(wrong_secret, "AWS_S3_SECRETKEY"), (wrong_key, "AWS_S3_ACCESSKEY")] {
        let store = Store::new(&access).unwrap();
        let ensured = store.ensure_bucket().await.unwrap_err();
        let head = store.head("wrong/key").await.unwrap_err();
        let put = store.put_bytes("wrong/key", Bytes::from_static(b"x"), &Metadata::new(), &|_| ()).await.unwrap_err();
        for error in [ensured, head, put] {
            assert!(matches!(error, Error::Refused { status: 403, .. }), "{error:?}");
            assert!(error.hint().unwrap().contains(variable), "{error}: {:?}", error.hint());
            assert!(!error.to_string().contains("not-the-secret"));
        }
        let checks = store.probe().await;
        assert!(checks.iter().any(|c| c.required && !c.ok && c.remedy.is_some()), "{checks:?}");
    }
}

/// A bucket is made when it is missing, by several at once too.
pub async fn missing_bucket(access: &StoreAccess) {
    let store = Store::new(&StoreAccess { bucket: "made-when-missing".into(), ..access.clone() }).unwrap();
    let refused = store.put_bytes("k", Bytes::from_static(b"x"), &Metadata::new(), &|_| ()).await;
    if let Err(error) = refused {
        // Some servers make buckets by themselves; the others say what is missing.
        assert!(error.hint().unwrap().contains("AWS_S3_BUCKET"), "{error}");
    }
    let (one, two, three) = tokio::join!(store.ensure_bucket(), store.ensure_bucket(), store.ensure_bucket());
    for ensured in [one, two, three] {
        ensured.unwrap();
    }
    store.ensure_bucket().await.unwrap();
    store.put_bytes("k", Bytes::from_static(b"x"), &Metadata::new(), &|_| ()).await.unwrap();
}

/// A download whose connection breaks goes on where it broke.
pub async fn interrupted_get(access: &StoreAccess) {
    let data = bytes(9 * MIB);
    let store = Store::new(access).unwrap();
    store.put("cut/object", &data[..], data.len() as u64, &Metadata::new(), &no_progress).await.unwrap();
    let proxy = CutProxy::start(access.endpoint.clone(), 3 * MIB, 2).await;
    let through = Store::new(&StoreAccess { endpoint: proxy.address.clone(), ..access.clone() }).unwrap();
    let received = AtomicU64::new(0);
    let mut back = Vec::new();
    let count = |n| _ = received.fetch_add(n, Ordering::Relaxed);
    through.get("cut/object", &mut back, &count).await.unwrap();
    assert!(back == data);
    assert_eq!(proxy.left(), 0, "the connection was never cut");
    assert_eq!(received.load(Ordering::Relaxed), data.len() as u64, "no byte is counted twice");
}

/// An object that is replaced in the middle of a download is not stitched together from two.
pub async fn replaced_during_get(access: &StoreAccess) {
    let store = Store::new(access).unwrap();
    let data = bytes(6 * MIB);
    store.put("replaced/object", &data[..], data.len() as u64, &Metadata::new(), &no_progress).await.unwrap();
    let proxy = CutProxy::start(access.endpoint.clone(), MIB, 1).await;
    let through = Store::new(&StoreAccess { endpoint: proxy.address.clone(), ..access.clone() }).unwrap();
    let (mut reader, writer) = tokio::io::duplex(64 * 1024);
    let getting = tokio::spawn(async move { through.get("replaced/object", writer, &no_progress).await });
    let mut first = vec![0; 100_000];
    tokio::io::AsyncReadExt::read_exact(&mut reader, &mut first).await.unwrap();
    let other = bytes(6 * MIB + 1);
    store.put("replaced/object", &other[..], other.len() as u64, &Metadata::new(), &no_progress).await.unwrap();
    tokio::io::copy(&mut reader, &mut tokio::io::sink()).await.unwrap();
    let error = getting.await.unwrap().unwrap_err();
    assert!(matches!(error, Error::Changed { .. }) && error.is_temporary(), "{error:?}");
}

/// A broken upload leaves nothing behind: no object, no parts.
pub async fn failed_upload(access: &StoreAccess) {
    struct Fails(usize);
    impl tokio::io::AsyncRead for Fails {
        fn poll_read(
            mut self: std::pin::Pin<&mut Self>,
            _: &mut std::task::Context<'_>,
            buffer: &mut tokio::io::ReadBuf<'_>,
        ) -> std::task::Poll<std::io::Result<()>> {
            if self.0 == 0 {
                return std::task::Poll::Ready(Err(std::io::Error::other("the file went away")));
            }
            let count = self.0.min(buffer.remaining());
            buffer.initialize_unfilled_to(count).fill(7);
            buffer.advance(count);
            self.0 -= count;
            std::task::Poll::Ready(Ok(()))
        }
    }
    let store = Store::new(access).unwrap();
    let error = store.put("failed/object", Fails(40 * MIB), 50 * MIB as u64, &Metadata::new(), &no_progress).await.unwrap_err();
    assert!(matches!(error, Error::Read { .. }) && error.to_string().contains("the file went away"), "{error:?}");
    assert_eq!(store.head("failed/object").await.unwrap(), None);
    let path = format!("/{}", access.bucket);
    let uploads =
        Raw::new(access).send(Call { path: &path, query: &[("uploads", ""), ("prefix", "failed/")], ..Call::EMPTY }).await;
    assert_eq!((uploads.status, uploads.tags("Key")), (200, vec![]), "{}", uploads.text());
}

/// Everything that `doctor` tries works.
pub async fn probe(access: &StoreAccess) {
    let store =
        Store::with_patience(access, Patience { stall: Duration::from_secs(20), attempts: 2, ..Patience::default() }).unwrap();
    let checks = store.probe().await;
    assert!(checks.len() >= 12, "{checks:?}");
    for check in checks {
        assert!(check.ok, "{check:?}");
    }
    assert_eq!(store.list("pollinator/.probe/").await.unwrap(), []);
}

/// The rules of uploads in parts: numbers, order, ETags, the smallest part, ranges, conditions, listing.
pub async fn multipart_rules(access: &StoreAccess) {
    let raw = Raw::new(access);
    let source = bytes(6 * MIB);
    let (from, to) = (format!("/{}/rules/source", access.bucket), format!("/{}/rules/joined", access.bucket));
    let put = raw.send(Call { method: "PUT", path: &from, body: &source, ..Call::EMPTY }).await;
    assert_eq!(put.status, 200, "{}", put.text());
    let begun = raw.send(Call { method: "POST", path: &to, query: &[("uploads", "")], ..Call::EMPTY }).await;
    let id = begun.tag("UploadId").unwrap();
    let part = |number: &'static str| [("partNumber", number), ("uploadId", id.as_str())];
    let five = &source[..5 * MIB];
    let first = raw.send(Call { method: "PUT", path: &to, query: &part("1"), body: five, ..Call::EMPTY }).await.etag();
    let small = raw.send(Call { method: "PUT", path: &to, query: &part("2"), body: b"small", ..Call::EMPTY }).await.etag();
    let copy = |range: &'static str, etag: String| {
        let (raw, to, from, query) = (raw.clone(), to.clone(), from.clone(), part("3"));
        async move {
            let headers =
                [("x-amz-copy-source", from.as_str()), ("x-amz-copy-source-range", range), ("x-amz-copy-source-if-match", &etag)];
            raw.send(Call { method: "PUT", path: &to, query: &query, headers: &headers, ..Call::EMPTY }).await
        }
    };
    let refused = copy("bytes=0-9", "\"00000000000000000000000000000000\"".into()).await;
    assert_eq!(refused.status, 412, "{}", refused.text());
    let copied = copy("bytes=1048576-6291455", format!("\"{}\"", put.etag())).await;
    assert_eq!(copied.status, 200, "{}", copied.text());
    let copied = copied.etag();
    if !copied.contains('-') {
        // SeaweedFS gives a copied part an ETag of its own making; it is opaque then.
        assert_eq!(copied, md5_hex(&source[MIB..]));
    }
    let complete = |parts: Vec<(u32, String)>| {
        let parts: String =
            parts.iter().map(|(n, tag)| format!("<Part><PartNumber>{n}</PartNumber><ETag>\"{tag}\"</ETag></Part>")).collect();
        let body = format!(
            "<CompleteMultipartUpload xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\">{parts}</CompleteMultipartUpload>"
        );
        let (raw, to, id) = (raw.clone(), to.clone(), id.clone());
        async move {
            let call =
                Call { method: "POST", path: &to, query: &[("uploadId", id.as_str())], body: body.as_bytes(), ..Call::EMPTY };
            raw.send(call).await
        }
    };
    let (a, b, c) = ((1, first.clone()), (2, small.clone()), (3, copied.clone()));
    assert_eq!(complete(vec![c.clone(), a.clone()]).await.verdict(), (400, "InvalidPartOrder".into()));
    assert_eq!(complete(vec![(1, small), c.clone()]).await.verdict(), (400, "InvalidPart".into()));
    assert_eq!(complete(vec![a.clone(), b, c.clone()]).await.verdict(), (400, "EntityTooSmall".into()));
    list_parts_pages(&raw, &to, &id).await;
    let joined = complete(vec![a, c]).await;
    assert_eq!(joined.status, 200, "{}", joined.text());
    if !copied.contains('-') {
        let md5s: Vec<u8> = [first, copied].iter().flat_map(|tag| hex::decode(tag).unwrap()).collect();
        assert_eq!(joined.etag(), format!("{}-2", md5_hex(&md5s)));
    }
    let back = raw.send(Call { path: &to, ..Call::EMPTY }).await;
    assert!(back.body == [five, &source[MIB..]].concat());
    // S3 forgets a completed upload in the end; SeaweedFS remembers it. Neither joins anything again.
    let again = complete(vec![(1, "0".repeat(32))]).await;
    assert!(again.verdict() == (404, "NoSuchUpload".into()) || again.etag() == joined.etag(), "{}", again.text());
    assert_eq!(raw.send(Call { method: "HEAD", path: &to, ..Call::EMPTY }).await.etag(), joined.etag());
}

async fn list_parts_pages(raw: &Raw, path: &str, id: &str) {
    let (mut marker, mut seen) = ("0".to_owned(), Vec::new());
    loop {
        let query = [("uploadId", id), ("max-parts", "2"), ("part-number-marker", marker.as_str())];
        let page = raw.send(Call { path, query: &query, ..Call::EMPTY }).await;
        assert_eq!(page.status, 200, "{}", page.text());
        seen.extend(page.tags("PartNumber"));
        if page.tag("IsTruncated").unwrap() == "false" {
            break;
        }
        marker = page.tag("NextPartNumberMarker").unwrap();
    }
    assert_eq!(seen, ["1", "2", "3"]);
}

fn md5_hex(data: &[u8]) -> String {
    hex::encode(md5::Md5::digest(data))
}

/// Ranges and conditions of reads and writes.
pub async fn conditions(access: &StoreAccess) {
    let raw = Raw::new(access);
    let path = format!("/{}/conditions/object", access.bucket);
    let put = async |headers: &[(&str, &str)], body: &[u8]| {
        raw.send(Call { method: "PUT", path: &path, headers, body, ..Call::EMPTY }).await
    };
    let get = async |headers: &[(&str, &str)]| raw.send(Call { path: &path, headers, ..Call::EMPTY }).await;
    let etag = format!("\"{}\"", put(&[("if-none-match", "*")], b"0123456789").await.etag());
    assert_eq!(etag, format!("\"{}\"", md5_hex(b"0123456789")));
    assert_eq!(put(&[("if-none-match", "*")], b"other").await.status, 412);
    assert_eq!(put(&[("if-match", "\"00000000000000000000000000000000\"")], b"other").await.status, 412);
    for (range, expected) in [("bytes=0-3", "0123"), ("bytes=7-", "789"), ("bytes=-2", "89"), ("bytes=8-100", "89")] {
        let part = get(&[("range", range), ("if-match", &etag)]).await;
        assert_eq!((part.status, part.text().as_str()), (206, expected), "{range}");
        assert!(part.headers["content-range"].ends_with("/10"), "{range}");
    }
    assert_eq!(get(&[("range", "bytes=10-")]).await.status, 416);
    assert_eq!(get(&[("if-match", "\"00000000000000000000000000000000\"")]).await.status, 412);
    assert_eq!(get(&[("if-none-match", &etag)]).await.status, 304);
    assert_eq!(put(&[("if-match", &etag)], b"next").await.status, 200);
    assert_eq!(get(&[]).await.text(), "next");
}

/// Bodies whose chunks are signed one by one, as the Go tools send them.
pub async fn signed_chunks(access: &StoreAccess) {
    let raw = Raw::new(access);
    let path = format!("/{}/chunks/object", access.bucket);
    for size in [0, 9, 65536, 65537, 300_000] {
        let data = bytes(size);
        let put = raw.send(Call { method: "PUT", path: &path, body: &data, payload: Payload::Chunks, ..Call::EMPTY }).await;
        assert_eq!((put.status, put.etag()), (200, md5_hex(&data)), "{size}: {}", put.text());
        assert!(raw.send(Call { path: &path, ..Call::EMPTY }).await.body == data, "{size}");
    }
    let forged =
        raw.send(Call { method: "PUT", path: &path, body: b"forged", payload: Payload::ForgedChunk, ..Call::EMPTY }).await;
    assert!(forged.status >= 400, "a forged chunk was taken: {}", forged.status);
    let unsigned =
        raw.send(Call { method: "PUT", path: &path, body: b"unsigned", payload: Payload::Unsigned, ..Call::EMPTY }).await;
    assert_eq!(unsigned.status, 200);
}

/// One test for each check. `$start` is an expression that gives (a future of) something with a method `access()`.
#[macro_export]
macro_rules! store_conformance {
    ($start:expr => $($check:ident),+ $(,)?) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $check() {
                let server = $start.await;
                $crate::store_conformance::$check(server.access()).await;
            }
        )+
    };
    ($start:expr) => {
        $crate::store_conformance!($start => sizes, wrong_size_hints, metadata, odd_keys, missing_objects, many_small_objects,
            wrong_keys, missing_bucket, interrupted_get, replaced_during_get, failed_upload, probe, multipart_rules, conditions,
            signed_chunks);
    };
}
