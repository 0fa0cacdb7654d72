//! A TCP proxy in front of a server: counts connections, can be cut and put back, and can refuse in HTTP's words.

#![allow(dead_code)] // Each test program uses another part of it.

use std::io::Read;
use std::io::Write;
use std::net::Shutdown;
use std::net::TcpListener;
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;

/// What becomes of connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flow {
    /// They go through.
    Open,
    /// They are closed as soon as they come, and those that there were are cut.
    Cut,
    /// Each request is answered with this status.
    Refuses(u16),
}

/// The proxy.
pub struct Tap {
    pub port: u16,
    shared: Arc<Shared>,
}

struct Shared {
    upstream: String,
    flow: Mutex<Flow>,
    connections: AtomicUsize,
    open: Mutex<Vec<TcpStream>>,
}

impl Tap {
    /// Listens in front of `upstream` (`host:port`).
    pub fn new(upstream: &str) -> Tap {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let shared = Arc::new(Shared {
            upstream: upstream.to_owned(),
            flow: Mutex::new(Flow::Open),
            connections: AtomicUsize::new(0),
            open: Mutex::default(),
        });
        let tap = Tap { port, shared: Arc::clone(&shared) };
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let shared = Arc::clone(&shared);
                std::thread::spawn(move || shared.carry(stream));
            }
        });
        tap
    }

    /// What becomes of connections from now on; those that there are end.
    pub fn set(&self, flow: Flow) {
        *self.shared.flow.lock().unwrap() = flow;
        for stream in self.shared.open.lock().unwrap().drain(..) {
            // It may have ended by itself.
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    /// Connections that came so far.
    pub fn connections(&self) -> usize {
        self.shared.connections.load(Ordering::SeqCst)
    }
}

impl Shared {
    fn carry(&self, client: TcpStream) {
        self.connections.fetch_add(1, Ordering::SeqCst);
        let flow = *self.flow.lock().unwrap();
        match flow {
            Flow::Cut => {}
            Flow::Refuses(status) => refuse(client, status),
            Flow::Open => self.pass(client),
        }
    }

    fn pass(&self, mut client: TcpStream) {
        let Ok(mut server) = TcpStream::connect(&self.upstream) else { return };
        {
            let mut open = self.open.lock().unwrap();
            open.push(client.try_clone().unwrap());
            open.push(server.try_clone().unwrap());
        }
        let (mut from, mut to) = (server.try_clone().unwrap(), client.try_clone().unwrap());
        let back = std::thread::spawn(move || {
            // Whatever ends it, it has ended.
            let _ = std::io::copy(&mut from, &mut to);
            let _ = (from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both));
        });
        let _ = std::io::copy(&mut client, &mut server);
        let _ = (server.shutdown(Shutdown::Both), client.shutdown(Shutdown::Both));
        let _ = back.join();
    }
}

/// Takes one request's first bytes, and answers as a store that refuses does.
fn refuse(mut client: TcpStream, status: u16) {
    let mut bytes = [0; 1 << 16];
    if client.read(&mut bytes).is_ok_and(|n| n > 0) {
        let code = if status == 403 { "AccessDenied" } else { "SlowDown" };
        let body = format!("<?xml version=\"1.0\"?><Error><Code>{code}</Code><Message>refused by the test</Message></Error>");
        let head = format!("HTTP/1.1 {status} No\r\nContent-Type: application/xml\r\nConnection: close\r\n");
        let _ = client.write_all(format!("{head}Content-Length: {}\r\n\r\n{body}", body.len()).as_bytes());
        let _ = client.shutdown(Shutdown::Write);
        // What is still on its way is taken, so that the answer is not lost in a reset.
        while client.read(&mut bytes).is_ok_and(|n| n > 0) {}
    }
}
