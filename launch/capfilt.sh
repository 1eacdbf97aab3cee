#!/usr/bin/env bash
# CapFilt on the embedded data set: train, caption and score, train anew on what
# scores well. Give the same command again after a kill: what is done stays.
#
#   launch/capfilt.sh OUT [smoke]
#
# STEPS and THRESHOLD are those of configs/capfilt.py.
set -euo pipefail

out=${1:?"launch/capfilt.sh OUT [smoke]"}
smoke=${2:+,smoke}
python=${PYTHON:-python}
steps=${STEPS:-900}
# After eight steps nothing matches.
threshold=${THRESHOLD:-$([ -z "$smoke" ] && echo 0.5 || echo 0)}
size=""
[ -z "$smoke" ] || size=",train_size=512,size=32"
data="shapes:split=train,wrong=0.3$size"
mkdir -p "$out"

train() {
  "$python" -m big_contrastive.train --workdir "$out/$1" \
    --config "configs/capfilt.py:part=$1${smoke:-,steps=$steps}${2:+,$2}"
}

train first
"$python" -m big_contrastive.caption --model "$out/first" --data "$data" \
  --out "$out/captioned"
"$python" -m benchmarks.capfilt --captioned "$out/captioned" --data "$data" \
  --threshold "$threshold"
train retrained "captions=$out/captioned,threshold=$threshold"
for model in first retrained; do
  for task in captioning retrieval; do
    "$python" -m big_contrastive.evaluate --checkpoint "$out/$model" \
      --task "$task" --data "shapes:split=heldout$size"
  done
done
