//! Ways to break what the program talks to: the local colony taken apart, servers that misbehave, a proxy that fails on demand.

#![allow(dead_code)] // Each test program uses another part of it.

use crate::lab::Lab;
use pollinator::cfs::Cfs;
use pollinator::colonies::Client;
use pollinator::colonies::Process;
use pollinator::colonies::ProcessFilter;
use pollinator::colonies::ProcessState;
use pollinator::config::ColonyAccess;
use pollinator::config::Secret;
use pollinator::config::StoreAccess;
use pollinator::store::Store;
use std::collections::BTreeMap;
use std::io::Read;
use std::io::Write;
use std::net::Shutdown;
use std::net::TcpListener;
use std::net::TcpStream;
use std::path::Path;
use std::process::Child;
use std::process::Command;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;

/// The local colony as a configuration, so that a test can break one piece of it.
#[derive(Clone)]
pub struct Colony {
    pub variables: BTreeMap<String, String>,
}

impl Colony {
    /// Of a laboratory; starts it.
    #[track_caller]
    pub fn of(lab: &Lab) -> Colony {
        let printed = lab.run(["colony", "env"]).expect_code(0).stdout;
        let line = |line: &str| {
            let (name, value) = line.strip_prefix("export ")?.split_once('=')?;
            Some((name.to_owned(), value.trim_matches('\'').to_owned()))
        };
        Colony { variables: printed.lines().filter_map(line).collect() }
    }

    /// With another value.
    pub fn with(mut self, name: &str, value: impl ToString) -> Colony {
        self.variables.insert(name.into(), value.to_string());
        self
    }

    /// A command that is configured for it.
    pub fn command<const N: usize>(&self, lab: &Lab, folder: &Path, arguments: [&str; N]) -> Command {
        let mut command = lab.command(arguments);
        command.current_dir(folder).envs(&self.variables);
        command
    }

    fn value(&self, name: &str) -> String {
        self.variables.get(name).cloned().unwrap_or_default()
    }

    pub fn port(&self) -> u16 {
        self.value("COLONIES_SERVER_PORT").parse().unwrap()
    }

    /// A client of the real server, as the user.
    pub fn client(&self) -> Client {
        let access = ColonyAccess {
            host: self.value("COLONIES_SERVER_HOST"),
            port: self.port(),
            tls: false,
            skip_verify: false,
            colony: self.value("COLONIES_COLONY_NAME"),
            key: Secret::new(self.value("COLONIES_PRVKEY")),
        };
        Client::new(&access).unwrap()
    }

    /// Server and store.
    pub fn cfs(&self) -> Cfs {
        let access = StoreAccess {
            endpoint: self.value("AWS_S3_ENDPOINT").trim_start_matches("http://").to_owned(),
            tls: false,
            skip_verify: false,
            access_key: self.value("AWS_S3_ACCESSKEY"),
            secret_key: Secret::new(self.value("AWS_S3_SECRETKEY")),
            region: self.value("AWS_S3_REGION"),
            bucket: self.value("AWS_S3_BUCKET"),
        };
        Cfs { client: self.client(), store: Store::new(&access).unwrap() }
    }

    /// All processes of a project, in any state.
    pub fn processes(&self, project: &str) -> Vec<Process> {
        let client = self.client();
        let label = format!("/pollinator/{project}/src");
        let mut found = Vec::new();
        for number in 0..=4 {
            let state = ProcessState::from_number(number).unwrap();
            let page = wait_for(client.processes(state, 100, &ProcessFilter::None)).unwrap();
            assert!(page.len() < 100, "the server gives no more than 100 at once");
            found.extend(page);
        }
        // One that went on from a state to the next between two listings stands in both.
        let mut seen = std::collections::BTreeSet::new();
        found.retain(|p| seen.insert(p.processid.clone()));
        found.retain(|p| serde_json::to_string(&p.spec).unwrap().contains(&format!("\"{label}\"")));
        found
    }

    /// Panics where two processes were made for one intent.
    #[track_caller]
    pub fn no_intent_twice(&self, project: &str) -> usize {
        let processes = self.processes(project);
        let mut labels: Vec<&str> = processes.iter().map(|p| p.spec.label.as_str()).collect();
        labels.sort_unstable();
        labels.dedup();
        assert_eq!(labels.len(), processes.len(), "one intent has two processes: {labels:?}");
        processes.len()
    }

    /// Whether nothing of any project was registered.
    pub fn is_empty(&self) -> bool {
        wait_for(self.client().labels("/pollinator")).unwrap().is_empty()
    }

    /// The bytes behind each file below a label, by path, with its registered digest.
    pub fn stored(&self, label: &str) -> BTreeMap<String, (Vec<u8>, String)> {
        let cfs = self.cfs();
        wait_for(async {
            let mut stored = BTreeMap::new();
            for (path, file) in cfs.list(label).await.unwrap().files {
                let mut bytes = Vec::new();
                if file.size > 0 {
                    cfs.store.get(&file.object, &mut bytes, &|_| {}).await.unwrap();
                }
                assert_eq!(bytes.len() as u64, file.size, "{path}");
                stored.insert(path.to_string(), (bytes, file.sha256));
            }
            stored
        })
    }

    /// Panics where registered checksums are not those of the stored bytes. Gives the paths.
    #[track_caller]
    pub fn expect_sound(&self, label: &str) -> Vec<String> {
        let stored = self.stored(label);
        for (path, (bytes, registered)) in &stored {
            assert_eq!(&sha256(bytes), registered, "{path} is registered torn");
        }
        stored.into_keys().collect()
    }
}

/// Runs a future to its end.
pub fn wait_for<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work)
}

pub fn sha256(bytes: &[u8]) -> String {
    use sha2::Digest;
    hex::encode(sha2::Sha256::digest(bytes))
}

/// A program that is ended when its test is over, however that ends.
pub struct Killed(pub Child);

impl Drop for Killed {
    fn drop(&mut self) {
        // It has ended long ago, unless the test failed.
        let _ = (self.0.kill(), self.0.wait());
    }
}

/// A port on which nobody listens.
pub fn closed_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// A server that treats each connection like this.
pub fn server(treat: impl Fn(TcpStream) + Send + Sync + 'static) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let treat = Arc::new(treat);
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let treat = Arc::clone(&treat);
            std::thread::spawn(move || treat(stream));
        }
    });
    port
}

/// Answers every request with a web page.
pub fn web_page(mut stream: TcpStream) {
    let mut bytes = [0; 1 << 16];
    while stream.read(&mut bytes).is_ok_and(|n| n > 0) {
        let page = "<html><body><h1>It works!</h1></body></html>";
        let answer = format!("HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: {}\r\n\r\n{page}", page.len());
        if stream.write_all(answer.as_bytes()).is_err() {
            return;
        }
    }
}

/// Accepts, takes everything, and never answers.
pub fn silence(mut stream: TcpStream) {
    let mut bytes = [0; 1 << 16];
    while stream.read(&mut bytes).is_ok_and(|n| n > 0) {}
}

/// What is lost of the request that the proxy fails on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lost {
    Request,
    Answer,
}

/// On which request the proxy fails.
#[derive(Clone, Copy, Debug)]
pub enum Failing {
    Never,
    /// On the request of this number, and on all that follow.
    From(usize),
    /// On the first request that holds this text, and on no other.
    Once(&'static str),
}

/// A proxy in front of a Colonies server, which fails on demand.
pub struct Proxy {
    pub port: u16,
    state: Arc<State>,
}

struct State {
    upstream: u16,
    lost: Lost,
    failing: Mutex<Failing>,
    requests: AtomicUsize,
}

impl Proxy {
    pub fn new(upstream: u16, failing: Failing, lost: Lost) -> Proxy {
        let state = Arc::new(State { upstream, lost, failing: Mutex::new(failing), requests: AtomicUsize::new(0) });
        let shared = Arc::clone(&state);
        Proxy { port: server(move |stream| shared.carry(stream)), state }
    }

    /// Requests seen so far.
    pub fn requests(&self) -> usize {
        self.state.requests.load(Ordering::SeqCst)
    }

    /// Fails no more.
    pub fn heal(&self) {
        *self.state.failing.lock().unwrap() = Failing::Never;
    }

    /// Fails on everything from now on.
    pub fn break_down(&self) {
        *self.state.failing.lock().unwrap() = Failing::From(0);
    }

    /// Whether the failure of [`Failing::Once`] has happened, or the proxy was healed.
    pub fn is_spent(&self) -> bool {
        matches!(*self.state.failing.lock().unwrap(), Failing::Never)
    }
}

enum Verdict {
    Pass,
    LoseAnswer,
    Refuse,
}

impl State {
    fn judge(&self, bytes: &[u8]) -> Verdict {
        let begins = bytes.starts_with(b"POST ") || bytes.starts_with(b"GET ");
        let number = if begins { self.requests.fetch_add(1, Ordering::SeqCst) } else { self.requests.load(Ordering::SeqCst) };
        let mut failing = self.failing.lock().unwrap();
        match *failing {
            Failing::Never => Verdict::Pass,
            Failing::From(first) if number < first => Verdict::Pass,
            Failing::From(first) if number == first && begins && self.lost == Lost::Answer => Verdict::LoseAnswer,
            Failing::From(_) => Verdict::Refuse,
            Failing::Once(text) if bytes.windows(text.len()).any(|w| w == text.as_bytes()) => {
                *failing = Failing::Never;
                if self.lost == Lost::Answer { Verdict::LoseAnswer } else { Verdict::Refuse }
            }
            Failing::Once(_) => Verdict::Pass,
        }
    }

    fn carry(&self, mut client: TcpStream) {
        let Ok(mut upstream) = TcpStream::connect(("127.0.0.1", self.upstream)) else { return };
        let cut = Arc::new(AtomicBool::new(false));
        let (mut from, mut to, is_cut) = (upstream.try_clone().unwrap(), client.try_clone().unwrap(), Arc::clone(&cut));
        let back = std::thread::spawn(move || {
            let mut bytes = vec![0; 1 << 16];
            while let Ok(n @ 1..) = from.read(&mut bytes) {
                if is_cut.load(Ordering::SeqCst) || to.write_all(&bytes[..n]).is_err() {
                    break;
                }
            }
            let _ = (from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both));
        });
        let mut bytes = vec![0; 1 << 16];
        while let Ok(n @ 1..) = client.read(&mut bytes) {
            match self.judge(&bytes[..n]) {
                Verdict::Pass => {}
                Verdict::LoseAnswer => cut.store(true, Ordering::SeqCst),
                Verdict::Refuse => break,
            }
            if upstream.write_all(&bytes[..n]).is_err() {
                break;
            }
        }
        let _ = (upstream.shutdown(Shutdown::Both), client.shutdown(Shutdown::Both));
        let _ = back.join();
    }
}
