#!/usr/bin/env bash
# Several processes on this machine, joined by jax.distributed.
#
#   launch/local.sh -n 2 -m 4 --config configs/siglip.py:smoke --workdir runs/x
#
# -n PROCESSES   how many processes (2)
# -m DEVICES     virtual CPU devices for each of them (1)
#
# The rest goes to python -m big_contrastive.train --distributed. PYTHON and
# MODULE in the environment choose another interpreter and module. Output of
# process 0 is shown; that of the others is kept, and named if one fails.
set -euo pipefail

usage() { sed -n '2,13p' "$0" | sed 's/^# \{0,1\}//'; }

processes=2
devices=1
while [ $# -gt 0 ]; do
  case "$1" in
    -n) processes=$2 && shift 2 ;;
    -m) devices=$2 && shift 2 ;;
    -h | --help) usage && exit 0 ;;
    --) shift && break ;;
    *) break ;;
  esac
done
for number in "$processes" "$devices"; do
  if ! [[ $number =~ ^[1-9][0-9]*$ ]]; then
    echo "error: -n or -m = '$number': allowed is a number from 1. See --help." >&2
    exit 2
  fi
done

python=${PYTHON:-python3}
module=${MODULE:-big_contrastive.train}
logs=$(mktemp -d)
port=$("$python" -c 'import socket; s = socket.socket(); s.bind(("", 0)); print(s.getsockname()[1])')
export JAX_COORDINATOR_ADDRESS="localhost:$port" JAX_NUM_PROCESSES="$processes"
export JAX_PLATFORMS=cpu JAX_NUM_CPU_DEVICES="$devices"
# Twice the devices at least: with fewer threads jax < 0.11 can hang.
export PJRT_NPROC=$((devices * 2 > 16 ? devices * 2 : 16))

pids=()
# After jax.distributed.initialize a process ignores SIGTERM.
trap 'kill -KILL "${pids[@]}" 2> /dev/null || true' EXIT
for ((i = 0; i < processes; i++)); do
  log="$logs/$i.log"
  if [ "$i" = 0 ]; then log=/dev/stderr; fi
  JAX_PROCESS_ID=$i "$python" -m "$module" --distributed "$@" \
    > >(if [ "$i" = 0 ]; then cat; else cat > "$logs/$i.out"; fi) 2> "$log" &
  pids+=($!)
done

# The first that fails ends all.
for ((i = 0; i < processes; i++)); do
  code=0
  wait -n "${pids[@]}" || code=$?
  if [ "$code" != 0 ]; then
    echo "error: a process ended with exit code $code; logs of the others: $logs" >&2
    exit "$code"
  fi
done
rm -rf "$logs"
