//! A network between a client and a server: TCP proxies that count what passes, and that can have a slow uplink and a long way.

use serde::Serialize;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;
use tokio::io::AsyncReadExt;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;
use tokio::net::TcpStream;
use tokio::net::tcp::OwnedReadHalf;
use tokio::net::tcp::OwnedWriteHalf;
use tokio::sync::mpsc;
use tokio::time::Instant;

/// Read at once where nothing is slow.
const LARGE: usize = 128 << 10;
/// Read at once where something is slow, so that connections share it evenly.
const SMALL: usize = 8 << 10;
/// Chunks that can be under way on a long way: far more than its bandwidth and delay hold.
const UNDER_WAY: usize = 1024;
/// What an idle uplink saves up for later, since a sleep ends a little late.
const SAVED: Duration = Duration::from_millis(10);

/// What the network is like. It holds for connections that begin after it was set.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Shape {
    /// Megabits a second from client to server, all connections together. None: as fast as it goes.
    pub uplink_mbit: Option<f64>,
    /// Milliseconds to the server and back.
    pub round_trip_ms: u64,
}

/// One network, whose uplink all proxies on it share.
#[derive(Default)]
pub struct Network {
    shape: Mutex<Shape>,
    uplink: Mutex<Option<Instant>>,
}

impl Network {
    pub fn set(&self, shape: Shape) {
        *self.shape.lock().unwrap() = shape;
    }

    /// Waits until these bytes have gone out.
    async fn send(&self, bytes: usize, mbit: f64) {
        let takes = Duration::from_secs_f64(bytes as f64 * 8.0 / (mbit * 1e6));
        let until = {
            let mut uplink = self.uplink.lock().unwrap();
            let earliest = Instant::now() - SAVED;
            let free = uplink.map_or(earliest, |free| free.max(earliest));
            *uplink.insert(free + takes)
        };
        tokio::time::sleep_until(until).await;
    }
}

/// What has passed.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Traffic {
    /// Bytes from client to server.
    pub up: u64,
    /// Bytes from server to client.
    pub down: u64,
    pub connections: u64,
    /// How often the server began to speak after the client had: requests, where there is neither pipelining nor TLS.
    pub answers: u64,
}

#[derive(Default)]
struct Counters {
    up: AtomicU64,
    down: AtomicU64,
    connections: AtomicU64,
    answers: AtomicU64,
}

/// A proxy before one server. It lives as long as the runtime.
pub struct Proxy {
    pub port: u16,
    counters: Arc<Counters>,
}

impl Proxy {
    pub async fn start(target: String, network: Arc<Network>) -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let counters = Arc::new(Counters::default());
        let proxy = Proxy { port, counters: Arc::clone(&counters) };
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                counters.connections.fetch_add(1, Relaxed);
                tokio::spawn(connect(client, target.clone(), Arc::clone(&counters), Arc::clone(&network)));
            }
        });
        proxy
    }

    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// What has passed since this was last asked.
    pub fn take(&self) -> Traffic {
        let Counters { up, down, connections, answers } = &*self.counters;
        Traffic {
            up: up.swap(0, Relaxed),
            down: down.swap(0, Relaxed),
            connections: connections.swap(0, Relaxed),
            answers: answers.swap(0, Relaxed),
        }
    }
}

async fn connect(client: TcpStream, target: String, counters: Arc<Counters>, network: Arc<Network>) {
    let shape = *network.shape.lock().unwrap();
    let round_trip = Duration::from_millis(shape.round_trip_ms);
    // The handshake goes there and back once.
    tokio::time::sleep(round_trip).await;
    let Ok(server) = TcpStream::connect(target).await else { return };
    for stream in [&client, &server] {
        if stream.set_nodelay(true).is_err() {
            return;
        }
    }
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    let asked = Arc::new(AtomicBool::new(false));
    let (up_counters, up_asked) = (Arc::clone(&counters), Arc::clone(&asked));
    let up = move |count: usize| {
        up_counters.up.fetch_add(count as u64, Relaxed);
        up_asked.store(true, Relaxed);
    };
    let down = move |count: usize| {
        counters.down.fetch_add(count as u64, Relaxed);
        if asked.swap(false, Relaxed) {
            counters.answers.fetch_add(1, Relaxed);
        }
    };
    let slow = shape.uplink_mbit.map(|mbit| (network, mbit));
    tokio::join!(
        pass(from_client, to_server, up, slow, round_trip / 2),
        pass(from_server, to_client, down, None, round_trip / 2)
    );
}

/// Passes on one direction to its end, or to the end of the other side.
async fn pass(
    from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    count: impl Fn(usize),
    slow: Option<(Arc<Network>, f64)>,
    delay: Duration,
) {
    if slow.is_none() && delay.is_zero() {
        at_once(from, &mut to, count).await;
    } else {
        slowly(from, &mut to, count, slow, delay).await;
    }
    // Whoever has gone already need not be told.
    let _ = to.shutdown().await;
}

async fn at_once(mut from: OwnedReadHalf, to: &mut OwnedWriteHalf, count: impl Fn(usize)) {
    let mut buffer = vec![0; LARGE];
    while let Ok(bytes @ 1..) = from.read(&mut buffer).await {
        count(bytes);
        if to.write_all(&buffer[..bytes]).await.is_err() {
            break;
        }
    }
}

async fn slowly(
    mut from: OwnedReadHalf,
    to: &mut OwnedWriteHalf,
    count: impl Fn(usize),
    slow: Option<(Arc<Network>, f64)>,
    delay: Duration,
) {
    let (later, mut due) = mpsc::channel::<(Instant, Vec<u8>)>(UNDER_WAY);
    let read = async {
        let mut buffer = vec![0; SMALL];
        while let Ok(bytes @ 1..) = from.read(&mut buffer).await {
            count(bytes);
            if let Some((network, mbit)) = &slow {
                network.send(bytes, *mbit).await;
            }
            if later.send((Instant::now() + delay, buffer[..bytes].to_vec())).await.is_err() {
                break;
            }
        }
        drop(later);
    };
    let write = async {
        while let Some((when, bytes)) = due.recv().await {
            tokio::time::sleep_until(when).await;
            if to.write_all(&bytes).await.is_err() {
                break;
            }
        }
        due.close();
    };
    tokio::join!(read, write);
}
