#!/usr/bin/env bash
# bench.sh [CASE]... [OPTION]... : measures pollinator beside rclone and s5cmd, after installing what that needs. See
# docs/benchmarks.md, or `scripts/bench.sh --help`.
#
#   scripts/bench.sh                        all of it, about half an hour, 10 GB of disk below TMPDIR
#   scripts/bench.sh --scale 0.01           a smoke run of two minutes with the build
#   scripts/bench.sh byte insert scattered  only these cases
#   scripts/bench.sh agent                  the agent, beside watchman with rclone: ten minutes
#   scripts/bench.sh executor               an executor on a Slurm cluster of this machine: a quarter of an hour, 10 GiB of memory
set -euo pipefail
cd "$(dirname "$0")/.."
if [ "${1:-}" = agent ]; then
    shift
    scripts/parts.sh peers
    scripts/parts.sh watchman
    exec cargo bench --locked --bench agent -- "$@"
fi
if [ "${1:-}" = executor ]; then
    shift
    scripts/parts.sh slurm
    scripts/parts.sh editors # rsync
    exec cargo bench --locked --bench executor -- "$@"
fi
scripts/parts.sh weed
scripts/parts.sh peers
exec cargo bench --locked --bench peers -- "$@"
