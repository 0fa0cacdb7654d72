//! A local colony served in this process, and sides that synchronize with it: each a machine of its own, with its own folders,
//! index and journal.

#![allow(dead_code)] // Each test program uses a part of it.

use pollinator::cfs;
use pollinator::cfs::Cfs;
use pollinator::cfs::Error;
use pollinator::cfs::Policy;
use pollinator::cfs::RemoteTree;
use pollinator::cfs::SyncOptions;
use pollinator::cfs::SyncReport;
use pollinator::colonies::Client;
use pollinator::colony;
use pollinator::config::ColonyAccess;
use pollinator::config::StoreAccess;
use pollinator::event::Event;
use pollinator::event::Events;
use pollinator::event::Tree;
use pollinator::index::Index;
use pollinator::journal::Journal;
use pollinator::store::Store;
use sha2::Digest;
use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::Mutex;
use tokio_util::sync::CancellationToken;

/// The local colony in a runtime of its own.
pub struct Colony {
    pub folder: tempfile::TempDir,
    pub access: ColonyAccess,
    pub store: StoreAccess,
    runtime: Option<tokio::runtime::Runtime>,
}

impl Colony {
    pub async fn start() -> Colony {
        let folder = tempfile::tempdir().unwrap();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let (tell, told) = tokio::sync::oneshot::channel();
        let tell = Mutex::new(Some(tell));
        let options = colony::Options { folder: folder.path().join("colony") };
        runtime.spawn(async move {
            let ready = |access: &ColonyAccess| tell.lock().unwrap().take().unwrap().send(access.clone()).unwrap();
            colony::serve(options, CancellationToken::new(), ready).await.unwrap();
        });
        let access = told.await.unwrap();
        let store = colony::status(folder.path()).await.unwrap().unwrap().store;
        Colony { folder, access, store, runtime: Some(runtime) }
    }

    pub fn cfs(&self) -> Cfs {
        Cfs { client: Client::new(&self.access).unwrap(), store: Store::new(&self.store).unwrap() }
    }

    /// A machine with the project `p`.
    pub fn side(&self, name: &str) -> Side {
        self.side_of(name, "p")
    }

    /// A machine with a project.
    pub fn side_of(&self, name: &str, project: &str) -> Side {
        let home = self.folder.path().join("sides").join(name);
        for tree in Tree::ALL {
            std::fs::create_dir_all(home.join(tree.name())).unwrap();
        }
        let state = home.join("state");
        let (index, journal) = (Index::open(&state).unwrap(), Journal::open(&state).unwrap());
        Side { cfs: self.cfs(), index, journal, home, project: project.into() }
    }
}

impl Drop for Colony {
    fn drop(&mut self) {
        self.runtime.take().unwrap().shutdown_background();
    }
}

/// One machine with one project.
pub struct Side {
    pub cfs: Cfs,
    pub index: Index,
    pub journal: Journal,
    pub home: PathBuf,
    pub project: String,
}

impl Side {
    pub fn label(&self, tree: Tree) -> String {
        format!("/pollinator/{}/{tree}", self.project)
    }

    pub fn root(&self, tree: Tree) -> PathBuf {
        self.home.join(tree.name())
    }

    pub fn path(&self, tree: Tree, path: &str) -> PathBuf {
        self.root(tree).join(path)
    }

    pub fn write(&self, tree: Tree, path: &str, content: impl AsRef<[u8]>) {
        let full = self.path(tree, path);
        std::fs::create_dir_all(full.parent().unwrap()).unwrap();
        std::fs::write(full, content).unwrap();
    }

    pub fn chmod(&self, tree: Tree, path: &str, mode: u32) {
        std::fs::set_permissions(self.path(tree, path), std::fs::Permissions::from_mode(mode)).unwrap();
    }

    pub fn mode(&self, tree: Tree, path: &str) -> u32 {
        std::fs::metadata(self.path(tree, path)).unwrap().permissions().mode() & 0o777
    }

    pub fn remove(&self, tree: Tree, path: &str) {
        std::fs::remove_file(self.path(tree, path)).unwrap();
    }

    /// All files of a tree with their contents, as text; folders end with `/`.
    pub fn content(&self, tree: Tree) -> BTreeMap<String, String> {
        content(&self.root(tree))
    }

    pub fn options(&self, tree: Tree) -> SyncOptions {
        let policy = match tree {
            Tree::Src => Policy::Mirror,
            Tree::Data => Policy::LocalWins,
            Tree::Result => Policy::RemoteWins,
        };
        SyncOptions {
            tree,
            label: self.label(tree),
            folder: self.root(tree),
            rules_from: None,
            policy,
            jobs: 8,
            allow_deletes: false,
            dry_run: false,
            leave_open: false,
        }
    }

    pub async fn sync_as(&self, options: &SyncOptions, events: &Events) -> Result<SyncReport, Error> {
        cfs::sync(&self.cfs, &self.index, &self.journal, options, events).await
    }

    pub async fn try_sync(&self, tree: Tree) -> Result<SyncReport, Error> {
        self.sync_as(&self.options(tree), &Events::none()).await
    }

    /// Synchronizes where nothing may go wrong.
    pub async fn sync(&self, tree: Tree) -> SyncReport {
        let report = self.try_sync(tree).await.unwrap();
        assert!(report.problems.is_empty(), "{:?}", report.problems);
        report
    }

    /// As a given policy.
    pub async fn sync_policy(&self, tree: Tree, policy: Policy) -> SyncReport {
        self.sync_as(&SyncOptions { policy, ..self.options(tree) }, &Events::none()).await.unwrap()
    }

    /// What the colony holds.
    pub async fn remote(&self, tree: Tree) -> RemoteTree {
        self.cfs.list(&self.label(tree)).await.unwrap()
    }

    pub async fn remote_names(&self, tree: Tree) -> Vec<String> {
        self.remote(tree).await.files.keys().map(ToString::to_string).collect()
    }

    /// Everything that the colony holds of a tree, read and compared with what is registered.
    pub async fn verified(&self, tree: Tree) -> BTreeMap<String, Vec<u8>> {
        let mut all = BTreeMap::new();
        for (path, file) in self.remote(tree).await.files {
            let mut bytes = Vec::new();
            if file.size > 0 {
                self.cfs.store.get(&file.object, &mut bytes, &|_| ()).await.unwrap();
            }
            assert_eq!((file.size, file.sha256), (bytes.len() as u64, sha256(&bytes)), "{path}");
            all.insert(path.to_string(), bytes);
        }
        all
    }
}

pub fn sha256(bytes: &[u8]) -> String {
    hex::encode(sha2::Sha256::digest(bytes))
}

/// All files below a folder with their contents, as text; folders end with `/`.
pub fn content(root: &Path) -> BTreeMap<String, String> {
    let mut all = BTreeMap::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).unwrap().map(Result::unwrap) {
            let name = entry.path().strip_prefix(root).unwrap().to_str().unwrap().to_owned();
            if entry.file_type().unwrap().is_dir() {
                all.insert(format!("{name}/"), String::new());
                folders.push(entry.path());
            } else {
                let bytes = std::fs::read(entry.path()).unwrap_or_default();
                all.insert(name, String::from_utf8_lossy(&bytes).into_owned());
            }
        }
    }
    all
}

/// Events that `reader` hears, and a list of them all.
pub fn heard(reader: impl Fn(&Event) + Send + Sync + 'static) -> (Events, Arc<Mutex<Vec<Event>>>) {
    let all = Arc::new(Mutex::new(Vec::new()));
    let kept = all.clone();
    let events = Events::new(move |event| {
        reader(&event);
        kept.lock().unwrap().push(event);
    });
    (events, all)
}
