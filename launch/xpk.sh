#!/usr/bin/env bash
# A workload of XPK: TPU slices on a GKE cluster that `xpk cluster create` made.
#
#   export CLUSTER=my-cluster IMAGE=YOUR_REGISTRY/big_contrastive:tpu
#   launch/xpk.sh --config siglip:data=... --workdir gs://my-bucket/siglip
#
# NAME (big-contrastive), TYPE (v5litepod-16) and SLICES (1) say what and where;
# launch/docker/Dockerfile makes the image. It starts again, and resumes, but not
# after a wrong input (exit code 2) or numbers that aren't finite (3).
set -euo pipefail
[ "${1:-}" != --help ] || { sed -n '2,9p' "$0" | sed 's/^# \{0,1\}//' && exit 0; }
exec xpk workload create --cluster="${CLUSTER:?a GKE cluster}" \
  --workload="${NAME:-big-contrastive}" --tpu-type="${TYPE:-v5litepod-16}" \
  --num-slices="${SLICES:-1}" --docker-image="${IMAGE:?a Docker image}" \
  --max-restarts=100 --restart-on-exit-codes=1,4,75 \
  --command="python -m big_contrastive.train --distributed $(printf '%q ' "$@")"
