#!/usr/bin/env bash
# A real SLURM on one machine, for tests: two emulated nodes with two fake GPUs each, accounting and preemption.
#
#   cluster.sh install   fetch what is missing (Debian packages)
#   cluster.sh start     bring everything up and wait until both nodes are idle; harmless when it is up already
#   cluster.sh node n1   bring a lost node back (its daemon was killed) and wait until it is idle
#   cluster.sh status    exit 0 when both nodes take jobs, 1 otherwise
#   cluster.sh stop      end everything that start began and delete its folder
#
# Run as root, in a container; systemd is not used. Everything lives in one folder (INTAGLIO_SLURM, by default
# /tmp/intaglio-slurm) and on ports of its own, so that a munge or a database which this machine has already is left alone.
# Outside it are a line in /etc/hosts and the link /etc/slurm/slurm.conf: SLURM_CONF would do for the clients, but
# Snakemake's plugin takes every SLURM_ variable away before it calls srun. On a machine with another SLURM, start refuses.
set -euo pipefail

folder=${INTAGLIO_SLURM:-/tmp/intaglio-slurm}
packages=(slurm-wlm slurmdbd munge mariadb-server)
node_names=(n1 n2)
hosts_line="127.0.0.1 ${node_names[*]} # intaglio-slurm"
link=/etc/slurm/slurm.conf
export SLURM_CONF=$folder/etc/slurm.conf # for the daemons, which also report the end of steps by it
PATH=$PATH:/usr/sbin:/sbin

fail() {
    echo "cluster.sh: $*" >&2
    exit 1
}

# wait_until SECONDS WHAT COMMAND...: poll, as none of these daemons says when it is ready.
wait_until() {
    local seconds=$1 what=$2 end
    shift 2
    for ((end = SECONDS + seconds; SECONDS < end; )); do
        if "$@" >/dev/null 2>&1; then return 0; fi
        sleep 0.2
    done
    for log in "$folder"/log/*.log; do
        tail -v -n 5 "$log" >&2
    done
    fail "$what is not there after $seconds s; logs: $folder/log"
}

pid_of() { cat "$folder/run/$1.pid" 2>/dev/null; }

alive() {
    local pid
    pid=$(pid_of "$1") && [ -n "$pid" ] && kill -0 "$pid" 2>/dev/null
}

# Daemons must not hold the terminal, a pipe of the caller (pytest waits for it) or our lock.
daemon() {
    local log=$folder/log/$1.log
    shift
    setsid "$@" </dev/null >>"$log" 2>&1 9>&- &
}

install_packages() {
    local missing=() policy=/usr/sbin/policy-rc.d
    for package in "${packages[@]}"; do
        dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing+=("$package")
    done
    [ ${#missing[@]} -gt 0 ] || return 0
    # Installing would start daemons on the usual ports; policy-rc.d is Debian's way to say no.
    if [ ! -e $policy ]; then
        printf '#!/bin/sh\nexit 101\n' >$policy
        chmod +x $policy
        trap 'rm -f /usr/sbin/policy-rc.d' EXIT
    fi
    apt-get update -q
    DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends "${missing[@]}"
}

write_configuration() {
    local host memory
    host=$(hostname -s)
    # Each node is configured with a third of the machine's memory, in MB, so that the sum is available.
    memory=$(awk '/^MemTotal/ {print int($2 / 1024 / 3)}' /proc/meminfo)
    mkdir -p "$folder"/{etc,run,log,state,db}
    chmod 755 "$folder" "$folder"/*

    # A requeued job waits for cred_expire seconds (reason BeginTime); 120 by default.
    cat >"$SLURM_CONF" <<CONF
ClusterName=intaglio
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=17817
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket=$folder/run/munge.socket,cred_expire=5
CryptoType=crypto/munge
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/state/spool.%n
SlurmctldPidFile=$folder/run/slurmctld.pid
SlurmdPidFile=$folder/run/slurmd.%n.pid
SlurmctldLogFile=$folder/log/slurmctld.log
SlurmdLogFile=$folder/log/slurmd.%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
ReturnToService=2
SlurmdTimeout=15
KillWait=20
JobRequeue=1

AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=127.0.0.1
AccountingStoragePort=17819
AccountingStoragePass=$folder/run/munge.socket
AccountingStorageTRES=gres/gpu
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=5

SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=1,sched_interval=2,bf_interval=2
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
DefMemPerCPU=256
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE

GresTypes=gpu
SlurmdParameters=config_overrides
NodeName=n[1-2] NodeHostname=$host NodeAddr=127.0.0.1 Port=[17001-17002] CPUs=4 RealMemory=$memory Gres=gpu:2
PartitionName=low Nodes=n[1-2] Default=YES PriorityTier=1 MaxTime=1-0
PartitionName=high Nodes=n[1-2] PriorityTier=10 MaxTime=1-0
PartitionName=spot Nodes=n[1-2] PriorityTier=1 PreemptMode=CANCEL MaxTime=1
CONF
    echo "NodeName=n[1-2] Name=gpu File=/dev/null,/dev/zero" >"$folder/etc/gres.conf"

    local password
    password=$(head -c 16 /dev/urandom | od -An -tx1 | tr -d ' \n')
    (
        umask 077 # slurmdbd refuses to start otherwise
        cat >"$folder/etc/slurmdbd.conf" <<CONF
DbdHost=$host
DbdAddr=127.0.0.1
DbdPort=17819
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket=$folder/run/munge.socket
PidFile=$folder/run/slurmdbd.pid
LogFile=$folder/log/slurmdbd.log
StorageType=accounting_storage/mysql
StorageHost=127.0.0.1
StoragePort=17306
StorageUser=slurm
StoragePass=$password
StorageLoc=slurm
CONF
        echo "CREATE DATABASE slurm; CREATE USER slurm@127.0.0.1 IDENTIFIED BY '$password';
              GRANT ALL ON slurm.* TO slurm@127.0.0.1;" >"$folder/db/create.sql"
        head -c 1024 /dev/urandom >"$folder/etc/munge.key"
    )
}

sql() { mariadb --no-defaults --socket="$folder/run/mariadb.socket" --user=root; }

answers_sql() { sql <<<'SELECT 1'; }

start_database() {
    [ -d "$folder/db/data" ] || mariadb-install-db --no-defaults --user=root --datadir="$folder/db/data" --skip-test-db \
        --auth-root-authentication-method=normal >"$folder/log/mariadb-install.log" 2>&1
    daemon mariadb mariadbd --no-defaults --user=root --datadir="$folder/db/data" --socket="$folder/run/mariadb.socket" \
        --pid-file="$folder/run/mariadb.pid" --bind-address=127.0.0.1 --port=17306 --innodb-buffer-pool-size=64M \
        --innodb-flush-log-at-trx-commit=2 --skip-name-resolve
    wait_until 60 mariadbd answers_sql
    [ ! -e "$folder/db/create.sql" ] || sql <"$folder/db/create.sql"
    rm -f "$folder/db/create.sql"
}

both_idle() { [ "$(timeout 5 sinfo --noheader --Node --partition=low --format=%t | grep -cx idle)" = ${#node_names[@]} ]; }

both_up() { [ "$(timeout 5 sinfo --noheader --Node --partition=low --format=%t | grep -cxE 'idle|mix|alloc|comp')" = ${#node_names[@]} ]; }

start() {
    [ "$(id -u)" = 0 ] || fail "start needs root (it emulates nodes and users); run it in a container"
    for program in slurmd slurmctld slurmdbd munged mariadbd; do
        command -v $program >/dev/null || fail "$program is not installed; run: $0 install"
    done
    exec 9>"$folder.lock" # two sessions may want it at once
    flock 9
    if both_up 2>/dev/null; then return; fi
    if [ -e $link ] && [ "$(readlink $link)" != "$SLURM_CONF" ]; then fail "$link belongs to another SLURM"; fi
    end_processes # what is left of a cluster that is half up
    rm -rf "$folder"
    write_configuration
    mkdir -p "$(dirname $link)"
    ln -sfn "$SLURM_CONF" $link

    # Ranks of one job find each other by the nodes' names. In a container this file can be written to, not replaced.
    grep -qxF "$hosts_line" /etc/hosts || echo "$hosts_line" >>/etc/hosts || echo "cluster.sh: no n1 and n2 in /etc/hosts" >&2

    daemon munged munged --foreground --socket="$folder/run/munge.socket" --key-file="$folder/etc/munge.key" \
        --pid-file="$folder/run/munged.pid" --log-file="$folder/log/munged.log" --seed-file="$folder/run/munge.seed"
    wait_until 10 munged munge --socket="$folder/run/munge.socket" --no-input
    start_database
    daemon slurmdbd slurmdbd -D
    wait_until 30 slurmdbd timeout 5 sacctmgr --noheader list cluster
    sacctmgr --immediate --quiet add cluster intaglio >/dev/null
    sacctmgr --immediate --quiet add account intaglio cluster=intaglio description=tests organization=tests >/dev/null
    sacctmgr --immediate --quiet add user root account=intaglio >/dev/null
    daemon slurmctld slurmctld -D
    wait_until 30 slurmctld timeout 5 scontrol ping
    for node in "${node_names[@]}"; do
        daemon "slurmd.$node" slurmd -D -N "$node"
    done
    wait_until 60 "an idle node for each of ${node_names[*]}" both_idle
}

bring_back() {
    alive "slurmd.$1" || daemon "slurmd.$1" slurmd -D -N "$1"
    wait_until 60 "an idle $1" both_idle
}

# Processes of jobs outlive the daemons; each has a slurmstepd, which names our configuration in its environment.
steps() {
    local process
    for process in /proc/[0-9]*; do
        [ "$(cat "$process/comm" 2>/dev/null)" = slurmstepd ] || continue
        if tr '\0' '\n' 2>/dev/null <"$process/environ" | grep -qxF "SLURM_CONF=$SLURM_CONF"; then
            echo "${process#/proc/}"
        fi
    done
}

no_steps() { [ -z "$(steps)" ]; }

end_processes() {
    local name pid
    [ -d "$folder/run" ] || return 0
    if alive slurmctld; then
        timeout 10 scancel --quiet --user=root 2>/dev/null || true
        for ((i = 0; i < 125; i++)); do
            if no_steps; then break; fi
            sleep 0.2
        done
    fi
    for name in slurmd.n1 slurmd.n2 slurmctld slurmdbd mariadb munged; do
        alive "$name" || continue
        pid=$(pid_of "$name")
        kill "$pid"
        for ((i = 0; i < 75; i++)); do
            if ! kill -0 "$pid" 2>/dev/null; then break; fi
            sleep 0.2
        done
        kill -9 "$pid" 2>/dev/null || true
    done
    for pid in $(steps); do
        kill -9 "$pid" 2>/dev/null || true
    done
}

stop() {
    exec 9>"$folder.lock"
    flock 9
    end_processes
    if grep -qxF "$hosts_line" /etc/hosts; then
        local kept
        kept=$(grep -vxF "$hosts_line" /etc/hosts || true)
        echo "$kept" >/etc/hosts
    fi
    if [ "$(readlink $link)" = "$SLURM_CONF" ]; then rm $link; fi
    rm -rf "$folder" "$folder.lock"
}

case ${1:-} in
    install) install_packages ;;
    start) start ;;
    stop) stop ;;
    node) bring_back "$2" ;;
    status)
        both_up 2>/dev/null || fail "not running"
        sinfo
        ;;
    *) fail "usage: cluster.sh install|start|stop|status, or node NAME" ;;
esac
