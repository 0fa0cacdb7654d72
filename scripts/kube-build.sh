#!/usr/bin/env bash
# kube-build.sh : builds the programs of a Kubernetes cluster from Debian's source package, once (seven minutes or so on two
# cores), into a cache folder that outlives the checkout, and prints the folder's name. Doing it twice costs nothing.
#
# POLLINATOR_TEST_PARTS names another cache folder. No package of Debian carries kube-apiserver and kubelet themselves, but its
# source package carries everything that is needed to build them, dependencies included, so nothing else is fetched.
set -euo pipefail
version=1.20.2
cache=${POLLINATOR_TEST_PARTS:-${XDG_CACHE_HOME:-$HOME/.cache}/pollinator-test-parts}
target=$cache/kubernetes-$version
programs="kube-apiserver kube-controller-manager kube-scheduler kubelet"

whole() {
    local name
    for name in $programs; do [ -x "$target/$name" ] || return 1; done
}

sudo=
[ "$(id -u)" -eq 0 ] || sudo=sudo

# What the build needs of the system.
tools() {
    local missing=()
    [ -x /usr/lib/go-1.19/bin/go ] || missing+=(golang-1.19-go)
    command -v make >/dev/null || missing+=(make)
    command -v gcc >/dev/null || missing+=(gcc libc6-dev)
    command -v rsync >/dev/null || missing+=(rsync)
    command -v dpkg-source >/dev/null || missing+=(dpkg-dev)
    command -v patch >/dev/null || missing+=(patch)
    [ ${#missing[@]} -eq 0 ] && return
    $sudo apt-get -o DPkg::Lock::Timeout=600 update -q >&2
    $sudo env DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=600 install -q -y --no-install-recommends "${missing[@]}" >&2
}

# The source package, by a package list of its own: the system's lists stay as they are.
source_package() {
    local mirror
    mirror=$(apt-get indextargets --format '$(CREATED_BY)|$(ORIGIN)|$(CODENAME)|$(REPO_URI)' | sed -n 's/^Packages|Debian|bookworm|//p' | head -n 1)
    [ -n "$mirror" ] || { echo "kube-build.sh: this system has no package source of Debian 12 (bookworm)" >&2; exit 1; }
    mkdir -p "$work/lists/partial" "$work/archives/partial"
    echo "deb-src [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror bookworm main" >"$work/sources.list"
    local own=(-o "Dir::Etc::sourcelist=$work/sources.list" -o Dir::Etc::sourceparts=/dev/null
        -o "Dir::State::lists=$work/lists" -o "Dir::Cache=$work" -o Dir::Cache::pkgcache= -o Dir::Cache::srcpkgcache=
        -o APT::Sandbox::User=root)
    apt-get "${own[@]}" update -q >&2
    (cd "$work" && apt-get "${own[@]}" source -q kubernetes >&2)
    mv "$work"/kubernetes-*/ "$work/tree"
}

build() {
    cat >"$work/version" <<END
KUBE_GIT_COMMIT='0000000000000000000000000000000000000000'
KUBE_GIT_TREE_STATE='archive'
KUBE_GIT_VERSION='v$version'
KUBE_GIT_MAJOR='1'
KUBE_GIT_MINOR='20'
END
    # The kubelet as the others: in another mode all of its dependencies would be built once more.
    (cd "$work/tree" && KUBE_STATIC_OVERRIDES=kubelet PATH=/usr/lib/go-1.19/bin:$PATH GOPROXY=off GOFLAGS=-mod=vendor GO111MODULE=auto FORCE_HOST_GO=y \
        KUBE_GIT_VERSION_FILE=$work/version \
        nice -n 10 make WHAT="$(printf 'cmd/%s ' $programs)" >&2)
}

main() {
    if ! whole; then
        mkdir -p "$cache"
        exec 9>"$cache/kubernetes.lock"
        flock 9
        whole || make_whole
    fi
    echo "$target"
}

# Sets `work`, the folder of the build, which goes when the script ends. Under its own name only when it is whole: a build that was cut short leaves nothing that looks like one.
make_whole() {
    local name
    tools
    work=$(mktemp -d "$cache/kubernetes-build.XXXXXX")
    trap 'chmod -R u+w "$work"; rm -rf "$work"' EXIT
    source_package
    build
    mkdir "$work/programs"
    for name in $programs; do
        cp "$work/tree/_output/bin/$name" "$work/programs/"
    done
    rm -rf "$target"
    mv "$work/programs" "$target"
}

main
