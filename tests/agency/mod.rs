//! A laboratory with an agent in it.

#![allow(dead_code)] // Each test program uses another part of it.
#![allow(clippy::print_stderr)] // What the agent wrote tells why a test failed.

use crate::lab::Ended;
use crate::lab::Lab;
use crate::lab::PATIENCE;
use crate::lab::finish;
use crate::lab::until;
use serde_json::Value;
use std::ffi::OsStr;
use std::path::Path;
use std::path::PathBuf;
use std::process::Child;
use std::process::Command;
use std::process::Stdio;

/// An empty home folder, the programs, and an agent that ends with it.
pub struct Agency {
    pub lab: Lab,
}

impl Agency {
    /// With an agent that runs.
    pub fn new() -> Agency {
        let agency = Agency::without_agent();
        agency.agent(["start"]).expect_code(0);
        agency
    }

    /// Without one.
    pub fn without_agent() -> Agency {
        Agency { lab: Lab::new() }
    }

    /// A command of `pollinatord`.
    pub fn agent_command<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Command {
        let like = self.lab.command(Vec::<&str>::new());
        let mut command = Command::new(env!("CARGO_BIN_EXE_pollinatord"));
        command.args(arguments).env_clear().current_dir(self.lab.home()).stdin(Stdio::null());
        for (name, value) in like.get_envs() {
            command.env(name, value.unwrap());
        }
        command
    }

    /// Runs a command of `pollinatord` to its end.
    #[track_caller]
    pub fn agent<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Ended {
        finish(self.agent_command(arguments))
    }

    /// An agent in the foreground.
    pub fn foreground(&self) -> Child {
        let mut command = self.agent_command(Vec::<&str>::new());
        let child = command.env("POLLINATOR_TELL_READY", "1").stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        until("the agent answers", || self.agent(["status", "--json"]).code != Some(4));
        child
    }

    /// The status of all.
    #[track_caller]
    pub fn status(&self) -> Value {
        let ended = self.agent(["status", "--json"]);
        assert!(matches!(ended.code, Some(0 | 1)), "{}", ended.all());
        ended.json()
    }

    /// The status of one project.
    #[track_caller]
    pub fn project_status(&self, folder: &Path) -> Value {
        let folder = folder.to_str().unwrap();
        let ended = self.agent(["status", "--json", folder]);
        assert!(matches!(ended.code, Some(0 | 1)), "{}", ended.all());
        ended.json()["projects"][0].clone()
    }

    /// Has a project watched, and waits until it is in step.
    #[track_caller]
    pub fn watch(&self, folder: &Path) {
        self.agent(["add", folder.to_str().unwrap()]).expect_code(0);
        self.until_in_sync(folder);
    }

    #[track_caller]
    pub fn until_in_sync(&self, folder: &Path) {
        until("it is in sync", || self.project_status(folder)["in_sync"] == true);
    }

    /// Panics unless the colony holds what is here: asked without the agent.
    #[track_caller]
    pub fn agrees(&self, folder: &Path) {
        let diff = self.lab.run_in(folder, ["diff", "--json", "src", "data"]).expect_code(0).json();
        let changes = |tree: &Value| {
            let count = |name: &str| tree[name].as_array().map_or(0, Vec::len);
            ["uploads", "downloads", "remove_remote", "remove_local"].iter().map(|name| count(name)).sum::<usize>()
        };
        let all: usize = diff.as_array().unwrap_or_else(|| panic!("{diff}")).iter().map(changes).sum();
        assert_eq!(all, 0, "{diff:#}");
    }

    /// Writes a file below a tree.
    pub fn save(&self, folder: &Path, below: &str, text: &str) -> PathBuf {
        let path = folder.join("cfs").join(below);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, text).unwrap();
        path
    }

    /// The process of the agent.
    pub fn pid(&self) -> u32 {
        self.status()["agent"]["pid"].as_u64().unwrap() as u32
    }

    /// Kills the agent where it stands.
    pub fn kill(&self) {
        let pid = self.pid();
        signal(pid, 9);
        until("it is dead", || !Path::new(&format!("/proc/{pid}/stat")).exists() || is_zombie(pid));
    }
}

impl Drop for Agency {
    fn drop(&mut self) {
        let ended = self.agent(["stop"]);
        if ended.code != Some(0) && !std::thread::panicking() {
            panic!("the agent could not be stopped: {}", ended.all());
        }
        if std::thread::panicking() {
            let log = self.lab.state().join("logs/agent.log");
            eprintln!("--- the agent's log\n{}", std::fs::read_to_string(log).unwrap_or_default());
        }
    }
}

/// Sends a signal to a process of this test.
pub fn signal(pid: u32, number: i32) {
    let sent = Command::new("kill").arg(format!("-{number}")).arg(pid.to_string()).status().unwrap();
    assert!(sent.success());
}

/// Whether a process has ended and nobody asked how.
fn is_zombie(pid: u32) -> bool {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    text.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with('Z'))
}

/// Waits for the end of a child within the usual patience; gives its code.
#[track_caller]
pub fn ended(child: &mut Child) -> Option<i32> {
    let end = std::time::Instant::now() + PATIENCE;
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status.code();
        }
        assert!(std::time::Instant::now() < end, "it does not end");
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
}
