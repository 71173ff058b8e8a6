#!/usr/bin/env bash
# heads.sh: the head sets of conf/sets.txt for exp/big/model in exp/heads, and what they would accept on dev.
set -euo pipefail
# shellcheck source=recipes/lib/stage.sh
. "$SPEECHMTP_ROOT/recipes/lib/stage.sh"
model=exp/big/model
sets=() inputs=()
mapfile -t lines < <(grep -v '^#' conf/sets.txt)
for line in "${lines[@]}"; do
  read -r name _ options <<< "$line"
  read -ra words <<< "$options"
  sets+=(--heads "exp/heads/$name")
  inputs+=(--in "exp/heads/$name/heads.safetensors")
  step --resumable --in "$model" --in data/heads.txt --in data/dev.txt --in conf/heads.yaml \
    --out "exp/heads/$name" --makes "exp/heads/$name/heads.safetensors" \
    --via "${train_cmd:-run.py}" --log "exp/heads/log/$name.log" -- \
    speechmtp train heads --model "$model" --config conf/heads.yaml --train data/heads.txt --dev data/dev.txt \
    --out "exp/heads/$name" --threads 1 "${words[@]}"
done
step --in "$model" --in data/dev.txt "${inputs[@]}" --out exp/report --stdout exp/report.txt -- \
  speechmtp heads report data/dev.txt --model "$model" "${sets[@]}" --prompt-tokens 32 --max-new-tokens 96 --threads 1 --out exp/report
