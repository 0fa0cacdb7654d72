//! The constant script that is a container's first process.

use crate::executor::backend::pipe::functions;

/// Its name in the payload folder.
pub(super) const NAME: &str = "lead";
/// Where the container sees the file that takes its output.
pub(super) const LOG: &str = "/.pollinator-log";

/// Runs one process of a job by the payload's own script, and leaves its exit status. Arguments: the payload folder, rank,
/// rank on the node, rank of the node, name of the status file, seconds after which it ends the job by itself (0: never,
/// the engine does it).
///
/// Output goes to a file of the executor's and not through the engine: it survives both, and is an offset to go on from.
/// It goes there through a pipe (see [`super::super::pipe`]); what the command left in the background is asked to end with it. A
/// polite signal reaches every process of the container, which none of them would hear otherwise. Whether the kernel ended
/// a process for its memory is asked of the control group, since the engine tells only of the first process. Nothing but
/// builtins of the shell is needed (`sleep` for the time limit alone).
pub(super) const LEAD: &str = concat!(
    "# Made by pollinator: the first process of a container.",
    functions!(),
    r#"exec < /dev/null >> /.pollinator-log 2>&1
: > "$1/began.$2"
pollinator_polite() {
  if [ "$$" -eq 1 ]; then kill -TERM -1; else kill -TERM "$pollinator_child"; fi
}
trap 'pollinator_polite 2> /dev/null' HUP INT QUIT TERM
pollinator_open /.pollinator-log '' "/dev/shm/.pollinator.$2" "/tmp/.pollinator.$2" "$1/pipe.$2"
/bin/sh "$1/run" "$1" "$2" "$3" "$4" >> "$pollinator_out" 2>&1 9<&- &
pollinator_child=$!
if [ "$6" -gt 0 ] && command -v sleep > /dev/null; then
  ( exec > /dev/null 2>&1 9<&-; sleep "$6"; kill -TERM "$pollinator_child"; sleep 10; kill -KILL -1 ) &
fi
pollinator_wait "$pollinator_child"
pollinator_end=$pollinator_status
[ -z "$pollinator_copier" ] || [ "$$" -ne 1 ] || kill -TERM -1 2> /dev/null
pollinator_close
[ -z "$pollinator_torn" ] || printf '' 2> /dev/null > "$1/torn.$2"
for pollinator_file in /sys/fs/cgroup/memory.events /sys/fs/cgroup/memory/memory.oom_control; do
  [ -r "$pollinator_file" ] || continue
  while read -r pollinator_key pollinator_count; do
    if [ "$pollinator_key" = oom_kill ] && [ "$pollinator_count" -gt 0 ]; then : > "$1/oom.$2"; fi
  done < "$pollinator_file"
done
printf '%s\n' "$pollinator_end" > "$1/$5"
exit "$pollinator_end"
"#
);
