//! Tunnels, against a real OpenSSH server on loopback and the system's own `ssh`. The job serves web pages on the local colony.
//!
//! `ssh` takes the home folder from the system, not from HOME: a wrapper in PATH names the configuration of the test's own home.

#![allow(clippy::unwrap_used, clippy::expect_used)] // A test fails by panicking.

mod lab;

use lab::Ended;
use lab::Lab;
use lab::until;
use std::io::BufRead;
use std::io::BufReader;
use std::io::Read;
use std::io::Write;
use std::net::TcpListener;
use std::net::TcpStream;
use std::path::Path;
use std::path::PathBuf;
use std::process::Child;
use std::process::Command;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::Mutex;
use std::time::Duration;

/// A web server that ends when it is told to.
const JOB: &str = "\
import http.server, os, threading
class Page(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        text = b'served by the job'
        self.send_response(200)
        self.send_header('Content-Length', str(len(text)))
        self.end_headers()
        self.wfile.write(text)
        if self.path == '/stop':
            threading.Thread(target=server.shutdown).start()
    def log_message(self, *_): pass
server = http.server.ThreadingHTTPServer(('0.0.0.0', int(open(os.environ['PROJECT_DIR'] + '/data/port').read())), Page)
print('serving', flush=True)
server.serve_forever()
";

fn run(program: &str, arguments: &[&str]) -> String {
    let ended = Command::new(program).args(arguments).stdin(Stdio::null()).output();
    let ended = ended.unwrap_or_else(|e| panic!("{program}: {e}; scripts/parts.sh ssh brings it"));
    assert!(ended.status.success(), "{program} {arguments:?}: {ended:?}");
    String::from_utf8(ended.stdout).unwrap().trim().to_owned()
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn is_free(port: u16) -> bool {
    TcpListener::bind(("127.0.0.1", port)).is_ok()
}

/// A login host on loopback, the keys for it, and a configuration of `ssh` that knows it.
struct Host {
    folder: tempfile::TempDir,
    port: u16,
    user: String,
    server: Option<Child>,
}

impl Host {
    fn new() -> Host {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
        for key in ["host", "id", "stranger"] {
            run("ssh-keygen", &["-q", "-t", "ed25519", "-N", "", "-C", "", "-f", &at(key)]);
        }
        let port = free_port();
        std::fs::copy(at("id.pub"), at("authorized")).unwrap();
        let server = format!(
            "ListenAddress 127.0.0.1\nPort {port}\nHostKey {}\nAuthorizedKeysFile {}\nPidFile none\nUsePAM no\nStrictModes no\n\
             PasswordAuthentication no\nKbdInteractiveAuthentication no\nPermitRootLogin yes\nAllowTcpForwarding yes\n",
            at("host"),
            at("authorized")
        );
        std::fs::write(at("sshd_config"), server).unwrap();
        // Put aside, so that only who names it uses it.
        std::fs::create_dir(at("bin")).unwrap();
        let wrapper = format!("#!/bin/sh\nexec {} -F {} \"$@\"\n", run("sh", &["-c", "command -v ssh"]), at("config"));
        // By another process: a program that this one has open for writing cannot be started while a test beside starts another.
        run("sh", &["-c", "printf %s \"$1\" > \"$2\" && chmod 755 \"$2\"", "sh", &wrapper, &at("bin/ssh")]);
        let user = run("id", &["-un"]);
        let mut host = Host { folder, port, user, server: None };
        host.knows("host");
        host.configure("");
        host.start();
        host
    }

    fn at(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The user's configuration of `ssh`.
    fn configure(&self, more: &str) {
        let text = format!(
            "{more}\nHost *\n  UserKnownHostsFile {}\n  GlobalKnownHostsFile /dev/null\n  IdentityAgent none\n  IdentitiesOnly yes\n",
            self.at("known_hosts").display()
        );
        std::fs::write(self.at("config"), text).unwrap();
    }

    /// This is the only host key that is known; none where it is empty.
    fn knows(&self, key: &str) {
        let line = match key {
            "" => String::new(),
            key => {
                format!("[127.0.0.1]:{} {}\n", self.port, std::fs::read_to_string(self.at(&format!("{key}.pub"))).unwrap().trim())
            }
        };
        std::fs::write(self.at("known_hosts"), line).unwrap();
    }

    /// Logins with this key are taken.
    fn admits(&self, key: &str) {
        std::fs::copy(self.at(&format!("{key}.pub")), self.at("authorized")).unwrap();
    }

    fn start(&mut self) {
        if self.user == "root" {
            // Where the server of a system has not run since it was started, this folder is missing.
            std::fs::create_dir_all("/run/sshd").unwrap();
        }
        let said = std::fs::File::create(self.at("sshd.log")).unwrap();
        let config = self.at("sshd_config");
        let mut command = Command::new("/usr/sbin/sshd");
        command.args(["-D", "-e", "-f"]).arg(config).stdin(Stdio::null()).stdout(Stdio::null()).stderr(said);
        self.server = Some(command.spawn().expect("scripts/parts.sh ssh brings /usr/sbin/sshd"));
        until("the login host answers", || {
            let ended = self.server.as_mut().unwrap().try_wait().unwrap();
            assert!(ended.is_none(), "{}", std::fs::read_to_string(self.at("sshd.log")).unwrap());
            TcpStream::connect(("127.0.0.1", self.port)).is_ok()
        });
    }

    /// The host is gone, with all its connections.
    fn stop(&mut self) {
        let Some(mut server) = self.server.take() else { return };
        let all = descendants(server.id());
        server.kill().unwrap();
        server.wait().unwrap();
        for pid in all {
            // SAFETY: sends a signal to a process that this test's own server started.
            unsafe { libc::kill(pid as i32, libc::SIGKILL) };
        }
    }

    /// A laboratory whose `ssh` has this configuration.
    fn lab(&self) -> Lab {
        Lab::new().with("PATH", format!("{}:{}", self.at("bin").display(), std::env::var("PATH").unwrap()))
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.at("sshd.log")).unwrap_or_default()
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Processes that a process started, with those that these started.
fn descendants(pid: u32) -> Vec<u32> {
    let mut all = vec![pid];
    let parent = |stat: String| stat.rsplit(')').next()?.split_whitespace().nth(1)?.parse::<u32>().ok();
    let table: Vec<(u32, u32)> = std::fs::read_dir("/proc")
        .unwrap()
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter_map(|pid: u32| Some((pid, parent(std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)?)))
        .collect();
    let mut next = 0;
    while next < all.len() {
        let of = all[next];
        all.extend(table.iter().filter(|(_, parent)| *parent == of).map(|(pid, _)| *pid));
        next += 1;
    }
    all.split_off(1)
}

/// What a web server says; none where none answers.
fn page(port: u16, path: &str) -> Option<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    write!(stream, "GET {path} HTTP/1.0\r\n\r\n").ok()?;
    let mut text = String::new();
    stream.read_to_string(&mut text).ok()?;
    text.contains("served by the job").then_some(text)
}

/// A program that goes on, and what it said so far.
struct Going {
    child: Child,
    said: Arc<Mutex<String>>,
}

impl Going {
    fn new(mut command: Command, folder: &Path) -> Going {
        let mut child = command.current_dir(folder).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let said = Arc::new(Mutex::new(String::new()));
        let (lines, all) = (BufReader::new(child.stderr.take().unwrap()).lines(), Arc::clone(&said));
        std::thread::spawn(move || lines.map_while(Result::ok).for_each(|line| all.lock().unwrap().push_str(&(line + "\n"))));
        Going { child, said }
    }

    fn said(&self) -> String {
        self.said.lock().unwrap().clone()
    }

    #[track_caller]
    fn until_says(&mut self, text: &str, times: usize) {
        until(text, || {
            let said = self.said();
            let ended = self.child.try_wait().unwrap();
            let there = said.matches(text).count() >= times;
            assert!(there || ended.is_none(), "it ended without saying {text:?}: {said}");
            there
        });
    }

    #[track_caller]
    fn ends_with(self, code: i32) -> String {
        let ended = lab::wait(self.child);
        let mut said = String::new();
        until("all it said is read", || {
            said = self.said.lock().unwrap().clone();
            Arc::strong_count(&self.said) == 1
        });
        assert_eq!(ended.code, Some(code), "{said}\n{}", ended.stdout);
        said
    }
}

/// A project whose job serves on a port.
fn project(lab: &Lab, more: &str) -> (PathBuf, u16) {
    let folder = lab.project("t", JOB);
    let port = free_port();
    std::fs::write(folder.join("cfs/data/port"), port.to_string()).unwrap();
    let file = folder.join("project.yaml");
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, format!("{text}{more}")).unwrap();
    (folder, port)
}

#[test]
fn a_followed_run_has_its_tunnel_until_it_ends_and_over_a_lost_connection() {
    let mut host = Host::new();
    let lab = host.lab();
    let local = free_port();
    let (folder, remote) = project(&lab, "");
    let file = folder.join("project.yaml");
    let text = std::fs::read_to_string(&file).unwrap();
    let key = host.at("id");
    let tunnel = format!(
        "tunnel:\n  user: {}\n  jumpHost: 127.0.0.1\n  jumpHostPort: {}\n  sshKey: {}\n  localPort: {local}\n  remotePort: {remote}\n",
        host.user,
        host.port,
        key.display()
    );
    std::fs::write(&file, format!("{text}{tunnel}")).unwrap();

    // Whatever cannot be is said before anything is submitted.
    let taken = TcpListener::bind(("127.0.0.1", local)).unwrap();
    let refused = lab.run_in(&folder, ["run", "--follow"]).expect_code(2);
    assert!(
        refused.stderr.contains(&format!("port {local} of this machine")) && refused.stderr.contains("in use"),
        "{}",
        refused.stderr
    );
    drop(taken);
    std::fs::write(&file, format!("{text}{}", tunnel.replace("/id\n", "/none\n"))).unwrap();
    let refused = lab.run_in(&folder, ["run", "--follow"]).expect_code(2);
    assert!(refused.stderr.contains("none (`sshKey`) cannot be read"), "{}", refused.stderr);
    assert!(lab.run_in(&folder, ["runs", "--json"]).expect_code(0).json().as_array().unwrap().is_empty());
    std::fs::write(&file, format!("{text}{tunnel}")).unwrap();

    let mut going = Going::new(lab.command(["run", "--follow"]), &folder);
    let open = format!("Tunnel open: 127.0.0.1:{local} leads to ");
    going.until_says(&open, 1);
    until("the job's page is seen through the tunnel", || page(local, "/").is_some());
    let outside = std::net::UdpSocket::bind("0.0.0.0:0").and_then(|socket| socket.connect("192.0.2.1:9").map(|()| socket));
    if let Ok(address) = outside.and_then(|socket| socket.local_addr()) {
        assert!(TcpStream::connect((address.ip(), local)).is_err(), "others can reach the tunnel at {address}");
    }

    host.stop();
    going.until_says("the tunnel is not open", 1);
    until("nothing listens any more", || is_free(local));
    host.start();
    going.until_says(&open, 2);
    until("the page is seen again", || page(local, "/").is_some());

    until("the job is told to stop", || page(local, "/stop").is_some());
    let said = going.ends_with(0);
    assert!(said.contains("Tunnel closed"), "{said}");
    until("the port is free again", || is_free(local));
}

#[test]
fn a_tunnel_to_a_run_that_is_going_needs_a_known_host_and_a_key_that_it_takes() {
    let host = Host::new();
    let lab = host.lab();
    let (folder, remote) = project(&lab, "");
    lab.run_in(&folder, ["run"]).expect_code(0);
    until("the job serves", || page(remote, "/").is_some());
    let local = free_port();
    let ports = format!("{local}:{remote}");
    let jump = format!("{}@127.0.0.1:{}", host.user, host.port);
    let tunnel = |more: &[&str]| -> Ended {
        let arguments = [&["tunnel", "last", ports.as_str()], more].concat();
        lab.run_in(&folder, arguments)
    };

    // As ssh's own configuration says: a name for the host, and the key.
    let login = format!(
        "Host login\n  HostName 127.0.0.1\n  Port {}\n  User {}\n  IdentityFile {}\n",
        host.port,
        host.user,
        host.at("id").display()
    );
    host.configure(&login);
    host.knows("");
    let unknown = tunnel(&["--jump", &jump]).expect_code(1);
    assert!(
        unknown.stderr.contains("ssh does not trust the key of 127.0.0.1: it is not in your known_hosts"),
        "{}",
        unknown.stderr
    );
    assert!(unknown.stderr.contains(&format!("type `ssh -p {} {}@127.0.0.1` once", host.port, host.user)), "{}", unknown.stderr);
    assert_eq!(std::fs::read_to_string(host.at("known_hosts")).unwrap(), "", "nothing is trusted by itself");
    // Not even where the configuration would have everything trusted.
    host.configure(&format!("StrictHostKeyChecking no\n{login}"));
    tunnel(&["--jump", &jump]).expect_code(1);
    host.configure(&login);
    host.knows("stranger");
    let changed = tunnel(&["--jump", &jump]).expect_code(1);
    assert!(changed.stderr.contains("it is another one than in your known_hosts"), "{}", changed.stderr);
    host.knows("host");
    host.admits("stranger");
    let refused = tunnel(&["--jump", "login", "--json"]).expect_code(1);
    let failed: serde_json::Value = refused
        .stdout
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .find(|event: &serde_json::Value| event["event"] == "tunnel-failed")
        .unwrap();
    assert!(failed["reason"].as_str().unwrap().contains("refuses the login"), "{failed}");
    assert!(failed["hint"].as_str().unwrap().contains("ssh-add"), "{failed}");
    host.admits("id");
    let taken = TcpListener::bind(("127.0.0.1", local)).unwrap();
    assert!(tunnel(&["--jump", "login"]).expect_code(2).stderr.contains("in use"));
    drop(taken);
    for bad in ["-oProxyCommand=touch /tmp/x", "a b", "h:0"] {
        tunnel(&[&format!("--jump={bad}")]).expect_code(2);
    }

    // Killed, it leaves nothing behind.
    let arguments = ["tunnel", "last", ports.as_str(), "--jump", "login"];
    let mut going = Going::new(lab.command(arguments), &folder);
    going.until_says("Tunnel open", 1);
    assert!(page(local, "/").is_some(), "{}", host.log());
    going.child.kill().unwrap();
    going.child.wait().unwrap();
    until("ssh has ended with it", || is_free(local));

    // It ends with the run.
    let mut going = Going::new(lab.command(arguments), &folder);
    going.until_says("Tunnel open", 1);
    lab.run_in(&folder, ["cancel", "last"]).expect_code(0);
    let said = going.ends_with(0);
    assert!(said.contains("has ended (cancelled)") && said.contains("Tunnel closed"), "{said}");
    until("the port is free again", || is_free(local));
}
