//! One process for each state folder: a lock that lasts as long as the process, with a word on who holds it.
//!
//! The lock is the truth, a socket is not: a socket that a dead process left behind is removed by the next one that has the lock.
//!
//! Some file systems that several machines share grant one lock to each machine (BeeGFS as it comes, Lustre with `localflock`,
//! NFS with `local_lock`), and do not say so. There the holder shows that it lives: it touches the file again and again. Who gets a
//! lock that names another machine watches the file for a while first, and who finds another's name in its file gives way.

use serde::Deserialize;
use serde::Serialize;
use std::fs::File;
use std::fs::TryLockError;
use std::io::Read;
use std::os::unix::fs::FileExt;
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

/// How a lock is shown and watched where other machines may see its file.
#[derive(Clone, Copy, Debug)]
struct Pace {
    /// How often its holder shows that it lives.
    beat: Duration,
    /// How long the name of another machine is watched before it is taken for dead.
    watch: Duration,
    /// How often it is looked at meanwhile.
    glance: Duration,
}

/// Three signs of life, and a file server that is slow once.
const PACE: Pace = Pace { beat: Duration::from_secs(10), watch: Duration::from_secs(35), glance: Duration::from_secs(1) };
/// A name fills so many bytes, with blanks behind it: of two that are written at once one stands there whole.
const NAME_LENGTH: usize = 512;

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

/// Who holds the lock.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    /// Its process id.
    pub pid: u32,
    /// The machine that it runs on: state folders may be shared by several.
    pub host: String,
    /// The boot of that machine.
    pub boot: String,
    /// Its version.
    pub version: String,
}

impl Holder {
    /// This process.
    pub fn here() -> Holder {
        let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        Holder {
            pid: std::process::id(),
            host: host(),
            boot: boot.trim().to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
        }
    }

    /// Whether it is on this machine, as this machine was booted last.
    pub fn is_here(&self) -> bool {
        let here = Holder::here();
        self.host == here.host && self.boot == here.boot
    }

    /// Whether it is on another machine than `here`, whose locks may not be seen there: containers of one machine share its locks, and
    /// a machine that was booted anew remembers nobody.
    fn is_foreign(&self, here: &Holder) -> bool {
        let same_name = self.host == here.host && !here.host.starts_with("localhost");
        self.boot != here.boot && !same_name
    }

    /// Whether its process lives, as far as can be seen from here: one on another machine does.
    pub fn is_alive(&self) -> bool {
        let here = Holder::here();
        if self.host != here.host {
            return true;
        }
        if self.boot != here.boot {
            return false;
        }
        match std::fs::read_to_string(format!("/proc/{}/stat", self.pid)) {
            // The state stands behind the name, which may hold anything.
            Ok(stat) => !stat.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with(['Z', 'X'])),
            Err(_) if Path::new("/proc/self/stat").exists() => false,
            // SAFETY: signal 0 only asks whether the process is there.
            Err(_) => i32::try_from(self.pid).is_ok_and(|pid| unsafe { libc::kill(pid, 0) } == 0),
        }
    }
}

impl std::fmt::Display for Holder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "process {} on {}, version {}", self.pid, self.host, self.version)
    }
}

/// The machine's name.
pub fn host() -> String {
    let mut name = [0u8; 256];
    // SAFETY: a buffer and its length.
    let failed = unsafe { libc::gethostname(name.as_mut_ptr().cast(), name.len()) } != 0;
    let end = name.iter().position(|b| *b == 0).unwrap_or(name.len());
    if failed { "this machine".into() } else { String::from_utf8_lossy(&name[..end]).into_owned() }
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
        let is_ours = name_in(&self.held.path).is_ok_and(|name| name.as_ref() == Some(&self.held.mine));
        if is_ours && let Err(error) = self.held.file.set_len(0).and_then(|()| self.held.file.sync_all()) {
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
            let shown = match name_in(&self.path) {
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
                let holder = read(path);
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
    let held = Arc::new(Held { file, path, mine, lost: OnceLock::new(), ended: Mutex::new(false), over });
    let dead = pace.and_then(|pace| Some((pace, read(&held.path).filter(|holder| holder.is_foreign(&held.mine))?)));
    if let Some((pace, other)) = &dead {
        tracing::info!(path = %held.path.display(), holder = %other, "last used from another machine: looking whether it lives");
        if let Some(holder) = lives_elsewhere(&held.path, other, *pace, stop)? {
            return Err(Error::Held { holder: Some(holder) });
        }
    }
    held.write().map_err(failed_at(&held.path))?;
    if let Some((pace, _)) = dead {
        // Somebody else may have waited for its end as well.
        std::thread::sleep(pace.glance * 2);
        if let Some(holder) = read(&held.path).filter(|holder| *holder != held.mine) {
            return Err(Error::Held { holder: Some(holder) });
        }
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

/// Looks whether the holder that a file names shows that it lives, or another one comes; gives that one. Counted are looks and not
/// time: while a file server does not answer, nobody can show anything.
fn lives_elsewhere(path: &Path, named: &Holder, pace: Pace, stop: &CancellationToken) -> Result<Option<Holder>, Error> {
    let (first, mut looks, mut empty) = (shown(path), Duration::ZERO, 0);
    while looks < pace.watch {
        if stop.is_cancelled() {
            return Err(Error::Stopped);
        }
        std::thread::sleep(pace.glance);
        let begun = Instant::now();
        let (name, touched) = (name_in(path), shown(path));
        if begun.elapsed() > pace.beat {
            looks = Duration::ZERO;
            continue;
        }
        let (Ok(name), Some(touched)) = (name, touched) else { continue };
        match name {
            Some(name) if name != *named => return Ok(Some(name)),
            Some(name) if first.is_some_and(|first| first != touched) => return Ok(Some(name)),
            Some(_) => empty = 0,
            // It ended well meanwhile.
            None if empty > 0 => return Ok(None),
            None => empty += 1,
        }
        looks += pace.glance;
    }
    Ok(None)
}

/// Looks whether a holder on another machine goes on showing that it lives.
#[derive(Debug)]
pub struct Pulse {
    path: PathBuf,
    shown: Option<SystemTime>,
    since: Instant,
}

impl Pulse {
    /// Of a lock; none where holders show nothing, since no other machine can see it.
    pub fn of(path: &Path) -> Option<Pulse> {
        let pulse = Pulse { path: path.into(), shown: shown(path), since: Instant::now() };
        crate::sqlite::on_shared_file_system(path).then_some(pulse)
    }

    /// Looks again; false where nothing was seen for longer than a living one is silent.
    pub fn beats(&mut self) -> bool {
        let now = shown(&self.path);
        if now != self.shown {
            (self.shown, self.since) = (now, Instant::now());
        }
        self.since.elapsed() < PACE.watch
    }
}

/// When a file was touched last, as its server says: opened anew each time, since only then do network file systems ask.
fn shown(path: &Path) -> Option<SystemTime> {
    File::open(path).ok()?.metadata().ok()?.modified().ok()
}

/// Who holds the lock; none: nobody. Where other machines may see the file, the one that it names is believed: it may have a lock of
/// its own, and one that ended well takes its name out.
pub fn holder(path: &Path) -> Option<Result<Holder, String>> {
    let file = File::options().read(true).open(path).ok()?;
    match file.try_lock_shared() {
        Ok(()) if crate::sqlite::on_shared_file_system(path) => {
            read(path).filter(|holder| holder.is_foreign(&Holder::here())).map(Ok)
        }
        Ok(()) => None,
        Err(_) => Some(read(path).ok_or_else(|| "somebody".to_owned())),
    }
}

fn read(path: &Path) -> Option<Holder> {
    name_in(path).ok()?
}

/// Puts a name over whatever stands there, at once.
fn write_name(file: &File, holder: &Holder) -> std::io::Result<()> {
    let mut text = serde_json::to_string(holder)?.into_bytes();
    text.resize(text.len().max(NAME_LENGTH), b' ');
    file.write_all_at(&text, 0)?;
    file.set_len(text.len() as u64)
}

/// The name in a file; none where there is none that can be understood.
fn name_in(path: &Path) -> std::io::Result<Option<Holder>> {
    let mut text = Vec::new();
    File::open(path)?.read_to_end(&mut text)?;
    Ok(serde_json::from_slice(&text).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(60);

    #[test]
    fn a_lock_that_outlives_its_holder_for_a_moment_is_waited_for() {
        let state = tempfile::tempdir().unwrap();
        let path = state.path().join("a.lock");
        let lock = take(&path, |_| Duration::ZERO, &CancellationToken::new()).unwrap();
        // As if another process had written it, and had died since: no process has this number.
        let dead = Holder { pid: u32::MAX, ..Holder::here() };
        std::fs::write(&path, serde_json::to_string(&dead).unwrap()).unwrap();
        let ends = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(100));
            drop(lock);
        });
        take(
            &path,
            |holder| if holder.is_some_and(Holder::is_alive) { Duration::ZERO } else { PATIENCE },
            &CancellationToken::new(),
        )
        .unwrap();
        ends.join().unwrap();
    }

    #[test]
    fn the_second_is_told_who_is_first() {
        let state = tempfile::tempdir().unwrap();
        let path = state.path().join("new/a.lock");
        assert!(holder(&path).is_none());
        let lock = take(&path, |_| Duration::ZERO, &CancellationToken::new()).unwrap();
        assert_eq!(holder(&path), Some(Ok(Holder::here())));
        assert!(Holder::here().is_here());
        let refused = take(&path, |_| Duration::ZERO, &CancellationToken::new()).unwrap_err();
        assert!(refused.to_string().contains(&format!("process {}", std::process::id())), "{refused}");
        assert_eq!(lock.keep(), Ok(()));
        std::fs::remove_file(&path).unwrap();
        assert_eq!(lock.keep(), Err(Lost::Gone));
        drop(lock);
        assert!(holder(&path).is_none());
        take(&path, |_| Duration::ZERO, &CancellationToken::new()).unwrap();
    }

    const QUICK: Pace =
        Pace { beat: Duration::from_millis(10), watch: Duration::from_millis(300), glance: Duration::from_millis(10) };

    fn elsewhere(host: &str) -> Holder {
        Holder { host: host.into(), boot: "another".into(), ..Holder::here() }
    }

    fn put(path: &Path, holder: &Holder) {
        let file = File::options().create(true).truncate(false).write(true).open(path).unwrap();
        write_name(&file, holder).unwrap();
    }

    fn quick(path: &Path) -> Result<Lock, Error> {
        take_beside(path, |_| Duration::ZERO, &CancellationToken::new(), Some(QUICK))
    }

    fn until(what: &str, holds: impl Fn() -> bool) {
        let end = Instant::now() + PATIENCE;
        while !holds() {
            assert!(Instant::now() < end, "never: {what}");
            std::thread::sleep(LOOK);
        }
    }

    /// What one machine sees of the other where each has a lock of its own: its name, and signs of its life.
    #[test]
    fn who_lives_on_another_machine_keeps_the_folder_though_the_lock_can_be_had() {
        let state = tempfile::tempdir().unwrap();
        let path = state.path().join("a.lock");
        put(&path, &elsewhere("login2"));
        let patient = Pace { watch: PATIENCE, ..QUICK };
        std::thread::scope(|scope| {
            let taken = scope.spawn(|| take_beside(&path, |_| Duration::ZERO, &CancellationToken::new(), Some(patient)));
            while !taken.is_finished() {
                File::options().append(true).open(&path).unwrap().set_modified(SystemTime::now()).unwrap();
                std::thread::sleep(LOOK);
            }
            let refused = taken.join().unwrap().unwrap_err();
            assert!(refused.to_string().contains("on login2"), "{refused}");
        });
        assert_eq!(read(&path), Some(elsewhere("login2")), "its name stands");
        // It gives no more signs of life.
        let lock = quick(&path).unwrap();
        assert_eq!(read(&path), Some(Holder::here()));
        drop(lock);
        assert_eq!(read(&path), None, "who left is not waited for");
        // It ends well while it is watched: its name goes.
        put(&path, &elsewhere("login2"));
        std::thread::scope(|scope| {
            let taken = scope.spawn(|| quick(&path));
            std::fs::write(&path, "").unwrap();
            taken.join().unwrap().unwrap();
        });
        // Told to stop meanwhile.
        put(&path, &elsewhere("login2"));
        let stop = CancellationToken::new();
        stop.cancel();
        assert!(matches!(take_beside(&path, |_| Duration::ZERO, &stop, Some(PACE)), Err(Error::Stopped)));
        // Where no other machine sees it, nobody is watched, and neither are containers of this one.
        take_beside(&path, |_| Duration::ZERO, &stop, None).unwrap();
        put(&path, &Holder { host: "container".into(), ..Holder::here() });
        take_beside(&path, |_| Duration::ZERO, &stop, Some(PACE)).unwrap();
    }

    #[test]
    fn who_holds_it_shows_so_and_gives_way_to_another_name() {
        let state = tempfile::tempdir().unwrap();
        let path = state.path().join("a.lock");
        let lock = quick(&path).unwrap();
        let before = shown(&path);
        until("a sign of life", || shown(&path) != before);
        std::fs::write(&path, "{\"pid\": torn").unwrap();
        until("its name again", || read(&path) == Some(Holder::here()));
        assert_eq!(lock.keep(), Ok(()));
        put(&path, &elsewhere("login2"));
        until("it gives way", || lock.keep() == Err(Lost::Taken(elsewhere("login2"))));
        drop(lock);
        assert_eq!(read(&path), Some(elsewhere("login2")), "the other's name stands");
    }

    #[test]
    fn of_two_who_wait_for_the_end_of_a_third_one_gives_way() {
        let state = tempfile::tempdir().unwrap();
        let path = state.path().join("a.lock");
        put(&path, &elsewhere("login2"));
        let refused = std::thread::scope(|scope| {
            let slow = Pace { glance: Duration::from_millis(200), ..QUICK };
            let at = &path;
            let taken = scope.spawn(move || take_beside(at, |_| Duration::ZERO, &CancellationToken::new(), Some(slow)));
            until("it writes its name", || read(&path) == Some(Holder::here()));
            put(&path, &elsewhere("login3"));
            taken.join().unwrap().unwrap_err()
        });
        assert!(refused.to_string().contains("on login3"), "{refused}");
    }
}
