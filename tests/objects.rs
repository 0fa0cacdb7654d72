//! The S3 endpoint of the local colony, asked things that our own client never asks; and killed, and started again.

#![allow(clippy::unwrap_used, clippy::expect_used)] // In tests a panic is the message.

#[path = "common/endpoint.rs"]
mod endpoint;
#[path = "common/noise.rs"]
mod noise;
#[path = "common/raw_s3.rs"]
mod raw_s3;

use bytes::Bytes;
use endpoint::Server;
use endpoint::access;
use noise::bytes;
use pollinator::colony::objects;
use pollinator::config::StoreAccess;
use pollinator::store::Error;
use pollinator::store::Metadata;
use pollinator::store::Patience;
use pollinator::store::Store;
use raw_s3::Call;
use raw_s3::Payload;
use raw_s3::Raw;
use serde_json::Value;
use sha2::Digest;
use std::path::Path;
use std::time::Duration;
use std::time::Instant;
use tokio::io::AsyncReadExt;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

fn no_progress(_: u64) {}

#[tokio::test]
async fn keys_that_climb_are_refused_by_the_client_and_harmless_to_the_endpoint() {
    let server = Server::start().await;
    let store = Store::new(server.access()).unwrap();
    let error = store.put_bytes("a/../../b", Bytes::from_static(b"x"), &Metadata::new(), &|_| ()).await.unwrap_err();
    assert!(matches!(error, Error::BadKey { .. }), "{error:?}");
    // A client that does send them: the key is only a name.
    let raw = Raw::new(server.access());
    let call = Call { method: "PUT", path: "/conformance/../../../etc/x", body: b"harmless", ..Call::EMPTY };
    let (_, headers, body) = raw.signed(&call);
    let reply = by_hand(server.access(), "PUT /conformance/../../../etc/x", &headers, &body, false).await;
    assert!(reply.starts_with("HTTP/1.1 200"), "{reply}");
    assert_eq!(store.list("").await.unwrap(), [("../../../etc/x".to_owned(), 8)]);
    for key in ["folder/", "a//b", &"long/".repeat(200)] {
        let stored = store.put_bytes(key, Bytes::from_static(b"x"), &Metadata::new(), &|_| ()).await.unwrap();
        assert_eq!(store.head(key).await.unwrap().unwrap().etag, stored.etag, "{key}");
    }
}

/// Sends a request over a bare connection; waits for `100 Continue` before the body where `polite`.
async fn by_hand(
    access: &StoreAccess,
    line: &str,
    headers: &std::collections::BTreeMap<String, String>,
    body: &[u8],
    polite: bool,
) -> String {
    let mut stream = TcpStream::connect(&access.endpoint).await.unwrap();
    let headers: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    stream.write_all(format!("{line} HTTP/1.1\r\n{headers}connection: close\r\n\r\n").as_bytes()).await.unwrap();
    if polite {
        let mut answer = [0; 25];
        stream.read_exact(&mut answer).await.unwrap();
        assert_eq!(&answer, b"HTTP/1.1 100 Continue\r\n\r\n");
    }
    stream.write_all(body).await.unwrap();
    let mut reply = String::new();
    stream.read_to_string(&mut reply).await.unwrap();
    reply
}

#[tokio::test]
async fn a_client_that_expects_100_continue_gets_it() {
    let server = Server::start().await;
    let raw = Raw::new(server.access());
    let call = Call {
        method: "PUT",
        path: "/conformance/python",
        headers: &[("expect", "100-continue"), ("x-amz-checksum-crc32", "M8Vjqg=="), ("x-amz-sdk-checksum-algorithm", "CRC32")],
        body: b"from python",
        ..Call::EMPTY
    };
    let (target, headers, body) = raw.signed(&call);
    let reply = by_hand(server.access(), &format!("PUT {target}"), &headers, &body, true).await;
    assert!(reply.starts_with("HTTP/1.1 200"), "{reply}");
    let kept =
        raw.send(Call { path: "/conformance/python", headers: &[("x-amz-checksum-mode", "ENABLED")], ..Call::EMPTY }).await;
    assert_eq!((kept.text().as_str(), kept.headers["x-amz-checksum-crc32"].as_str()), ("from python", "M8Vjqg=="));
}

#[tokio::test]
async fn wrong_checksums_are_refused_and_leave_nothing() {
    let server = Server::start().await;
    let raw = Raw::new(server.access());
    for (header, value) in [
        ("content-md5", "AAAAAAAAAAAAAAAAAAAAAA=="),
        ("x-amz-checksum-crc32", "AAAAAA=="),
        ("x-amz-checksum-crc32c", "AAAAAA=="),
        ("x-amz-checksum-sha256", "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="),
    ] {
        let call = Call { method: "PUT", path: "/conformance/bad", headers: &[(header, value)], body: b"bytes", ..Call::EMPTY };
        assert_eq!(raw.send(call).await.verdict(), (400, "BadDigest".into()), "{header}");
    }
    let lies = bytes(200_000);
    let (target, headers, mut body) = raw.signed(&Call { method: "PUT", path: "/conformance/bad", body: &lies, ..Call::EMPTY });
    body[150_000] ^= 1;
    let reply = reqwest_put(server.access(), &target, headers, body).await;
    assert_eq!(reply, 400);
    assert_eq!(raw.send(Call { path: "/conformance/bad", ..Call::EMPTY }).await.status, 404);
    assert_eq!(server.data_files(), 0);
}

async fn reqwest_put(
    access: &StoreAccess,
    target: &str,
    headers: std::collections::BTreeMap<String, String>,
    body: Vec<u8>,
) -> u16 {
    let mut request = pollinator::net::http_client(false).unwrap().put(format!("http://{}{target}", access.endpoint));
    for (name, value) in headers {
        request = request.header(name, value);
    }
    request.body(body).send().await.unwrap().status().as_u16()
}

#[tokio::test]
async fn listings_page_and_group() {
    let server = Server::start().await;
    let store = Store::new(server.access()).unwrap();
    for key in ["a", "b/1", "b/2", "b/c/3", "d ä+%"] {
        store.put_bytes(key, Bytes::from_static(b"x"), &Metadata::new(), &|_| ()).await.unwrap();
    }
    let raw = Raw::new(server.access());
    for version in [&[("list-type", "2")][..], &[]] {
        let query = [version, &[("delimiter", "/"), ("encoding-type", "url")]].concat();
        let page = raw.send(Call { path: "/conformance", query: &query, ..Call::EMPTY }).await;
        assert_eq!(page.tags("Key"), ["a", "d%20%C3%A4%2B%25"], "{}", page.text());
        assert!(page.text().contains("<CommonPrefixes><Prefix>b/</Prefix></CommonPrefixes>"), "{}", page.text());
        let (mut from, mut seen) = (None::<(&str, String)>, Vec::new());
        loop {
            let mut query = [version, &[("max-keys", "2")]].concat();
            query.extend(from.as_ref().map(|(name, value)| (*name, value.as_str())));
            let page = raw.send(Call { path: "/conformance", query: &query, ..Call::EMPTY }).await;
            seen.extend(page.tags("Key"));
            let next = page.tag("NextContinuationToken").map(|t| ("continuation-token", t));
            match next.or(page.tag("NextMarker").map(|m| ("marker", m))) {
                Some(next) => from = Some(next),
                None => break,
            }
        }
        assert_eq!(seen, ["a", "b/1", "b/2", "b/c/3", "d ä+%"]);
    }
    let after =
        raw.send(Call { path: "/conformance", query: &[("list-type", "2"), ("start-after", "b/2")], ..Call::EMPTY }).await;
    assert_eq!(after.tags("Key"), ["b/c/3", "d ä+%"]);
    let body = b"<Delete><Object><Key>a</Key></Object><Object><Key>never there</Key></Object></Delete>";
    let call = Call { method: "POST", path: "/conformance", query: &[("delete", "")], body, ..Call::EMPTY };
    assert_eq!(raw.send(call).await.tags("Key"), ["a", "never there"]);
    assert_eq!(store.list("").await.unwrap().len(), 4);
    let buckets = raw.send(Call::EMPTY).await;
    assert_eq!(buckets.tags("Name"), ["conformance"]);
    assert_eq!(
        raw.send(Call { method: "DELETE", path: "/conformance", ..Call::EMPTY }).await.verdict(),
        (409, "BucketNotEmpty".into())
    );
}

#[tokio::test]
async fn unfinished_uploads_are_listed_and_can_be_removed() {
    let server = Server::start().await;
    let raw = Raw::new(server.access());
    let mut ids = Vec::new();
    for key in ["u/1", "u/2", "u/2", "v/1"] {
        let path = format!("/conformance/{key}");
        let begun = raw.send(Call { method: "POST", path: &path, query: &[("uploads", "")], ..Call::EMPTY }).await;
        let id = begun.tag("UploadId").unwrap();
        let query = [("partNumber", "7"), ("uploadId", id.as_str())];
        assert_eq!(raw.send(Call { method: "PUT", path: &path, query: &query, body: b"part", ..Call::EMPTY }).await.status, 200);
        // The same part again takes the place of the first.
        assert_eq!(raw.send(Call { method: "PUT", path: &path, query: &query, body: b"part", ..Call::EMPTY }).await.status, 200);
        ids.push((path, id));
    }
    assert_eq!(server.data_files(), 4);
    let (mut markers, mut seen) = ((String::new(), String::new()), Vec::new());
    loop {
        let query = [
            ("uploads", ""),
            ("prefix", "u/"),
            ("max-uploads", "1"),
            ("key-marker", markers.0.as_str()),
            ("upload-id-marker", markers.1.as_str()),
        ];
        let page = raw.send(Call { path: "/conformance", query: &query, ..Call::EMPTY }).await;
        seen.extend(page.tags("Key"));
        let (Some(key), Some(id)) = (page.tag("NextKeyMarker"), page.tag("NextUploadIdMarker")) else { break };
        markers = (key, id);
    }
    assert_eq!(seen, ["u/1", "u/2", "u/2"]);
    for (path, id) in &ids {
        let abort = || Call { method: "DELETE", path, query: &[], ..Call::EMPTY };
        let query = [("uploadId", id.as_str())];
        assert_eq!(raw.send(Call { query: &query, ..abort() }).await.status, 204);
        assert_eq!(raw.send(Call { query: &query, ..abort() }).await.verdict(), (404, "NoSuchUpload".into()));
    }
    assert_eq!(server.data_files(), 0);
}

/// The recorded requests of other clients, signed anew, are answered as the recorded server answered them.
#[tokio::test]
async fn recorded_requests_of_other_clients_are_answered() {
    let server = Server::start().await;
    Store::new(&StoreAccess { bucket: "colonies".into(), ..server.access().clone() }).unwrap().ensure_bucket().await.unwrap();
    let raw = Raw::new(server.access());
    let recorded: Value = serde_json::from_str(include_str!("wire/s3-requests.json")).unwrap();
    let (mut upload, mut replayed) = (String::new(), 0);
    for exchange in recorded["exchanges"].as_array().unwrap() {
        let (request, response) = (&exchange["request"], &exchange["response"]);
        let words: Vec<&str> = request["line"].as_str().unwrap().split(' ').collect();
        let (path, query) = words[1].split_once('?').unwrap_or((words[1], ""));
        let query: Vec<(&str, &str)> = query.split('&').filter(|q| !q.is_empty()).map(|q| q.split_once('=').unwrap()).collect();
        let query: Vec<(&str, &str)> = query.into_iter().map(|(n, v)| (n, if n == "uploadId" { &upload } else { v })).collect();
        let headers = request["headers"].as_object().unwrap();
        let kept: Vec<(&str, &str)> = headers
            .iter()
            .filter(|(name, _)| {
                !matches!(name.as_str(), "content-length" | "x-amz-content-sha256" | "x-amz-decoded-content-length")
            })
            .map(|(name, value)| (name.as_str(), value.as_str().unwrap()))
            .collect();
        let begins = request["body_begins"].as_str().unwrap();
        let (payload, body) = match headers["x-amz-content-sha256"].as_str().unwrap() {
            "STREAMING-AWS4-HMAC-SHA256-PAYLOAD" => {
                let length: usize = headers["x-amz-decoded-content-length"].as_str().unwrap().parse().unwrap();
                let first = begins.split_once("\r\n").unwrap().1;
                let body = if length < 1000 { first[..length].into() } else { vec![b'z'; length] };
                (Payload::Chunks, body)
            }
            "UNSIGNED-PAYLOAD" => (Payload::Unsigned, begins.into()),
            _ => (Payload::Signed, begins.into()),
        };
        let call = Call { method: words[0], path, query: &query, headers: &kept, body: &body, payload };
        let reply = raw.send(call).await;
        let case = exchange["case"].as_str().unwrap();
        let status: u16 = response["line"].as_str().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
        assert_eq!(reply.status, status, "{case}: {}", reply.text());
        for name in ["etag", "x-amz-checksum-crc32", "x-amz-bucket-region", "x-amz-checksum-algorithm"] {
            let expected = response["headers"][name].as_str();
            assert_eq!(
                expected.or(reply.headers.get(name).map(String::as_str)),
                reply.headers.get(name).map(String::as_str),
                "{case}: {name}"
            );
        }
        if case == "complete" {
            assert_eq!(reply.etag(), "927ae5843843598103b6f9f6adb9c442-2");
        }
        if words[0] == "GET" && query.is_empty() {
            assert_eq!(reply.text(), response["body"].as_str().unwrap(), "{case}");
        }
        upload = reply.tag("UploadId").unwrap_or(upload);
        replayed += 1;
    }
    assert_eq!(replayed, recorded["exchanges"].as_array().unwrap().len());
}

/// Serves a folder until it is killed: the child of `killed_at_any_moment_…`, and nothing to do without its variables.
#[tokio::test]
async fn child_that_serves_until_it_is_killed() {
    let (Ok(folder), Ok(ready)) = (std::env::var("POLLINATOR_TEST_FOLDER"), std::env::var("POLLINATOR_TEST_READY")) else {
        return;
    };
    let server = Server::on(folder.into()).await;
    Store::new(server.access()).unwrap().ensure_bucket().await.unwrap();
    std::fs::write(format!("{ready}.new"), &server.access.endpoint).unwrap();
    std::fs::rename(format!("{ready}.new"), ready).unwrap();
    server.task.await.unwrap().unwrap();
}

/// kill -9 while objects large and small are written: what was confirmed is there, whole and with its metadata; nothing else
/// is served, and nothing is left over.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_at_any_moment_the_endpoint_keeps_what_it_confirmed() {
    let temporary = tempfile::tempdir().unwrap();
    let folder = temporary.path().join("objects");
    let (mut confirmed, mut begun) = (Vec::new(), 0);
    for round in 0..4 {
        let ready = temporary.path().join(format!("ready-{round}"));
        let mut child = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "child_that_serves_until_it_is_killed"])
            .env("POLLINATOR_TEST_FOLDER", &folder)
            .env("POLLINATOR_TEST_READY", &ready)
            .stdout(std::process::Stdio::null())
            .spawn()
            .unwrap();
        let endpoint = wait_for_file(&ready, &mut child).await;
        let store = Store::with_patience(
            &access(endpoint, "conformance"),
            Patience { stall: Duration::from_secs(5), attempts: 1, ..Patience::default() },
        );
        let store = store.unwrap();
        let (send, mut done) = tokio::sync::mpsc::unbounded_channel();
        let mut writers = tokio::task::JoinSet::new();
        for writer in 0..6 {
            let (store, send) = (store.clone(), send.clone());
            writers.spawn(async move {
                for n in 0.. {
                    let (key, size) = (format!("r{round}/w{writer}/{n}"), [10, 40_000, 900_000][n % 3]);
                    let metadata = Metadata::from([("key".to_owned(), key.clone())]);
                    match store.put_bytes(&key, Bytes::from(bytes(size)), &metadata, &|_| ()).await {
                        Ok(stored) => send.send((key, stored)).unwrap(),
                        Err(_) => return n,
                    }
                }
                0
            });
        }
        drop(send);
        // In the middle of work: some are confirmed, and six are under way.
        for _ in 0..20 + 17 * round {
            confirmed.push(done.recv().await.unwrap());
        }
        child.kill().unwrap();
        child.wait().unwrap();
        while let Some(last) = done.recv().await {
            confirmed.push(last);
        }
        begun += writers.join_all().await.into_iter().map(|n| n + 1).sum::<usize>();
    }
    let server = Server::on(folder).await;
    let store = Store::new(server.access()).unwrap();
    for (key, stored) in &confirmed {
        let mut back = Vec::new();
        let info = store.get(key, &mut back, &no_progress).await.unwrap();
        assert_eq!(hex::encode(sha2::Sha256::digest(&back)), stored.sha256, "{key}");
        assert_eq!(info.metadata["key"], *key);
    }
    let listed = store.list("").await.unwrap();
    assert!((confirmed.len()..=begun).contains(&listed.len()), "{} {} {begun}", confirmed.len(), listed.len());
    for (key, size) in &listed {
        let mut back = Vec::new();
        let info = store.get(key, &mut back, &no_progress).await.unwrap();
        assert!(back == bytes(*size as usize) && info.metadata["key"] == *key, "{key} is not whole");
    }
    let in_files = listed.iter().filter(|(_, size)| *size > 32 * 1024).count();
    assert_eq!(server.data_files(), in_files, "files that no object needs are left over");
    server.stop().await;
}

async fn wait_for_file(path: &Path, child: &mut std::process::Child) -> String {
    let began = Instant::now();
    loop {
        if let Ok(text) = std::fs::read_to_string(path) {
            return text;
        }
        assert!(child.try_wait().unwrap().is_none(), "the server ended by itself");
        assert!(began.elapsed() < Duration::from_secs(60), "the server did not start");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn objects_survive_a_restart_and_leftovers_do_not() {
    let temporary = tempfile::tempdir().unwrap();
    let folder = temporary.path().join("objects");
    let server = Server::on(folder.clone()).await;
    let store = Store::new(server.access()).unwrap();
    store.ensure_bucket().await.unwrap();
    let metadata = Metadata::from([("pollinator-mode".into(), "755".into())]);
    let data = bytes(1_000_000);
    store.put("kept", &data[..], data.len() as u64, &metadata, &no_progress).await.unwrap();
    store.put_bytes("small", Bytes::from_static(b"small"), &metadata, &|_| ()).await.unwrap();
    store.put("gone", &data[..], data.len() as u64, &metadata, &no_progress).await.unwrap();
    store.delete("gone").await.unwrap();
    assert_eq!(server.data_files(), 1);
    let second = Server::on(folder.clone()).await;
    assert!(matches!(second.task.await.unwrap(), Err(objects::Error::InUse { .. })));
    server.stop().await;
    std::fs::write(folder.join("data/half-written"), b"half").unwrap();

    let server = Server::on(folder).await;
    let store = Store::new(server.access()).unwrap();
    assert_eq!(store.list("").await.unwrap(), [("kept".into(), 1_000_000), ("small".into(), 5)]);
    let mut back = Vec::new();
    let info = store.get("kept", &mut back, &no_progress).await.unwrap();
    assert!(back == data && info.metadata == metadata);
    assert_eq!(server.data_files(), 1);
    assert_eq!(mode(&server.folder.join("objects.db")), 0o600);
    assert_eq!(mode(&server.folder.join("data")), 0o700);
    server.stop().await;
}

fn mode(path: &Path) -> u32 {
    use std::os::unix::fs::PermissionsExt;
    std::fs::metadata(path).unwrap().permissions().mode() & 0o777
}
