//! A TCP proxy that counts what passes, and on demand stops or cuts everything at a byte: a network that is lost, or a moment
//! at which a test can do something.

#![allow(dead_code)] // Each test program uses a part of it.

use std::sync::Arc;
use std::sync::Mutex;
use tokio::io::AsyncReadExt;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;
use tokio::net::TcpStream;
use tokio::sync::watch;

/// What happens when so many bytes have come to the clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    None,
    /// All connections are cut, and new ones, too.
    Cut(u64),
    /// Nothing passes any more.
    Hold(u64),
}

pub struct CountProxy {
    pub address: String,
    state: Arc<State>,
}

struct State {
    target: String,
    limit: watch::Sender<Limit>,
    bytes: watch::Sender<u64>,
    requests: Mutex<Vec<String>>,
}

impl CountProxy {
    /// Passes everything on to `target`.
    pub async fn start(target: &str) -> CountProxy {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (limit, bytes) = (watch::Sender::new(Limit::None), watch::Sender::new(0));
        let state = Arc::new(State { target: target.into(), limit, bytes, requests: Mutex::default() });
        let shared = Arc::clone(&state);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let state = Arc::clone(&shared);
                tokio::spawn(async move { state.pass(client).await });
            }
        });
        CountProxy { address, state }
    }

    /// Sets the limit, counted from the start.
    pub fn limit(&self, limit: Limit) {
        self.state.limit.send_replace(limit);
    }

    /// Waits until the limit is reached.
    pub async fn reached(&self) {
        let (Limit::Cut(limit) | Limit::Hold(limit)) = *self.state.limit.borrow() else { panic!("there is no limit") };
        self.state.bytes.subscribe().wait_for(|bytes| *bytes >= limit).await.unwrap();
    }

    /// Bytes that went to clients so far.
    pub fn bytes(&self) -> u64 {
        *self.state.bytes.borrow()
    }

    /// How many requests for objects were made.
    pub fn gets(&self) -> usize {
        self.state.requests.lock().unwrap().iter().filter(|line| line.contains("x-id=GetObject")).count()
    }
}

impl State {
    fn is_cut(&self) -> bool {
        matches!(*self.limit.borrow(), Limit::Cut(at) if *self.bytes.borrow() >= at)
    }

    async fn pass(self: Arc<State>, client: TcpStream) {
        if self.is_cut() {
            return;
        }
        let Ok(server) = TcpStream::connect(&self.target).await else { return };
        let (mut from_client, mut to_client) = client.into_split();
        let (mut from_server, mut to_server) = server.into_split();
        let state = Arc::clone(&self);
        let up = tokio::spawn(async move {
            let mut buffer = vec![0; 16 * 1024];
            while let Ok(count @ 1..) = from_client.read(&mut buffer).await {
                state.note(&buffer[..count]);
                if to_server.write_all(&buffer[..count]).await.is_err() {
                    break;
                }
            }
        });
        let (mut limits, mut bytes) = (self.limit.subscribe(), self.bytes.subscribe());
        let mut buffer = vec![0; 16 * 1024];
        loop {
            let read = tokio::select! {
                read = from_server.read(&mut buffer) => read,
                _ = bytes.wait_for(|_| self.is_cut()) => break,
            };
            let Ok(count @ 1..) = read else { break };
            let total = || *self.bytes.borrow();
            if limits.wait_for(|limit| !matches!(limit, Limit::Hold(at) if total() >= *at)).await.is_err() {
                break;
            }
            if self.is_cut() || to_client.write_all(&buffer[..count]).await.is_err() {
                break;
            }
            self.bytes.send_modify(|bytes| *bytes += count as u64);
        }
        up.abort();
    }

    /// A request begins with its line, and our clients send one at a time.
    fn note(&self, bytes: &[u8]) {
        if let Some(end) = bytes.iter().position(|b| *b == b'\r')
            && let Ok(line) = std::str::from_utf8(&bytes[..end])
            && line.ends_with("HTTP/1.1")
        {
            self.requests.lock().unwrap().push(line.to_owned());
        }
    }
}
