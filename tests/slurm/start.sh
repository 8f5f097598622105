#!/usr/bin/env bash
# A real Slurm of one machine, on loopback: start.sh DIR [CPUS]. Prints what to set, and ends when its input does.
#
# munged, slurmctld and slurmd run below DIR, on free ports, without systemd, accounting or cgroups. Needs root, and
# Debian's packages slurmctld, slurmd and munge.
set -euo pipefail
dir=$(mkdir -p "$1" && cd "$1" && pwd)
cpus=${2:-2}
for program in munged slurmctld slurmd sbatch; do
    command -v "$program" > /dev/null || { echo "$program is not installed" >&2; exit 3; }
done
[ "$(id -u)" -eq 0 ] || { echo "slurmd needs root" >&2; exit 3; }

ports=$(python3 -c 'import socket
sockets = [socket.socket() for _ in range(2)]
[each.bind(("127.0.0.1", 0)) for each in sockets]
print(*(each.getsockname()[1] for each in sockets))')
read -r control daemon <<< "$ports"
host=$(hostname -s)

mkdir -p "$dir"/{state,spool,log}
chmod 700 "$dir"
head -c 1024 /dev/urandom > "$dir/munge.key"
chmod 400 "$dir/munge.key"
cat > "$dir/slurm.conf" << CONF
ClusterName=wavbench
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=$control
SlurmdPort=$daemon
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket=$dir/munge.socket,cred_expire=5
CredType=cred/munge
StateSaveLocation=$dir/state
SlurmdSpoolDir=$dir/spool
SlurmctldPidFile=$dir/slurmctld.pid
SlurmdPidFile=$dir/slurmd.pid
SlurmctldLogFile=$dir/log/slurmctld
SlurmdLogFile=$dir/log/slurmd
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SchedulerType=sched/builtin
SchedulerParameters=batch_sched_delay=1,sched_interval=2
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
JobRequeue=1
KillWait=5
OverTimeLimit=1
MinJobAge=300
ReturnToService=2
SwitchType=switch/none
MpiDefault=none
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
NodeName=$host NodeAddr=127.0.0.1 CPUs=$cpus RealMemory=4000 State=UNKNOWN
PartitionName=all Nodes=$host Default=YES MaxTime=INFINITE State=UP
CONF
export SLURM_CONF=$dir/slurm.conf

pids=()
stop() {
    scancel --user="$(id -un)" > /dev/null 2>&1 || true
    sleep 1
    kill "${pids[@]}" 2> /dev/null || true
    for _ in $(seq 50); do
        kill -0 "${pids[@]}" 2> /dev/null || break
        sleep 0.1
    done
    kill -9 "${pids[@]}" 2> /dev/null || true # slurmd would wait for steps that hang
}
trap stop EXIT
munged --foreground --force --key-file="$dir/munge.key" --socket="$dir/munge.socket" --pid-file="$dir/munge.pid" \
    --log-file="$dir/log/munged" --seed-file="$dir/munge.seed" > /dev/null 2>&1 < /dev/null &
pids+=($!)
while [ ! -S "$dir/munge.socket" ]; do sleep 0.1; done
slurmctld -D -c > /dev/null 2>&1 < /dev/null &
pids+=($!)
slurmd -D > /dev/null 2>&1 < /dev/null &
pids+=($!)
for _ in $(seq 300); do
    if sinfo -h -o %t 2> /dev/null | grep -q idle; then
        echo "SLURM_CONF=$SLURM_CONF"
        cat > /dev/null # until whoever started this closes it, or dies
        exit 0
    fi
    sleep 0.2
done
echo "Slurm does not start:" >&2
tail -n 5 "$dir"/log/* >&2
exit 1
