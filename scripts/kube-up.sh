#!/usr/bin/env bash
# kube-up.sh up|node|all|down : a real Kubernetes cluster of one node, on loopback, without anything of the machine changed.
#
#   up    etcd, kube-apiserver, kube-controller-manager, kube-scheduler
#   node  kubelet and containerd, in namespaces of their own (processes, mounts): they vanish with all containers at once
#   all   both; prints `export KUBECONFIG=…`
#   down  ends all of it
#
# Each may be repeated: what runs is left alone, what does not is started.
# KUBE_ROOT (.test-parts/kube) holds its state. KUBE_BASE (26400) is the API's port; the eleven above it are taken, too.
# KUBE_LOG_SIZE (1Mi) is the size at which the log of a container is rotated: small, so that tests see it.
# Needs scripts/parts.sh kubernetes, and root. Images: localhost/busybox:1, made here; nothing is pulled from anywhere.
set -euo pipefail
cd "$(dirname "$0")/.."
root=${KUBE_ROOT:-$PWD/.test-parts/kube}
base=${KUBE_BASE:-26400}
subnet=10.251.$((base % 250 + 1)).0/24
programs=$(scripts/kube-build.sh)
mkdir -p "$root/pki"
root=$(cd "$root" && pwd -P)
cd "$root"

running() { [ -s "$root/$1.pid" ] && kill -0 "$(cat "$root/$1.pid")" 2>/dev/null; }

# start NAME COMMAND... : unless it runs.
start() {
    local name=$1
    shift
    running "$name" && return
    setsid "$@" >>"$root/$name.log" 2>&1 </dev/null &
    echo $! >"$root/$name.pid"
}

# until_holds WHAT COMMAND... : waits, two minutes at most.
until_holds() {
    local what=$1 name
    shift
    for _ in $(seq 600); do
        "$@" >/dev/null 2>&1 && return
        sleep 0.2
    done
    echo "kube-up.sh: $what: not within two minutes" >&2
    for name in etcd kube-apiserver kube-controller-manager kube-scheduler node containerd kubelet; do
        [ -s "$name.log" ] && { echo "== $name.log"; tail -n 5 "$name.log"; } >&2
    done
    exit 1
}

token() { cut -d, -f1 "$root/tokens.csv"; }

# api PATH : the answer of the API server; fails where it is an error. Under the name of curl it would be set out for people,
# by a library that does not get on with the Go version that it was built with here.
api() { curl -sf -A kube-up --max-time 10 --cacert pki/apiserver.crt --resolve "kubernetes:$base:127.0.0.1" -H "Authorization: Bearer $(token)" "https://kubernetes:$base$1"; }

api_is_ready() { [ "$(api /readyz)" = ok ]; }

node_is_ready() { api /api/v1/nodes/localhost | tr -d ' \n' | grep -q '"type":"Ready","status":"True"'; }

up() {
    umask 077
    [ -s pki/sa.key ] || openssl genrsa -out pki/sa.key 2048 2>/dev/null
    [ -s tokens.csv ] || echo "$(openssl rand -hex 16),admin,1,system:masters" >tokens.csv
    local etcd=http://127.0.0.1:$((base + 1)) peers=http://127.0.0.1:$((base + 2))
    start etcd etcd --data-dir "$root/etcd" --listen-client-urls "$etcd" --advertise-client-urls "$etcd" \
        --listen-peer-urls "$peers" --initial-advertise-peer-urls "$peers" --initial-cluster "default=$peers" --unsafe-no-fsync
    start kube-apiserver "$programs/kube-apiserver" --etcd-servers="$etcd" --bind-address=127.0.0.1 --secure-port="$base" \
        --advertise-address=127.0.0.1 --cert-dir="$root/pki" --service-cluster-ip-range=10.96.0.0/16 \
        --token-auth-file="$root/tokens.csv" --authorization-mode=RBAC --service-account-issuer=https://kubernetes.test \
        --service-account-key-file=pki/sa.key --service-account-signing-key-file=pki/sa.key --allow-privileged=true \
        --endpoint-reconciler-type=none --kubelet-preferred-address-types=Hostname
    until_holds "the API server answers" api_is_ready
    cat >kubeconfig <<END
apiVersion: v1
kind: Config
current-context: test
contexts: [{name: test, context: {cluster: test, user: admin}}]
clusters: [{name: test, cluster: {server: "https://127.0.0.1:$base", certificate-authority: "$root/pki/apiserver.crt", tls-server-name: kubernetes}}]
users: [{name: admin, user: {token: "$(token)"}}]
END
    start kube-controller-manager "$programs/kube-controller-manager" --kubeconfig=kubeconfig --bind-address=127.0.0.1 \
        --secure-port=$((base + 7)) --port=0 --leader-elect=false --service-account-private-key-file=pki/sa.key \
        --controllers='*,-nodeipam,-route,-cloud-node-lifecycle' --cert-dir="$root/pki/manager"
    start kube-scheduler "$programs/kube-scheduler" --kubeconfig=kubeconfig --bind-address=127.0.0.1 \
        --secure-port=$((base + 9)) --port=0 --leader-elect=false --cert-dir="$root/pki/scheduler"
    until_holds "the controllers work" api /api/v1/namespaces/default/serviceaccounts/default
    until_holds "the scheduler lives" running kube-scheduler
}

# image NAME ENTRYPOINT : an image of busybox alone, as docker would have saved it.
image() {
    local work layer config name=$1 start=$2
    work=$(mktemp -d)
    mkdir -p "$work/files/bin" "$work/files/etc" "$work/files/tmp" "$work/files/root"
    chmod 1777 "$work/files/tmp"
    cp "$(command -v busybox)" "$work/files/bin/busybox"
    "$work/files/bin/busybox" --install -s "$work/files/bin" 2>/dev/null
    find "$work/files/bin" -type l -exec ln -sfn busybox {} \;
    printf 'root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/sh\n' >"$work/files/etc/passwd"
    tar -C "$work/files" --owner=0 --group=0 --mtime=@0 --sort=name -cf "$work/layer.tar" .
    layer=$(sha256sum "$work/layer.tar" | cut -d' ' -f1)
    printf '{"architecture":"%s","os":"linux","config":{"Env":["PATH=/bin","FROM_IMAGE=yes"],"Cmd":%s},"rootfs":{"type":"layers","diff_ids":["sha256:%s"]}}' \
        "$(dpkg --print-architecture)" "$start" "$layer" >"$work/config.json"
    config=$(sha256sum "$work/config.json" | cut -d' ' -f1)
    mv "$work/config.json" "$work/$config.json"
    printf '[{"Config":"%s.json","RepoTags":["%s"],"Layers":["layer.tar"]}]' "$config" "$name" >"$work/manifest.json"
    tar -C "$work" -cf "$work/image.tar" "$config.json" layer.tar manifest.json
    ctr -a "$root/containerd.sock" -n k8s.io images import --no-unpack=false "$work/image.tar" >/dev/null 2>&1 ||
        ctr -a "$root/containerd.sock" -n k8s.io images import "$work/image.tar" >/dev/null
    rm -rf "$work"
}

node_settings() {
    mkdir -p containerd cni
    cat >containerd.toml <<END
version = 2
root = "$root/containerd/root"
state = "$root/containerd/state"
disabled_plugins = ["io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.zfs", "io.containerd.snapshotter.v1.aufs"]
[grpc]
address = "$root/containerd.sock"
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "localhost/pause:1"
restrict_oom_score_adj = true
netns_mounts_under_state_dir = true
stream_server_address = "127.0.0.1"
[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "/usr/lib/cni"
conf_dir = "$root/cni"
END
    cat >cni/10-test.conflist <<END
{"cniVersion": "0.4.0", "name": "test", "plugins": [{"type": "ptp", "ipam": {"type": "host-local", "dataDir": "$root/addresses", "ranges": [[{"subnet": "$subnet"}]]}}]}
END
    # Its name and address let the API server reach it on loopback.
    cat >kubelet.yaml <<END
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
address: 127.0.0.1
port: $((base + 10))
readOnlyPort: 0
healthzPort: 0
failSwapOn: false
cgroupsPerQOS: false
enforceNodeAllocatable: []
authentication: {anonymous: {enabled: true}, webhook: {enabled: false}}
authorization: {mode: AlwaysAllow}
cgroupDriver: cgroupfs
evictionHard: {nodefs.available: "1%"}
containerLogMaxSize: ${KUBE_LOG_SIZE:-1Mi}
containerLogMaxFiles: 5
syncFrequency: 2s
nodeStatusUpdateFrequency: 4s
resolvConf: ""
END
}

node() {
    node_settings
    # The kubelet has fixed places for logs. All that runs below goes when the first process goes.
    start node unshare --mount --pid --fork --kill-child --mount-proc --propagation private sh -c '
        mkdir -p /var/log/pods /var/log/containers
        mount -t tmpfs none /var/log/pods && mount -t tmpfs none /var/log/containers || exit 1
        containerd -c "$1/containerd.toml" >>"$1/containerd.log" 2>&1 &
        until [ -e "$1/kubelet.go" ]; do sleep 0.1; done
        "$2/kubelet" --config="$1/kubelet.yaml" --kubeconfig="$1/kubeconfig" --container-runtime=remote \
            --container-runtime-endpoint="unix://$1/containerd.sock" --root-dir="$1/kubelet" --cert-dir="$1/pki/kubelet" \
            --hostname-override=localhost --v=1 >>"$1/kubelet.log" 2>&1
    ' node "$root" "$programs"
    until_holds "containerd answers" ctr -a "$root/containerd.sock" version
    if [ ! -e kubelet.go ]; then
        image localhost/busybox:1 '["sh"]'
        image localhost/pause:1 '["sleep", "2147483647"]'
        touch kubelet.go
    fi
    until_holds "the node is ready" node_is_ready
}

down() {
    local name pid
    for name in node kube-scheduler kube-controller-manager kube-apiserver etcd; do
        running "$name" || continue
        pid=$(cat "$name.pid")
        # The node is deaf to anything else, and has nothing to lose.
        if [ "$name" = node ]; then kill -9 "$pid" || true; else kill "$pid" || true; fi
        for _ in $(seq 25); do
            running "$name" || break
            sleep 0.2
        done
        kill -9 "$pid" 2>/dev/null || true
        rm -f "$name.pid"
    done
    rm -f kubelet.go
    # Empty groups of containers that are gone.
    find /sys/fs/cgroup -depth -type d -path '*/k8s.io/*' -exec rmdir {} + 2>/dev/null || true
}

case ${1:-} in
up) up ;;
node) node ;;
all) up; node; echo "export KUBECONFIG=$root/kubeconfig" ;;
down) down ;;
*)
    echo "usage: scripts/kube-up.sh up|node|all|down" >&2
    exit 2
    ;;
esac
