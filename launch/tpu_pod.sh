#!/usr/bin/env bash
# A Cloud TPU slice: create it, set it up, run on all its hosts.
#
#   export NAME=siglip ZONE=us-central2-b TYPE=v4-32
#   launch/tpu_pod.sh create
#   launch/tpu_pod.sh setup          # copies this checkout, installs it
#   launch/tpu_pod.sh run --config configs/siglip.py:data=... --workdir /mnt/runs/siglip
#   launch/tpu_pod.sh logs | stop | delete
#
# `run` again after a failure or a preemption resumes from the newest
# checkpoint; the workdir must be on a disk that all hosts share.
# DRY_RUN=1 prints the commands and runs none.
set -euo pipefail

name=${NAME:-big-contrastive}
zone=${ZONE:-us-central2-b}
type=${TYPE:-v4-8}
image=${IMAGE:-tpu-ubuntu2204-base}

usage() { sed -n '2,13p' "$0" | sed 's/^# \{0,1\}//'; }

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

case "${1:-}" in
  create) tpu create "$name" --accelerator-type="$type" --version="$image" ;;
  setup)
    call git archive --format=tar.gz --prefix=big_contrastive/ -o /tmp/big_contrastive.tar.gz HEAD
    tpu scp /tmp/big_contrastive.tar.gz "$name": --worker=all
    everywhere "tar xf big_contrastive.tar.gz && cd big_contrastive \
      && python3 -m venv .venv && .venv/bin/pip install -q -e '.[tpu]'"
    ;;
  run)
    shift
    flags=$(printf '%q ' "$@")
    everywhere "cd big_contrastive && nohup .venv/bin/python \
      -m big_contrastive.train --distributed $flags > train.log 2>&1 &"
    ;;
  logs) tpu ssh "$name" --worker=0 --command="tail -f big_contrastive/train.log" ;;
  stop) everywhere "pkill -KILL -f big_contrastive.train" ;;
  delete) tpu delete "$name" --quiet ;;
  *)
    usage
    [ "${1:-}" = --help ] && exit 0
    exit 2
    ;;
esac
