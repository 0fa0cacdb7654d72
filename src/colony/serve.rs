//! Serving the local colony: Colonies server, S3 endpoint and executor in one process, until it is told to stop.

use super::Error;
use super::database::Database;
use super::objects;
use super::server;
use super::server::FAREWELL;
use super::server::Server;
use super::server::refusal::Refused;
use super::settings::COLONY;
use super::settings::EXECUTOR;
use super::settings::Folder;
use super::settings::HOST;
use super::settings::Serving;
use super::settings::Settings;
use crate::colonies::Colony;
use crate::colonies::EXECUTOR_APPROVED;
use crate::config::ColonyAccess;
use crate::executor;
use rusqlite::params;
use std::fs::File;
use std::fs::TryLockError;
use std::path::PathBuf;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// What to serve.
#[derive(Clone, Debug)]
pub struct Options {
    /// The colony's folder.
    pub folder: PathBuf,
}

/// Serves until `shutdown`. `ready` is called once requests are answered.
///
/// Jobs that run go on when it stops or is killed; the next start finds them again.
///
/// # Errors
/// [`Error::Running`] while another process serves the folder.
pub async fn serve(options: Options, shutdown: CancellationToken, ready: impl FnOnce(&ColonyAccess)) -> Result<(), Error> {
    let folder = Folder(options.folder);
    crate::sqlite::private_folder(&folder.0).map_err(|source| Error::Folder { path: folder.0.clone(), source })?;
    let _lock = take_lock_soon(&folder).await?;
    let mut settings = Settings::load_or_make(&folder)?;
    let server_listener = listen(&mut settings.server_port).await?;
    let store_listener = listen(&mut settings.store_port).await?;
    settings.save(&folder)?;
    let [owner, ..] = settings.ids()?;
    let server = Server::open(&folder.0, server::Settings::new(owner), shutdown.clone())?;
    let database = server.database().clone();
    settle(&server, &settings).await?;
    let keys = objects::Keys { access_key: settings.store().access_key, secret_key: settings.store().secret_key };
    let mut serving = tokio::spawn(server.serve(server_listener));
    let mut storing = tokio::spawn(objects::serve(store_listener, folder.0.join("objects"), keys, shutdown.clone()));
    let mut executing = tokio::spawn(executor::run(executor_options(&settings, &folder), shutdown.clone()));
    // Whoever asks for the colony wants to run something at once.
    tokio::select! {
        taking = takes_work(&database) => taking?,
        ended = &mut executing => return Err(ended_early("the executor", ended.map(|r| r.map_err(|e| e.to_string())))),
    }
    Serving { pid: std::process::id() }.save(&folder)?;
    ready(&settings.user());
    tracing::info!(server = settings.server_port, store = settings.store_port, "the local colony serves");
    // Any of the three ending early ends the colony: half of one would only look alive.
    let outcome = tokio::select! {
        () = shutdown.cancelled() => Ok(()),
        ended = &mut serving => Err(ended_early("the Colonies server", ended.map(|r| r.map_err(|e| e.to_string())))),
        ended = &mut storing => Err(ended_early("the S3 endpoint", ended.map(|r| r.map_err(|e| e.to_string())))),
        ended = &mut executing => Err(ended_early("the executor", ended.map(|r| r.map_err(|e| e.to_string())))),
    };
    shutdown.cancel();
    // A job's task or a client that hangs must not keep the colony: what it did is written down.
    let farewell = async { tokio::join!(&mut executing, &mut serving, &mut storing) };
    if outcome.is_ok() && tokio::time::timeout(FAREWELL, farewell).await.is_err() {
        tracing::warn!("not everything ended in time");
    }
    if let Err(error) = std::fs::remove_file(folder.running()) {
        tracing::debug!(%error, "running.json");
    }
    outcome
}

fn ended_early(what: &str, ended: Result<Result<(), String>, tokio::task::JoinError>) -> Error {
    let reason = match ended {
        Ok(Ok(())) => "it ended".to_owned(),
        Ok(Err(error)) => error,
        Err(error) => error.to_string(),
    };
    Error::EndedEarly { what: what.to_owned(), reason }
}

/// The lock, also where somebody looks at it just now: looking takes it for a moment.
async fn take_lock_soon(folder: &Folder) -> Result<File, Error> {
    for _ in 0..20 {
        match take_lock(folder) {
            Err(Error::Running { .. }) => tokio::time::sleep(Duration::from_millis(25)).await,
            other => return other,
        }
    }
    take_lock(folder)
}

/// The lock of whoever serves; the system gives it back when the process ends, however it does.
pub(super) fn take_lock(folder: &Folder) -> Result<File, Error> {
    let path = folder.lock();
    let failed = |source| Error::Folder { path: path.clone(), source };
    let file = File::options().create(true).truncate(false).write(true).open(&path).map_err(failed)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(Error::Running { folder: folder.0.clone() }),
        Err(TryLockError::Error(source)) => Err(failed(source)),
    }
}

/// Listens on the port of the last time, or on another one where somebody else has it now.
async fn listen(port: &mut u16) -> Result<TcpListener, Error> {
    let listener = match TcpListener::bind((HOST, *port)).await {
        Ok(listener) => listener,
        Err(error) if *port != 0 => {
            tracing::warn!(port = *port, %error, "the port of the last time cannot be had; another one is taken");
            TcpListener::bind((HOST, 0)).await.map_err(Error::Network)?
        }
        Err(error) => return Err(Error::Network(error)),
    };
    *port = listener.local_addr().map_err(Error::Network)?.port();
    Ok(listener)
}

/// Makes the colony and its user where they are missing.
async fn settle(server: &Server, settings: &Settings) -> Result<(), Error> {
    let [_, owner, user] = settings.ids()?;
    server.make_colony(&Colony { name: COLONY.into(), colonyid: owner }).await.map_err(Error::Setup)?;
    let name = settings.user_name.clone();
    let settled = server.database().run(move |work| {
        let sql = "INSERT OR IGNORE INTO user(colony, name, user_id, email, phone) VALUES (?1, ?2, ?3, '', '')";
        work.db.execute(sql, params![COLONY, name, user])?;
        Ok(())
    });
    settled.await.map_err(|refused: Refused| Error::Setup(refused.message))
}

/// Waits until the executor is approved.
async fn takes_work(database: &Database) -> Result<(), Error> {
    let mut queue = database.queue();
    loop {
        queue.borrow_and_update();
        let sql = "SELECT count(*) FROM executor WHERE name = ?1 AND state = ?2";
        let look =
            database.run(move |work| Ok(work.db.query_row(sql, params![EXECUTOR, EXECUTOR_APPROVED], |r| r.get::<_, i64>(0))?));
        if look.await.map_err(|refused: Refused| Error::Setup(refused.message))? > 0 {
            return Ok(());
        }
        queue.changed().await.map_err(|e| Error::Setup(e.to_string()))?;
    }
}

fn executor_options(settings: &Settings, folder: &Folder) -> executor::Options {
    let options = executor::Options::new(
        EXECUTOR,
        settings.executor(),
        settings.store(),
        folder.0.join("files"),
        folder.0.join("executor"),
    );
    executor::Options { owner_key: Some(settings.owner_key()), ..options }
}
