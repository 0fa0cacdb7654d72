//! Where one program runs: servers of its own that hold nothing yet, proxies before them, and machines with an empty home.

use crate::launch;
use crate::launch::Cost;
use crate::proxy::Network;
use crate::proxy::Proxy;
use crate::proxy::Shape;
use crate::proxy::Traffic;
use crate::tree;
use crate::weed::Weed;
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::path::PathBuf;
use std::process::Child;
use std::process::Command;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;
use std::time::Instant;

/// Bucket of every program.
const BUCKET: &str = "bench";
/// Name of the project, and of the folder in the bucket.
const NAME: &str = "bench";
/// How long the colony may take to go at the end.
const GONE: Duration = Duration::from_secs(20);

/// A program that brings files over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Tool {
    /// This project's.
    Pollinator,
    /// `rclone sync --checksum`.
    Rclone(PathBuf),
    /// `s5cmd sync`.
    S5cmd(PathBuf),
    /// The Go program of the same name.
    GoPollinator(PathBuf),
}

impl Tool {
    /// For tables.
    pub fn name(&self) -> &'static str {
        match self {
            Tool::Pollinator => "pollinator",
            Tool::Rclone(_) => "rclone",
            Tool::S5cmd(_) => "s5cmd",
            Tool::GoPollinator(_) => "go-pollinator",
        }
    }

    /// Whether ratios are to it.
    pub fn is_peer(&self) -> bool {
        matches!(self, Tool::Rclone(_) | Tool::S5cmd(_))
    }

    /// Whether it keeps its books in a colony.
    pub fn has_colony(&self) -> bool {
        matches!(self, Tool::Pollinator | Tool::GoPollinator(_))
    }
}

/// Whether a program's connections go through the proxies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    Direct,
    Counted,
}

/// What one run of a program took.
#[derive(Clone, Debug)]
pub struct Run {
    pub cost: Cost,
    /// Nothing where it did not pass by the proxies.
    pub store: Option<Traffic>,
    /// Nothing where it did not pass by the proxies, and for programs without a colony.
    pub colony: Option<Traffic>,
    /// The end of what it said, where it failed.
    pub complaint: Option<String>,
}

/// The servers of one program, and the network to them.
pub struct Stage {
    pub tool: Tool,
    network: Arc<Network>,
    store: Proxy,
    /// As the colony tells it; empty for programs without one.
    variables: BTreeMap<String, String>,
    colony: Option<Proxy>,
    weed: Weed,
    folder: PathBuf,
    /// Holds the pipe whose end stops the colony and removes the folder, however this program ended.
    keeper: Child,
}

impl Stage {
    pub async fn start(tool: &Tool) -> Stage {
        let network = Arc::new(Network::default());
        let weed = Weed::start(BUCKET).await;
        let store = Proxy::start(weed.access().endpoint.clone(), Arc::clone(&network)).await;
        let folder = tempfile::tempdir().unwrap().keep();
        fs::create_dir(folder.join("host")).unwrap();
        let keeper = keeper(&folder);
        let (mut variables, mut colony) = (BTreeMap::<String, String>::new(), None);
        if tool.has_colony() {
            let output = pollinator(&folder.join("host")).args(["colony", "env", "--json"]).output().unwrap();
            assert!(output.status.success(), "the colony does not start: {output:?}");
            variables = serde_json::from_slice(&output.stdout).unwrap();
            variables.retain(|name, _| name.starts_with("COLONIES_"));
            let address = format!("{}:{}", variables["COLONIES_SERVER_HOST"], variables["COLONIES_SERVER_PORT"]);
            colony = Some(Proxy::start(address, Arc::clone(&network)).await);
        }
        Stage { tool: tool.clone(), network, store, variables, colony, weed, folder, keeper }
    }

    /// What the network is like from now on.
    pub fn network(&self, shape: Shape) {
        self.network.set(shape);
    }

    /// A new machine with an empty tree.
    pub fn machine(&self, name: &str) -> Machine<'_> {
        let home = self.folder.join(name);
        let project = home.join(NAME);
        for tree in ["src", "data", "result"] {
            fs::create_dir_all(project.join("cfs").join(tree)).unwrap();
        }
        tree::write(&project.join("project.yaml"), PROJECT);
        Machine { stage: self, home, project }
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        drop(self.keeper.stdin.take());
        let end = Instant::now() + GONE;
        while self.keeper.try_wait().is_ok_and(|status| status.is_none()) && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

const PROJECT: &str = "projectname: bench\nconditions:\n  executorNames:\n  - local\n  nodes: 1\n  processesPerNode: 1\n  cpu: 100m\n  \
    mem: 50Mi\n  walltime: 100\n  gpu:\n    count: 0\n    name: \"\"\nenvironment:\n  docker: python:3.12\n  rebuildImage: false\n  \
    cmd: python3\n  source: main.py\n";

/// This project's program, for a home folder of its own.
fn pollinator(home: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pollinator"));
    command.env_clear().stdin(Stdio::null());
    bare(&mut command, home);
    command
}

/// The few variables that every program gets.
fn bare(command: &mut Command, home: &Path) {
    command.env("PATH", std::env::var_os("PATH").unwrap_or_default());
    command.env("HOME", home).env("LANG", "C.UTF-8").env("POLLINATOR_STATE_DIR", home.join("state"));
}

/// A shell that stops the colony and removes all files when its standard input ends.
fn keeper(folder: &Path) -> Child {
    let script = "cat >/dev/null; [ -e \"$2/host/state\" ] && \"$1\" colony stop; rm -rf \"$2\"";
    let mut command = Command::new("sh");
    command.args(["-c", script, "keeper", env!("CARGO_BIN_EXE_pollinator")]).arg(folder).env_clear();
    bare(&mut command, &folder.join("host"));
    command.process_group(0).stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap()
}

/// Somebody's machine.
pub struct Machine<'a> {
    stage: &'a Stage,
    home: PathBuf,
    project: PathBuf,
}

impl Machine<'_> {
    /// The tree that is brought over.
    pub fn data(&self) -> PathBuf {
        self.project.join("cfs/data")
    }

    /// Brings the tree to the servers.
    pub fn up(&self, way: Way, limit: Duration) -> Run {
        let (here, there) = (format!("{}/", self.data().display()), format!("{BUCKET}/{NAME}/"));
        let command = match &self.stage.tool {
            Tool::Rclone(program) => self.peer(program, way, &["sync", "--checksum", &here, &format!("b:{there}")]),
            Tool::S5cmd(program) => self.peer(program, way, &["sync", &here, &format!("s3://{there}")]),
            _ => self.colony_tool(way),
        };
        self.run(command, way, limit)
    }

    /// The same after files were moved, with what the program has for that.
    pub fn up_moved(&self, limit: Duration) -> Option<Run> {
        let (here, there) = (self.data().display().to_string(), format!("b:{BUCKET}/{NAME}/"));
        let command = match &self.stage.tool {
            Tool::Rclone(program) => self.peer(program, Way::Counted, &["sync", "--checksum", "--track-renames", &here, &there]),
            Tool::S5cmd(_) => return None,
            _ => self.colony_tool(Way::Counted),
        };
        Some(self.run(command, Way::Counted, limit))
    }

    /// Brings what the servers hold to this machine.
    pub fn down(&self, limit: Duration) -> Run {
        let (here, there) = (format!("{}/", self.data().display()), format!("{BUCKET}/{NAME}/"));
        let command = match &self.stage.tool {
            Tool::Rclone(program) => self.peer(program, Way::Counted, &["sync", "--checksum", &format!("b:{there}"), &here]),
            Tool::S5cmd(program) => self.peer(program, Way::Counted, &["sync", &format!("s3://{there}*"), &here]),
            _ => self.colony_tool(Way::Counted),
        };
        self.run(command, Way::Counted, limit)
    }

    /// Only compares.
    pub fn diff(&self, limit: Duration) -> Run {
        let mut command = self.pollinator(Way::Counted);
        command.args(["diff", "data"]);
        self.run(command, Way::Counted, limit)
    }

    /// Any other program, beside its standard output.
    pub fn other(&self, program: &str, arguments: &[&str], limit: Duration) -> Run {
        let mut command = Command::new(program);
        command.args(arguments).current_dir(self.data());
        bare(&mut command, &self.home);
        self.run(command, Way::Direct, limit)
    }

    fn run(&self, command: Command, way: Way, limit: Duration) -> Run {
        let log = self.home.join("log");
        let take = || (Some(self.stage.store.take()), self.stage.colony.as_ref().map(Proxy::take));
        take();
        let cost = launch::measure(&command, limit, &log);
        let (store, colony) = if way == Way::Counted { take() } else { (None, None) };
        let complaint = (cost.code != Some(0)).then(|| {
            let said = fs::read(&log).unwrap_or_default();
            // Progress bars draw over themselves: what came last is what counts.
            let said = String::from_utf8_lossy(&said).into_owned();
            let lines: Vec<_> = said.lines().filter(|line| !line.contains('\u{1b}') && !line.trim().is_empty()).collect();
            lines[lines.len().saturating_sub(5)..].join("\n")
        });
        Run { cost, store, colony, complaint }
    }

    fn endpoint(&self, way: Way) -> String {
        match way {
            Way::Direct => self.stage.weed.access().endpoint.clone(),
            Way::Counted => self.stage.store.address(),
        }
    }

    /// rclone or s5cmd, which read no settings but these.
    fn peer(&self, program: &Path, way: Way, arguments: &[&str]) -> Command {
        let access = self.stage.weed.access();
        let endpoint = format!("http://{}", self.endpoint(way));
        let mut command = Command::new(program);
        command.args(arguments).current_dir(&self.home);
        bare(&mut command, &self.home);
        command
            .env("AWS_ACCESS_KEY_ID", &access.access_key)
            .env("AWS_SECRET_ACCESS_KEY", access.secret_key.expose())
            .env("AWS_REGION", "us-east-1")
            .env("S3_ENDPOINT_URL", &endpoint)
            .env("RCLONE_CONFIG_B_TYPE", "s3")
            .env("RCLONE_CONFIG_B_PROVIDER", "SeaweedFS")
            .env("RCLONE_CONFIG_B_ENV_AUTH", "true")
            .env("RCLONE_CONFIG_B_ENDPOINT", &endpoint);
        command
    }

    fn colony_tool(&self, way: Way) -> Command {
        match &self.stage.tool {
            Tool::GoPollinator(program) => {
                let mut command = Command::new(program);
                command.arg("funcspec").current_dir(&self.project);
                bare(&mut command, &self.home);
                self.settings(&mut command, way);
                command
            }
            _ => {
                let mut command = self.pollinator(way);
                command.args(["sync", "data", "--allow-deletes"]);
                command
            }
        }
    }

    fn pollinator(&self, way: Way) -> Command {
        let mut command = pollinator(&self.home);
        command.current_dir(&self.project);
        self.settings(&mut command, way);
        command
    }

    /// The variables that both programs of the colony read.
    fn settings(&self, command: &mut Command, way: Way) {
        let access = self.stage.weed.access();
        command.envs(&self.stage.variables);
        if let (Way::Counted, Some(proxy)) = (way, &self.stage.colony) {
            command.env("COLONIES_SERVER_HOST", "127.0.0.1").env("COLONIES_SERVER_PORT", proxy.port.to_string());
        }
        command
            .env("AWS_S3_ENDPOINT", self.endpoint(way))
            .env("AWS_S3_ACCESSKEY", &access.access_key)
            .env("AWS_S3_SECRETKEY", access.secret_key.expose())
            .env("AWS_S3_REGION", "us-east-1")
            .env("AWS_S3_REGION_KEY", "")
            .env("AWS_S3_BUCKET", BUCKET)
            .env("AWS_S3_TLS", "false")
            .env("AWS_S3_SKIPVERIFY", "false");
    }
}
