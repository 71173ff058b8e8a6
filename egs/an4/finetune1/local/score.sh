#!/usr/bin/env bash
# local/score.sh BASE EXP: word errors of BASE and EXP/model on the development and test sets, to EXP/score.
set -euo pipefail

base=$1 exp=$2
for set in dev keep_dev test keep_test; do
  for pair in "before=$base" "after=$exp/model"; do
    out=$exp/score/${set}_${pair%%=*}
    speechmtp decode "data/$set" --model "${pair#*=}" --strategy ar --batch-size 16 --threads 1 --out "$out" > /dev/null
    printf '%s, %s: ' "$set" "${pair%%=*}"
    speechmtp score "data/$set" "$out/text" --normalizer whisper-en --out "$out/score" | sed -n 1p
  done
done
