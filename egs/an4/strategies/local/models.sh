#!/usr/bin/env bash
# models.sh: data, heads and draft LM that are not there yet, in the folders of the recipes that they belong to.
set -euo pipefail
asr=../asr1
[[ -f $asr/data/test/wav.scp && -f $asr/data/lm_text ]] || "$asr/run.sh" --stop-stage 7
if [[ ! -d $asr/exp/small/model ]]; then
  (cd "$asr" && speechmtp train asr --config conf/small.yaml --train data/train --dev data/dev --out exp/small \
    --storage int8 --threads 1)
fi
cd ../heads
export TRAIN_DIR=$asr/data/train DEV_DIR=$asr/data/dev
for list in conf/presets.txt conf/sets.txt; do
  grep -v '^#' "$list" | xargs -L 1 ../../../recipes/lib/heads/train.sh 75 an4 exp/an4
done
