//! A container registry of our own on loopback: what the OCI's distribution specification says about pulling, no more.
//!
//! It speaks plain HTTP, or TLS with a certificate that nobody knows, counts what it is asked, and fails when it is told to.

#![allow(dead_code)] // Each test program uses another part of it.

use crate::image::Blob;
use crate::image::Image;
use axum::body::Body;
use axum::body::Bytes;
use axum::extract::Request;
use axum::http::HeaderMap;
use axum::http::Method;
use axum::http::StatusCode;
use axum::http::header;
use axum::response::IntoResponse;
use axum::response::Response;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject;
use serde_json::json;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::Mutex;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

/// Who may pull.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Access {
    /// Everybody.
    #[default]
    Open,
    /// Who shows a name and a password with each request.
    Basic,
    /// Who shows a token, which is given for a name and a password.
    Bearer,
}

/// Name and password, where they are asked for.
pub const USER: &str = "reader";
pub const PASSWORD: &str = "se:cret $(id) \"word\"";

/// How it fails.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Fault {
    #[default]
    None,
    /// Every request is answered with this status.
    Status(u16),
    /// Layers end in the middle; the connection is closed.
    CutBlobs,
    /// Layers come with a byte changed.
    WrongBlobs,
    /// The manifest asked for by digest is another one.
    WrongManifests,
    /// Layers stop in the middle, until the fault is taken away.
    StalledBlobs,
}

#[derive(Default)]
struct State {
    access: Access,
    address: Mutex<String>,
    /// By `repository@digest`.
    stored: Mutex<HashMap<String, Blob>>,
    /// `repository:tag` to digest.
    tags: Mutex<HashMap<String, String>>,
    requests: Mutex<Vec<(Method, String)>>,
    fault: watch::Sender<Fault>,
}

/// The registry; dropped it is gone.
pub struct Registry {
    address: SocketAddr,
    state: Arc<State>,
    runtime: Option<tokio::runtime::Runtime>,
}

impl Drop for Registry {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl Registry {
    pub fn start(access: Access) -> Registry {
        Registry::begin(access, None)
    }

    /// With TLS; `certificate` is where its certificate is put, for those who are to trust it.
    pub fn start_with_tls(access: Access, certificate: &Path) -> Registry {
        Registry::begin(access, Some(acceptor(certificate)))
    }

    fn begin(access: Access, tls: Option<TlsAcceptor>) -> Registry {
        // Threads of its own: a test that blocks its runtime does not stop it.
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(State { access, address: Mutex::new(address.to_string()), ..State::default() });
        let handler = state.clone();
        runtime.spawn(async move {
            let listener = TcpListener::from_std(listener).unwrap();
            let app = axum::Router::new().fallback(move |request: Request| answer(handler.clone(), request));
            match tls {
                Some(acceptor) => axum::serve(TlsListener { listener, acceptor }, app).await.unwrap(),
                None => axum::serve(listener, app).await.unwrap(),
            }
        });
        Registry { address, state, runtime: Some(runtime) }
    }

    /// `127.0.0.1:PORT`, as image names begin.
    pub fn host(&self) -> String {
        self.address.to_string()
    }

    /// Stores an image and points a tag at it; a tag that exists is moved. Gives the digest.
    pub fn push(&self, repository: &str, tag: &str, image: &Image) -> String {
        self.store(repository, image);
        self.tag(repository, tag, &image.manifest.digest);
        image.manifest.digest.clone()
    }

    /// The same under an index of several architectures. Gives the digest of the index.
    pub fn push_index(&self, repository: &str, tag: &str, image: &Image) -> String {
        self.store(repository, image);
        let index = image.index();
        self.keep(repository, &index);
        self.tag(repository, tag, &index.digest);
        index.digest
    }

    fn store(&self, repository: &str, image: &Image) {
        for blob in image.blobs().chain([&image.manifest]) {
            self.keep(repository, blob);
        }
    }

    fn keep(&self, repository: &str, blob: &Blob) {
        self.state.stored.lock().unwrap().insert(format!("{repository}@{}", blob.digest), blob.clone());
    }

    fn tag(&self, repository: &str, tag: &str, digest: &str) {
        self.state.tags.lock().unwrap().insert(format!("{repository}:{tag}"), digest.into());
    }

    pub fn fail(&self, fault: Fault) {
        self.state.fault.send_replace(fault);
    }

    /// What it was asked since it was asked this the last time: `GET /v2/…`.
    pub fn take_requests(&self) -> Vec<String> {
        let taken = std::mem::take(&mut *self.state.requests.lock().unwrap());
        taken.into_iter().map(|(method, path)| format!("{method} {path}")).collect()
    }

    /// How many requests that hold `part` came since [`Registry::take_requests`].
    pub fn count(&self, part: &str) -> usize {
        self.state.requests.lock().unwrap().iter().filter(|(method, path)| format!("{method} {path}").contains(part)).count()
    }

    /// Waits until it was asked for something that holds `part`.
    pub async fn until_asked(&self, part: &str) {
        let end = std::time::Instant::now() + Duration::from_secs(120);
        while self.count(part) == 0 {
            assert!(std::time::Instant::now() < end, "the registry was never asked for {part}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Writes the right credentials as `docker login` does, or wrong ones.
    pub fn write_auth_file(&self, file: &Path, password: &str) {
        let auth = BASE64_STANDARD.encode(format!("{USER}:{password}"));
        std::fs::write(file, json!({ "auths": { self.host(): { "auth": auth } } }).to_string()).unwrap();
    }
}

/// Makes a certificate for loopback that vouches for itself.
fn acceptor(certificate: &Path) -> TlsAcceptor {
    let key = certificate.with_extension("key");
    let words = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=registry -addext subjectAltName=IP:127.0.0.1 -addext basicConstraints=critical,CA:FALSE";
    let mut openssl = std::process::Command::new("openssl");
    let made = openssl.args(words.split(' ')).arg("-keyout").arg(&key).arg("-out").arg(certificate).output().unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    pollinator::net::install_crypto_provider();
    let chain = vec![CertificateDer::from_pem_file(certificate).unwrap()];
    let config = rustls::ServerConfig::builder().with_no_client_auth();
    TlsAcceptor::from(Arc::new(config.with_single_cert(chain, PrivateKeyDer::from_pem_file(key).unwrap()).unwrap()))
}

struct TlsListener {
    listener: TcpListener,
    acceptor: TlsAcceptor,
}

impl axum::serve::Listener for TlsListener {
    type Io = TlsStream<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        loop {
            let (stream, address) = self.listener.accept().await.unwrap();
            // Who does not trust it goes away again, and who says nothing does not keep others waiting for long.
            let greeting = tokio::time::timeout(Duration::from_secs(5), self.acceptor.accept(stream));
            if let Ok(Ok(stream)) = greeting.await {
                return (stream, address);
            }
        }
    }

    fn local_addr(&self) -> std::io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

async fn answer(state: Arc<State>, request: Request) -> Response {
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    state.requests.lock().unwrap().push((method.clone(), path.clone()));
    let fault = *state.fault.borrow();
    if let Fault::Status(code) = fault {
        return refuse(StatusCode::from_u16(code).unwrap(), "UNKNOWN", "told to fail");
    }
    if path == "/token" {
        return give_token(request.headers());
    }
    let Some(rest) = path.strip_prefix("/v2/") else { return refuse(StatusCode::NOT_FOUND, "UNSUPPORTED", "no such place") };
    if let Some(refused) = check(&state, request.headers(), rest) {
        return refused;
    }
    if rest.is_empty() {
        return axum::Json(json!({})).into_response();
    }
    if let Some((repository, reference)) = rest.rsplit_once("/manifests/") {
        return manifest(&state, repository, reference, fault);
    }
    if let Some((repository, digest)) = rest.rsplit_once("/blobs/") {
        let stored = state.stored.lock().unwrap().get(&format!("{repository}@{digest}")).cloned();
        return match stored {
            Some(blob) => body(&state, blob, fault, method == Method::HEAD),
            None => refuse(StatusCode::NOT_FOUND, "BLOB_UNKNOWN", "no such blob"),
        };
    }
    refuse(StatusCode::NOT_FOUND, "UNSUPPORTED", "no such place")
}

fn manifest(state: &State, repository: &str, reference: &str, fault: Fault) -> Response {
    let digest = match reference.contains(':') {
        true => Some(reference.to_owned()),
        false => state.tags.lock().unwrap().get(&format!("{repository}:{reference}")).cloned(),
    };
    let stored = digest.and_then(|digest| state.stored.lock().unwrap().get(&format!("{repository}@{digest}")).cloned());
    let Some(mut found) = stored else { return refuse(StatusCode::NOT_FOUND, "MANIFEST_UNKNOWN", "manifest unknown") };
    if fault == Fault::WrongManifests {
        found.bytes.push(b' ');
    }
    // For HEAD the body is dropped by the server, and the length stays.
    let headers = [(header::CONTENT_TYPE, found.media_type.as_str()), (DIGEST, found.digest.as_str())];
    (headers, found.bytes.clone()).into_response()
}

const DIGEST: header::HeaderName = header::HeaderName::from_static("docker-content-digest");

fn body(state: &State, blob: Blob, fault: Fault, head: bool) -> Response {
    // The configuration of an image always comes whole, so that a fault meets the layers.
    let layer = blob.media_type.contains("layer") || blob.media_type.contains("rootfs");
    let mut bytes = blob.bytes;
    if fault == Fault::WrongBlobs && layer {
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
    }
    let headers = [
        (header::CONTENT_TYPE, "application/octet-stream".to_owned()),
        (header::CONTENT_LENGTH, bytes.len().to_string()),
        (DIGEST, blob.digest),
    ];
    let halves = matches!(fault, Fault::CutBlobs | Fault::StalledBlobs) && layer && !head;
    if !halves {
        return (headers, bytes).into_response();
    }
    let (first, second) = bytes.split_at(bytes.len() / 2);
    let (first, second) = (Bytes::copy_from_slice(first), Bytes::copy_from_slice(second));
    let mut faults = state.fault.subscribe();
    let rest = async move {
        if fault == Fault::CutBlobs {
            return Err(std::io::Error::other("cut"));
        }
        // An error says that the registry is gone.
        let _ = faults.wait_for(|fault| *fault != Fault::StalledBlobs).await;
        Ok(second)
    };
    let stream =
        futures_util::StreamExt::chain(futures_util::stream::once(async move { Ok(first) }), futures_util::stream::once(rest));
    (headers, Body::from_stream(stream)).into_response()
}

fn refuse(status: StatusCode, code: &str, message: &str) -> Response {
    (status, axum::Json(json!({ "errors": [{ "code": code, "message": message }] }))).into_response()
}

/// The token that is given: one is enough, since the registry lives for one test.
const TOKEN: &str = "dG9rZW4.of.this-registry_1";

fn basic() -> String {
    format!("Basic {}", BASE64_STANDARD.encode(format!("{USER}:{PASSWORD}")))
}

fn authorization(headers: &HeaderMap) -> &str {
    headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok()).unwrap_or_default()
}

fn give_token(headers: &HeaderMap) -> Response {
    if authorization(headers) == basic() {
        return axum::Json(json!({ "token": TOKEN, "access_token": TOKEN, "expires_in": 300 })).into_response();
    }
    refuse(StatusCode::UNAUTHORIZED, "UNAUTHORIZED", "no token without a password")
}

/// None where the request may go on.
fn check(state: &State, headers: &HeaderMap, rest: &str) -> Option<Response> {
    let address = state.address.lock().unwrap().clone();
    let (want, challenge) = match state.access {
        Access::Open => return None,
        Access::Basic => (basic(), "Basic realm=\"registry\"".to_owned()),
        Access::Bearer => {
            let repository = rest.rsplit_once("/manifests/").or_else(|| rest.rsplit_once("/blobs/")).map(|(name, _)| name);
            let scope = repository.map(|name| format!(",scope=\"repository:{name}:pull\"")).unwrap_or_default();
            (format!("Bearer {TOKEN}"), format!("Bearer realm=\"http://{address}/token\",service=\"{address}\"{scope}"))
        }
    };
    if authorization(headers) == want {
        return None;
    }
    let mut refused = refuse(StatusCode::UNAUTHORIZED, "UNAUTHORIZED", "authentication required");
    refused.headers_mut().insert(header::WWW_AUTHENTICATE, challenge.parse().unwrap());
    Some(refused)
}
