//! Shell text that brings a command's output into its log through a pipe.
//!
//! A log is a file, so that it survives whoever reads it. A command must not have that file itself as its output: one that opens
//! `/dev/stdout` or `/dev/stderr` anew (`echo oops > /dev/stderr`) would cut it, and what was not read yet would be lost. So `tee`
//! stands between, a process of the job which the executor's death does not touch. It goes on where the disk is full: the command is not
//! disturbed, and that output is missing is noted.
//!
//! Where there is no `tee` or `mkfifo` (an image may hold nothing but `sh`), or no named pipe can be made, the command has the file.

use super::Task;
use super::payload;

/// The functions, in POSIX shell. To be put before a script by `concat!`.
///
/// `pollinator_open LOG COPY PIPE…` makes the first of the pipes that can be made; the output is to be appended to
/// `$pollinator_out`. With a COPY that is not empty `tee` writes to the standard output, too.
///
/// `pollinator_close` waits until the log holds all that was written, when the command has ended; `pollinator_torn` is `1` then where
/// it does not. `tee` ends when nobody can write any more; what the command left behind may hold the pipe open, so that is waited
/// for five seconds only.
///
/// `pollinator_wait PID` waits for a child, whatever signals come meanwhile; its status is in `pollinator_status`.
macro_rules! functions {
    () => {
        r#"
pollinator_wait() {
  while :; do
    wait "$1" 2>/dev/null
    pollinator_status=$?
    [ "$pollinator_status" -gt 128 ] && kill -0 "$1" 2>/dev/null || break
  done
}
pollinator_find() ( PATH=${PATH:-/bin}:/usr/bin:/bin; command -v "$1" )
pollinator_open() {
  pollinator_out=$1 pollinator_copy=$2 pollinator_tee= pollinator_torn=
  shift 2
  pollinator_program=$(pollinator_find tee) && pollinator_mkfifo=$(pollinator_find mkfifo) || return 0
  for pollinator_pipe in "$@"; do
    "$pollinator_mkfifo" "$pollinator_pipe" 2>/dev/null || continue
    (
      trap '' HUP INT QUIT TERM USR1 USR2
      [ -n "$pollinator_copy" ] || exec >/dev/null
      exec "$pollinator_program" -a "$pollinator_out"
    ) < "$pollinator_pipe" &
    pollinator_tee=$!
    pollinator_out=$pollinator_pipe
    return 0
  done
}
pollinator_close() {
  [ -n "$pollinator_tee" ] || return 0
  pollinator_sleep= pollinator_limit=
  if pollinator_program=$(pollinator_find sleep) && "$pollinator_mkfifo" "$pollinator_pipe.end" 2>/dev/null; then
    "$pollinator_program" 5 > "$pollinator_pipe.end" &
    pollinator_sleep=$!
    ( read -r pollinator_line < "$pollinator_pipe.end"; kill -KILL "$pollinator_tee" ) >/dev/null 2>&1 &
    pollinator_limit=$!
  fi
  pollinator_wait "$pollinator_tee"
  # Both are children of this shell, and neither has any: nothing of them is left. (A subshell could miss a politer signal while it
  # is being made.)
  [ -z "$pollinator_limit" ] || kill -KILL "$pollinator_limit" "$pollinator_sleep" 2>/dev/null
  case $pollinator_status in 0 | 137) ;; *) pollinator_torn=1 ;; esac
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
mod tests {
    use std::path::Path;
    use std::process::Command;
    use std::process::Output;
    use std::process::Stdio;

    /// Shells that may lead a job.
    fn shells() -> Vec<Vec<&'static str>> {
        let all = [vec!["/bin/dash"], vec!["/bin/bash", "--posix"], vec!["/bin/busybox", "sh"]];
        all.into_iter().filter(|words| Path::new(words[0]).exists()).collect()
    }

    /// Runs a command with its output in `log`; gives the log and what was written beside it.
    fn run(shell: &[&str], folder: &Path, copy: &str, path: &str, cmd: &str) -> (String, Output) {
        let text = concat!(
            functions!(),
            r#"
pollinator_open "$1/log" "$2" "$1/nowhere/pipe" "$1/pipe"
/bin/sh -c "$3" >> "$pollinator_out" 2>&1
end=$?
pollinator_close
echo "torn: $pollinator_torn, status: $end" >&2
"#
        );
        let text = text.replace("/usr/bin:/bin", path);
        let mut command = Command::new(shell[0]);
        command.args(&shell[1..]).args(["-c", &text, "x"]).arg(folder).args([copy, cmd]).stdin(Stdio::null());
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
            std::fs::remove_file(folder.path().join("pipe")).unwrap();
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
            let (_, output) = run(&shell, folder.path(), "", "/usr/bin:/bin", "seq 100000 && exit 3");
            assert!(String::from_utf8_lossy(&output.stderr).ends_with("torn: 1, status: 3\n"), "{shell:?} {output:?}");
        }
    }

    #[test]
    fn what_is_left_running_is_not_waited_for_in_the_end() {
        let shell = shells().remove(0);
        let folder = tempfile::tempdir().unwrap();
        let (log, output) = run(&shell, folder.path(), "", "/usr/bin:/bin", "echo one; sleep 20 & echo two");
        assert_eq!((&*log, &*output.stderr), ("one\ntwo\n", &b"torn: , status: 0\n"[..]));
    }
}
