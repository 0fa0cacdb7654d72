//! Container engines for tests: podman with its storage below .test-parts/, and a docker daemon of the test's own.

#![allow(dead_code)] // Each test program uses another part of it.

pub mod user;

use pollinator::executor::backend::container::Flavour;
use pollinator::executor::backend::container::Settings;
use std::path::Path;
use std::path::PathBuf;
use std::process::Child;
use std::process::Command;
use std::process::Stdio;
use std::sync::OnceLock;
use std::time::Duration;
use std::time::Instant;

/// An image of busybox-static that no registry has.
pub const IMAGE: &str = "localhost/pollinator-test:1";
/// How long anything may take before it has hung.
const PATIENCE: Duration = Duration::from_secs(120);
const PROGRAMS: [&str; 24] = [
    "sh", "cat", "ls", "sleep", "id", "env", "printf", "seq", "head", "test", "wc", "ps", "dd", "tail", "grep", "echo", "mkdir",
    "rm", "touch", "sort", "tr", "sed", "hostname", "pwd",
];

/// Where the parts of others are.
pub fn parts() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(".test-parts")
}

/// Where podman keeps what it has. That of root is not for others.
fn storage() -> PathBuf {
    // SAFETY: gives a number of this process.
    match unsafe { libc::geteuid() } {
        0 => parts().join("podman"),
        _ => Path::new(&std::env::var("HOME").unwrap()).join("podman"),
    }
}

/// The root file system of the test image.
pub fn root_file_system() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for name in ["bin", "tmp", "etc"] {
        std::fs::create_dir(folder.path().join(name)).unwrap();
    }
    std::fs::copy("/bin/busybox", folder.path().join("bin/busybox")).expect("busybox-static: see scripts/parts.sh containers");
    for name in PROGRAMS {
        std::os::unix::fs::symlink("busybox", folder.path().join("bin").join(name)).unwrap();
    }
    folder
}

/// An archive of a folder.
fn archive(folder: &Path) -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().unwrap();
    let done = Command::new("tar").arg("-C").arg(folder).arg("-cf").arg(file.path()).arg(".").status().unwrap();
    assert!(done.success());
    file
}

/// An engine.
#[derive(Clone)]
pub struct Engine {
    pub settings: Settings,
}

impl Engine {
    /// Runs a command of the engine; gives its output, and panics where it fails.
    #[track_caller]
    pub fn call(&self, words: &[&str]) -> String {
        let out = self.command(words).output().unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        assert!(out.status.success(), "{words:?}: {}{}", text(&out.stdout), text(&out.stderr));
        text(&out.stdout)
    }

    pub fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(self.settings.program.as_ref().unwrap());
        command.args(&self.settings.global_options).args(words).stdin(Stdio::null());
        command
    }

    /// Whether it can hold a container to its CPUs, and to its memory.
    pub fn is_held_to(&self) -> (bool, bool) {
        let known = self.call(&["info", "--format", "{{.Host.Security.Rootless}} {{.Host.CgroupControllers}}"]);
        let words: Vec<&str> = known.split(|c: char| !c.is_ascii_alphanumeric()).collect();
        let has = |name: &str| words.contains(&"false") || words.contains(&name);
        (has("cpu"), has("memory"))
    }

    /// Names of containers that a label's value picks.
    pub fn containers(&self, process: &str) -> Vec<String> {
        let filter = format!("label=pollinator.process={process}");
        let all = self.call(&["ps", "--all", "--filter", &filter, "--format", "{{.Names}}"]);
        all.lines().map(str::to_owned).collect()
    }

    /// Makes an image of a folder, once.
    pub fn import(&self, folder: &Path, name: &str) {
        if !self.command(&["image", "inspect", name]).output().unwrap().status.success() {
            self.call(&["import", archive(folder).path().to_str().unwrap(), name]);
        }
    }
}

/// Podman, with a storage of its own that stays below .test-parts/.
pub fn podman() -> Engine {
    static READY: OnceLock<Engine> = OnceLock::new();
    READY
        .get_or_init(|| {
            let program = PathBuf::from("/usr/bin/podman");
            assert!(program.exists(), "podman is missing: scripts/parts.sh containers");
            let at = storage();
            std::fs::create_dir_all(&at).unwrap();
            let folder = |name: &str| at.join(name).to_str().unwrap().to_owned();
            let global = [
                format!("--root={}", folder("root")),
                format!("--runroot={}", folder("run")),
                format!("--tmpdir={}", folder("tmp")),
                "--runtime=runc".into(),
                "--cgroup-manager=cgroupfs".into(),
                "--events-backend=none".into(),
            ];
            let engine = Engine { settings: settings(Flavour::Podman, program, global.to_vec()) };
            let alone = std::fs::File::create(at.join("lock")).unwrap();
            alone.lock().unwrap();
            engine.import(root_file_system().path(), IMAGE);
            engine
        })
        .clone()
}

fn settings(flavour: Flavour, program: PathBuf, global_options: Vec<String>) -> Settings {
    Settings {
        engine: Some(flavour),
        program: Some(program),
        global_options,
        // Limits cannot be raised on machines that withhold the right to.
        run_options: vec!["--ulimit=nofile=4096:4096".into(), "--ulimit=nproc=4096:4096".into()],
        network: Some("host".into()),
        interval_ms: 500,
        ..Settings::default()
    }
}

/// A docker daemon of this test's own, with its containerd; both end with it.
pub struct Docker {
    pub engine: Engine,
    folder: tempfile::TempDir,
    containerd: Child,
    daemon: Option<Child>,
}

impl Docker {
    pub fn start() -> Docker {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let configuration = format!(
            "version = 2\nroot = {:?}\nstate = {:?}\noom_score = 0\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n[grpc]\naddress = {:?}\n",
            at("containerd"),
            at("containerd-state"),
            at("containerd.sock")
        );
        std::fs::write(at("containerd.toml"), configuration).unwrap();
        let mut command = Command::new("containerd");
        command.arg("-c").arg(at("containerd.toml"));
        let containerd = begin(command, &at("containerd.log"));
        let program = ["/usr/bin/docker", "/usr/local/bin/docker"].map(PathBuf::from).into_iter().find(|p| p.exists());
        let program = program.expect("docker is missing: scripts/parts.sh containers");
        let host = format!("--host=unix://{}", at("docker.sock").display());
        let engine = Engine { settings: settings(Flavour::Docker, program, vec![host]) };
        let mut docker = Docker { engine, folder, containerd, daemon: None };
        docker.start_daemon();
        docker.engine.import(root_file_system().path(), IMAGE);
        docker
    }

    pub fn start_daemon(&mut self) {
        let at = |name: &str| self.folder.path().join(name);
        let socket = at("containerd.sock");
        until("containerd", &at("containerd.log"), || socket.exists());
        let mut command = Command::new("dockerd");
        command.arg("--containerd").arg(&socket).arg("--data-root").arg(at("data")).arg("--exec-root").arg(at("exec"));
        command.arg("--pidfile").arg(at("dockerd.pid")).arg(format!("--host=unix://{}", at("docker.sock").display()));
        command.args(["--oom-score-adjust=0", "--iptables=false", "--ip6tables=false", "--bridge=none", "--live-restore"]);
        self.daemon = Some(begin(command, &at("dockerd.log")));
        let engine = self.engine.clone();
        until("dockerd", &at("dockerd.log"), || engine.command(&["version"]).output().unwrap().status.success());
    }

    pub fn stop_daemon(&mut self) {
        if let Some(mut daemon) = self.daemon.take() {
            end(&mut daemon);
        }
    }
}

impl Drop for Docker {
    fn drop(&mut self) {
        let left = self.engine.command(&["ps", "--all", "--quiet"]).output().unwrap();
        let left = String::from_utf8_lossy(&left.stdout).into_owned();
        let mut words = vec!["rm", "--force"];
        words.extend(left.lines());
        if words.len() > 2 {
            self.engine.command(&words).output().unwrap();
        }
        self.stop_daemon();
        end(&mut self.containerd);
    }
}

fn begin(mut command: Command, log: &Path) -> Child {
    let log = std::fs::File::options().create(true).append(true).open(log).unwrap();
    command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
    command.spawn().unwrap_or_else(|e| panic!("{command:?}: {e}: scripts/parts.sh containers"))
}

fn end(child: &mut Child) {
    // SAFETY: kill takes two numbers; the child is ours and not waited for yet.
    unsafe { libc::kill(child.id() as i32, libc::SIGTERM) };
    let limit = Instant::now() + Duration::from_secs(30);
    while child.try_wait().unwrap().is_none() {
        if Instant::now() > limit {
            child.kill().unwrap();
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[track_caller]
fn until(what: &str, log: &Path, holds: impl Fn() -> bool) {
    let limit = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < limit, "{what} does not start: {}", std::fs::read_to_string(log).unwrap_or_default());
        std::thread::sleep(Duration::from_millis(50));
    }
}
