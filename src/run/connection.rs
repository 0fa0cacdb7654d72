//! Everything a command needs of a colony: its server, its object store, and our own books about both.

use super::Error;
use crate::blocking;
use crate::cfs::Cfs;
use crate::colonies;
use crate::colonies::Client;
use crate::config::ColonyAccess;
use crate::config::StoreAccess;
use crate::index::Index;
use crate::journal::Journal;
use crate::store;
use crate::store::Store;
use std::fs::File;
use std::io;
use std::path::Path;
use std::path::PathBuf;
use std::time::Duration;
use tempfile::TempDir;

/// A colony within reach. Cheap to clone.
#[derive(Clone)]
pub struct Connection {
    /// The meta-filesystem: Colonies server and object store.
    pub cfs: Cfs,
    /// Cache of what local files hold.
    pub index: Index,
    /// Runs and last synchronizations.
    pub journal: Journal,
    /// Base address of a dashboard, when one is configured.
    pub dashboard: Option<String>,
    /// Our state folder.
    pub state_folder: PathBuf,
}

/// How a colony is spoken to.
#[derive(Clone, Debug, Default)]
pub struct Manners {
    /// Base address of a dashboard.
    pub dashboard: Option<String>,
    /// How long a server may keep silent; none: as long as each client thinks right.
    pub timeout: Option<Duration>,
    /// Most bytes a second that uploads may take; none: as much as there is.
    pub limit_up: Option<u64>,
}

impl Connection {
    /// Prepares the clients and opens the books; nothing is sent yet.
    pub fn open(colony: &ColonyAccess, bucket: &StoreAccess, manners: Manners, state_folder: &Path) -> Result<Connection, Error> {
        let mut patience = colonies::client::Patience::default();
        let mut stall = store::Patience { limit_up: manners.limit_up, ..store::Patience::default() };
        if let Some(timeout) = manners.timeout {
            (patience.request, stall.stall) = (timeout, timeout);
        }
        let client = Client::with_patience(colony, patience)?;
        let store = Store::with_patience(bucket, stall).map_err(crate::cfs::Error::from)?;
        Ok(Connection {
            cfs: Cfs { client, store },
            index: Index::open(state_folder).map_err(crate::cfs::Error::from)?,
            journal: Journal::open(state_folder)?,
            dashboard: manners.dashboard,
            state_folder: state_folder.to_owned(),
        })
    }

    /// The Colonies server.
    pub fn client(&self) -> &Client {
        &self.cfs.client
    }

    /// Page of a process on the dashboard.
    pub fn dashboard_page(&self, process_id: &str) -> Option<String> {
        let base = self.dashboard.as_deref()?.trim_end_matches('/');
        Some(format!("{base}/process?processid={process_id}"))
    }

    /// Takes the lock of a project in this colony: one synchronization or submission at a time. It is given back on drop.
    ///
    /// `waiting` is called once when somebody else holds it.
    pub async fn lock(&self, project_name: &str, waiting: impl FnOnce() + Send + 'static) -> Result<ProjectLock, Error> {
        let folder = self.state_folder.join("locks");
        let name = self.name_of(project_name);
        let path = folder.join(format!("{name}.lock"));
        let failed = |source| Error::Local { what: "the lock of the project cannot be taken".into(), source };
        let taken = blocking::run(move || {
            crate::sqlite::private_folder(&folder)?;
            let file = File::options().create(true).truncate(false).write(true).open(path)?;
            match file.try_lock() {
                Ok(()) => {}
                Err(std::fs::TryLockError::WouldBlock) => {
                    waiting();
                    file.lock()?;
                }
                Err(std::fs::TryLockError::Error(error)) => return Err(error),
            }
            Ok(ProjectLock { _file: file, name })
        });
        taken.await.map_err(failed)
    }

    /// A folder for what is needed only while the project is held, empty, and gone with what is given back. What a killed call
    /// left there goes first: whoever holds the lock is alone with it.
    pub(super) async fn workshop(&self, lock: &ProjectLock) -> Result<TempDir, Error> {
        let (above, name) = (self.state_folder.join("commits"), lock.name.clone());
        let made = blocking::run(move || {
            crate::sqlite::private_folder(&above)?;
            match std::fs::remove_dir_all(above.join(&name)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
            tempfile::Builder::new().prefix(&name).rand_bytes(0).tempdir_in(&above)
        });
        let failed = |source| Error::Local { what: "no folder can be made for the files of a commit".into(), source };
        made.await.map_err(failed)
    }

    /// A name for a project in this colony that can be a file's.
    fn name_of(&self, project_name: &str) -> String {
        let text = format!("{}\n{}\n{project_name}", self.client().server(), self.client().colony());
        blake3::hash(text.as_bytes()).to_hex()[..24].to_owned()
    }
}

/// Holds a project; the system gives the lock back when the file is closed, also by kill -9.
#[derive(Debug)]
pub struct ProjectLock {
    _file: File,
    /// What is held.
    name: String,
}
