#!/usr/bin/env bash
# Data directories from those of the Moonshine recipe: all of LibriSpeech's part and two utterances of every other training
# speaker, since Whisper hears 30 s of every one of them. Called by recipes/pretrained.sh in the recipe folder.
set -euo pipefail
# shellcheck source=recipes/lib/stage.sh
. "$SPEECHMTP_ROOT/recipes/lib/stage.sh"

first=../../moonshine/heads1
"$first/run.sh" --only data
mkdir -p data
# Readers of LibriSpeech's part that are not held out.
# shellcheck disable=SC2016 # awk's own
step --in "$first/conf/dev_speakers" --stdout data/readers -- \
  awk 'FNR == NR {held[$1]; next} !($1 in held)' "$first/conf/dev_speakers" "$SPEECHMTP_CORPORA/librispeech/train/spk2utt"
step --in data/readers --out data/librispeech --out data/rest -- \
  speechmtp data subset "$first/data/train" data/librispeech --spk-list data/readers --rest data/rest
step --in data/rest --out data/others -- speechmtp data subset data/rest data/others --per-spk 2
step --in data/librispeech --in data/others --out data/train -- speechmtp data combine data/train data/librispeech data/others
for set in dev tune librispeech_dev librispeech_other5 an4_test speechocean_test; do
  source=$set
  [[ $set != dev ]] || source=tune # thirty utterances choose checkpoints too
  step --in "$first/data/$source" --out "data/$set" -- speechmtp data combine "data/$set" "$first/data/$source"
done
