//! The constant script that leads a container of a job.

use crate::executor::backend::pipe::functions;

/// First process of the container. Arguments: processes on a node, rank among them, number of the node (empty: Kubernetes
/// tells it).
///
/// It claims its rank, so that a pod which Kubernetes starts in place of a deleted one does not run the command again; it
/// passes a polite signal on to all processes of the container, for a shell that leads a container is deaf to it; and it
/// writes the exit status to the shared volume, where it outlives the pod.
///
/// What the command prints goes to the volume through a pipe (see [`super::super::pipe`]), and also to where the cluster looks for it.
/// What it left in the background is asked to end with it.
pub(super) const LEAD: &str = concat!(
    functions!(),
    r#"
pollinator_node=${3:-$JOB_COMPLETION_INDEX}
pollinator_rank=$((pollinator_node * $1 + $2))
if ! ( set -C; : > "/.pollinator/began.$pollinator_rank" ) 2>/dev/null; then
  printf '%s' 'pollinator: replacement' > /dev/termination-log
  echo 'pollinator: this pod stands in for one that was lost; the command is not run a second time' >&2
  exit 75
fi
[ -w "${HOME:-/}" ] || export HOME=/tmp
pollinator_open "/.pollinator/log.$pollinator_rank" yes "/dev/shm/.pollinator.$pollinator_rank" \
  "/tmp/.pollinator.$pollinator_rank" "/.pollinator/pipe.$pollinator_rank"
[ -n "$pollinator_copier" ] || echo 'pollinator: what the command prints is to be seen in the log of its process only' >&2
/bin/sh /.pollinator/run /.pollinator "$pollinator_rank" "$2" "$pollinator_node" >> "$pollinator_out" 2>&1 9<&- &
pollinator_child=$!
if [ $$ -eq 1 ]; then trap 'kill -TERM -1' TERM; else trap 'kill -TERM $pollinator_child' TERM; fi
pollinator_wait "$pollinator_child"
pollinator_end=$pollinator_status
[ -z "$pollinator_copier" ] || [ $$ -ne 1 ] || kill -TERM -1 2>/dev/null
pollinator_close
[ -z "$pollinator_torn" ] || printf '' 2>/dev/null > "/.pollinator/torn.$pollinator_rank"
printf '%s\n' "$pollinator_end" > "/.pollinator/status.$pollinator_rank"
exit "$pollinator_end"
"#
);

/// What a container says about itself that did not run the command because another had done so.
pub(super) const REPLACEMENT: &str = "pollinator: replacement";

#[cfg(test)]
mod tests {
    use super::LEAD;
    use crate::executor::backend::payload;
    use crate::executor::backend::pipe::tests::shells;
    use crate::executor::spec::Command;
    use std::collections::BTreeMap;
    use std::os::unix::process::CommandExt;
    use std::path::Path;
    use std::process::Child;
    use std::process::Stdio;

    /// A container of one process, without a container: `PATH` is what the image has.
    fn lead(shell: &[&str], folder: &Path, path: &str, cmd: &str) -> Child {
        let command = Command { cmd: cmd.into(), args: Vec::new(), init: String::new() };
        let payload = payload::write(folder, &BTreeMap::new(), &command).unwrap();
        let text = LEAD.replace("/.pollinator", payload.to_str().unwrap());
        let text = text.replace("/usr/bin:/bin", path);
        let text = text.replace("/dev/termination-log", folder.join("message").to_str().unwrap());
        let mut lead = std::process::Command::new(shell[0]);
        lead.args(&shell[1..]).args(["-c", &text, "pollinator", "1", "0", "0"]).env_clear().env("PATH", path);
        lead.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0).spawn().unwrap()
    }

    fn read(folder: &Path, name: &str) -> String {
        std::fs::read_to_string(folder.join("payload").join(name)).unwrap()
    }

    #[test]
    fn what_is_printed_goes_to_the_volume_and_to_the_cluster_in_order() {
        for shell in shells() {
            let folder = tempfile::tempdir().unwrap();
            // One that opens its output anew cuts nothing.
            let cmd = "echo one; echo two >&2; echo three > /dev/stderr; printf four; exit 7";
            let done = lead(&shell, folder.path(), "/usr/bin:/bin", cmd).wait_with_output().unwrap();
            assert_eq!((done.status.code(), &*String::from_utf8_lossy(&done.stderr)), (Some(7), ""), "{shell:?}");
            assert_eq!(String::from_utf8_lossy(&done.stdout), "one\ntwo\nthree\nfour", "{shell:?}");
            assert_eq!(read(folder.path(), "log.0"), "one\ntwo\nthree\nfour", "{shell:?}");
            assert_eq!(read(folder.path(), "status.0"), "7\n");
            assert!(!folder.path().join("message").exists());
            // Another that is started in its place does nothing.
            let again = lead(&shell, folder.path(), "/usr/bin:/bin", "echo five").wait_with_output().unwrap();
            assert_eq!((again.status.code(), again.stdout.len()), (Some(75), 0), "{shell:?}");
            assert_eq!(std::fs::read_to_string(folder.path().join("message")).unwrap(), super::REPLACEMENT);
            assert_eq!(read(folder.path(), "log.0"), "one\ntwo\nthree\nfour", "{shell:?}");
        }
    }

    #[test]
    fn an_image_without_tee_has_its_output_on_the_volume() {
        for shell in shells() {
            let folder = tempfile::tempdir().unwrap();
            let done = lead(&shell, folder.path(), "/nowhere", "echo one; exit 3").wait_with_output().unwrap();
            // Busybox finds its own programs without looking for them.
            let with_tee = shell[0].ends_with("busybox");
            assert_eq!((done.status.code(), done.stdout.is_empty()), (Some(3), !with_tee), "{shell:?} {done:?}");
            assert_eq!((&*read(folder.path(), "log.0"), &*read(folder.path(), "status.0")), ("one\n", "3\n"), "{shell:?}");
        }
    }

    #[test]
    fn a_polite_signal_reaches_the_command_and_its_last_words_are_kept() {
        for shell in shells() {
            let folder = tempfile::tempdir().unwrap();
            let cmd = "trap 'echo asked; exit 4' TERM; echo ready; while :; do sleep 0.05; done";
            let mut child = lead(&shell, folder.path(), "/usr/bin:/bin", cmd);
            let mut ready = [0; 6];
            std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut ready).unwrap();
            // SAFETY: a plain call; the child is not waited for yet.
            assert_eq!(unsafe { libc::kill(child.id().cast_signed(), libc::SIGTERM) }, 0);
            let done = child.wait_with_output().unwrap();
            assert_eq!((done.status.code(), &*String::from_utf8_lossy(&done.stdout)), (Some(4), "asked\n"), "{shell:?}");
            assert_eq!(
                (&*read(folder.path(), "log.0"), &*read(folder.path(), "status.0")),
                ("ready\nasked\n", "4\n"),
                "{shell:?}"
            );
        }
    }

    #[test]
    fn a_volume_that_does_not_take_the_output_is_told_of_and_the_command_is_not_disturbed() {
        for shell in shells() {
            let folder = tempfile::tempdir().unwrap();
            std::fs::create_dir(folder.path().join("payload")).unwrap();
            std::os::unix::fs::symlink("/dev/full", folder.path().join("payload/log.0")).unwrap();
            let done = lead(&shell, folder.path(), "/usr/bin:/bin", "echo one; echo two; exit 3").wait_with_output().unwrap();
            assert_eq!((done.status.code(), &*String::from_utf8_lossy(&done.stdout)), (Some(3), "one\ntwo\n"), "{shell:?}");
            assert_eq!(read(folder.path(), "status.0"), "3\n");
            assert!(folder.path().join("payload/torn.0").exists(), "{shell:?}");
        }
    }
}
