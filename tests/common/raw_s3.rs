//! An S3 client for tests, written from the signature's description and sharing nothing with the library: it sends what it
//! is told, right or wrong, so that servers can be asked things that our own client never does.

#![allow(dead_code)] // Each test program uses a part of it.

use jiff::Timestamp;
use pollinator::config::StoreAccess;
use sha2::Digest;
use sha2::Sha256;
use std::collections::BTreeMap;
use std::fmt::Write;

/// How the body is covered by the signature.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Payload {
    /// Its SHA-256 is signed.
    Signed,
    /// It is not covered.
    Unsigned,
    /// In chunks of 64 KiB, each with a signature of its own, as minio-go sends them.
    Chunks,
    /// As `Chunks`, with a wrong signature on the last chunk with data.
    ForgedChunk,
}

/// What came back.
pub struct Reply {
    pub status: u16,
    pub headers: BTreeMap<String, String>,
    pub body: Vec<u8>,
}

impl Reply {
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub fn etag(&self) -> String {
        self.headers
            .get("etag")
            .cloned()
            .unwrap_or_else(|| self.tag("ETag").unwrap())
            .replace("&quot;", "")
            .replace("&#34;", "")
            .replace('"', "")
    }

    /// The text of the first XML element of that name.
    pub fn tag(&self, name: &str) -> Option<String> {
        self.tags(name).into_iter().next()
    }

    pub fn tags(&self, name: &str) -> Vec<String> {
        let (text, open, close) = (self.text(), format!("<{name}>"), format!("</{name}>"));
        text.split(&open).skip(1).filter_map(|rest| Some(rest.split_once(&close)?.0.to_owned())).collect()
    }

    /// Status and S3 error code.
    pub fn verdict(&self) -> (u16, String) {
        (self.status, self.tag("Code").unwrap_or_default())
    }
}

/// A request, to be signed.
pub struct Call<'a> {
    pub method: &'a str,
    /// `/bucket/key`, not encoded.
    pub path: &'a str,
    pub query: &'a [(&'a str, &'a str)],
    pub headers: &'a [(&'a str, &'a str)],
    pub body: &'a [u8],
    pub payload: Payload,
}

impl Call<'_> {
    pub const EMPTY: Call<'static> =
        Call { method: "GET", path: "/", query: &[], headers: &[], body: b"", payload: Payload::Signed };
}

#[derive(Clone)]
pub struct Raw {
    access: StoreAccess,
    client: reqwest::Client,
}

impl Raw {
    pub fn new(access: &StoreAccess) -> Raw {
        Raw { access: access.clone(), client: pollinator::net::http_client(false).unwrap() }
    }

    pub async fn send(&self, call: Call<'_>) -> Reply {
        let (target, headers, body) = self.signed(&call);
        let mut request = self.client.request(call.method.parse().unwrap(), format!("http://{}{target}", self.access.endpoint));
        for (name, value) in headers {
            request = request.header(name, value);
        }
        let reply = request.body(body).send().await.unwrap();
        let status = reply.status().as_u16();
        let headers = reply.headers().iter().map(|(n, v)| (n.to_string(), v.to_str().unwrap_or("").to_owned())).collect();
        Reply { status, headers, body: reply.bytes().await.unwrap().to_vec() }
    }

    /// Request target, headers and body as they go over the wire.
    pub fn signed(&self, call: &Call<'_>) -> (String, BTreeMap<String, String>, Vec<u8>) {
        let time = Timestamp::now().strftime("%Y%m%dT%H%M%SZ").to_string();
        let path = encode(call.path, true);
        let mut pairs: Vec<String> =
            call.query.iter().map(|(n, v)| format!("{}={}", encode(n, false), encode(v, false))).collect();
        pairs.sort();
        let query = pairs.join("&");
        let digest = match call.payload {
            Payload::Signed => hex::encode(Sha256::digest(call.body)),
            Payload::Unsigned => "UNSIGNED-PAYLOAD".into(),
            Payload::Chunks | Payload::ForgedChunk => "STREAMING-AWS4-HMAC-SHA256-PAYLOAD".into(),
        };
        let mut headers = BTreeMap::from([
            ("host".to_owned(), self.access.endpoint.clone()),
            ("x-amz-date".into(), time.clone()),
            ("x-amz-content-sha256".into(), digest.clone()),
        ]);
        if matches!(call.payload, Payload::Chunks | Payload::ForgedChunk) {
            headers.insert("x-amz-decoded-content-length".into(), call.body.len().to_string());
        }
        headers.extend(call.headers.iter().map(|(n, v)| (n.to_lowercase(), (*v).to_owned())));
        let signed: Vec<&str> = headers.keys().map(String::as_str).filter(|n| *n != "expect").collect();
        let signed_names = signed.join(";");
        let lines: String = signed.iter().map(|n| format!("{n}:{}\n", headers[*n].trim())).collect();
        let canonical = format!("{}\n{path}\n{query}\n{lines}\n{signed_names}\n{digest}", call.method);
        let scope = format!("{}/us-east-1/s3/aws4_request", &time[..8]);
        let to_sign = format!("AWS4-HMAC-SHA256\n{time}\n{scope}\n{}", hex::encode(Sha256::digest(canonical)));
        let key = self.signing_key(&time[..8]);
        let signature = hex::encode(hmac(&key, to_sign.as_bytes()));
        let credential = format!("{}/{scope}", self.access.access_key);
        let value = format!("AWS4-HMAC-SHA256 Credential={credential}, SignedHeaders={signed_names}, Signature={signature}");
        headers.insert("authorization".into(), value);
        let body = match call.payload {
            Payload::Signed | Payload::Unsigned => call.body.to_vec(),
            Payload::Chunks => chunks(call.body, &key, &time, &scope, signature, false),
            Payload::ForgedChunk => chunks(call.body, &key, &time, &scope, signature, true),
        };
        headers.insert("content-length".into(), body.len().to_string());
        let target = if query.is_empty() { path } else { format!("{path}?{query}") };
        (target, headers, body)
    }

    fn signing_key(&self, day: &str) -> Vec<u8> {
        let secret = format!("AWS4{}", self.access.secret_key.expose());
        [day, "us-east-1", "s3", "aws4_request"].iter().fold(secret.into_bytes(), |key, word| hmac(&key, word.as_bytes()))
    }
}

fn chunks(body: &[u8], key: &[u8], time: &str, scope: &str, seed: String, forge: bool) -> Vec<u8> {
    let (mut out, mut previous) = (Vec::new(), seed);
    let empty = hex::encode(Sha256::digest(b""));
    for chunk in body.chunks(65536).chain([&b""[..]]) {
        let hash = hex::encode(Sha256::digest(chunk));
        let to_sign = format!("AWS4-HMAC-SHA256-PAYLOAD\n{time}\n{scope}\n{previous}\n{empty}\n{hash}");
        previous = hex::encode(hmac(key, to_sign.as_bytes()));
        let sent = if forge { "0".repeat(64) } else { previous.clone() };
        out.extend(format!("{:x};chunk-signature={sent}\r\n", chunk.len()).bytes());
        out.extend(chunk);
        out.extend(b"\r\n");
    }
    out
}

fn hmac(key: &[u8], message: &[u8]) -> Vec<u8> {
    let mut block = if key.len() > 64 { Sha256::digest(key).to_vec() } else { key.to_vec() };
    block.resize(64, 0);
    let pad = |with: u8| block.iter().map(|b| b ^ with).collect::<Vec<u8>>();
    let inner = Sha256::digest([pad(0x36), message.to_vec()].concat());
    Sha256::digest([pad(0x5c), inner.to_vec()].concat()).to_vec()
}

fn encode(text: &str, keep_slash: bool) -> String {
    text.bytes().fold(String::new(), |mut out, byte| {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) || (keep_slash && byte == b'/') {
            out.push(byte as char);
        } else {
            write!(out, "%{byte:02X}").unwrap();
        }
        out
    })
}
