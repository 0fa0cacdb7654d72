#!/usr/bin/env bash
# first-run.sh : the README's first command as a new user would type it, with nothing configured and an empty home folder.
# Checks its exit code, the job's output on the terminal, and the result file; leaves the checkout as it was.
set -euo pipefail
cd "$(dirname "$0")/.."

home=$(mktemp -d)
cp -r examples "$home/examples"
# The toolchain may live in the real home folder.
cargo_home=${CARGO_HOME:-$HOME/.cargo}
rustup_home=${RUSTUP_HOME:-$HOME/.rustup}
run() {
    env -i PATH="$PATH" HOME="$home" CARGO_HOME="$cargo_home" RUSTUP_HOME="$rustup_home" LANG=C.UTF-8 "$@"
}
finish() {
    run target/debug/pollinator colony stop || true
    rm -rf "$home"
}
trap finish EXIT

run cargo run --locked --bin pollinator -- run --follow --project "$home/examples/hello" | tee "$home/output"
grep -q '^hostname: ' "$home/output"
grep -q '^Hello world!$' "$home/output"
grep -q '^Hello, World!$' "$home/examples/hello/cfs/result/result.txt"
echo "first run: the job ran and its result came home"
