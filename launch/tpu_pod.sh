#!/usr/bin/env bash
# A Cloud TPU slice: create it, set it up, run on all its hosts.
#
#   export NAME=siglip ZONE=us-central2-b TYPE=v4-32
#   launch/tpu_pod.sh create [--spot]
#   launch/tpu_pod.sh setup          # copies this checkout's HEAD, installs it
#   launch/tpu_pod.sh run --config configs/siglip.py:data=... --workdir /mnt/runs/siglip
#   launch/tpu_pod.sh logs | stop | delete
#
# `run` again after a failure, a stop or a preemption resumes from the newest
# checkpoint; the workdir must be on a disk that all hosts share, or in a bucket.
# --dry-run before the verb prints the commands and runs none.
set -euo pipefail

name=${NAME:-big-contrastive}
zone=${ZONE:-us-central2-b}
type=${TYPE:-v4-8}
image=${IMAGE:-tpu-ubuntu2204-base} # v2-alpha-tpuv5-lite or -tpuv6e for those

usage() { sed -n '2,12p' "$0" | sed 's/^# \{0,1\}//'; }

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
everywhere() { tpu ssh "$name" --worker=all --command="$1"; }

# From its beginning, so as not to find the shell that runs pgrep or pkill.
ours='^\.venv/bin/python -m big_contrastive'

case "${1:-}" in
  create)
    shift
    tpu create "$name" --accelerator-type="$type" --version="$image" "$@"
    ;;
  setup)
    archive=/tmp/big_contrastive.tar.gz
    call git archive --format=tar.gz --prefix=big_contrastive/ -o "$archive" HEAD
    tpu scp "$archive" "$name": --worker=all
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
  logs) tpu ssh "$name" --worker=0 --command="tail -f big_contrastive/train.log" ;;
  # SIGTERM: it saves first.
  stop) everywhere "pkill -TERM -f '$ours'" ;;
  delete) tpu delete "$name" --quiet ;;
  *)
    usage
    [ "${1:-}" = --help ] && exit 0
    exit 2
    ;;
esac
