//! A laboratory for black-box tests: the real program in an empty home folder of its own, with its own local colony that is
//! stopped at the end.

#![allow(dead_code)] // Each test program uses another part of it.

use std::ffi::OsStr;
use std::io::Read;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::path::PathBuf;
use std::process::Child;
use std::process::Command;
use std::process::Stdio;
use std::time::Duration;
use std::time::Instant;

/// How long anything in a test may take before it has hung.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// An empty home folder, and the program.
pub struct Lab {
    folder: tempfile::TempDir,
    variables: Vec<(String, String)>,
}

/// How a command ended.
#[derive(Debug)]
pub struct Ended {
    pub code: Option<i32>,
    pub signal: Option<i32>,
    pub stdout: String,
    pub stderr: String,
    pub raw_stdout: Vec<u8>,
}

impl Ended {
    /// Panics with all it printed unless it ended with this code.
    #[track_caller]
    pub fn expect_code(self, code: i32) -> Ended {
        assert_eq!(self.code, Some(code), "signal {:?}\n--- stdout\n{}\n--- stderr\n{}", self.signal, self.stdout, self.stderr);
        self
    }

    /// Standard output as JSON.
    #[track_caller]
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|e| panic!("{e} in {}", self.stdout))
    }

    /// Both streams.
    pub fn all(&self) -> String {
        format!("{}{}", self.stdout, self.stderr)
    }
}

impl Lab {
    /// A new laboratory with nothing configured.
    pub fn new() -> Lab {
        Lab { folder: tempfile::tempdir().unwrap(), variables: Vec::new() }
    }

    /// The same with more variables in the environment.
    pub fn with(mut self, name: &str, value: impl Into<String>) -> Lab {
        self.variables.push((name.into(), value.into()));
        self
    }

    /// The home folder.
    pub fn home(&self) -> &Path {
        self.folder.path()
    }

    /// The state folder.
    pub fn state(&self) -> PathBuf {
        self.home().join("state")
    }

    /// A command of the program in an environment that holds nothing of the machine's but the path.
    pub fn command<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_pollinator"));
        command
            .args(arguments)
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", self.home())
            .env("LANG", "C.UTF-8")
            .env("POLLINATOR_STATE_DIR", self.state())
            .current_dir(self.home())
            .stdin(Stdio::null());
        for (name, value) in &self.variables {
            command.env(name, value);
        }
        command
    }

    /// Runs the program to its end.
    #[track_caller]
    pub fn run<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Ended {
        finish(self.command(arguments))
    }

    /// Runs it in a folder below the home folder.
    #[track_caller]
    pub fn run_in<S: AsRef<OsStr>>(&self, folder: &Path, arguments: impl IntoIterator<Item = S>) -> Ended {
        let mut command = self.command(arguments);
        command.current_dir(folder);
        finish(command)
    }

    /// Makes a project whose job is this Python text, with `point` as a place for more settings.
    pub fn project(&self, name: &str, python: &str) -> PathBuf {
        self.project_with(name, "cmd: python3\n  source: main.py", python)
    }

    /// Makes a project whose `environment` holds these lines besides the image.
    pub fn project_with(&self, name: &str, environment: &str, python: &str) -> PathBuf {
        let folder = self.home().join(name);
        for tree in ["src", "data", "result"] {
            std::fs::create_dir_all(folder.join("cfs").join(tree)).unwrap();
        }
        let settings = format!(
            "projectname: {name}\nconditions:\n  executorNames:\n  - local\n  nodes: 1\n  processesPerNode: 1\n  cpu: 100m\n  \
             mem: 50Mi\n  walltime: 100\n  gpu:\n    count: 0\n    name: \"\"\nenvironment:\n  docker: python:3.12\n  \
             rebuildImage: false\n  {environment}\n"
        );
        std::fs::write(folder.join("project.yaml"), settings).unwrap();
        std::fs::write(folder.join("cfs/src/main.py"), python).unwrap();
        folder
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if self.state().join("colony").exists() {
            let ended = finish(self.command(["colony", "stop"]));
            if ended.code != Some(0) && !std::thread::panicking() {
                panic!("the colony could not be stopped: {}", ended.all());
            }
        }
    }
}

/// Runs a command to its end, or kills it and panics after [`PATIENCE`].
#[track_caller]
pub fn finish(mut command: Command) -> Ended {
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    wait(child)
}

/// Waits for a child whose output is piped.
#[track_caller]
pub fn wait(mut child: Child) -> Ended {
    let stdout = reader(child.stdout.take());
    let stderr = reader(child.stderr.take());
    let end = Instant::now() + PATIENCE;
    let status = loop {
        match child.try_wait().unwrap() {
            Some(status) => break status,
            None if Instant::now() > end => {
                child.kill().unwrap();
                child.wait().unwrap();
                let (out, err) = (stdout.join().unwrap(), stderr.join().unwrap());
                panic!("hung\n--- stdout\n{}\n--- stderr\n{}", String::from_utf8_lossy(&out), String::from_utf8_lossy(&err));
            }
            None => std::thread::sleep(Duration::from_millis(10)),
        }
    };
    let raw_stdout = stdout.join().unwrap();
    Ended {
        code: status.code(),
        signal: status.signal(),
        stdout: String::from_utf8_lossy(&raw_stdout).into_owned(),
        stderr: String::from_utf8_lossy(&stderr.join().unwrap()).into_owned(),
        raw_stdout,
    }
}

fn reader(stream: Option<impl Read + Send + 'static>) -> std::thread::JoinHandle<Vec<u8>> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(mut stream) = stream {
            // A stream that breaks has given what it could.
            let _ = stream.read_to_end(&mut bytes);
        }
        bytes
    })
}

/// Waits until something holds.
#[track_caller]
pub fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < end, "did not come to pass: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}
