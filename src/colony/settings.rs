//! What the local colony keeps about itself: ports and keys (`colony.json`), and who serves it at the moment (`running.json`).

use super::Error;
use crate::colonies::Identity;
use crate::config::ColonyAccess;
use crate::config::Secret;
use crate::config::StoreAccess;
use crate::durable;
use serde::Deserialize;
use serde::Serialize;
use std::path::Path;
use std::path::PathBuf;

/// Name of the colony.
pub const COLONY: &str = "local";
/// Name of its executor.
pub const EXECUTOR: &str = "local";
/// Its bucket.
pub const BUCKET: &str = "pollinator";
/// Where it listens.
pub const HOST: &str = "127.0.0.1";

/// Where everything of the local colony lies.
#[derive(Clone, Debug)]
pub struct Folder(pub PathBuf);

impl Folder {
    /// Below a state folder.
    pub fn below(state: &Path) -> Folder {
        Folder(state.join("colony"))
    }

    pub(super) fn settings(&self) -> PathBuf {
        self.0.join("colony.json")
    }

    pub(super) fn running(&self) -> PathBuf {
        self.0.join("running.json")
    }

    /// Held by whoever serves.
    pub(super) fn lock(&self) -> PathBuf {
        self.0.join("lock")
    }

    /// Held by whoever starts a server.
    pub(super) fn starting(&self) -> PathBuf {
        self.0.join("starting.lock")
    }

    pub(super) fn log(&self) -> PathBuf {
        self.0.join("colony.log")
    }
}

/// Ports and keys, made at the first start.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct Settings {
    pub(super) server_port: u16,
    pub(super) store_port: u16,
    pub(super) user_name: String,
    server_owner_key: String,
    colony_owner_key: String,
    user_key: String,
    executor_key: String,
    access_key: String,
    secret_key: String,
}

impl Settings {
    /// The stored ones, or new ones with ports 0 ("choose") where there are none.
    pub(super) fn load_or_make(folder: &Folder) -> Result<Settings, Error> {
        match Settings::load(folder) {
            Ok(settings) => Ok(settings),
            Err(Error::NeverStarted) => Settings::make(),
            Err(error) => Err(error),
        }
    }

    /// The stored ones.
    pub(super) fn load(folder: &Folder) -> Result<Settings, Error> {
        let path = folder.settings();
        match std::fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(|e| Error::Damaged { path, reason: e.to_string() }),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Err(Error::NeverStarted),
            Err(source) => Err(Error::Folder { path, source }),
        }
    }

    fn make() -> Result<Settings, Error> {
        let key = || -> Result<String, Error> {
            let (_, key) = Identity::generate().map_err(|e| Error::Keys(e.to_string()))?;
            Ok(key.expose().to_owned())
        };
        let (server_owner_key, colony_owner_key, user_key, executor_key) = (key()?, key()?, key()?, key()?);
        let secret_key = key()?;
        Ok(Settings {
            server_port: 0,
            store_port: 0,
            user_name: user_name(),
            server_owner_key,
            colony_owner_key,
            user_key,
            executor_key,
            access_key: "pollinator".into(),
            secret_key,
        })
    }

    /// Writes them, for their owner only.
    pub(super) fn save(&self, folder: &Folder) -> Result<(), Error> {
        write_private(&folder.settings(), &serde_json::to_vec_pretty(self).unwrap_or_default())
    }

    fn access(&self, key: &str) -> ColonyAccess {
        ColonyAccess {
            host: HOST.into(),
            port: self.server_port,
            tls: false,
            skip_verify: false,
            colony: COLONY.into(),
            key: Secret::new(key),
        }
    }

    /// As the user.
    pub(super) fn user(&self) -> ColonyAccess {
        self.access(&self.user_key)
    }

    /// As the executor.
    pub(super) fn executor(&self) -> ColonyAccess {
        self.access(&self.executor_key)
    }

    /// The colony owner's key.
    pub(super) fn owner_key(&self) -> Secret {
        Secret::new(self.colony_owner_key.clone())
    }

    /// Ids of server owner, colony owner and user.
    pub(super) fn ids(&self) -> Result<[String; 3], Error> {
        let id = |key: &str| {
            let identity = Identity::from_key(&Secret::new(key)).map_err(|e| Error::Keys(e.to_string()))?;
            Ok::<_, Error>(identity.id().to_owned())
        };
        Ok([id(&self.server_owner_key)?, id(&self.colony_owner_key)?, id(&self.user_key)?])
    }

    /// The object store.
    pub(super) fn store(&self) -> StoreAccess {
        StoreAccess {
            endpoint: format!("{HOST}:{}", self.store_port),
            tls: false,
            skip_verify: false,
            access_key: self.access_key.clone(),
            secret_key: Secret::new(self.secret_key.clone()),
            region: "us-east-1".into(),
            bucket: BUCKET.into(),
        }
    }

    /// The variables that let any ColonyOS client use it.
    pub(super) fn environment(&self) -> Vec<(&'static str, String)> {
        vec![
            ("COLONIES_TLS", "false".into()),
            ("COLONIES_SERVER_TLS", "false".into()),
            ("COLONIES_SERVER_HOST", HOST.into()),
            ("COLONIES_SERVER_PORT", self.server_port.to_string()),
            ("COLONIES_COLONY_NAME", COLONY.into()),
            ("COLONIES_SERVER_PRVKEY", self.server_owner_key.clone()),
            ("COLONIES_COLONY_PRVKEY", self.colony_owner_key.clone()),
            ("COLONIES_PRVKEY", self.user_key.clone()),
            ("AWS_S3_ENDPOINT", format!("{HOST}:{}", self.store_port)),
            ("AWS_S3_ACCESSKEY", self.access_key.clone()),
            ("AWS_S3_SECRETKEY", self.secret_key.clone()),
            ("AWS_S3_REGION", "us-east-1".into()),
            ("AWS_S3_REGION_KEY", "us-east-1".into()),
            ("AWS_S3_BUCKET", BUCKET.into()),
            ("AWS_S3_TLS", "false".into()),
            ("AWS_S3_SKIPVERIFY", "false".into()),
        ]
    }
}

/// Who serves the colony at the moment.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Serving {
    pub(super) pid: u32,
}

impl Serving {
    pub(super) fn load(folder: &Folder) -> Option<Serving> {
        serde_json::from_slice(&std::fs::read(folder.running()).ok()?).ok()
    }

    pub(super) fn save(&self, folder: &Folder) -> Result<(), Error> {
        write_private(&folder.running(), &serde_json::to_vec(self).unwrap_or_default())
    }
}

/// The system's name of the user.
fn user_name() -> String {
    let named = ["USER", "LOGNAME"].iter().find_map(|name| std::env::var(name).ok().filter(|v| !v.is_empty()));
    named.unwrap_or_else(|| "user".into())
}

/// Writes a file for its owner only, whole or not at all.
fn write_private(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    durable::replace(path, bytes).map_err(|source| Error::Folder { path: path.to_owned(), source })
}
