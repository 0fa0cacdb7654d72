//! A Slurm cluster of our own: two virtual nodes with accounting, one for the whole program, gone with it.

#![allow(dead_code)] // Each program uses another part of it.

use std::net::TcpListener;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use std::process::Output;
use std::process::Stdio;
use std::sync::OnceLock;

pub struct Slurm {
    root: PathBuf,
    port: u16,
    cpus: u32,
}

/// What must be in the environment of nothing that an executor starts.
pub const SECRET: &str = "not-for-the-eyes-of-jobs";

/// The cluster, started when it is asked for first.
pub fn slurm() -> &'static Slurm {
    static CLUSTER: OnceLock<Slurm> = OnceLock::new();
    CLUSTER.get_or_init(|| Slurm::start(8))
}

fn script() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/slurm-up.sh")
}

impl Slurm {
    /// A cluster whose nodes say that they have so many CPUs each, and 500 MiB for each.
    pub fn start(cpus: u32) -> Slurm {
        let root = tempfile::tempdir().unwrap().keep();
        let slurm = Slurm { root, port: free_ports(), cpus };
        // Waits until this process is gone, however it went: then its end of the pipe closes.
        let mut keeper = Command::new("/bin/sh");
        keeper.args(["-c", "cat >/dev/null; \"$0\" down; rm -rf \"$1\""]).arg(script()).arg(&slurm.root);
        keeper.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).process_group(0);
        slurm.settings(&mut keeper);
        let keeper = keeper.spawn().unwrap();
        std::mem::forget(keeper);
        let started = slurm.command(script().to_str().unwrap(), &["up"]);
        assert!(started.status.success(), "{}", String::from_utf8_lossy(&started.stderr));
        // SAFETY: variables are set before the first executor runs, while all others wait for the cluster.
        unsafe {
            std::env::set_var("SLURM_CONF", slurm.root.join("slurm.conf"));
            std::env::set_var("MODULEPATH", slurm.root.join("modules"));
            // What an executor has, and no job may see.
            std::env::set_var("AWS_S3_SECRETKEY", SECRET);
            std::env::set_var("COLONIES_COLONY_PRVKEY", SECRET);
        }
        slurm
    }

    fn settings(&self, command: &mut Command) {
        command.env("SLURM_ROOT", &self.root).env("SLURM_PORT", self.port.to_string());
        command.env("SLURM_CPUS", self.cpus.to_string()).env("SLURM_MEM", (500 * self.cpus).to_string());
        command.env("SLURM_CONF", self.root.join("slurm.conf"));
    }

    fn command(&self, program: &str, words: &[&str]) -> Output {
        let mut command = Command::new(program);
        command.args(words).stdin(Stdio::null());
        self.settings(&mut command);
        // The daemons hold no pipe of ours open.
        let (out, err) = (tempfile::tempfile().unwrap(), tempfile::tempfile().unwrap());
        command.stdout(out.try_clone().unwrap()).stderr(err.try_clone().unwrap());
        let status = command.status().unwrap();
        Output { status, stdout: whole(out), stderr: whole(err) }
    }

    /// Where its settings and its daemons' files are.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// What a program of Slurm says.
    pub fn ask(&self, program: &str, words: &[&str]) -> String {
        let output = self.command(program, words);
        String::from_utf8(output.stdout).unwrap()
    }

    /// Stops the controller, and starts it again.
    pub fn restart_controller(&self) {
        for word in ["stop-controller", "up"] {
            let done = self.command(script().to_str().unwrap(), &[word]);
            assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        }
    }
}

fn whole(mut file: std::fs::File) -> Vec<u8> {
    use std::io::Read;
    use std::io::Seek;
    let mut bytes = Vec::new();
    file.rewind().unwrap();
    file.read_to_end(&mut bytes).unwrap();
    bytes
}

/// The first of twenty ports that are free now.
fn free_ports() -> u16 {
    let free = |port: u16| TcpListener::bind(("127.0.0.1", port)).is_ok();
    let begin = 20_000 + (std::process::id() % 500) as u16 * 20;
    (0..500)
        .map(|n| 20_000 + (begin - 20_000 + n * 20) % 10_000)
        .find(|first| (*first..*first + 20).all(free))
        .expect("no twenty free ports in a row")
}
