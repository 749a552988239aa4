#!/usr/bin/env bash
# Sweep on a real SLURM: one node with accounting, started here without systemd, used, killed at, and taken down.
#   scripts/slurm_test.sh [PYTHON]      as root, with slurm-wlm, munge, slurmdbd and mariadb-server (Debian packages)
# Two sessions x two models. One job is killed with SIGKILL, one requeued, one runs out of time: the first is reported,
# the others resume. A second sweep finishes the first alone, though its node fails meanwhile. Then two tasks of a job train
# one decoder: one is killed, the other ends with it, and the same command finishes.
# Exit code 0: all seen; 1: not; 77: this machine cannot (no root or no packages), and why.
set -euo pipefail
python=$(readlink -f "$(dirname "${1:-.venv/bin/python}")")/$(basename "${1:-.venv/bin/python}")
cannot() { echo "slurm test not run: $1"; exit 77; }
[ "$(id -u)" = 0 ] || cannot "it needs root"
for program in munged slurmctld slurmd slurmdbd mariadbd mariadb-install-db; do
  command -v $program >/dev/null || cannot "$program is not installed (slurm-wlm munge slurmdbd mariadb-server)"
done
"$python" -c 'import hydra_plugins.hydra_submitit_launcher' 2>/dev/null || cannot "the extra is missing: pip install -e '.[sweep]'"

D=$(mktemp -d); mkdir -p "$D"/{state,spool,log,work}; chmod 755 "$D"
host=$(hostname -s)
memory=$(awk '/MemTotal/{print int($2 / 1024 * 0.9)}' /proc/meminfo)
port=$((20000 + $$ % 20000))

take_down() {
  status=$?
  [ $status = 0 ] || { echo "--- logs"; tail -n 5 "$D"/log/*.log "$D"/work/*.out 2>/dev/null || true; }
  for daemon in slurmd slurmctld slurmdbd mariadb munged; do
    [ -s "$D/$daemon.pid" ] && kill "$(cat "$D/$daemon.pid")" 2>/dev/null || true
  done
  sleep 1
  rm -rf "$D"
  exit $status
}
trap take_down EXIT

wait_for() {  # wait_for WHAT COMMAND...: up to a minute
  local what=$1; shift
  for _ in $(seq 300); do "$@" >/dev/null 2>&1 && return 0; sleep 0.2; done
  echo "$what did not come up"; return 1
}

write_configuration() {
  dd if=/dev/urandom of="$D/munge.key" bs=1024 count=1 status=none; chmod 400 "$D/munge.key"
  cat > "$D/slurm.conf" <<C
ClusterName=test
SlurmctldHost=$host(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket=$D/munge.sock,cred_expire=5
KillWait=2
CredType=cred/munge
SlurmctldPort=$port
SlurmdPort=$((port + 1))
StateSaveLocation=$D/state
SlurmdSpoolDir=$D/spool
SlurmctldPidFile=$D/slurmctld.pid
SlurmdPidFile=$D/slurmd.pid
SlurmctldLogFile=$D/log/slurmctld.log
SlurmdLogFile=$D/log/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
ReturnToService=2
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
DefMemPerCPU=512
SchedulerParameters=sched_interval=2,bf_interval=2,batch_sched_delay=0
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=127.0.0.1
AccountingStoragePort=$((port + 2))
AccountingStoragePass=$D/munge.sock
NodeName=$host NodeAddr=127.0.0.1 CPUs=$(nproc) RealMemory=$memory State=UNKNOWN
PartitionName=debug Nodes=$host Default=YES MaxTime=INFINITE State=UP
C
  cat > "$D/slurmdbd.conf" <<C
AuthType=auth/munge
AuthInfo=socket=$D/munge.sock
DbdHost=localhost
DbdAddr=127.0.0.1
DbdPort=$((port + 2))
SlurmUser=root
LogFile=$D/log/slurmdbd.log
PidFile=$D/slurmdbd.pid
StorageType=accounting_storage/mysql
StorageHost=localhost
StorageUser=root
StorageLoc=accounting
C
  chmod 600 "$D/slurmdbd.conf"
}

bring_up() {
  munged --force --key-file="$D/munge.key" --socket="$D/munge.sock" --log-file="$D/log/munged.log" \
         --pid-file="$D/munged.pid" --seed-file="$D/munge.seed" --num-threads=2
  mariadb-install-db --no-defaults --datadir="$D/mysql" --user=root --auth-root-authentication-method=normal \
    > "$D/log/mysql_install.log" 2>&1
  setsid mariadbd --no-defaults --user=root --datadir="$D/mysql" --socket="$D/mysql.sock" --skip-networking \
    --pid-file="$D/mariadb.pid" --innodb-buffer-pool-size=64M > "$D/log/mariadb.log" 2>&1 < /dev/null &
  wait_for "the database" mariadb-admin --no-defaults -S "$D/mysql.sock" ping
  MYSQL_UNIX_PORT="$D/mysql.sock" SLURM_CONF="$D/slurmdbd.conf" setsid slurmdbd -D > "$D/log/slurmdbd.out.log" 2>&1 < /dev/null &
  wait_for "accounting" bash -c "exec 3<>/dev/tcp/127.0.0.1/$((port + 2))"
  slurmctld -c -f "$SLURM_CONF"
  slurmd -f "$SLURM_CONF" -N "$host"
  wait_for "the node" bash -c '[ "$(timeout 2 sinfo -h -o %t)" = idle ]'
}

sweep() {  # two sessions x two models; enough epochs to be caught at it
  (cd "$D/work" && "$python" -m bci_decode.train -m hydra/launcher=slurm_cpu hydra.launcher.mem_gb=1 \
     hydra.launcher.partition=debug hydra.launcher.timeout_min=20 session.seed=1,2 'session.name=sim${session.seed}' \
     session.minutes=1 model=gru,lngru model.recurrent.hidden_size=16 trainer.epochs=150 trainer.patience=null)
}

together() {  # two sessions, one decoder: a job of two tasks, of which the one with number 1 is killed in the first sweep
  (cd "$D/work" && "$python" -m bci_decode.train -m hydra/launcher=slurm_cpu hydra.launcher.mem_gb=1 \
     hydra.launcher.partition=debug hydra.launcher.timeout_min=20 hydra.launcher.tasks_per_node=2 output_dir=together \
     experiment=multi_session "sessions=[$(find data -name '*.mat' | sort | tr '\n' ',' | sed 's/,$//')]" model=gru \
     model.recurrent.hidden_size=16 trainer.epochs=100 figures=none)
}

kill_task() {
  wait_for "the decoder of two sessions" bash -c "ls '$D'/work/together/*/*/gru/seed0.running/last.pt"
  for process in $(pgrep -f submitit.core._submit); do
    if [ "$(value "$process" SLURM_PROCID)" = 1 ] && [ "$(value "$process" SLURM_STEP_ID)" = 0 ]; then
      kill -9 "$process"; echo "killed a task of the decoder of two sessions"
    fi
  done
}

value() { tr '\0' '\n' < "/proc/$1/environ" | sed -n "s/^$2=//p"; }

catch() {  # the next run with an epoch on disk that was not caught before: its name, process and job
  for _ in $(seq 900); do
    for last in "$D"/work/outputs/default/*/*/seed0.running/last.pt; do
      [ -e "$last" ] || continue
      folder=$(dirname "$last"); [ -e "$folder/metrics.json" ] && continue
      run=${folder#"$D"/work/outputs/default/}
      grep -qsx "$run" "$D/work/caught$1" && continue
      for process in $(pgrep -f submitit.core._submit); do
        if ls -l "/proc/$process/fd" 2>/dev/null | grep -q "$(dirname "$folder")/.seed0.lock\$"; then
          job=$(value "$process" SLURM_ARRAY_JOB_ID)_$(value "$process" SLURM_ARRAY_TASK_ID)
          echo "$run" >> "$D/work/caught$1"
          return 0
        fi
      done
    done
    sleep 0.1
  done
  echo "no run was caught"; return 1
}

restarts() { scontrol show job "$1" | grep -q "Restarts=1"; }

kill_requeue_and_time_out() {
  catch 1
  kill -9 "$process"; echo "killed the run in $run"
  catch 1
  scontrol requeue "$job"; wait_for "the requeued job" restarts "$job"; echo "requeued the run in $run"
  catch 1  # it stands still until SLURM, which looks at the time every 30 s, warns it
  kill -STOP "$process"
  scontrol update JobId="$job" TimeLimit=1
  wait_for "the job that ran out of time" restarts "$job"
  scontrol update JobId="$job" TimeLimit=20; echo "let the time of the run in $run run out"
}

fail_node() {  # all that SLURM has there ends at once
  catch 2
  kill -9 "$(cat "$D/slurmd.pid")" $(pgrep -f "^slurmstepd: \[$(value "$process" SLURM_JOB_ID)\.") "$process"
  scontrol update NodeName="$host" State=DOWN Reason=test; echo "failed the node of the run in $run"
  wait_for "the job of the failed node" restarts "$job"
  sleep 6  # SLURM trusts no credential of a requeued job that is younger
  slurmd -f "$SLURM_CONF" -N "$host"
}

expect() { grep -q -- "$2" "$1" || { echo "expected '$2' in:"; cat "$1"; exit 1; }; }

write_configuration
export SLURM_CONF="$D/slurm.conf"
bring_up
echo "SLURM $(sinfo --version | cut -d' ' -f2) is up: node $host, $(nproc) processors"

(cd "$D/work" && kill_requeue_and_time_out) > "$D/work/faults1.out" 2>&1 & faults=$!
sweep > "$D/work/first.out" 2>&1 && { echo "the first sweep reported no failure"; cat "$D/work/first.out"; exit 1; }
wait $faults || { cat "$D/work/faults1.out"; exit 1; }
cat "$D/work/faults1.out"; tail -n 5 "$D/work/first.out"
expect "$D/work/first.out" "sweep: 3 done, 0 skipped, 1 failed"
expect "$D/work/first.out" "killed or out of memory; the same command resumes it"

fail_node > "$D/work/faults2.out" 2>&1 & faults=$!
sweep > "$D/work/second.out" 2>&1 || { cat "$D/work/second.out"; exit 1; }
wait $faults || { cat "$D/work/faults2.out"; exit 1; }
cat "$D/work/faults2.out"; tail -n 5 "$D/work/second.out"
expect "$D/work/second.out" "sweep: 1 done, 3 skipped, 0 failed"
while read -r run; do
  expect "$D/work/outputs/default/${run%.running}/train.log" "resuming from epoch"
done < "$D/work/caught1"

(cd "$D/work" && kill_task) > "$D/work/faults3.out" 2>&1 & faults=$!
together > "$D/work/third.out" 2>&1 && { echo "a killed task was not reported"; cat "$D/work/third.out"; exit 1; }
wait $faults || { cat "$D/work/faults3.out"; exit 1; }
cat "$D/work/faults3.out"; tail -n 2 "$D/work/third.out"
expect "$D/work/third.out" "sweep: 0 done, 0 skipped, 1 failed"
together > "$D/work/fourth.out" 2>&1 || { cat "$D/work/fourth.out"; exit 1; }
tail -n 2 "$D/work/fourth.out"
expect "$D/work/fourth.out" "sweep: 1 done, 0 skipped, 0 failed"
expect "$(ls "$D"/work/together/*/*/gru/seed0/train.log)" "resuming from epoch"
sacct -n -X --duplicates -o JobID%12,State%12 | sed 's/^/accounting: /'
echo "slurm test passed"
