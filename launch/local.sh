#!/usr/bin/env bash
# Several processes on this machine, joined by jax.distributed.
#
#   launch/local.sh -n 2 -m 4 --config configs/siglip.py:smoke --workdir runs/x
#
# -n PROCESSES   how many processes (2)
# -m DEVICES     virtual CPU devices for each of them (1)
# -g GPUS        GPUs for each of them, instead of virtual devices
# --restart      starts all again when one dies, up to 100 times; not after a
#                wrong input (exit code 2) or numbers that aren't finite (3)
#
# The rest goes to python -m big_contrastive.train --distributed. PYTHON and
# MODULE in the environment choose another interpreter and module. Output of
# process 0 is shown; that of the others is kept, and named if one fails.
# SIGTERM is passed on: the run saves and ends with exit code 75.
set -euo pipefail

usage() { sed -n '2,15p' "$0" | sed 's/^# \{0,1\}//'; }

fail() {
  echo "error: $1" >&2
  exit 2
}

processes=2
devices=1
gpus=
restarts=0
while [ $# -gt 0 ]; do
  case "$1" in
    -n | -m | -g)
      [[ ${2:-} =~ ^[1-9][0-9]*$ ]] ||
        fail "$1 = '${2:-}'; expected an integer from 1. See --help."
      case "$1" in
        -n) processes=$2 ;;
        -m) devices=$2 ;;
        -g) gpus=$2 ;;
      esac
      shift 2
      ;;
    --restart) restarts=100 && shift ;;
    -h | --help) usage && exit 0 ;;
    --) shift && break ;;
    *) break ;;
  esac
done

python=${PYTHON:-python3}
module=${MODULE:-big_contrastive.train}
export JAX_NUM_PROCESSES="$processes"
if [ -z "$gpus" ]; then
  export JAX_PLATFORMS=cpu JAX_NUM_CPU_DEVICES="$devices"
  # Twice the devices at least: with fewer threads jax < 0.11 can hang.
  export PJRT_NPROC=$((devices * 2 > 16 ? devices * 2 : 16))
else
  found=$({ nvidia-smi --list-gpus 2> /dev/null || true; } | wc -l)
  [ "$found" -ge $((processes * gpus)) ] ||
    fail "-n x -g = $((processes * gpus)); expected up to $found, the GPUs here."
fi

logs=$(mktemp -d)
pids=()
stopped=
# What SIGTERM (143) ends before it can hear it has begun nothing.
trap 'code=$?
  kill -KILL "${pids[@]}" 2> /dev/null || true
  [ "$stopped $code" != "1 143" ] || exit 75' EXIT
trap 'stopped=1; kill -TERM "${pids[@]}" 2> /dev/null || true' TERM

# Starts all processes; a port of their own each time, as the old may linger.
start() {
  local port i
  port=$("$python" -c 'import socket; s = socket.socket(); s.bind(("", 0)); print(s.getsockname()[1])')
  export JAX_COORDINATOR_ADDRESS="localhost:$port"
  pids=()
  for ((i = 0; i < processes; i++)); do
    export JAX_PROCESS_ID=$i
    if [ -n "$gpus" ]; then
      CUDA_VISIBLE_DEVICES=$(seq -s, $((i * gpus)) $(((i + 1) * gpus - 1)))
      export CUDA_VISIBLE_DEVICES
    fi
    if [ "$i" = 0 ]; then
      "$python" -m "$module" --distributed "$@" &
    else
      "$python" -m "$module" --distributed "$@" >> "$logs/$i" 2>&1 &
    fi
    pids+=($!)
  done
}

# Waits for all; sets code to the exit code of the first that fails, or 0.
# Polled, as `wait -n` can miss one of two that end together.
watch() {
  local i tenths
  code=0
  while [ ${#pids[@]} -gt 0 ]; do
    sleep 0.2
    for i in "${!pids[@]}"; do
      if kill -0 "${pids[i]}" 2> /dev/null; then continue; fi
      code=0
      wait "${pids[i]}" || code=$?
      unset "pids[i]"
      [ "$code" = 0 ] && continue
      # The others get a moment to say what is wrong, two minutes to save.
      tenths=$([ "$code" = 75 ] && echo 1200 || echo 30)
      while [ "$tenths" -gt 0 ] && kill -0 "${pids[@]}" 2> /dev/null; do
        sleep 0.2
        tenths=$((tenths - 2))
      done
      echo "error: process $i of $processes ended with exit code $code;" \
        "output of the processes from 1 on: $logs" >&2
      kill -KILL "${pids[@]}" 2> /dev/null || true
      wait
      pids=()
      return
    done
  done
}

for ((again = 1; ; again++)); do
  start "$@"
  [ -z "$stopped" ] || kill -TERM "${pids[@]}" 2> /dev/null || true
  watch
  case "$code" in
    0) rm -rf "$logs" && exit 0 ;;
    2 | 3) exit "$code" ;;
  esac
  if [ -n "$stopped" ] || [ "$again" -gt "$restarts" ]; then exit "$code"; fi
  echo "starting again ($again of at most $restarts)" >&2
  sleep 1
done
