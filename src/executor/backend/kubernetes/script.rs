//! The constant script that leads a container of a job.

/// First process of the container. Arguments: processes on a node, rank among them, number of the node (empty: Kubernetes
/// tells it).
///
/// It claims its rank, so that a pod which Kubernetes starts in place of a deleted one does not run the command again; it
/// passes a polite signal on to all processes of the container, for a shell that leads a container is deaf to it; and it
/// writes the exit status to the shared volume, where it outlives the pod.
pub(super) const LEAD: &str = r#"
pollinator_node=${3:-$JOB_COMPLETION_INDEX}
pollinator_rank=$((pollinator_node * $1 + $2))
if ! ( set -C; : > "/.pollinator/began.$pollinator_rank" ) 2>/dev/null; then
  printf '%s' 'pollinator: replacement' > /dev/termination-log
  echo 'pollinator: this pod stands in for one that was lost; the command is not run a second time' >&2
  exit 75
fi
[ -w "${HOME:-/}" ] || export HOME=/tmp
/bin/sh /.pollinator/run /.pollinator "$pollinator_rank" "$2" "$pollinator_node" &
pollinator_child=$!
if [ $$ -eq 1 ]; then trap 'kill -TERM -1' TERM; else trap 'kill -TERM $pollinator_child' TERM; fi
wait "$pollinator_child"
pollinator_status=$?
while [ "$pollinator_status" -gt 128 ] && kill -0 "$pollinator_child" 2>/dev/null; do
  wait "$pollinator_child"
  pollinator_status=$?
done
printf '%s\n' "$pollinator_status" > "/.pollinator/status.$pollinator_rank"
exit "$pollinator_status"
"#;

/// What a container says about itself that did not run the command because another had done so.
pub(super) const REPLACEMENT: &str = "pollinator: replacement";
