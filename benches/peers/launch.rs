//! Running a program and measuring it. The measuring is done by a small process in between: the kernel carries the peak memory
//! of whoever starts a program over into that program's own figure, so the one that starts it must be small itself.

use serde::Deserialize;
use serde::Serialize;
use std::ffi::OsString;
use std::fs::File;
use std::path::Path;
use std::process::Command;
use std::process::Stdio;
use std::sync::mpsc;
use std::time::Duration;
use std::time::Instant;

/// First argument of the process in between.
pub const WORD: &str = "--launch";

/// What running a program took.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Cost {
    /// From before its start to after its end.
    pub seconds: f64,
    /// User and system time.
    pub cpu_seconds: f64,
    /// Largest resident set, in bytes.
    pub peak_memory: u64,
    /// Nothing where a signal ended it.
    pub code: Option<i32>,
    /// Whether it was killed because it took too long.
    pub killed: bool,
}

/// Runs a command to its end, or kills it after a time. Both its streams go to a file.
pub fn measure(command: &Command, limit: Duration, log: &Path) -> Cost {
    // What others wrote before is on the disk, so that its writing is not counted here.
    // SAFETY: sync takes nothing and gives nothing.
    unsafe { libc::sync() };
    let report = tempfile::NamedTempFile::new().unwrap();
    let mut launcher = Command::new(std::env::current_exe().unwrap());
    launcher.arg(WORD).arg(report.path()).arg(limit.as_secs().to_string());
    launcher.arg(command.get_program()).args(command.get_args());
    // Whoever built the command has said which few variables it gets.
    launcher.env_clear();
    for (name, value) in command.get_envs() {
        launcher.env(name, value.unwrap());
    }
    if let Some(folder) = command.get_current_dir() {
        launcher.current_dir(folder);
    }
    let output = File::create(log).unwrap();
    launcher.stdin(Stdio::null()).stdout(output.try_clone().unwrap()).stderr(output);
    let status = launcher.status().unwrap();
    assert!(status.success(), "{command:?} could not be measured: {}", std::fs::read_to_string(log).unwrap_or_default());
    serde_json::from_slice(&std::fs::read(report.path()).unwrap()).unwrap()
}

/// The process in between: `REPORT SECONDS PROGRAM [ARGUMENT]...`.
pub fn in_between(mut arguments: impl Iterator<Item = OsString>) {
    let report = arguments.next().unwrap();
    let limit: u64 = arguments.next().unwrap().to_str().unwrap().parse().unwrap();
    let began = Instant::now();
    #[allow(clippy::zombie_processes)] // wait4 below waits for it, and tells more.
    let child = Command::new(arguments.next().unwrap()).args(arguments).spawn().unwrap();
    let pid = child.id() as libc::pid_t;
    let (ended, end) = mpsc::channel::<()>();
    let watchdog = std::thread::spawn(move || {
        let late = end.recv_timeout(Duration::from_secs(limit)) == Err(mpsc::RecvTimeoutError::Timeout);
        if late {
            // SAFETY: the child is waited for only by the thread that ends this wait first, or after this kill.
            unsafe { libc::kill(pid, libc::SIGKILL) };
        }
        late
    });
    let mut status = 0;
    // SAFETY: rusage is plain numbers, for which zeros are a value.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: both pointers are to variables that live.
    let waited = unsafe { libc::wait4(pid, &raw mut status, 0, &raw mut usage) };
    let seconds = began.elapsed().as_secs_f64();
    assert_eq!(waited, pid, "{}", std::io::Error::last_os_error());
    // A watchdog that has barked hears nobody.
    let _ = ended.send(());
    let time = |t: libc::timeval| t.tv_sec as f64 + t.tv_usec as f64 / 1e6;
    // Linux counts in KiB, macOS in bytes.
    let unit = if cfg!(target_os = "macos") { 1 } else { 1024 };
    let cost = Cost {
        seconds,
        cpu_seconds: time(usage.ru_utime) + time(usage.ru_stime),
        peak_memory: usage.ru_maxrss as u64 * unit,
        code: libc::WIFEXITED(status).then(|| libc::WEXITSTATUS(status)),
        killed: watchdog.join().unwrap(),
    };
    std::fs::write(report, serde_json::to_vec(&cost).unwrap()).unwrap();
}
