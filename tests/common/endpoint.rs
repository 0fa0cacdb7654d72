//! Our S3 endpoint on a folder, for tests.

#![allow(dead_code)] // Each test program uses a part of it.

use pollinator::colony::objects;
use pollinator::config::Secret;
use pollinator::config::StoreAccess;
use pollinator::store::Store;
use std::path::PathBuf;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

pub fn access(endpoint: String, bucket: &str) -> StoreAccess {
    StoreAccess {
        endpoint,
        tls: false,
        skip_verify: false,
        access_key: "local-key".into(),
        secret_key: Secret::new("local-secret-of-this-test"),
        region: String::new(),
        bucket: bucket.into(),
    }
}

/// Our endpoint on a folder.
pub struct Server {
    pub access: StoreAccess,
    pub folder: PathBuf,
    stop: CancellationToken,
    pub task: tokio::task::JoinHandle<Result<(), objects::Error>>,
    _temporary: Option<tempfile::TempDir>,
}

impl Server {
    pub async fn start() -> Server {
        let temporary = tempfile::tempdir().unwrap();
        let mut server = Server::on(temporary.path().join("objects")).await;
        server._temporary = Some(temporary);
        Store::new(&server.access).unwrap().ensure_bucket().await.unwrap();
        server
    }

    pub async fn on(folder: PathBuf) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let access = access(listener.local_addr().unwrap().to_string(), "conformance");
        let keys = objects::Keys { access_key: access.access_key.clone(), secret_key: access.secret_key.clone() };
        let stop = CancellationToken::new();
        let task = tokio::spawn(objects::serve(listener, folder.clone(), keys, stop.clone()));
        Server { access, folder, stop, task, _temporary: None }
    }

    pub fn access(&self) -> &StoreAccess {
        &self.access
    }

    pub fn data_files(&self) -> usize {
        std::fs::read_dir(self.folder.join("data")).unwrap().count()
    }

    pub async fn stop(self) {
        self.stop.cancel();
        self.task.await.unwrap().unwrap();
    }
}
