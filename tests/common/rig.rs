//! An executor beside the local colony, in this very process, and what a project needs to use it.

#![allow(dead_code)] // Each test program uses another part of it.

#[path = "life.rs"]
mod life;

use life::Life;
use pollinator::cfs;
use pollinator::cfs::Cfs;
use pollinator::cfs::Policy;
use pollinator::cfs::SyncOptions;
use pollinator::colonies::Client;
use pollinator::colonies::FunctionSpec;
use pollinator::colonies::Identity;
use pollinator::colonies::Process;
use pollinator::colony;
use pollinator::config::ColonyAccess;
use pollinator::config::Secret;
use pollinator::config::StoreAccess;
use pollinator::event::Events;
use pollinator::event::Tree;
use pollinator::executor;
use pollinator::executor::Options;
use pollinator::index::Index;
use pollinator::journal::Journal;
use pollinator::store::Store;
use serde_json::Value;
use serde_json::json;
use std::path::Path;
use std::path::PathBuf;
use std::time::Duration;
use std::time::Instant;
use tokio_util::sync::CancellationToken;

/// How long anything may take before it has hung.
pub const PATIENCE: Duration = Duration::from_secs(240);

/// The name of the executor of these tests; the colony has one of its own besides.
pub const NAME: &str = "lab";

/// A colony, a user with a project, and what an executor needs.
pub struct Rig {
    pub folder: tempfile::TempDir,
    pub colony: Option<Served>,
    store: StoreAccess,
    pub user: Client,
    owner_key: Secret,
    executor_key: Secret,
    index: Index,
    journal: Journal,
}

/// The local colony in a runtime of its own; dropped it is as suddenly gone as by a kill.
pub struct Served(Option<tokio::runtime::Runtime>);

impl Drop for Served {
    fn drop(&mut self) {
        let runtime = self.0.take().unwrap();
        // As of a process that is gone its ports are free then: another could not have them at once. (A runtime may not be waited for
        // within another one.)
        let gone = std::thread::spawn(move || runtime.shutdown_timeout(Duration::from_secs(10)));
        gone.join().unwrap();
    }
}

/// Serves the colony of a state folder, as soon as nobody else does any more.
pub async fn serve(state: &Path) -> (Served, ColonyAccess) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let (tell, told) = tokio::sync::oneshot::channel();
    let folder = state.join("colony");
    runtime.spawn(async move {
        let tell = std::sync::Mutex::new(Some(tell));
        let end = Instant::now() + PATIENCE;
        loop {
            let ready = |access: &ColonyAccess| tell.lock().unwrap().take().unwrap().send(access.clone()).unwrap();
            match colony::serve(colony::Options { folder: folder.clone() }, CancellationToken::new(), ready).await {
                Err(colony::Error::Running { .. }) if Instant::now() < end => tokio::time::sleep(Duration::from_millis(50)).await,
                ended => return ended,
            }
        }
    });
    (Served(Some(runtime)), told.await.unwrap())
}

/// A running executor; dropped without being stopped it is as suddenly gone as by a kill.
pub type Running = Life<executor::Error>;

/// Of a test that fails, what the executor told its journal of events is shown, too.
fn show_events() {
    // Another test of this process has done it already.
    let _ = tracing_subscriber::fmt().with_env_filter("pollinator=debug").with_test_writer().try_init();
}

impl Rig {
    pub async fn new() -> Rig {
        show_events();
        let folder = tempfile::tempdir().unwrap();
        let (served, access) = serve(folder.path()).await;
        let variables = colony::environment(folder.path()).await.unwrap();
        let owner_key = variables.iter().find(|(name, _)| *name == "COLONIES_COLONY_PRVKEY").unwrap().1.clone();
        let store = colony::status(folder.path()).await.unwrap().unwrap().store;
        let (_, executor_key) = Identity::generate().unwrap();
        let mine = folder.path().join("mine");
        Rig {
            colony: Some(served),
            store,
            user: Client::new(&access).unwrap(),
            owner_key: Secret::new(owner_key),
            executor_key,
            index: Index::open(&mine).unwrap(),
            journal: Journal::open(&mine).unwrap(),
            folder,
        }
    }

    pub fn cfs(&self) -> Cfs {
        Cfs { client: self.user.clone(), store: Store::new(&self.store).unwrap() }
    }

    /// An executor of the process backend.
    pub fn start(&self) -> Running {
        self.start_with(|_| {})
    }

    /// An executor with other settings.
    pub fn start_with(&self, change: impl FnOnce(&mut Options)) -> Running {
        let access = ColonyAccess { key: self.executor_key.clone(), ..self.user.access().clone() };
        let at = self.folder.path();
        let mut options = Options::new(NAME, access, self.store.clone(), at.join("fs"), at.join("executor"));
        options.owner_key = Some(self.owner_key.clone());
        options.poll_seconds = 2;
        change(&mut options);
        let shutdown = CancellationToken::new();
        Life::of(executor::run(options, shutdown.clone()), shutdown)
    }

    pub fn tree(&self, name: &str) -> PathBuf {
        let folder = self.folder.path().join("project").join(name);
        std::fs::create_dir_all(&folder).unwrap();
        folder
    }

    pub fn write(&self, tree: &str, path: &str, content: &str) {
        let file = self.tree(tree).join(path);
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(file, content).unwrap();
    }

    /// As `run` does before and after a process.
    pub async fn sync(&self, tree: Tree) -> cfs::SyncReport {
        let (name, policy) = match tree {
            Tree::Src => ("src", Policy::Mirror),
            Tree::Data => ("data", Policy::LocalWins),
            Tree::Result => ("result", Policy::RemoteWins),
        };
        let options = SyncOptions {
            tree,
            label: format!("/pollinator/p/{name}"),
            folder: self.tree(name),
            rules_from: None,
            policy,
            jobs: 4,
            allow_deletes: false,
            dry_run: false,
            leave_open: false,
        };
        cfs::sync(&self.cfs(), &self.index, &self.journal, &options, &Events::none()).await.unwrap()
    }

    /// Brings all trees over, freezes src and submits what a project submits.
    pub async fn submit(&self, cmd: &str, args: &[&str]) -> String {
        self.submit_with(cmd, args, |_| {}).await
    }

    pub async fn submit_with(&self, cmd: &str, args: &[&str], change: impl FnOnce(&mut Value)) -> String {
        let src = self.sync(Tree::Src).await;
        self.sync(Tree::Data).await;
        self.sync(Tree::Result).await;
        let snapshot = cfs::snapshot(&self.cfs(), "/pollinator/p/src", &src, None).await.unwrap().snapshotid;
        let mut spec = self.spec(&snapshot, cmd, args);
        change(&mut spec);
        let spec: FunctionSpec = serde_json::from_value(spec).unwrap();
        self.user.submit(&spec).await.unwrap().processid
    }

    /// What a project submits.
    pub fn spec(&self, snapshot: &str, cmd: &str, args: &[&str]) -> Value {
        json!({
            "funcname": "execute", "maxexectime": 599, "maxretries": 3, "maxwaittime": -1, "priority": 5,
            "kwargs": { "docker-image": "python:3.12", "rebuild-image": false, "init-cmd": "", "cmd": cmd, "args": args },
            "conditions": { "colonyname": self.user.colony(), "executortype": "container-executor", "executornames": [NAME],
                "nodes": 1, "processespernode": 1, "cpu": "1000m", "mem": "100Mi", "walltime": 600 },
            "env": { "PROJECT_DIR": "/cfs/pollinator/p" },
            "fs": { "mount": "/cfs",
                "snapshots": [{ "snapshotid": snapshot, "label": "/pollinator/p/src", "keepfiles": true, "keepsnapshot": true,
                    "dir": "/pollinator/p/snapshot/src" }],
                "dirs": [
                    { "label": "/pollinator/p/result", "dir": "/pollinator/p/result", "keepfiles": false,
                        "onconflicts": { "onstart": { "keeplocal": false }, "onclose": { "keeplocal": true } } },
                    { "label": "/pollinator/p/data", "dir": "/pollinator/p/data", "keepfiles": true,
                        "onconflicts": { "onstart": { "keeplocal": false }, "onclose": { "keeplocal": false } } } ] }
        })
    }

    /// Where the object store listens.
    pub fn cfs_endpoint(&self) -> String {
        self.store.endpoint.clone()
    }

    pub async fn until(&self, id: &str, what: &str, holds: impl Fn(&Process, &str) -> bool) -> (Process, String) {
        self.until_within(id, what, PATIENCE, holds).await
    }

    async fn until_within(
        &self,
        id: &str,
        what: &str,
        limit: Duration,
        holds: impl Fn(&Process, &str) -> bool,
    ) -> (Process, String) {
        let end = Instant::now() + limit;
        loop {
            // State first and log after it: then the log of an ended process is whole.
            let process = self.user.process(id).await.unwrap();
            let log = self.log(id).await;
            if holds(&process, &log) {
                return (process, log);
            }
            assert!(Instant::now() < end, "never: {what}; {:?} {:?}\n{log}", process.state, process.errors);
            tokio::time::sleep(Duration::from_millis(30)).await;
        }
    }

    pub async fn ended(&self, id: &str) -> (Process, String) {
        self.until(id, "the end", |p, _| p.state.is_final()).await
    }

    /// The end of what may take longer than usual.
    pub async fn ended_within(&self, id: &str, seconds: u64) -> (Process, String) {
        self.until_within(id, "the end", Duration::from_secs(seconds), |p, _| p.state.is_final()).await
    }

    pub async fn log(&self, id: &str) -> String {
        let mut all = String::new();
        let mut since = 0;
        loop {
            let page = self.user.logs(id, since, 500).await.unwrap();
            let Some(last) = page.last() else { return all };
            since = last.timestamp;
            all.extend(page.iter().map(|e| e.message.as_str()));
        }
    }

    pub fn fs(&self, path: &str) -> PathBuf {
        self.folder.path().canonicalize().unwrap().join("fs").join(path)
    }
}

pub fn read(path: impl AsRef<Path>) -> String {
    std::fs::read_to_string(path).unwrap()
}
