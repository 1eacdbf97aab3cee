#!/usr/bin/env bash
# A Cloud TPU slice: create it, set it up, run on all its hosts.
#
#   export NAME=siglip ZONE=us-central2-b TYPE=v4-32
#   launch/tpu_pod.sh create [--spot]
#   launch/tpu_pod.sh setup          # copies this checkout's HEAD, installs it
#   launch/tpu_pod.sh run --config configs/siglip.py:data=... --workdir gs://my-bucket/siglip
#   launch/tpu_pod.sh logs [--all] | stop | delete
#
# Where capacity is short, as of v5e and v6e, queue for it in place of create:
#
#   launch/tpu_pod.sh queue --spot --valid-until-duration=12h
#   launch/tpu_pod.sh status | dequeue
#
# queue waits until the slice is there, and asks again, up to RETRIES (100) times,
# where the request fails or has been preempted. SLICES=2 queues for two slices,
# which train as one. dequeue deletes the request and what it brought.
#
# `run` again after a failure, a stop or a preemption resumes from the newest
# checkpoint; the workdir must be in a bucket, or on a disk that all hosts share.
# --dry-run before the verb prints the commands and runs none.
set -euo pipefail

name=${NAME:-big-contrastive}
zone=${ZONE:-us-central2-b}
type=${TYPE:-v4-8}
slices=${SLICES:-1}
image=${IMAGE:-tpu-ubuntu2204-base} # v2-alpha-tpuv5-lite or -tpuv6e for those

usage() { sed -n '2,21p' "$0" | sed 's/^# \{0,1\}//'; }

if [ "${1:-}" = --dry-run ]; then
  DRY_RUN=1
  shift
fi
call() {
  if [ -n "${DRY_RUN:-}" ]; then
    printf '%q ' "$@"
    echo
  else
    "$@"
  fi
}

tpu() { call gcloud compute tpus tpu-vm "$@" --zone="$zone"; }
queued() { call gcloud compute tpus queued-resources "$@" --zone="$zone"; }

# Several slices are named after the request: NAME-0, NAME-1.
nodes=("$name")
request=("--node-id=$name")
if [ "$slices" != 1 ]; then
  request=("--node-count=$slices" "--node-prefix=$name")
  nodes=()
  for ((i = 0; i < slices; i++)); do nodes+=("$name-$i"); done
fi
everywhere() {
  local node
  for node in "${nodes[@]}"; do
    tpu ssh "$node" --worker=all --command="$1"
  done
}

state() { queued describe "$name" --format='value(state.state)'; }

queue() {
  local again now
  for ((again = 0; again <= ${RETRIES:-100}; again++)); do
    queued create "$name" "${request[@]}" --accelerator-type="$type" \
      --runtime-version="$image" "$@"
    [ -z "${DRY_RUN:-}" ] || { state && return; }
    while now=$(state); [ "$now" != ACTIVE ]; do
      echo "$name: $now" >&2
      case "$now" in
        FAILED | SUSPENDED) break ;;
      esac
      sleep 60
    done
    [ "$now" != ACTIVE ] || return 0
    queued delete "$name" --force --quiet
  done
  echo "error: NAME = $name; expected capacity within ${RETRIES:-100} retries." \
    "Ask in another ZONE." >&2
  return 1
}

# From its beginning, so as not to find the shell that runs pgrep or pkill.
ours='^\.venv/bin/python -m big_contrastive'

case "${1:-}" in
  create)
    shift
    tpu create "$name" --accelerator-type="$type" --version="$image" "$@"
    ;;
  queue) shift && queue "$@" ;;
  status) state ;;
  dequeue) queued delete "$name" --force --quiet ;;
  setup)
    archive=/tmp/big_contrastive.tar.gz
    call git archive --format=tar.gz --prefix=big_contrastive/ -o "$archive" HEAD
    for node in "${nodes[@]}"; do
      tpu scp "$archive" "$node": --worker=all
    done
    # The image's own Python is 3.10; uv brings a newer one.
    everywhere "tar xf big_contrastive.tar.gz && cd big_contrastive \
      && python3 -m pip install --quiet uv \
      && python3 -m uv venv --allow-existing --python 3.12 .venv \
      && python3 -m uv pip install --quiet --python .venv/bin/python \
        -c requirements-3.12.lock -e '.[tpu,gcs]'"
    ;;
  run)
    shift
    flags=$(printf '%q ' "$@")
    everywhere "cd big_contrastive || exit 1; if pgrep -f '$ours' > /dev/null; \
      then echo 'error: NAME = $name; expected a slice without a run.' \
      'Stop it first: launch/tpu_pod.sh stop.' >&2; exit 1; fi; \
      nohup .venv/bin/python -m big_contrastive.train --distributed $flags \
      >> train.log 2>&1 < /dev/null &"
    ;;
  logs)
    log=big_contrastive/train.log
    if [ "${2:-}" = --all ]; then
      # What each host wrote last, behind the host's name.
      everywhere "tail -n 20 $log | sed \"s/^/\$(hostname): /\""
    else
      tpu ssh "${nodes[0]}" --worker=0 --command="tail -f $log"
    fi
    ;;
  # SIGTERM: it saves first.
  stop) everywhere "pkill -TERM -f '$ours'" ;;
  delete) tpu delete "$name" --quiet ;;
  *)
    usage
    [ "${1:-}" = --help ] && exit 0
    exit 2
    ;;
esac
