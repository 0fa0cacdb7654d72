//! The local colony in the background: started when it is needed, found when it runs, stopped, removed.

use super::Error;
use super::serve::take_lock;
use super::settings::Folder;
use super::settings::Serving;
use super::settings::Settings;
use super::unit;
use crate::blocking;
use crate::colonies::Client;
use crate::colonies::ProcessFilter;
use crate::colonies::ProcessState;
use crate::config::ColonyAccess;
use crate::config::StoreAccess;
use std::fs::File;
use std::io::BufRead;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::process::Stdio;
use std::time::Duration;

/// How long a colony may take to end.
const PATIENCE: Duration = Duration::from_secs(30);
/// Lines of its log that are shown when it does not start.
const TAIL: usize = 15;
/// What a server says on its standard output when it answers.
pub const READY: &str = "ready";

/// A colony that runs, and how to reach it.
#[derive(Clone, Debug)]
pub struct Running {
    /// It was started just now.
    pub started: bool,
    /// Its Colonies server, as its user.
    pub colony: ColonyAccess,
    /// Its object store.
    pub store: StoreAccess,
}

impl Running {
    fn of(settings: &Settings, started: bool) -> Running {
        Running { started, colony: settings.user(), store: settings.store() }
    }
}

/// Makes sure that the colony of a state folder runs. Several that call it at once start one.
///
/// # Errors
/// [`Error::DidNotStart`] with the end of its log.
pub async fn ensure_running(state: &Path) -> Result<Running, Error> {
    let folder = Folder::below(state);
    blocking::run(move || {
        let failed = |source| Error::Folder { path: folder.0.clone(), source };
        crate::sqlite::private_folder(&folder.0).map_err(failed)?;
        let starting = File::options().create(true).truncate(false).write(true).open(folder.starting()).map_err(failed)?;
        starting.lock().map_err(failed)?;
        if is_served(&folder)? {
            return Ok(Running::of(&Settings::load(&folder)?, false));
        }
        start(&folder)?;
        Ok(Running::of(&Settings::load(&folder)?, true))
    })
    .await
}

/// Whether somebody serves it: holds its lock, and has said that it is ready.
fn is_served(folder: &Folder) -> Result<bool, Error> {
    if !folder.lock().exists() {
        return Ok(false);
    }
    match take_lock(folder) {
        Ok(_) => Ok(false),
        Err(Error::Running { .. }) => Ok(true),
        Err(error) => Err(error),
    }
}

/// Starts a server, as a unit of its own where this is a service.
fn start(folder: &Folder) -> Result<(), Error> {
    let program = std::env::current_exe().map_err(|e| broken(folder, e.to_string()))?;
    if unit::is_a_service() {
        match launch(folder, unit::command(&program)) {
            Ok(()) => return Ok(()),
            Err(error) => {
                tracing::warn!(%error, "the local colony cannot be a unit of its own: it runs within the agent's limits")
            }
        }
    }
    launch(folder, Command::new(program))
}

/// Starts a server in a session of its own and waits for its word. Its death ends the waiting, too: the pipe closes.
fn launch(folder: &Folder, mut command: Command) -> Result<(), Error> {
    let failed = |source| Error::Folder { path: folder.log(), source };
    let log = std::fs::OpenOptions::new().create(true).append(true).mode(0o600).open(folder.log()).map_err(failed)?;
    command.args(["colony", "serve", "--folder"]).arg(&folder.0);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log).current_dir("/");
    // It is not the agent that a service manager waits for.
    for name in ["NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"] {
        command.env_remove(name);
    }
    for (name, _) in std::env::vars_os() {
        // It needs none of the settings of other colonies, and nothing of them should lie in its environment.
        let text = name.to_string_lossy();
        if text.starts_with("COLONIES_") || text.starts_with("AWS_") {
            command.env_remove(&name);
        }
    }
    // SAFETY: setsid is async-signal-safe and touches nothing of ours.
    unsafe {
        command.pre_exec(|| if libc::setsid() < 0 { Err(std::io::Error::last_os_error()) } else { Ok(()) });
    }
    let mut child = command.spawn().map_err(|e| broken(folder, e.to_string()))?;
    let said =
        child.stdout.take().map(|out| std::io::BufReader::new(out).lines().map_while(Result::ok).any(|line| line == READY));
    if said == Some(true) {
        return Ok(());
    }
    let status = child.wait().map_err(|e| broken(folder, e.to_string()))?;
    Err(broken(folder, format!("it ended with {status}")))
}

fn broken(folder: &Folder, reason: String) -> Error {
    Error::DidNotStart { reason, log: folder.log(), tail: tail(folder) }
}

fn tail(folder: &Folder) -> Vec<String> {
    let text = std::fs::read_to_string(folder.log()).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(TAIL)..].iter().map(|line| (*line).to_owned()).collect()
}

/// Watches over a colony that somebody uses: where it dies (it was not stopped), it is started again.
///
/// Ends when it was stopped on purpose, or cannot be started again.
pub async fn keep_running(state: &Path) -> Result<(), Error> {
    let folder = Folder::below(state);
    loop {
        wait_for_end(&folder).await?;
        // Whoever stops in order takes this file away.
        if !folder.running().exists() {
            return Ok(());
        }
        tracing::warn!("the local colony has died; it is started again");
        ensure_running(state).await?;
    }
}

/// Waits until nobody serves it: the system gives the lock back when a process ends, however it does.
async fn wait_for_end(folder: &Folder) -> Result<(), Error> {
    let path = folder.lock();
    blocking::run(move || {
        let failed = |source| Error::Folder { path: path.clone(), source };
        File::options().write(true).open(&path).and_then(|file| file.lock_shared()).map_err(failed)
    })
    .await
}

/// The colony, where it runs.
pub async fn status(state: &Path) -> Result<Option<Running>, Error> {
    let folder = Folder::below(state);
    blocking::run(move || if is_served(&folder)? { Ok(Some(Running::of(&Settings::load(&folder)?, false))) } else { Ok(None) })
        .await
}

/// Stops it, and waits for its end. Says whether it ran. Its jobs go on, and are found again at the next start.
pub async fn stop(state: &Path) -> Result<bool, Error> {
    let folder = Folder::below(state);
    let asked = folder.clone();
    let ran = blocking::run(move || {
        if !is_served(&asked)? {
            return Ok(false);
        }
        let serving = Serving::load(&asked).ok_or(Error::Starting)?;
        let pid = libc::pid_t::try_from(serving.pid).map_err(|e| Error::Setup(e.to_string()))?;
        // SAFETY: sends a signal; the pid is that of the process that holds the lock.
        if unsafe { libc::kill(pid, libc::SIGTERM) } != 0 {
            return Err(Error::Setup(format!("process {pid}: {}", std::io::Error::last_os_error())));
        }
        Ok(true)
    })
    .await?;
    if !ran {
        return Ok(false);
    }
    let wait = wait_for_end(&folder);
    match tokio::time::timeout(PATIENCE, wait).await {
        Ok(done) => done.map(|()| true),
        Err(_) => Err(Error::DidNotStop { seconds: PATIENCE.as_secs() }),
    }
}

/// Stops it and removes all that is below its folder: processes, files, keys.
///
/// # Errors
/// [`Error::Busy`] while processes run, unless `force`: they are cancelled then.
pub async fn reset(state: &Path, force: bool) -> Result<(), Error> {
    let folder = Folder::below(state);
    if !folder.0.exists() {
        return Ok(());
    }
    // A colony that does not run may have left jobs behind; only a running one can tell, and end them.
    if folder.settings().exists() {
        let running = ensure_running(state).await?;
        end_processes(&running, &folder, force).await?;
    }
    stop(state).await?;
    let failed = |source| Error::Folder { path: folder.0.clone(), source };
    tokio::fs::remove_dir_all(&folder.0).await.map_err(failed)
}

/// Cancels what runs, and waits until the executor has ended and closed every job.
async fn end_processes(running: &Running, folder: &Folder, force: bool) -> Result<(), Error> {
    let told = |e: crate::colonies::Error| Error::Setup(e.to_string());
    let client = Client::new(&running.colony).map_err(told)?;
    let busy = client.processes(ProcessState::Running, 100, &ProcessFilter::None).await.map_err(told)?;
    if !busy.is_empty() && !force {
        return Err(Error::Busy { processes: busy.len() });
    }
    for process in &busy {
        client.cancel(&process.processid).await.map_err(told)?;
    }
    let end = tokio::time::Instant::now() + PATIENCE;
    while open_jobs(folder).await? > 0 && tokio::time::Instant::now() < end {
        // The executor tells nobody when it has ended a cancelled job; its journal does.
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    Ok(())
}

/// Jobs in the executor's journal that it has not closed.
async fn open_jobs(folder: &Folder) -> Result<i64, Error> {
    let path = folder.0.join("executor/executor.db");
    blocking::run(move || {
        if !path.exists() {
            return Ok(0);
        }
        let flags = rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY;
        let count = rusqlite::Connection::open_with_flags(&path, flags)
            .and_then(|db| db.query_row("SELECT count(*) FROM job WHERE closed IS NULL", [], |r| r.get(0)));
        count.map_err(|e| Error::Setup(format!("{}: {e}", path.display())))
    })
    .await
}

/// The variables that let any other ColonyOS client use it.
pub async fn environment(state: &Path) -> Result<Vec<(&'static str, String)>, Error> {
    let folder = Folder::below(state);
    blocking::run(move || Ok(Settings::load(&folder)?.environment())).await
}
