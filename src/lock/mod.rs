//! One process for each state folder: a lock that lasts as long as the process, with a word on who holds it.
//!
//! The lock is the truth, a socket is not: a socket that a dead process left behind is removed by the next one that has the lock.
//!
//! Some file systems that several machines share grant one lock to each machine (BeeGFS as it comes, Lustre with `localflock`,
//! NFS with `local_lock`), and do not say so. There the holder shows that it lives: it touches the file again and again. Who gets a
//! lock that names another machine watches the file for a while first, and who finds another's name in its file gives way.

mod holder;
mod signs;

pub use holder::Holder;
pub use holder::host;
pub use signs::Watch;

use signs::PACE;
use signs::Pace;
use signs::Sign;
use signs::name_in;
use signs::write_name;
use std::fs::File;
use std::fs::TryLockError;
use std::os::unix::fs::MetadataExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::Condvar;
use std::sync::Mutex;
use std::sync::OnceLock;
use std::sync::PoisonError;
use std::time::Duration;
use std::time::Instant;
use std::time::SystemTime;
use tokio_util::sync::CancellationToken;

/// How often a lock that is waited for is tried: nothing tells of its end.
const LOOK: Duration = Duration::from_millis(10);

/// Why the lock cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Somebody has it.
    #[error("it is held by {}", holder.as_ref().map_or("somebody".into(), Holder::to_string))]
    Held {
        /// Who, where that can be read.
        holder: Option<Holder>,
    },
    /// It was told to stop while it looked whether another lives.
    #[error("told to stop while it looked who holds it")]
    Stopped,
    /// The file cannot be made or locked.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
}

/// Why a lock keeps nobody out any more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Lost {
    /// The state folder was deleted, replaced or cannot be seen, so that what is written there is written into files without a
    /// name, or beside another process.
    Gone,
    /// A process of another machine has taken the folder, on a file system that gives each machine a lock of its own.
    Taken(Holder),
}

/// Held while its owner lives.
#[derive(Debug)]
pub struct Lock {
    held: Arc<Held>,
}

/// The file, shared with the thread that shows others that its holder lives.
#[derive(Debug)]
struct Held {
    file: File,
    path: PathBuf,
    /// As it was written: names of machines change.
    mine: Holder,
    /// Where other machines may see it.
    pace: Option<Pace>,
    lost: OnceLock<Holder>,
    /// Whether it was given up; taken while the file is written.
    ended: Mutex<bool>,
    over: Condvar,
}

impl Lock {
    /// Whether it still keeps others out. To be asked every few seconds.
    ///
    /// # Errors
    /// Why it does not.
    pub fn keep(&self) -> Result<(), Lost> {
        let id = |metadata: &std::fs::Metadata| (metadata.dev(), metadata.ino());
        match (self.held.file.metadata(), std::fs::metadata(&self.held.path)) {
            (Ok(held), Ok(there)) if id(&held) == id(&there) => {}
            _ => return Err(Lost::Gone),
        }
        self.held.lost.get().map_or(Ok(()), |other| Err(Lost::Taken(other.clone())))
    }
}

impl Drop for Lock {
    /// Nobody need wait for a sign of life of one who left.
    fn drop(&mut self) {
        *self.held.ended.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.held.over.notify_all();
        let may_be_waited_for = self.held.pace.is_some() && name_in(&self.held.path).as_ref() == Some(&self.held.mine);
        if may_be_waited_for && let Err(error) = self.held.file.set_len(0).and_then(|()| self.held.file.sync_all()) {
            tracing::debug!(path = %self.held.path.display(), %error, "the name in a lock is left behind");
        }
        // Else it would be held until the thread that shows it has ended, too.
        if let Err(error) = self.held.file.unlock() {
            tracing::debug!(path = %self.held.path.display(), %error, "a lock is held until this process ends");
        }
    }
}

impl Held {
    /// Writes who holds it, for other machines to see now.
    fn write(&self) -> std::io::Result<()> {
        write_name(&self.file, &self.mine)?;
        self.file.sync_all()
    }

    /// Shows others that its holder lives, until it is given up or another's name stands there.
    fn show(&self, beat: Duration) {
        let mut ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            ended = self.over.wait_timeout(ended, beat).unwrap_or_else(PoisonError::into_inner).0;
            if *ended {
                return;
            }
            let shown = match signs::look(&self.path).map(|seen| seen.name) {
                Ok(Some(other)) if other != self.mine => {
                    _ = self.lost.set(other);
                    return;
                }
                Ok(Some(_)) => self.file.set_modified(SystemTime::now()).and_then(|()| self.file.sync_all()),
                // Somebody took it for dead and is gone again, or two wrote at once.
                Ok(None) => self.write(),
                Err(error) => Err(error),
            };
            if let Err(error) = shown {
                tracing::warn!(path = %self.path.display(), %error, "it cannot be shown to other machines that this process lives");
            }
        }
    }
}

/// Takes the lock that is this file; its folder is made where it is missing. `patience` says how long to wait for whoever has it:
/// a child that a dead process had just begun holds it until it is a program of its own, and somebody who asks who has it holds
/// it for a moment.
///
/// On a file system that other machines may write, the name of another machine in it is watched for half a minute first, unless
/// `stop` says to leave it.
///
/// # Errors
/// [`Error::Held`] with who has it.
pub fn take(path: &Path, patience: impl Fn(Option<&Holder>) -> Duration, stop: &CancellationToken) -> Result<Lock, Error> {
    let failed = |source| Error::Io { path: path.into(), source };
    crate::sqlite::private_folder(path.parent().unwrap_or(Path::new("."))).map_err(failed)?;
    take_beside(path, patience, stop, crate::sqlite::on_shared_file_system(path).then_some(PACE))
}

/// The same in a folder that is there; `pace` where other machines may see the file.
fn take_beside(
    path: &Path,
    patience: impl Fn(Option<&Holder>) -> Duration,
    stop: &CancellationToken,
    pace: Option<Pace>,
) -> Result<Lock, Error> {
    let failed = |source| Error::Io { path: path.into(), source };
    let file = File::options().create(true).truncate(false).read(true).write(true).mode(0o600).open(path).map_err(failed)?;
    let begun = Instant::now();
    loop {
        match file.try_lock() {
            Ok(()) => break,
            Err(TryLockError::WouldBlock) => {
                let holder = name_in(path);
                if begun.elapsed() >= patience(holder.as_ref()) {
                    return Err(Error::Held { holder });
                }
                std::thread::sleep(LOOK);
            }
            Err(TryLockError::Error(error)) => return Err(failed(error)),
        }
    }
    let mine = Holder::here();
    let (path, over) = (path.to_owned(), Condvar::new());
    let held = Arc::new(Held { file, path, mine, pace, lost: OnceLock::new(), ended: Mutex::new(false), over });
    match pace.map(|pace| (pace, Watch::at(&held.path, pace))) {
        Some((pace, watch)) if watch.name().is_some_and(|holder| holder.is_foreign(&held.mine)) => {
            if let Some(holder) = lives_elsewhere(watch, pace, stop)? {
                return Err(Error::Held { holder: Some(holder) });
            }
            held.write().map_err(failed_at(&held.path))?;
            // Somebody else may have waited for its end as well.
            std::thread::sleep(pace.glance * 2);
            if let Some(holder) = name_in(&held.path).filter(|holder| *holder != held.mine) {
                return Err(Error::Held { holder: Some(holder) });
            }
        }
        _ => held.write().map_err(failed_at(&held.path))?,
    }
    let lock = Lock { held: Arc::clone(&held) };
    if let Some(pace) = pace {
        let show = std::thread::Builder::new().name("lock".into());
        show.spawn(move || held.show(pace.beat)).map_err(failed_at(&lock.held.path))?;
    }
    Ok(lock)
}

fn failed_at(path: &Path) -> impl FnOnce(std::io::Error) -> Error + use<> {
    let path = path.to_owned();
    move |source| Error::Io { path, source }
}

/// Waits for a sign of life of a holder on another machine; gives who lives there.
fn lives_elsewhere(mut watch: Watch, pace: Pace, stop: &CancellationToken) -> Result<Option<Holder>, Error> {
    let named = watch.name().map(Holder::to_string);
    tracing::info!(path = %watch.path().display(), holder = named, "last used from another machine: looking whether it lives");
    let mut empty = false;
    while !watch.is_silent() {
        if stop.is_cancelled() {
            return Err(Error::Stopped);
        }
        std::thread::sleep(pace.glance);
        match watch.look() {
            Sign::Of(holder) => return Ok(Some(holder)),
            Sign::None => empty = false,
            // It ended well meanwhile: once may be while it is written.
            Sign::Nobody if empty => return Ok(None),
            Sign::Nobody => empty = true,
            Sign::Unseen => {}
        }
    }
    Ok(None)
}

/// Who holds the lock; none: nobody. Where other machines may see the file, the one that it names is believed: it may have a lock of
/// its own, and one that ended well takes its name out.
pub fn holder(path: &Path) -> Option<Result<Holder, String>> {
    let file = File::options().read(true).open(path).ok()?;
    match file.try_lock_shared() {
        Ok(()) if crate::sqlite::on_shared_file_system(path) => {
            name_in(path).filter(|holder| holder.is_foreign(&Holder::here())).map(Ok)
        }
        Ok(()) => None,
        Err(_) => Some(name_in(path).ok_or_else(|| "somebody".to_owned())),
    }
}

#[cfg(test)]
mod tests;
