//! A TCP proxy that cuts connections on demand: what a flaky network does to a transfer.

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;
use tokio::io::AsyncReadExt;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;
use tokio::net::TcpStream;

pub struct CutProxy {
    pub address: String,
    cuts: Arc<AtomicUsize>,
}

impl CutProxy {
    /// Passes everything on to `target`; the first `cuts` connections that bring more than `after` bytes to the client are cut
    /// there.
    pub async fn start(target: String, after: usize, cuts: usize) -> CutProxy {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let left = Arc::new(AtomicUsize::new(cuts));
        let proxy = CutProxy { address, cuts: Arc::clone(&left) };
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let (target, left) = (target.clone(), Arc::clone(&left));
                tokio::spawn(async move { pass(client, &target, after, &left).await });
            }
        });
        proxy
    }

    /// How many cuts are still to come.
    pub fn left(&self) -> usize {
        self.cuts.load(Ordering::SeqCst)
    }
}

async fn pass(client: TcpStream, target: &str, after: usize, left: &AtomicUsize) {
    let Ok(server) = TcpStream::connect(target).await else { return };
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let up = tokio::spawn(async move { tokio::io::copy(&mut from_client, &mut to_server).await });
    let (mut sent, mut buffer) = (0, vec![0; 16 * 1024]);
    while let Ok(count @ 1..) = from_server.read(&mut buffer).await {
        if to_client.write_all(&buffer[..count]).await.is_err() {
            break;
        }
        sent += count;
        let cut = sent > after && left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1)).is_ok();
        if cut {
            break;
        }
    }
    up.abort();
}
