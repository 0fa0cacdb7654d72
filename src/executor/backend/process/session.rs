//! A session of processes: led, watched, killed, and told from a stranger that got the same number later.

use crate::executor::backend::Handle;
use serde::Deserialize;
use serde::Serialize;
use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;

/// The start of a leader that could not be seen when it was started.
const UNKNOWN: &str = "?";
/// How often processes are looked at where the system cannot tell of their end.
const LOOK: Duration = Duration::from_millis(100);
/// How long killed processes may take to be gone (one in uninterruptible I/O takes as long as it takes).
const DEATH: Duration = Duration::from_secs(10);

/// A session by its leader. The start time and the boot tell the leader from a later process of the same number.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Session {
    pid: i32,
    started: String,
    boot: String,
}

impl Session {
    /// The session of a leader that is alive now.
    pub(super) fn of(pid: i32) -> Session {
        let started = match start_time(pid) {
            Ok(started) => started.unwrap_or_default(),
            Err(_) => UNKNOWN.to_owned(),
        };
        Session { pid, started, boot: boot_id().unwrap_or_default() }
    }

    /// The session that nobody leads.
    pub(super) fn nobody() -> Session {
        Session { pid: 0, started: String::new(), boot: String::new() }
    }

    /// As the journal keeps it.
    pub(super) fn handle(&self) -> Handle {
        Handle(format!("{}:{}:{}", self.pid, self.started, self.boot))
    }

    /// From the journal; nobody's where it is not understood.
    pub(super) fn read(handle: &Handle) -> Session {
        let mut parts = handle.0.splitn(3, ':');
        let mut next = || parts.next().unwrap_or_default().to_owned();
        let (pid, started, boot) = (next(), next(), next());
        match pid.parse() {
            Ok(pid) if pid > 1 => Session { pid, started, boot },
            _ => Session::nobody(),
        }
    }

    /// Whether the leader still runs. Not knowing is no death.
    pub(super) fn leader_is_alive(&self) -> bool {
        if self.pid <= 1 || self.started.is_empty() {
            return false;
        }
        match (boot_id(), start_time(self.pid)) {
            (Ok(boot), Ok(started)) => self.boot == boot && started.is_some_and(|started| self.began_at(&started)),
            (Err(error), _) | (_, Err(error)) => {
                tracing::warn!(pid = self.pid, %error, "it cannot be seen whether a job lives");
                true
            }
        }
    }

    fn began_at(&self, started: &str) -> bool {
        self.started == UNKNOWN || self.started == started
    }

    /// Waits until the leader has ended.
    pub(super) async fn leader_ended(&self) {
        #[cfg(target_os = "linux")]
        if let Some(watched) = end_of(self.pid) {
            // Opened by number: make sure it is the leader and not a stranger.
            if !self.leader_is_alive() {
                return;
            }
            if watched.readable().await.is_ok() {
                return;
            }
        }
        while self.leader_is_alive() {
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Processes of the session that are alive. None where the leader's number belongs to a stranger by now.
    fn members(&self) -> io::Result<Vec<i32>> {
        if self.pid <= 1 || self.boot != boot_id()? {
            return Ok(Vec::new());
        }
        match start_time(self.pid)? {
            Some(started) if !self.began_at(&started) => Ok(Vec::new()),
            _ => session_members(self.pid),
        }
    }

    /// Ends all processes of the session: TERM, and after `grace` KILL, until none is left.
    pub(super) async fn kill(&self, grace: Duration) {
        self.signal(libc::SIGTERM);
        // A stopped process hears nothing else.
        self.signal(libc::SIGCONT);
        if self.wait_until_empty(grace).await {
            return;
        }
        let end = tokio::time::Instant::now() + DEATH;
        while tokio::time::Instant::now() < end {
            self.signal(libc::SIGKILL);
            if self.wait_until_empty(LOOK).await {
                return;
            }
        }
        tracing::warn!(session = self.pid, "processes of a job do not die");
    }

    fn signal(&self, signal: i32) {
        let members =
            self.members().inspect_err(|error| tracing::warn!(session = self.pid, %error, "a job's processes cannot be seen"));
        for pid in members.unwrap_or_default() {
            // SAFETY: kill takes two numbers; a process that is gone meanwhile is an error code and no more.
            unsafe { libc::kill(pid, signal) };
        }
    }

    async fn wait_until_empty(&self, limit: Duration) -> bool {
        let end = tokio::time::Instant::now() + limit;
        loop {
            if self.members().is_ok_and(|members| members.is_empty()) {
                return true;
            }
            let now = tokio::time::Instant::now();
            if now >= end {
                return false;
            }
            tokio::time::sleep(LOOK.min(end - now)).await;
        }
    }
}

/// Lets a command lead a session of its own: it outlives us and hears no signal of our terminal.
pub(super) fn lead(command: &mut Command) {
    crate::open_files::give_back(command);
    // SAFETY: between fork and exec only setsid is called, which is async-signal-safe and touches no memory of ours.
    unsafe {
        command.pre_exec(|| match libc::setsid() {
            -1 => Err(std::io::Error::last_os_error()),
            _ => Ok(()),
        });
    }
}

/// Takes a child's end, so that it does not stay as a zombie.
pub(super) fn reap(mut child: std::process::Child) {
    let waiter = std::thread::Builder::new().name("reap".into());
    let pid = child.id();
    let waiting = waiter.stack_size(64 << 10).spawn(move || child.wait().map(|_| ()));
    if let Err(error) = waiting {
        tracing::warn!(pid, %error, "no thread to wait for a job's end: it stays as a zombie until the executor ends");
    }
}

/// A descriptor that becomes readable when the process has ended.
#[cfg(target_os = "linux")]
fn end_of(pid: i32) -> Option<tokio::io::unix::AsyncFd<std::os::fd::OwnedFd>> {
    use std::os::fd::FromRawFd;
    // SAFETY: pidfd_open takes two numbers and gives a new descriptor or -1.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    let fd = i32::try_from(fd).ok().filter(|fd| *fd >= 0)?;
    // SAFETY: the descriptor was just made for us and nobody else has it.
    let owned = unsafe { std::os::fd::OwnedFd::from_raw_fd(fd) };
    // SAFETY: an OwnedFd keeps its one descriptor until it is dropped, and AsyncFd deregisters before that.
    unsafe { tokio::io::unix::AsyncFd::register_with_interest(owned, tokio::io::Interest::READABLE) }.ok()
}

/// Fields of `/proc/PID/stat` after the name: state, parent, group, session…; none where there is no such process.
#[cfg(target_os = "linux")]
fn stat(pid: i32) -> io::Result<Option<Vec<String>>> {
    let text = match std::fs::read(format!("/proc/{pid}/stat")) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(libc::ESRCH) => return Ok(None),
        // Out of descriptors or memory, say.
        Err(error) => return Err(error),
    };
    let text = String::from_utf8_lossy(&text);
    // The name stands in brackets and may hold anything, brackets too.
    Ok(text.rsplit_once(')').map(|(_, fields)| fields.split_whitespace().map(str::to_owned).collect()))
}

/// When a process started, in any unit; none where it is gone or a zombie.
#[cfg(target_os = "linux")]
fn start_time(pid: i32) -> io::Result<Option<String>> {
    let fields = stat(pid)?.filter(|fields| !matches!(fields.first().map(String::as_str), Some("Z" | "X")));
    // Field 22 of proc(5), counted from the process id.
    Ok(fields.and_then(|fields| fields.get(19).cloned()))
}

#[cfg(target_os = "linux")]
fn session_members(session: i32) -> io::Result<Vec<i32>> {
    let wanted = session.to_string();
    let is_member = |f: &Vec<String>| f.get(3) == Some(&wanted) && !matches!(f.first().map(String::as_str), Some("Z" | "X"));
    let mut members = Vec::new();
    for entry in std::fs::read_dir("/proc")? {
        let Some(pid) = entry?.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        if stat(pid)?.is_some_and(|fields| is_member(&fields)) {
            members.push(pid);
        }
    }
    Ok(members)
}

#[cfg(not(target_os = "linux"))]
fn ps(arguments: &[&str]) -> Option<String> {
    let out = Command::new("/bin/ps").args(arguments).output().ok()?;
    let text = String::from_utf8_lossy(&out.stdout).trim().to_owned();
    (out.status.success() && !text.is_empty()).then_some(text)
}

#[cfg(not(target_os = "linux"))]
fn start_time(pid: i32) -> io::Result<Option<String>> {
    let text = ps(&["-o", "stat=,lstart=", "-p", &pid.to_string()]).unwrap_or_default();
    // The handle's separator.
    let started = text.split_once(' ').filter(|(state, _)| !state.starts_with('Z'));
    Ok(started.map(|(_, started)| started.trim().replace(':', "-")))
}

#[cfg(not(target_os = "linux"))]
fn session_members(session: i32) -> io::Result<Vec<i32>> {
    // Sessions cannot be listed there; the leader's process group is what shells make for plain commands.
    let Some(text) = ps(&["-ax", "-o", "pid=,pgid=,stat="]) else { return Ok(Vec::new()) };
    let member = |line: &str| {
        let mut words = line.split_whitespace();
        let (pid, group, state) = (words.next()?, words.next()?, words.next()?);
        (group == session.to_string() && !state.starts_with('Z')).then(|| pid.parse().ok())?
    };
    Ok(text.lines().filter_map(member).collect())
}

/// The words a process was started with; none where the system does not tell.
#[cfg(target_os = "linux")]
pub(super) fn command_line(pid: i32) -> Option<Vec<String>> {
    let bytes = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    Some(bytes.split(|b| *b == 0).map(|w| String::from_utf8_lossy(w).into_owned()).collect())
}

/// The words a process was started with; none where the system does not tell.
#[cfg(not(target_os = "linux"))]
pub(super) fn command_line(_: i32) -> Option<Vec<String>> {
    None
}

/// Tells one run of the machine from the next; empty where the system does not tell.
fn boot_id() -> io::Result<String> {
    static KNOWN: OnceLock<String> = OnceLock::new();
    if let Some(known) = KNOWN.get() {
        return Ok(known.clone());
    }
    match std::fs::read_to_string("/proc/sys/kernel/random/boot_id") {
        Ok(text) => Ok(KNOWN.get_or_init(|| text.trim().to_owned()).clone()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(String::new()),
        Err(error) => Err(error),
    }
}

/// Name of this machine.
pub(crate) fn host_name() -> String {
    let mut buffer = [0u8; 256];
    // SAFETY: the buffer is ours and its length is told.
    let failed = unsafe { libc::gethostname(buffer.as_mut_ptr().cast(), buffer.len()) } != 0;
    let end = buffer.iter().position(|b| *b == 0).unwrap_or(buffer.len());
    match std::str::from_utf8(&buffer[..end]) {
        Ok(name) if !failed && !name.is_empty() => name.to_owned(),
        _ => "localhost".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_leader_whose_start_could_not_be_seen_is_known_by_its_number() {
        let (pid, boot) = (std::process::id() as i32, boot_id().unwrap());
        let session = |pid: i32, started: &str, boot: &str| Session { pid, started: started.into(), boot: boot.into() };
        assert!(Session::of(pid).leader_is_alive());
        assert!(session(pid, UNKNOWN, &boot).leader_is_alive());
        assert!(!session(pid, "another", &boot).leader_is_alive(), "a stranger");
        assert!(!session(pid, UNKNOWN, "another").leader_is_alive(), "the machine was booted since");
        assert!(!session(i32::MAX, UNKNOWN, &boot).leader_is_alive());
        assert!(!Session::nobody().leader_is_alive());
    }
}
