//! An S3 server with faults: a proxy that understands requests, before a real server. Signatures stay valid, because everything
//! that is signed is passed on as it came.

#![allow(dead_code)] // Each test program uses a part of it.

use axum::body::Body;
use axum::extract::Request;
use axum::http::Method;
use axum::http::StatusCode;
use axum::response::Response;
use std::sync::Arc;
use std::sync::Mutex;

/// The S3 call that a request is.
pub fn call_of(request: &Request) -> &'static str {
    let query = request.uri().query().unwrap_or_default();
    let (copies, upload) = (request.headers().contains_key("x-amz-copy-source"), query.contains("uploadId="));
    match (request.method(), upload) {
        (&Method::PUT, true) if copies => "UploadPartCopy",
        (&Method::PUT, true) => "UploadPart",
        (&Method::PUT, false) if copies => "CopyObject",
        (&Method::PUT, false) => "PutObject",
        (&Method::POST, true) => "CompleteMultipartUpload",
        (&Method::POST, false) => "CreateMultipartUpload",
        (&Method::GET, true) => "ListParts",
        (&Method::DELETE, true) => "AbortMultipartUpload",
        _ => "other",
    }
}

/// Answers instead of the server; none: the server answers.
pub type Rule = Box<dyn Fn(&'static str) -> Option<(u16, String)> + Send + Sync>;

pub struct OddProxy {
    pub address: String,
    rule: Arc<Mutex<Rule>>,
    calls: Arc<Mutex<Vec<&'static str>>>,
}

impl OddProxy {
    /// Passes everything on to `target` but what the rule answers.
    pub async fn start(target: String) -> OddProxy {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (rule, calls) = (Arc::new(Mutex::new(Box::new(|_| None) as Rule)), Arc::new(Mutex::new(Vec::new())));
        let client = reqwest::Client::builder().http1_only().build().unwrap();
        let (rules, noted) = (Arc::clone(&rule), Arc::clone(&calls));
        let pass = move |request: Request| {
            let (target, client, rules, noted) = (target.clone(), client.clone(), Arc::clone(&rules), Arc::clone(&noted));
            async move {
                let call = call_of(&request);
                noted.lock().unwrap().push(call);
                let answer = (rules.lock().unwrap())(call);
                match answer {
                    Some((status, body)) => {
                        // The body is taken in, as a server does that refuses late.
                        let _ = axum::body::to_bytes(request.into_body(), usize::MAX).await;
                        Response::builder()
                            .status(status)
                            .header("content-type", "application/xml")
                            .body(Body::from(body))
                            .unwrap()
                    }
                    None => forward(&client, &target, request).await,
                }
            }
        };
        let app = axum::Router::new().fallback(pass).layer(axum::extract::DefaultBodyLimit::disable());
        tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
        OddProxy { address, rule, calls }
    }

    /// Sets the rule.
    pub fn rule(&self, rule: impl Fn(&'static str) -> Option<(u16, String)> + Send + Sync + 'static) {
        *self.rule.lock().unwrap() = Box::new(rule);
    }

    /// The server behind answers everything again.
    pub fn mend(&self) {
        self.rule(|_| None);
    }

    /// How often a call was made since the last question after any.
    pub fn count(&self, call: &str) -> usize {
        self.calls.lock().unwrap().drain(..).filter(|made| *made == call).count()
    }
}

async fn forward(client: &reqwest::Client, target: &str, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let path = parts.uri.path_and_query().map_or("/", |p| p.as_str());
    // As text: a URL that is taken apart would be put together in another way than it was signed.
    let sent = client
        .request(parts.method, format!("http://{target}{path}"))
        .headers(parts.headers)
        .body(reqwest::Body::wrap_stream(body.into_data_stream()))
        .send()
        .await;
    match sent {
        Ok(reply) => {
            let mut response = Response::builder().status(reply.status());
            for (name, value) in reply.headers() {
                response = response.header(name, value);
            }
            response.body(Body::from_stream(reply.bytes_stream())).unwrap()
        }
        Err(error) => Response::builder().status(StatusCode::BAD_GATEWAY).body(Body::from(error.to_string())).unwrap(),
    }
}

/// An error as S3 tells it.
pub fn error(status: u16, code: &str) -> Option<(u16, String)> {
    let body = format!("<?xml version=\"1.0\"?><Error><Code>{code}</Code><Message>on purpose</Message></Error>");
    Some((status, body))
}
