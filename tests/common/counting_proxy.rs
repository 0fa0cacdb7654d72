//! A TCP proxy that counts what passes, and can cut every connection.

#![allow(dead_code)] // Each test program uses a part of it.

use std::sync::Arc;
use std::sync::atomic::AtomicI64;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use tokio::io::AsyncReadExt;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;
use tokio::net::TcpStream;
use tokio::sync::Notify;

#[derive(Default)]
struct Counts {
    up: AtomicU64,
    down: AtomicU64,
    connections: AtomicU64,
    /// Bytes up after which everything is cut; negative: never.
    cut_after: AtomicI64,
    moved: Notify,
}

pub struct CountingProxy {
    pub address: String,
    counts: Arc<Counts>,
}

impl CountingProxy {
    /// Passes everything on to `target`.
    pub async fn start(target: String) -> CountingProxy {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let counts = Arc::new(Counts { cut_after: AtomicI64::new(-1), ..Counts::default() });
        let shared = Arc::clone(&counts);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let (target, counts) = (target.clone(), Arc::clone(&shared));
                counts.connections.fetch_add(1, Ordering::SeqCst);
                tokio::spawn(async move { pass(client, &target, &counts).await });
            }
        });
        CountingProxy { address, counts }
    }

    /// Bytes that went to the server since the last call.
    pub fn sent(&self) -> u64 {
        self.counts.up.swap(0, Ordering::SeqCst)
    }

    /// Bytes that came from the server since the last call.
    pub fn came(&self) -> u64 {
        self.counts.down.swap(0, Ordering::SeqCst)
    }

    /// Once so many more bytes went to the server, no connection lives and none is made.
    pub fn cut_after(&self, bytes: u64) {
        self.counts.up.store(0, Ordering::SeqCst);
        self.counts.cut_after.store(bytes as i64, Ordering::SeqCst);
    }

    /// Waits until so many bytes have gone to the server since the last call of [`CountingProxy::sent`].
    pub async fn reached(&self, bytes: u64) {
        loop {
            // Registered before looking.
            let moved = self.counts.moved.notified();
            if self.counts.up.load(Ordering::SeqCst) >= bytes {
                return;
            }
            moved.await;
        }
    }

    /// Lets everything through again.
    pub fn mend(&self) {
        self.counts.cut_after.store(-1, Ordering::SeqCst);
    }
}

impl Counts {
    fn is_cut(&self) -> bool {
        let limit = self.cut_after.load(Ordering::SeqCst);
        limit >= 0 && self.up.load(Ordering::SeqCst) as i64 >= limit
    }
}

async fn pass(client: TcpStream, target: &str, counts: &Arc<Counts>) {
    if counts.is_cut() {
        return;
    }
    let Ok(server) = TcpStream::connect(target).await else { return };
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let down_counts = Arc::clone(counts);
    let down = tokio::spawn(async move {
        let mut buffer = vec![0; 64 * 1024];
        while let Ok(count @ 1..) = from_server.read(&mut buffer).await {
            down_counts.down.fetch_add(count as u64, Ordering::SeqCst);
            if down_counts.is_cut() || to_client.write_all(&buffer[..count]).await.is_err() {
                return;
            }
        }
    });
    let mut buffer = vec![0; 16 * 1024];
    while let Ok(count @ 1..) = from_client.read(&mut buffer).await {
        counts.up.fetch_add(count as u64, Ordering::SeqCst);
        counts.moved.notify_waiters();
        if counts.is_cut() {
            down.abort();
            return;
        }
        if to_server.write_all(&buffer[..count]).await.is_err() {
            return;
        }
    }
    // The client has ended its half; what the server still says goes on.
    drop(to_server);
    let _ = down.await;
}
