//! Shell text that brings a command's output into its log through a pipe.
//!
//! A log is a file, so that it survives whoever reads it. A command must not have that file itself as its output: one that opens
//! `/dev/stdout` or `/dev/stderr` anew (`echo oops > /dev/stderr`) would cut it, and what was not read yet would be lost. So `cat`
//! stands between, a process of the job which the executor's death does not touch. Where the disk is full it is started anew each second:
//! the command goes on, slowly, what is missing is noted, and the log goes on when there is room. (`tee`, which is taken where a copy is
//! wanted, passes the rest over.)
//!
//! Where there is no `cat`, `mkfifo` or `sleep` (an image may hold nothing but `sh`), or no named pipe can be made, the command has the
//! file.

use super::Task;
use super::payload;

/// The functions, in POSIX shell. To be put before a script by `concat!`.
///
/// `pollinator_open LOG COPY PIPE…` makes the first of the pipes that can be made; the output is to be appended to
/// `$pollinator_out`, with `9<&-`: the script itself holds the pipe open there, so that nobody waits for another to open it. With a COPY
/// that is not empty the standard output has the same.
///
/// `pollinator_close` waits, when the command has ended, until the log holds all that was written; `pollinator_torn` is `1` then where
/// something is missing. What the command left running may hold the pipe open; that is waited for five seconds, and may print on.
///
/// `pollinator_wait PID` waits for a child, whatever signals come meanwhile; its status is in `pollinator_status`.
macro_rules! functions {
    () => {
        r#"
pollinator_wait() {
  while :; do
    wait "$1" 2>/dev/null
    pollinator_status=$?
    [ "$pollinator_status" -gt 128 ] || return 0
    kill -0 "$1" 2>/dev/null && continue
    # A signal may have come just before its end.
    wait "$1" 2>/dev/null
    pollinator_again=$?
    [ "$pollinator_again" -eq 127 ] || pollinator_status=$pollinator_again
    return 0
  done
}
pollinator_find() ( unalias -a 2>/dev/null; PATH=${PATH:-/bin}:/usr/bin:/bin; command -v "$1" )
pollinator_copy() {
  trap '' HUP INT QUIT TERM USR1 USR2 PIPE
  pollinator_torn=0
  # It may outlive the script: nobody shall wait for what it holds.
  exec 2>/dev/null
  if [ -n "$pollinator_tee" ]; then
    "$pollinator_tee" -a "$pollinator_log" || pollinator_torn=1
  else
    exec >/dev/null
    until "$pollinator_cat" >> "$pollinator_log"; do
      pollinator_torn=1
      "$pollinator_sleep" 1
    done
  fi
  echo "$pollinator_torn" > "$pollinator_pipe.end"
}
pollinator_open() {
  pollinator_log=$1 pollinator_out=$1 pollinator_tee= pollinator_copier= pollinator_torn=
  pollinator_cat=$(pollinator_find cat) && pollinator_sleep=$(pollinator_find sleep) &&
    pollinator_mkfifo=$(pollinator_find mkfifo) || return 0
  if [ -n "$2" ]; then pollinator_tee=$(pollinator_find tee) || return 0; fi
  shift 2
  for pollinator_pipe in "$@"; do
    "$pollinator_mkfifo" -m 600 "$pollinator_pipe" "$pollinator_pipe.end" 2>/dev/null || continue
    # Where it cannot be opened, exec would end the shell.
    ( exec 9<> "$pollinator_pipe" ) 2>/dev/null || continue
    exec 9<> "$pollinator_pipe"
    # (Redirected, the function would keep what it closes.)
    ( exec 9<&-; pollinator_copy ) < "$pollinator_pipe" &
    pollinator_copier=$!
    pollinator_out=$pollinator_pipe
    return 0
  done
}
pollinator_close() {
  [ -n "$pollinator_copier" ] || return 0
  exec 9<&-
  ( trap '' HUP INT QUIT TERM USR1 USR2; exec "$pollinator_sleep" 5 ) > "$pollinator_pipe.end" &
  pollinator_limit=$!
  # The copier says how it ended; or all that is said is the end of the sleep.
  while :; do
    read -r pollinator_torn < "$pollinator_pipe.end"
    [ "$?" -gt 128 ] || break
  done
  { kill -KILL "$pollinator_limit"; wait "$pollinator_limit"; } 2>/dev/null
  if [ "$pollinator_torn" != 1 ]; then pollinator_torn=; fi
  if pollinator_program=$(pollinator_find rm); then "$pollinator_program" -f "$pollinator_pipe" "$pollinator_pipe.end"; fi
}
"#
    };
}

pub(super) use functions;

/// The processes of a job of whose output something is missing: the log could not take it. They leave `torn.N` beside their statuses.
pub fn torn(task: &Task) -> Vec<u32> {
    let folders = [task.folder.clone(), payload::folder(&task.folder)];
    let is_torn = |rank: &u32| folders.iter().any(|folder| folder.join(format!("torn.{rank}")).symlink_metadata().is_ok());
    (0..task.job.processes()).filter(is_torn).collect()
}

#[cfg(test)]
pub(crate) mod tests {
    use std::path::Path;
    use std::process::Command;
    use std::process::Output;
    use std::process::Stdio;

    /// Shells that may lead a job, those that this machine has.
    pub(crate) fn shells() -> Vec<Vec<&'static str>> {
        let all = [vec!["/bin/dash"], vec!["/bin/bash", "--posix"], vec!["/bin/busybox", "sh"]];
        all.into_iter().filter(|words| Path::new(words[0]).exists()).collect()
    }

    /// Runs a command with its output in `log`; gives the log and what was written beside it.
    fn run(shell: &[&str], folder: &Path, copy: &str, path: &str, cmd: &str) -> (String, Output) {
        let text = concat!(
            functions!(),
            r#"
pollinator_open "$1/log" "$2" "$1/nowhere/pipe" "$1/pipe"
/bin/sh -c "$3" >> "$pollinator_out" 2>&1 9<&-
end=$?
pollinator_close
echo "torn: $pollinator_torn, status: $end" >&2
"#
        );
        // Of a file: some shells say more then.
        let script = folder.join("script");
        std::fs::write(&script, text.replace("/usr/bin:/bin", path)).unwrap();
        let mut command = Command::new(shell[0]);
        command.args(&shell[1..]).arg(script).arg(folder).args([copy, cmd]).stdin(Stdio::null());
        let output = command.env("PATH", path).output().unwrap();
        // Another's device can be read for ever.
        let log = crate::executor::backend::regular::open(&folder.join("log")).unwrap();
        (log.map(|log| std::io::read_to_string(log).unwrap()).unwrap_or_default(), output)
    }

    #[test]
    fn output_that_is_opened_anew_cuts_nothing() {
        for shell in shells() {
            let folder = tempfile::tempdir().unwrap();
            let cmd = "echo one; echo two > /dev/stderr; echo three > /dev/stdout; printf four >&2";
            let (log, output) = run(&shell, folder.path(), "", "/usr/bin:/bin", cmd);
            assert_eq!(log, "one\ntwo\nthree\nfour", "{shell:?} {output:?}");
            assert_eq!((output.stdout.len(), &*output.stderr), (0, &b"torn: , status: 0\n"[..]), "{shell:?}");
            let (log, output) = run(&shell, folder.path(), "yes", "/usr/bin:/bin", "echo five");
            assert_eq!((&*log, &*output.stdout), ("one\ntwo\nthree\nfourfive\n", &b"five\n"[..]), "{shell:?}");
        }
    }

    #[test]
    fn much_and_binary_output_comes_whole() {
        for shell in shells() {
            let folder = tempfile::tempdir().unwrap();
            let (log, _) = run(&shell, folder.path(), "", "/usr/bin:/bin", "seq 100000; printf '\\0'; seq 100000 >&2");
            let numbers: String = (1..=100_000).map(|n| format!("{n}\n")).collect();
            assert!(log == format!("{numbers}\0{numbers}"), "{shell:?}: {} bytes", log.len());
        }
    }

    #[test]
    fn without_tee_the_command_has_the_file() {
        // Busybox finds its own programs without looking for them.
        for shell in shells().into_iter().filter(|words| !words[0].ends_with("busybox")) {
            let folder = tempfile::tempdir().unwrap();
            let (log, _) = run(&shell, folder.path(), "", "/nowhere", "echo one; echo two >&2");
            assert_eq!(log, "one\ntwo\n", "{shell:?}");
        }
    }

    #[test]
    fn a_log_that_cannot_be_written_disturbs_nothing_and_is_told() {
        for shell in shells() {
            let folder = tempfile::tempdir().unwrap();
            std::os::unix::fs::symlink("/dev/full", folder.path().join("log")).unwrap();
            let (_, output) = run(&shell, folder.path(), "", "/usr/bin:/bin", "seq 10000 && exit 3");
            assert!(String::from_utf8_lossy(&output.stderr).ends_with("torn: 1, status: 3\n"), "{shell:?} {output:?}");
        }
    }

    /// It goes on with its output where it was.
    #[test]
    fn what_is_left_running_is_not_waited_for_in_the_end() {
        for shell in shells() {
            let folder = tempfile::tempdir().unwrap();
            let go = folder.path().join("go");
            let cmd = format!("echo one; ( until test -e {}; do sleep 0.1; done; echo three ) & echo two", go.display());
            let (log, output) = run(&shell, folder.path(), "", "/usr/bin:/bin", &cmd);
            assert_eq!((&*log, &*output.stderr), ("one\ntwo\n", &b"torn: , status: 0\n"[..]), "{shell:?}");
            std::fs::write(&go, "").unwrap();
            let log = || std::fs::read_to_string(folder.path().join("log")).unwrap();
            let end = std::time::Instant::now() + std::time::Duration::from_secs(60);
            while log() != "one\ntwo\nthree\n" {
                assert!(std::time::Instant::now() < end, "{shell:?}: {}", log());
                std::thread::sleep(std::time::Duration::from_millis(50));
            }
        }
    }
}
