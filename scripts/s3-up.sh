#!/usr/bin/env bash
# s3-up.sh up|down : a SeaweedFS to try things against by hand, on loopback, with its data below .test-parts/.
# The tests start one of their own. S3_PORT (21303) is the S3 port; the three below it, and all of them + 10000, are taken too.
set -euo pipefail
cd "$(dirname "$0")/.."
root=$PWD/.test-parts/s3
s3=${S3_PORT:-21303}
master=$((s3 - 3))
key=testkeytestkey00
secret=testsecrettestsecret

running() { [ -s "$root/pid" ] && kill -0 "$(cat "$root/pid")" 2>/dev/null; }

answers() { [ "$(curl -s -o /dev/null -w '%{http_code}' "http://127.0.0.1:$s3/")" != 000 ]; }

up() {
    if running; then
        echo "already up" >&2
        return
    fi
    [ -x .test-parts/weed ] || scripts/parts.sh weed
    mkdir -p "$root/data"
    printf '{"identities":[{"name":"t","credentials":[{"accessKey":"%s","secretKey":"%s"}],"actions":["Admin","Read","Write","List","Tagging"]}]}' \
        "$key" "$secret" >"$root/s3.json"
    # The listeners for Iceberg and Lance have fixed ports, and the whole program ends when those are taken.
    setsid .test-parts/weed -logtostderr server -dir="$root/data" -ip=127.0.0.1 -ip.bind=127.0.0.1 \
        -master.port="$master" -volume.port=$((master + 1)) -volume.max=100 -master.volumeSizeLimitMB=1024 \
        -filer -filer.port=$((master + 2)) -s3 -s3.port="$s3" -s3.port.iceberg=0 -s3.port.lance=0 \
        -s3.config="$root/s3.json" -master.telemetry=false >"$root/log" 2>&1 </dev/null &
    echo $! >"$root/pid"
    for _ in $(seq 150); do
        answers && break
        running || break
        sleep 0.2
    done
    if ! running || ! answers; then
        tail -3 "$root/log" >&2
        exit 1
    fi
    cat <<END
export AWS_S3_ENDPOINT=127.0.0.1:$s3
export AWS_S3_ACCESSKEY=$key
export AWS_S3_SECRETKEY=$secret
export AWS_S3_REGION_KEY=us-east-1
export AWS_S3_BUCKET=pollinator
export AWS_S3_TLS=false
export AWS_S3_SKIPVERIFY=false
END
}

down() {
    running || return 0
    local pid
    pid=$(cat "$root/pid")
    kill "$pid"
    # It lingers after SIGTERM.
    for _ in $(seq 25); do
        running || break
        sleep 0.2
    done
    kill -9 "$pid" 2>/dev/null || true
    rm -f "$root/pid"
}

case ${1:-} in
up) up ;;
down) down ;;
*)
    echo "usage: scripts/s3-up.sh up|down" >&2
    exit 2
    ;;
esac
