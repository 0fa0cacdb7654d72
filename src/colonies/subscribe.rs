//! Subscriptions by websocket, with polling where no websocket can be had.
//!
//! One connection carries a subscription for each state that is still of interest. The real server ends the connection
//! without a close frame when the first of them times out, sends no pings, and loses frames while nobody listens: after
//! each connect the process is asked for once, and a slow poll runs beside the socket as a net.

use super::client::Client;
use super::envelope::Reply;
use super::envelope::Request;
use super::error::Error;
use super::model::Process;
use super::model::ProcessState;
use super::time::Time;
use crate::net;
use futures_util::SinkExt;
use futures_util::StreamExt;
use serde_json::json;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::io::AsyncRead;
use tokio::io::AsyncWrite;
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;

/// How long one connection is asked to live, seconds.
const LIFE: i64 = 3600;
/// Pause between two polls where a websocket is open (frames may be lost all the same).
const POLL_BESIDE: Duration = Duration::from_secs(15);
/// So much longer for each watch of this program: a thousand of them ask twice a second together, and not sixty-six times.
const POLL_SHARE: Duration = Duration::from_millis(500);
/// A connection over which nothing came for so long is asked whether it is still there, by the system.
const SILENCE: Duration = Duration::from_secs(30);
/// Bytes: of a frame at once. The usual size of such buffers, for each of a thousand connections, would be most of what a
/// program takes.
const BUFFER: usize = 4 << 10;
/// Pause between two polls where there is no websocket.
const POLL_ALONE: Duration = Duration::from_secs(2);
/// Longest pause between two tries to connect.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

trait Wire: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Wire for T {}

type Socket = WebSocketStream<Box<dyn Wire>>;

/// What a watch tells.
#[derive(Debug)]
pub enum Change {
    /// The process as it is now; sent when its state, retry count or assignment is another than before, and first of all.
    Process(Box<Process>),
    /// The server cannot be reached at the moment; the watch goes on trying.
    Offline(Error),
    /// The server answers again.
    Online,
}

/// Watches a process in a task of its own until it has ended, it is gone, or nobody listens any more.
///
/// The last thing on the channel is either a process in a final state or an error that trying again cannot mend.
pub fn watch(client: &Client, process_id: &str) -> mpsc::Receiver<Result<Change, Error>> {
    let (tell, told) = mpsc::channel(64);
    let watch = Watch { client: client.clone(), id: process_id.to_owned(), last: None, offline: false, tell, _one: One::more() };
    tokio::spawn(watch.run());
    told
}

struct Watch {
    client: Client,
    id: String,
    last: Option<(ProcessState, i64, String, Time)>,
    offline: bool,
    tell: mpsc::Sender<Result<Change, Error>>,
    _one: One,
}

/// Watches of this program.
static ALL: AtomicU32 = AtomicU32::new(0);

/// One of them, counted while it is there.
struct One;

impl One {
    fn more() -> One {
        ALL.fetch_add(1, Ordering::Relaxed);
        One
    }
}

impl Drop for One {
    fn drop(&mut self) {
        ALL.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Whether a watch goes on.
#[derive(PartialEq, Eq)]
enum Go {
    On,
    Done,
}

impl Watch {
    async fn run(mut self) {
        let mut pause = Duration::from_millis(500);
        loop {
            let socket = open(&self.client, &self.id).await;
            // Asked after connecting: whatever changed before is seen now, whatever changes later is heard.
            if self.ask().await == Go::Done {
                return;
            }
            let go = match socket {
                Ok(socket) => {
                    pause = Duration::from_millis(500);
                    self.listen(socket).await
                }
                Err(reason) => {
                    tracing::debug!(%reason, "no websocket, polling instead");
                    self.poll_for(pause.max(POLL_ALONE)).await
                }
            };
            if go == Go::Done {
                return;
            }
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// Polls for some time, then gives the websocket another chance.
    async fn poll_for(&mut self, span: Duration) -> Go {
        let end = tokio::time::Instant::now() + span;
        while tokio::time::Instant::now() < end {
            tokio::select! {
                () = tokio::time::sleep(POLL_ALONE.min(span)) => {}
                () = self.tell.closed() => return Go::Done,
            }
            if self.ask().await == Go::Done {
                return Go::Done;
            }
        }
        Go::On
    }

    /// Hears frames until the connection ends.
    async fn listen(&mut self, mut socket: Socket) -> Go {
        loop {
            let frame = tokio::select! {
                frame = socket.next() => frame,
                () = tokio::time::sleep(POLL_BESIDE.max(POLL_SHARE * ALL.load(Ordering::Relaxed))) => {
                    if self.ask().await == Go::Done {
                        return Go::Done;
                    }
                    continue;
                }
                () = self.tell.closed() => return Go::Done,
            };
            let text = match frame {
                Some(Ok(Message::Text(text))) => text.as_bytes().to_vec(),
                Some(Ok(Message::Binary(bytes))) => bytes.to_vec(),
                Some(Ok(_)) => continue,
                Some(Err(_)) | None => return Go::On,
            };
            let Some(process) = read_frame(&text, &self.id) else {
                // An error frame, or garbage: the plain question tells what is the matter.
                if self.ask().await == Go::Done {
                    return Go::Done;
                }
                return Go::On;
            };
            if self.take(process).await == Go::Done {
                return Go::Done;
            }
        }
    }

    /// Asks for the process once.
    async fn ask(&mut self) -> Go {
        match self.client.process(&self.id).await {
            Ok(process) => {
                if self.offline {
                    self.offline = false;
                    if self.tell.send(Ok(Change::Online)).await.is_err() {
                        return Go::Done;
                    }
                }
                self.take(process).await
            }
            Err(e) if e.is_temporary() => {
                if !self.offline {
                    self.offline = true;
                    if self.tell.send(Ok(Change::Offline(e))).await.is_err() {
                        return Go::Done;
                    }
                }
                Go::On
            }
            Err(e) => {
                // The listener may be gone; then nobody needs the error.
                let _ = self.tell.send(Err(e)).await;
                Go::Done
            }
        }
    }

    async fn take(&mut self, process: Process) -> Go {
        let now = (process.state, process.retries, process.assignedexecutorid.clone(), process.starttime);
        if self.last.as_ref() == Some(&now) {
            return Go::On;
        }
        self.last = Some(now);
        let ended = process.state.is_final();
        let heard = self.tell.send(Ok(Change::Process(Box::new(process)))).await.is_ok();
        if ended || !heard { Go::Done } else { Go::On }
    }
}

/// The process in a frame; none for error frames, garbage and other processes.
fn read_frame(text: &[u8], id: &str) -> Option<Process> {
    let reply = Reply::read(text).ok()?;
    if reply.as_refusal().is_some() {
        return None;
    }
    let process: Process = serde_json::from_slice(&reply.bytes().ok()?).ok()?;
    (process.processid == id).then_some(process)
}

/// Connects and subscribes to every state. The executor type is left empty: the server takes that of the process, and
/// with a wrong one changes would never arrive.
async fn open(client: &Client, id: &str) -> Result<Socket, String> {
    let mut socket = tokio::time::timeout(net::CONNECT_TIMEOUT, connect(client)).await.map_err(|_| "no handshake in time")??;
    for state in 0..=4 {
        let payload =
            json!({ "colonyname": client.colony(), "processid": id, "executortype": "", "state": state, "timeout": LIFE });
        let request = Request::signed(client.identity(), "subscribeprocessmsg", payload);
        let text = serde_json::to_string(&request).map_err(|e| e.to_string())?;
        socket.send(Message::text(text)).await.map_err(|e| e.to_string())?;
    }
    Ok(socket)
}

async fn connect(client: &Client) -> Result<Socket, String> {
    let access = client.access();
    let stream = TcpStream::connect((access.host.as_str(), access.port)).await.map_err(|e| e.to_string())?;
    let alive = socket2::TcpKeepalive::new().with_time(SILENCE).with_interval(SILENCE / 3);
    socket2::SockRef::from(&stream).set_tcp_keepalive(&alive).map_err(|e| e.to_string())?;
    let scheme = if access.tls { "wss" } else { "ws" };
    let stream: Box<dyn Wire> = if access.tls {
        let name = rustls::pki_types::ServerName::try_from(access.host.clone()).map_err(|e| e.to_string())?;
        let connector = tokio_rustls::TlsConnector::from(net::tls_config(access.skip_verify)?);
        Box::new(connector.connect(name, stream).await.map_err(|e| e.to_string())?)
    } else {
        Box::new(stream)
    };
    let url = format!("{scheme}://{}/pubsub", client.server());
    let buffers = WebSocketConfig::default().read_buffer_size(BUFFER).write_buffer_size(BUFFER);
    let connected = tokio_tungstenite::client_async_with_config(url, stream, Some(buffers)).await;
    let (socket, _) = connected.map_err(|e| e.to_string())?;
    Ok(socket)
}
