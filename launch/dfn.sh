#!/usr/bin/env bash
# DFN on the embedded data set: filter, fine-tune and average it, score, keep,
# train. Give the same command again after a kill: what is done stays.
#
#   launch/dfn.sh OUT [smoke]
set -euo pipefail

out=${1:?"launch/dfn.sh OUT [smoke]"}
smoke=${2:+,smoke}
python=${PYTHON:-python}
pool="shapes:split=train[20%:],wrong=0.5"
[ -z "$smoke" ] || pool+=",train_size=512,size=32"
mkdir -p "$out"

train() {
  "$python" -m big_contrastive.train --workdir "$out/$1" \
    --config "configs/dfn.py:part=$1$smoke${2:+,$2}"
}

train filter
train finetuned "init=$out/filter"
[ -e "$out/mean" ] || "$python" -m big_contrastive.convert \
  --from "$out/filter" --average "$out/finetuned" \
  --to "$out/mean" --format checkpoint
"$python" -m big_contrastive.embed --checkpoint "$out/mean" \
  --data "$pool" --dtype none --out "$out/embedded"
[ -e "$out/scores" ] || "$python" -m big_contrastive.score \
  --embedded "$out/embedded" --out "$out/scores"
[ -e "$out/kept.npy" ] || "$python" -m big_contrastive.keep \
  --scores "$out/scores" --fraction 0.5 --out "$out/kept.npy" \
  --picture "$out/kept.png" --data "$pool"
train kept "kept=$out/kept.npy"
train all
