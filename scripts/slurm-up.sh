#!/usr/bin/env bash
# slurm-up.sh up|down|stop-controller : a real Slurm cluster of some virtual nodes on this one machine, on loopback, without systemd and
# without cgroups, for tests and for trying things by hand. `up` twice starts only what is not running.
#
# Needs Debian's slurm-wlm and munge, and for accounting also slurmdbd, mariadb-server, slurm-wlm-mysql-plugin
# (scripts/parts.sh slurm). Set by the environment:
#   SLURM_ROOT (.test-parts/slurm)   all of its state     SLURM_PORT (27000)   the first of its ports: 12 and one for each node
#   SLURM_NODES (2)                                       SLURM_CPUS (2), SLURM_MEM (2000, MiB)   of each node
#   SLURM_ACCOUNTING (yes)           no: without `sacct`  SLURM_LINES          more lines of slurm.conf
# Then: export SLURM_CONF=$SLURM_ROOT/slurm.conf
set -euo pipefail
cd "$(dirname "$0")/.."
root=${SLURM_ROOT:-$PWD/.test-parts/slurm}
port=${SLURM_PORT:-27000}
nodes=${SLURM_NODES:-2}
cpus=${SLURM_CPUS:-2}
memory=${SLURM_MEM:-2000}
accounting=${SLURM_ACCOUNTING:-yes}
export SLURM_CONF=$root/slurm.conf
export PATH=$PATH:/usr/sbin:/sbin

fail() {
    echo "slurm-up.sh: $*" >&2
    exit 1
}

# running NAME PROGRAM : whether the daemon of that pid file lives.
running() {
    local file=$root/run/$1.pid
    [ -s "$file" ] && [ "$(cat "/proc/$(cat "$file")/comm" 2>/dev/null)" = "$2" ]
}

# until_true SECONDS COMMAND...
until_true() {
    local end=$((SECONDS + $1))
    shift
    until "$@" >/dev/null 2>&1; do
        [ "$SECONDS" -lt "$end" ] || return 1
        sleep 0.1
    done
}

log_of() { tail -n 3 "$root/log/$1.log" 2>/dev/null; }

munge_up() {
    running munged munged && return
    if [ ! -s "$root/munge/key" ]; then
        head -c 1024 /dev/urandom >"$root/munge/key"
        chmod 400 "$root/munge/key"
    fi
    rm -f "$root/run/munge.socket"
    # --force: the folders above may be writable for others (a temporary folder).
    munged --force --key-file="$root/munge/key" --seed-file="$root/munge/seed" --socket="$root/run/munge.socket" \
        --pid-file="$root/run/munged.pid" --log-file="$root/log/munged.log" 2>>"$root/log/munged.log" || fail "munged: $(log_of munged)"
    until_true 10 munge -n -S "$root/run/munge.socket" || fail "munged does not answer"
}

database_up() {
    if ! running mariadb mariadbd; then
        if [ ! -d "$root/db/mysql" ]; then
            mkdir -p "$root/db"
            mariadb-install-db --no-defaults --user="$(id -un)" --datadir="$root/db" --auth-root-authentication-method=socket \
                >"$root/log/mariadb.log" 2>&1 || fail "mariadb-install-db: $(log_of mariadb)"
        fi
        setsid mariadbd --no-defaults --user="$(id -un)" --datadir="$root/db" --socket="$root/run/mysql.sock" \
            --pid-file="$root/run/mariadb.pid" --skip-networking --innodb-buffer-pool-size=32M \
            --innodb-flush-log-at-trx-commit=0 >>"$root/log/mariadb.log" 2>&1 </dev/null &
        until_true 60 mariadb-admin --no-defaults -S "$root/run/mysql.sock" ping || fail "mariadbd: $(log_of mariadb)"
    fi
    mariadb --no-defaults -S "$root/run/mysql.sock" -e "CREATE DATABASE IF NOT EXISTS slurm_acct;
        CREATE USER IF NOT EXISTS slurm@localhost IDENTIFIED BY 'slurm'; GRANT ALL ON slurm_acct.* TO slurm@localhost"
}

accounting_up() {
    database_up
    running slurmdbd slurmdbd && return
    cat >"$root/slurmdbd.conf" <<END
AuthType=auth/munge
AuthInfo=socket=$root/run/munge.socket
DbdHost=localhost
DbdAddr=127.0.0.1
DbdPort=$((port + 1))
SlurmUser=$(id -un)
LogFile=$root/log/slurmdbd.log
PidFile=$root/run/slurmdbd.pid
StorageType=accounting_storage/mysql
StorageHost=localhost
StorageUser=slurm
StoragePass=slurm
StorageLoc=slurm_acct
END
    chmod 600 "$root/slurmdbd.conf"
    MYSQL_UNIX_PORT=$root/run/mysql.sock setsid slurmdbd || fail "slurmdbd: $(log_of slurmdbd)"
    until_true 60 sacctmgr -n show cluster || fail "slurmdbd does not answer: $(log_of slurmdbd)"
    # They may be there from before.
    sacctmgr -iQ add cluster test >/dev/null 2>&1 || true
    sacctmgr -iQ add account lab cluster=test >/dev/null 2>&1 || true
    sacctmgr -iQ add account other cluster=test >/dev/null 2>&1 || true
    sacctmgr -iQ add user "$(id -un)" account=lab,other defaultaccount=lab >/dev/null 2>&1 || true
}

configuration() {
    local storage="AccountingStorageType=accounting_storage/none"
    if [ "$accounting" = yes ]; then
        storage="AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=localhost
AccountingStoragePort=$((port + 1))
AccountingStoragePass=$root/run/munge.socket
AccountingStorageEnforce=associations
AccountingStoreFlags=job_comment"
    fi
    cat >"$SLURM_CONF" <<END
ClusterName=test
SlurmctldHost=localhost(127.0.0.1)
SlurmctldPort=$port
SlurmUser=$(id -un)
SlurmdUser=$(id -un)
AuthType=auth/munge
AuthInfo=socket=$root/run/munge.socket
CredType=cred/munge
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=1
ReturnToService=2
SlurmctldPidFile=$root/run/slurmctld.pid
SlurmctldLogFile=$root/log/slurmctld.log
SlurmdPidFile=$root/run/slurmd-%n.pid
SlurmdLogFile=$root/log/slurmd-%n.log
SlurmdSpoolDir=$root/spool/%n
StateSaveLocation=$root/state
SlurmdParameters=config_overrides
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
DefMemPerCPU=50
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=1,bf_interval=1,batch_sched_delay=0,sched_min_interval=0
OverTimeLimit=0
KillWait=2
MinJobAge=300
SlurmctldTimeout=120
SlurmdTimeout=300
MessageTimeout=60
InactiveLimit=0
GresTypes=gpu
$storage
${SLURM_LINES:-}
NodeName=n[1-$nodes] NodeHostname=localhost NodeAddr=127.0.0.1 Port=[$((port + 12))-$((port + 11 + nodes))] CPUs=$cpus RealMemory=$memory Gres=gpu:test:2 State=UNKNOWN
PartitionName=standard Nodes=ALL Default=YES MaxTime=INFINITE State=UP
PartitionName=small Nodes=n1 MaxTime=INFINITE State=UP
PartitionName=closed Nodes=ALL MaxTime=INFINITE State=DOWN
END
    # Two GPUs that are none: Slurm asks for a device file of each.
    printf 'Name=gpu Type=test File=/dev/%s\n' null zero >"$root/gres.conf"
}

controller_up() {
    running slurmctld slurmctld || setsid slurmctld -f "$SLURM_CONF" || fail "slurmctld: $(log_of slurmctld)"
    until_true 60 scontrol ping || fail "slurmctld does not answer: $(log_of slurmctld)"
}

all_idle() { [ "$(sinfo -h -N -t idle,mix,alloc -p standard -o %N | sort -u | wc -l)" = "$nodes" ]; }

up() {
    umask 022
    mkdir -p "$root"/{run,log,state,spool,munge}
    chmod 700 "$root/munge"
    configuration
    munge_up
    [ "$accounting" != yes ] || accounting_up
    controller_up
    local n
    for n in $(seq "$nodes"); do
        if ! running "slurmd-n$n" slurmd; then
            mkdir -p "$root/spool/n$n"
            setsid slurmd -N "n$n" -f "$SLURM_CONF" || fail "slurmd: $(log_of "slurmd-n$n")"
        fi
    done
    until_true 60 all_idle || fail "not all nodes came up: $(sinfo -N -l; log_of slurmd-n1)"
    echo "export SLURM_CONF=$SLURM_CONF"
}

# stop NAME PROGRAM SIGNAL
stop() {
    running "$1" "$2" || return 0
    local pid
    pid=$(cat "$root/run/$1.pid")
    kill "-$3" "$pid" 2>/dev/null || true
    gone() { ! kill -0 "$pid"; }
    until_true 10 gone || kill -9 "$pid" 2>/dev/null || true
    rm -f "$root/run/$1.pid"
}

down() {
    [ -d "$root/run" ] || return 0
    # What jobs left behind, as the daemons know them.
    if running slurmctld slurmctld; then
        scancel -u "$(id -un)" >/dev/null 2>&1 || true
        until_true 10 bash -c '[ -z "$(squeue -h)" ]' || true
    fi
    local file name
    for file in "$root"/run/slurmd-*.pid; do
        name=$(basename "$file" .pid)
        stop "$name" slurmd TERM
    done
    stop slurmctld slurmctld TERM
    stop slurmdbd slurmdbd TERM
    stop mariadb mariadbd TERM
    stop munged munged TERM
}

case ${1:-} in
up) up ;;
down) down ;;
stop-controller) stop slurmctld slurmctld TERM ;;
*)
    echo "usage: scripts/slurm-up.sh up|down|stop-controller" >&2
    exit 2
    ;;
esac
