//! The two constant scripts of the process backend. Values reach them as arguments and variables, never as code; `cmd` and
//! `init-cmd` are code by their nature (shell text of the user's) and are evaluated where they stand.

use crate::executor::backend::pipe::functions;

/// Leads the session. Arguments: the job's folder, the number of the try, then the arguments of the inner shell.
///
/// It claims the try (see [`super::super::tries`]), says which process it is, survives a polite signal to the session, and writes
/// the inner shell's status. Output goes through a pipe (see [`super::super::pipe`]), which children that the command left in the
/// background hold open: they are asked to end with it. It depends on no external program: the job's own PATH may hold none.
pub(super) const WRAPPER: &str = concat!(
    functions!(),
    r#"
pollinator_dir=$1
( set -C; : > "$pollinator_dir/began.$2" ) 2>/dev/null || exit 75
printf '%s\n' "$$" > "$pollinator_dir/pid"
trap : HUP INT QUIT TERM
shift 2
pollinator_open "$pollinator_dir/log" '' "$pollinator_dir/pipe"
/bin/sh "$@" >> "$pollinator_out" 2>&1 9<&-
pollinator_end=$?
[ -z "$pollinator_copier" ] || kill -TERM 0
pollinator_close
[ -z "$pollinator_torn" ] || printf '' 2>/dev/null > "$pollinator_dir/torn.0"
printf '%s\n' "$pollinator_end" > "$pollinator_dir/status"
"#
);

/// Runs `init-cmd` once, then the command: one process, or several at once with their numbers.
/// Arguments: the job's folder, `init-cmd`, how many, the command, then the command's own arguments.
///
/// `init-cmd` is evaluated in this very shell, so that variables it exports and folders it changes to hold for the
/// command.
pub(super) const INNER: &str = concat!(
    functions!(),
    r#"
if [ -n "$2" ]; then eval "$2" || exit $?; fi
: > "$1/init-done"
pollinator_dir=$1 pollinator_size=$3 pollinator_cmd=$4
shift 4
if [ "$pollinator_size" -eq 1 ]; then eval "$pollinator_cmd"; exit $?; fi
pollinator_rank=0
while [ "$pollinator_rank" -lt "$pollinator_size" ]; do
  export POLLINATOR_RANK=$pollinator_rank POLLINATOR_LOCAL_RANK=$pollinator_rank
  (
    # What init-cmd has set holds for the command, and not for what tells its end.
    { pollinator_set=$-; set +ex; } 2>/dev/null
    pollinator_open "$pollinator_dir/log.$POLLINATOR_RANK" '' "$pollinator_dir/pipe.$POLLINATOR_RANK"
    (
      case $pollinator_set in *e*) set -e ;; esac
      case $pollinator_set in *x*) set -x ;; esac
      eval "$pollinator_cmd"
    ) >> "$pollinator_out" 2>&1 9<&-
    pollinator_end=$?
    pollinator_close
    [ -z "$pollinator_torn" ] || printf '' 2>/dev/null > "$pollinator_dir/torn.$POLLINATOR_RANK"
    printf '%s\n' "$pollinator_end" > "$pollinator_dir/status.$POLLINATOR_RANK"
  ) &
  pollinator_rank=$((pollinator_rank + 1))
done
wait
"#
);
