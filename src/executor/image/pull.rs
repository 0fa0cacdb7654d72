//! Running Apptainer to pull and convert: its words go to the process log while it works, and it dies with us.

use crate::executor::backend::say;
use std::ffi::OsString;
use std::io::BufRead;
use std::io::BufReader;
use std::io::PipeReader;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::path::PathBuf;
use std::process::Child;
use std::process::Command;
use std::process::ExitStatus;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;
use tokio::sync::oneshot;

/// Of its last lines so many are kept, to say what went wrong.
const TAIL: usize = 30;
/// Longest line that is passed on.
const LONGEST: usize = 500;
/// After so many lines the rest is not passed on.
const MOST: usize = 1000;
/// What it needs of our own environment: to be found, to reach registries, to trust them.
const INHERITED: [&str; 17] = [
    "PATH",
    "HOME",
    "USER",
    "LOGNAME",
    "LANG",
    "LD_LIBRARY_PATH",
    "XDG_RUNTIME_DIR",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "NO_PROXY",
    "ALL_PROXY",
    "http_proxy",
    "https_proxy",
    "no_proxy",
    "all_proxy",
];

/// One run of the program.
#[derive(Debug)]
pub struct Run {
    /// The program.
    pub program: PathBuf,
    /// Its arguments.
    pub args: Vec<OsString>,
    /// Where it begins.
    pub folder: PathBuf,
    /// Variables beside those it inherits.
    pub env: Vec<(&'static str, OsString)>,
    /// Its output goes there, as lines of ours.
    pub log: PathBuf,
}

/// How it ended.
#[derive(Debug)]
pub struct Ended {
    /// Its exit status.
    pub status: ExitStatus,
    /// Its last lines.
    pub tail: Vec<String>,
}

/// Its process group.
#[derive(Default)]
struct State {
    /// As long as nobody else can have its number.
    number: Option<i32>,
    /// Nobody waits for it any more: what was not started yet, never is.
    unwanted: bool,
}

type Group = Arc<Mutex<State>>;

/// Kills the whole group where nobody waits for it any more.
struct Leash(Group);

impl Drop for Leash {
    fn drop(&mut self) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.unwanted = true;
        if let Some(group) = state.number {
            // SAFETY: a call without pointers. The leader is not reaped yet, so the number is still its own.
            unsafe { libc::kill(-group, libc::SIGKILL) };
        }
    }
}

/// Runs it to its end. Dropped before that, it is killed.
///
/// # Errors
/// Where it cannot be started.
pub async fn run(run: Run) -> std::io::Result<Ended> {
    let group = Group::default();
    let leash = Leash(group.clone());
    let (tell, told) = oneshot::channel();
    // A thread of its own: the child is bound to the thread that started it, and has to outlive none but this.
    std::thread::Builder::new().name("image".into()).spawn(move || {
        // Nobody listens any more where it was killed.
        let _ = tell.send(attend(&run, &group));
    })?;
    let ended = told.await.unwrap_or_else(|_| Err(std::io::Error::other("the thread that ran it has died")));
    drop(leash);
    ended
}

fn attend(run: &Run, group: &Group) -> std::io::Result<Ended> {
    let (reader, mut child) = spawn(run, group)?;
    let tail = pass_on(reader, &run.log);
    wait_unreaped(&child)?;
    let mut state = group.lock().unwrap_or_else(PoisonError::into_inner);
    state.number = None;
    Ok(Ended { status: child.wait()?, tail })
}

fn spawn(run: &Run, group: &Group) -> std::io::Result<(PipeReader, Child)> {
    let (reader, writer) = std::io::pipe()?;
    let mut command = Command::new(&run.program);
    command.args(&run.args).current_dir(&run.folder).env_clear().process_group(0);
    command.envs(INHERITED.iter().filter_map(|name| Some((name, std::env::var_os(name)?))));
    command.envs(run.env.iter().map(|(name, value)| (name, value)));
    command.stdin(Stdio::null()).stdout(writer.try_clone()?).stderr(writer);
    #[cfg(target_os = "linux")]
    // SAFETY: prctl is async-signal-safe and touches nothing of ours.
    unsafe {
        command.pre_exec(|| match libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) {
            0 => Ok(()),
            _ => Err(std::io::Error::last_os_error()),
        });
    }
    let mut state = group.lock().unwrap_or_else(PoisonError::into_inner);
    if state.unwanted {
        return Err(std::io::Error::other("it is not wanted any more"));
    }
    let child = command.spawn()?;
    state.number = i32::try_from(child.id()).ok();
    Ok((reader, child))
}

/// Waits for the end and leaves the process to be reaped, so that its number stays taken.
fn wait_unreaped(child: &Child) -> std::io::Result<()> {
    let mut told = std::mem::MaybeUninit::<libc::siginfo_t>::uninit();
    loop {
        // SAFETY: `told` is a valid place to write to.
        let waited = unsafe { libc::waitid(libc::P_PID, child.id(), told.as_mut_ptr(), libc::WEXITED | libc::WNOWAIT) };
        let error = std::io::Error::last_os_error();
        match waited {
            0 => return Ok(()),
            _ if error.kind() == std::io::ErrorKind::Interrupted => {}
            _ => return Err(error),
        }
    }
}

/// Passes its lines on as they come; gives the last ones.
fn pass_on(reader: PipeReader, log: &Path) -> Vec<String> {
    let mut tail: Vec<String> = Vec::new();
    let mut said = 0;
    let mut bytes = Vec::new();
    let mut reader = BufReader::new(reader);
    // An error of the pipe is the end of it, as an end is.
    while matches!(reader.read_until(b'\n', &mut bytes), Ok(n) if n > 0) {
        let line = clean(&bytes);
        bytes.clear();
        let Some(line) = line else { continue };
        if said < MOST {
            said += 1;
            let text = if said == MOST { "(more lines are left out)" } else { &line };
            if let Err(error) = say(log, text) {
                // The disk is full, or the job is gone: the pull itself says so in a moment.
                tracing::warn!(%error, "what a pull says cannot be passed on");
                said = MOST;
            }
        }
        if tail.len() == TAIL {
            tail.remove(0);
        }
        tail.push(line);
    }
    tail
}

/// A line for people: without what moves and colours it on a terminal. Pure.
fn clean(bytes: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(bytes);
    // Progress is written over itself: what stands there at last counts.
    let last = text.trim_end().rsplit('\r').map(str::trim).find(|part| !part.is_empty())?;
    let mut line = String::new();
    let mut chars = last.chars().peekable();
    while let Some(c) = chars.next() {
        if c == '\u{1b}' {
            if chars.next_if_eq(&'[').is_some() {
                while chars.next_if(|c| !('@'..='~').contains(c)).is_some() {}
            }
            chars.next();
        } else if !c.is_control() {
            line.push(c);
        } else if c == '\t' {
            line.push(' ');
        }
    }
    line.truncate(line.floor_char_boundary(LONGEST));
    let line = line.trim().to_owned();
    (!line.is_empty()).then_some(line)
}

/// Why it failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cause {
    /// In words, with what to do.
    pub reason: String,
    /// Whether trying again can help.
    pub temporary: bool,
}

/// What the last lines say about a failure. Pure.
pub fn cause(tail: &[String], status: &str) -> Cause {
    let all = tail.join("\n").to_ascii_lowercase();
    let has = |words: &[&str]| words.iter().any(|word| all.contains(word));
    let told = tail.iter().rev().find(|line| line.starts_with("FATAL")).or(tail.last());
    let told = told.map_or("it said nothing", |line| line.trim_start_matches("FATAL:").trim());
    let (hint, temporary) = if has(&["no space left on device"]) {
        (Some("the disk is full: `folder`, `cache` and `temporary` of the image settings say where images and layers go"), false)
    } else if has(&["quota exceeded", "disk quota"]) {
        (Some("the quota is used up: `folder`, `cache` and `temporary` of the image settings can lead to another disk"), false)
    } else if has(&["server gave http response to https client"]) {
        (Some("the registry speaks plain HTTP: list it under `insecure-registries` of the image settings"), false)
    } else if has(&["x509:", "certificate"]) {
        (Some("the registry's certificate is not trusted on this machine"), false)
    } else if has(&["unauthorized", "authentication required", "denied: requested access"]) {
        (Some("the registry wants other credentials"), false)
    } else if has(&[
        "digest mismatch",
        "does not match",
        "error verifying",
        "unexpected digest",
        "digest did not match",
        "invalid checksum",
    ]) {
        (Some("what came is not what the digest says; nothing of it was kept"), false)
    } else if has(&["\"mksquashfs\": executable", "mksquashfs not found", "could not find mksquashfs"]) {
        (Some("mksquashfs is missing: install squashfs-tools"), false)
    } else if has(&["manifest unknown", "manifest not found", "name unknown"]) {
        (Some("there is no such image"), false)
    } else {
        let passing = [
            "unexpected eof",
            "connection re",
            "timeout",
            "timed out",
            "no such host",
            "too many requests",
            "toomanyrequests",
            "internal server error",
            "bad gateway",
            "service unavailable",
            "status: 5",
            "status code 5",
            "temporary failure",
            "network is unreachable",
        ];
        (None, has(&passing))
    };
    let hint = hint.map(|hint| format!(" ({hint})")).unwrap_or_default();
    Cause { reason: format!("{status}: {told}{hint}"), temporary }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_for_people() {
        let rows: [(&[u8], Option<&str>); 7] = [
            (b"INFO:    Starting build...\n", Some("INFO:    Starting build...")),
            (b"\x1b[34mINFO:   \x1b[0m done\n", Some("INFO:    done")),
            (b"10%\r50%\r100% \r\n", Some("100%")),
            (b"\x1b[2K\x1b[1A\n", None),
            (b"\n", None),
            (b"a\tb\x07\xff\n", Some("a b\u{fffd}")),
            (b"\x1b", None),
        ];
        for (bytes, want) in rows {
            assert_eq!(clean(bytes).as_deref(), want, "{bytes:?}");
        }
        assert_eq!(clean(&vec![b'x'; 10_000]).unwrap().len(), LONGEST);
    }

    #[test]
    fn causes_say_what_to_do() {
        let told = |line: &str| cause(&["INFO: x".into(), format!("FATAL:   {line}")], "exit status: 255");
        assert!(told("write /x: no space left on device").reason.contains("`folder`"));
        assert!(told("http: server gave HTTP response to HTTPS client").reason.contains("insecure-registries"));
        let odd = told("something odd");
        assert_eq!(odd, Cause { reason: "exit status: 255: something odd".into(), temporary: false });
        assert!(told("reading blob: unexpected EOF").temporary);
        assert!(!told("manifest unknown").temporary);
        assert!(told("error verifying sha256 checksum after reading 3 bytes").reason.contains("nothing of it was kept"));
        assert_eq!(cause(&[], "signal: 9").reason, "signal: 9: it said nothing");
    }

    #[tokio::test]
    async fn its_words_come_and_it_dies_with_whoever_waits() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("log");
        let of = |script: &str| Run {
            program: "/bin/sh".into(),
            args: vec!["-c".into(), script.into()],
            folder: folder.path().into(),
            env: vec![("GIVEN", "yes".into())],
            log: log.clone(),
        };
        let ended = run(of("echo out $GIVEN $CARGO_MANIFEST_DIR.; echo err >&2; exit 3")).await.unwrap();
        assert_eq!((ended.status.code(), ended.tail), (Some(3), vec!["out yes .".to_owned(), "err".into()]));
        assert_eq!(std::fs::read_to_string(&log).unwrap(), "pollinator: out yes .\npollinator: err\n");
        let mark = folder.path().join("pid");
        let waiting = tokio::spawn(run(of("sleep 1000 & echo $! > pid.new; mv pid.new pid; wait")));
        while !mark.exists() {
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
        let pid: i32 = std::fs::read_to_string(&mark).unwrap().trim().parse().unwrap();
        waiting.abort();
        let end = std::time::Instant::now() + std::time::Duration::from_secs(60);
        let alive = || {
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            !stat.is_empty() && !stat.contains(") Z ")
        };
        while alive() {
            assert!(std::time::Instant::now() < end, "{pid} lives on");
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    }
}
