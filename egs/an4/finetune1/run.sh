#!/usr/bin/env bash
# Moonshine tiny-en fine-tuned on AN4 while read speech is held to what the model says of it, and heads for the result.
#   SPEECHMTP_CORPORA=/path/to/corpora ./run.sh    half an hour of one core; ./run.sh --help lists the options
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
# shellcheck source=egs/an4/finetune1/path.sh
. ./path.sh
# shellcheck source=recipes/lib/log.sh
. ../../../recipes/lib/log.sh
# shellcheck source=recipes/lib/stage.sh
. ../../../recipes/lib/stage.sh
# shellcheck disable=SC2034 # options of the stage library
# begin options
stage=1         # first stage to run
stop_stage=4    # last stage to run
only=""         # run this stage alone (a name or a number)
corpora=${SPEECHMTP_CORPORA:-}  # folder that holds an4/ and librispeech/ (default: SPEECHMTP_CORPORA)
model=default   # model that is fine-tuned: a name, a folder or a hub name
parts=decoder   # what is trained: conf/<parts>.yaml
start=$SPEECHMTP_ROOT/speechmtp/assets/models/default/heads/chain # heads that those of the new trunk begin with
# end options
# shellcheck source=recipes/lib/parse_options.sh
. ../../../recipes/lib/parse_options.sh
exp=exp/$parts

if begin_stage 1 data "AN4 and LibriSpeech, each with held-out training speakers"; then local/data.sh "$corpora"; fi
if begin_stage 2 train "conf/$parts.yaml"; then
  step --in "conf/$parts.yaml" --in data/train --in data/keep --resumable --out "$exp" --makes "$exp/model/card.md" -- \
    speechmtp train asr --model "$model" --config "conf/$parts.yaml" --train data/train --keep data/keep \
    --dev data/dev --dev data/keep_dev --prompts exp/memories --threads 1 --out "$exp"
fi
if begin_stage 3 score "word errors before and after"; then local/score.sh "$model" "$exp"; fi
if begin_stage 4 heads "heads for the new trunk, and what they save"; then
  step --in data/train --in data/keep --out data/heads -- speechmtp data combine data/heads data/train data/keep
  step --in "$exp/model/card.md" --in data/heads --resumable --out "$exp/heads" --makes "$exp/heads/card.md" -- \
    speechmtp train heads --model "$exp/model" --config conf/heads.yaml --train data/heads --dev data/dev --threads 1 \
    --start "$start" --out "$exp/heads"
  speechmtp compare data/test --model "$exp/model" --heads "$exp/heads" --drafts int8 \
    --strategies ar,verify:depth=3,verify,transformers --exact --threads 1 --out "$exp/compare"
fi
