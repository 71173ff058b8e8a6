#!/usr/bin/env bash
# Train one head set, if it is not there: train.sh SECONDS MODEL EXP NAME BASE OPTIONS...
# BASE names the line of conf/chosen.yaml whose learning rate and number of updates are taken (-: NAME's own).
set -euo pipefail
seconds=$1 model=$2 exp=$3 name=$4 base=$5
shift 5
[[ $base != - ]] || base=$name
out=$exp/$name
if [[ -f $out/heads.safetensors || -d $out/model ]]; then
  echo "$out: up to date"
  exit 0
fi
line=$("${PYTHON:-python3}" "$(dirname "${BASH_SOURCE[0]}")/choose.py" show "$base" "$seconds")
read -ra chosen <<< "$line"
targets=own
[[ " $* " != *" targets=text "* ]] || targets=text
resume=()
[[ ! -f $out/train.yaml ]] || resume=(--resume)
mkdir -p "$exp/log"
speechmtp train heads --model "$model" --config conf/train.yaml --train "$TRAIN_DIR" --dev "$DEV_DIR" \
  --prompts "$exp/prompts_$targets.safetensors" --out "$out" --threads 1 "${resume[@]}" \
  "$@" "${chosen[@]}" > "$exp/log/$name.log" 2>&1 || { tail -n 3 "$exp/log/$name.log" >&2; exit 1; }
tail -n 2 "$exp/log/$name.log" | head -n 1 | sed "s|^|$name: |"
