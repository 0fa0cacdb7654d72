//! An empty home folder with an agent and a local colony, which end with it.

#![allow(dead_code)] // Each program that measures uses another part of it.

use pollinator::colonies::Client;
use pollinator::config::Settings;
use pollinator::config::Sources;
use serde_json::Value;
use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use std::process::Output;
use std::time::Duration;
use std::time::Instant;

pub struct Home {
    folder: tempfile::TempDir,
}

/// What a process takes.
#[derive(Clone, Copy, Debug)]
pub struct Usage {
    pub resident: u64,
    pub peak: u64,
    pub cpu: Duration,
    /// Of programs that it started, and that have ended.
    pub children: Duration,
}

impl Usage {
    /// Of a running process.
    pub fn of(pid: u64) -> Usage {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let kib = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
            line.trim().trim_end_matches(" kB").trim().parse::<u64>().unwrap() * 1024
        };
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
        let ticks =
            |at: usize| Duration::from_millis(10 * (fields[at].parse::<u64>().unwrap() + fields[at + 1].parse::<u64>().unwrap()));
        Usage { resident: kib("VmRSS:"), peak: kib("VmHWM:"), cpu: ticks(11), children: ticks(13) }
    }
}

impl fmt::Display for Usage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mib = |bytes: u64| bytes as f64 / (1 << 20) as f64;
        write!(f, "{:.0} MiB, {:.0} at most", mib(self.resident), mib(self.peak))
    }
}

impl Home {
    pub fn new() -> Home {
        let home = Home { folder: tempfile::tempdir().unwrap() };
        home.run(env!("CARGO_BIN_EXE_pollinator"), &["colony", "start"]);
        home
    }

    /// A program with nothing in its environment but this home.
    pub fn command(&self, program: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new(program);
        command.args(arguments).env_clear().env("PATH", std::env::var_os("PATH").unwrap());
        command.env("HOME", self.folder.path()).env("POLLINATOR_STATE_DIR", self.folder.path().join("state"));
        command.current_dir(self.folder.path());
        command
    }

    /// Runs such a program to its end, which must be a good one.
    pub fn run(&self, program: &str, arguments: &[&str]) -> Output {
        let output = self.command(program, arguments).output().unwrap();
        assert!(matches!(output.status.code(), Some(0 | 1)), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        output
    }

    pub fn agent(&self, arguments: &[&str]) -> Output {
        self.run(env!("CARGO_BIN_EXE_pollinatord"), arguments)
    }

    pub fn sync(&self, project: &Path) {
        let ended = self.run(env!("CARGO_BIN_EXE_pollinator"), &["sync", "-C", project.to_str().unwrap()]);
        assert!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stderr));
    }

    /// The time of one command.
    pub fn run_command(&self, project: &Path) -> Duration {
        let mut command = self.command(env!("CARGO_BIN_EXE_pollinator"), &["run", "-C", project.to_str().unwrap()]);
        let began = Instant::now();
        let output = command.output().unwrap();
        let took = began.elapsed();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        took
    }

    pub fn project(&self, name: &str, on_save: &str) -> PathBuf {
        let folder = self.folder.path().join(name);
        for tree in ["src", "data", "result"] {
            std::fs::create_dir_all(folder.join("cfs").join(tree)).unwrap();
        }
        let text = format!(
            "projectname: {name}\nconditions:\n  executorNames:\n  - local\n  nodes: 1\n  processesPerNode: 1\n  cpu: 1m\n  mem: 1Mi\n  \
             walltime: 100\nenvironment:\n  docker: none\n  cmd: \"true\"\nagent:\n  onSave: {on_save}\n  notify: false\n"
        );
        std::fs::write(folder.join("project.yaml"), text).unwrap();
        std::fs::write(folder.join("cfs/src/first"), "first").unwrap();
        folder
    }

    pub fn watch(&self, project: &Path) {
        self.agent(&["add", project.to_str().unwrap()]);
        let end = Instant::now() + Duration::from_secs(120);
        while self.status(project)["in_sync"] != true {
            assert!(Instant::now() < end, "{:#}", self.status(project));
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    pub fn status(&self, project: &Path) -> Value {
        let output = self.agent(&["status", "--json", project.to_str().unwrap()]);
        let all: Value = serde_json::from_slice(&output.stdout).unwrap();
        all["projects"][0].clone()
    }

    pub async fn until(&self, project: &Path, holds: impl Fn(&Value) -> bool) {
        let end = Instant::now() + Duration::from_secs(600);
        while !holds(&self.status(project)) {
            assert!(Instant::now() < end, "{:#}", self.status(project));
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Until nothing is left to do, no run is under way, and all results are home.
    pub async fn until_quiet(&self, project: &Path) {
        let is_over = |run: &Value| run["fetched"] == true || run["state"] == "lost";
        let quiet = |status: &Value| {
            status["in_sync"] == true
                && status["state"] == "idle"
                && status["runs"].as_array().is_none_or(|runs| runs.iter().all(is_over))
        };
        self.until(project, quiet).await;
    }

    /// What the agent takes.
    pub fn usage(&self) -> Usage {
        let all: Value = serde_json::from_slice(&self.agent(&["status", "--json"]).stdout).unwrap();
        let pid = all["agent"]["pid"].as_u64().unwrap();
        Usage::of(pid)
    }

    /// Variables by which programs find the local colony, as its user.
    pub fn environment(&self) -> BTreeMap<String, String> {
        let output = self.run(env!("CARGO_BIN_EXE_pollinator"), &["colony", "env", "--json"]);
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// Settings of the local colony, as its user.
    pub fn settings(&self) -> Settings {
        let mut environment = self.environment();
        environment.insert("HOME".into(), self.folder.path().display().to_string());
        environment.insert("POLLINATOR_STATE_DIR".into(), self.folder.path().join("state").display().to_string());
        pollinator::config::load(&Sources { environment, profile: None }).unwrap()
    }

    pub fn client(&self) -> Client {
        Client::new(self.settings().colony.as_ref().unwrap()).unwrap()
    }

    pub fn path(&self) -> &Path {
        self.folder.path()
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        self.agent(&["stop"]);
        self.run(env!("CARGO_BIN_EXE_pollinator"), &["colony", "stop"]);
    }
}

/// The name of a project in its folder.
pub fn name(project: &Path) -> String {
    project.file_name().unwrap().to_str().unwrap().to_owned()
}

/// Runs some program.
pub fn command(program: &str, arguments: &[&str]) {
    assert!(Command::new(program).args(arguments).output().unwrap().status.success(), "{program}");
}
