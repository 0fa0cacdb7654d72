//! The two constant scripts of a batch job. What differs from job to job reaches them as encoded lines of files beside
//! them (see [`crate::executor::backend::payload`]), never as text of theirs.

use crate::executor::backend::pipe::functions;

/// The batch script. Arguments: the job's folder, the number of the try.
///
/// It claims the try (see `tries`), says which job it is and on which nodes, loads modules, starts the job step, and
/// leaves its exit status under a temporary name first, since others see the folder through a network. Where it is the
/// script itself that failed, it says why in `reason`.
pub const BATCH: &str = r#"#!/bin/bash
# Made by pollinator.
pollinator_dir=$1
umask 077
( set -C; : > "$pollinator_dir/began.$2" ) 2>/dev/null || exit 75
printf '%s\n' "$SLURM_JOB_ID" > "$pollinator_dir/jobid.tmp" && mv -f "$pollinator_dir/jobid.tmp" "$pollinator_dir/jobid"
trap : HUP INT QUIT TERM
pollinator_end() {
  printf '%s\n' "$1" > "$pollinator_dir/status.tmp" && mv -f "$pollinator_dir/status.tmp" "$pollinator_dir/status"
  exit "$1"
}
pollinator_fail() {
  echo "pollinator: $1" >&2
  printf '%s\n' "$1" > "$pollinator_dir/reason"
  pollinator_end "$2"
}
pollinator_nodes=
for pollinator_node in $(scontrol show hostnames "$SLURM_JOB_NODELIST"); do
  pollinator_nodes=$pollinator_nodes${pollinator_nodes:+,}$pollinator_node
done
printf '%s\n' "${pollinator_nodes:-$SLURM_JOB_NODELIST}" > "$pollinator_dir/payload/nodes"
if [ -s "$pollinator_dir/modules" ]; then
  command -v module >/dev/null 2>&1 || . /etc/profile >/dev/null 2>&1
  if ! command -v module >/dev/null 2>&1; then
    pollinator_fail "modules are to be loaded, and this node knows no module command" 127
  fi
  set -f
  while IFS= read -r pollinator_line; do
    module load $pollinator_line || pollinator_fail "module load $pollinator_line failed" 1
  done < "$pollinator_dir/modules"
  set +f
fi
set --
while IFS= read -r pollinator_line; do
  pollinator_value=$(printf '%b.' "$pollinator_line")
  set -- "$@" "${pollinator_value%.}"
done < "$pollinator_dir/step"
"$@" < /dev/null > "$pollinator_dir/step.log" 2>&1
pollinator_status=$?
# What srun says of processes that began is told by their statuses.
[ -e "$pollinator_dir/status.0" ] && pollinator_known='srun:*' || pollinator_known=
while IFS= read -r pollinator_line; do
  case $pollinator_line in
  $pollinator_known) ;;
  *) printf '%s\n' "$pollinator_line" ;;
  esac
done < "$pollinator_dir/step.log"
pollinator_end "$pollinator_status"
"#;

/// One process of the job step. Arguments: the job's folder, how many processes there are, where the command begins.
///
/// Each leaves its own exit status; with several, each has an output of its own, to which it writes through a pipe (see
/// [`crate::executor::backend::pipe`]). A signal that ends the step reaches the
/// command as well, and its status is still written; that there was one is noted in `asked`, for a command may end with 0 then.
/// Just before the image starts, the folders that it will see must be where
/// they were: another job of the project could have put a link in the place of one while this one waited in the queue.
pub const RANK: &str = concat!(
    "# Made by pollinator.",
    functions!(),
    r#"pollinator_dir=$1
pollinator_rank=${SLURM_PROCID:-0}
pollinator_log=$pollinator_dir/log
[ "$2" -eq 1 ] || pollinator_log=$pollinator_dir/log.$pollinator_rank
trap : HUP INT QUIT
trap ': > "$pollinator_dir/asked"' TERM
umask 077
cd "$3" || cd /
pollinator_end=
while IFS= read -r pollinator_line; do
  pollinator_value=$(printf '%b.' "$pollinator_line")
  pollinator_value=${pollinator_value%.}
  [ "$(cd -P "$pollinator_value" 2>/dev/null && pwd -P)" = "$pollinator_value" ] && continue
  echo "pollinator: $pollinator_value is not the folder that it was: it is not shown to the job" >> "$pollinator_log"
  pollinator_end=1
done < "$pollinator_dir/sources"
set --
while IFS= read -r pollinator_line; do
  pollinator_value=$(printf '%b.' "$pollinator_line")
  set -- "$@" "${pollinator_value%.}"
done < "$pollinator_dir/start"
if [ -z "$pollinator_end" ]; then
  pollinator_open "$pollinator_log" '' "$pollinator_dir/pipe.$pollinator_rank"
  "$@" "$pollinator_rank" "${SLURM_LOCALID:-0}" "${SLURM_NODEID:-0}" >> "$pollinator_out" 2>&1 < /dev/null 9<&-
  pollinator_end=$?
  pollinator_close
  [ -z "$pollinator_torn" ] || printf '' 2>/dev/null > "$pollinator_dir/torn.$pollinator_rank"
fi
pollinator_file=$pollinator_dir/status.$pollinator_rank
printf '%s\n' "$pollinator_end" > "$pollinator_file.tmp" && mv -f "$pollinator_file.tmp" "$pollinator_file"
exit "$pollinator_end"
"#
);
