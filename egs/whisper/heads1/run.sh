#!/usr/bin/env bash
# Three families of heads for Whisper tiny.en.
#   SPEECHMTP_CORPORA=/path/to/corpora ./run.sh                 about an hour and a half on two cores
#   ./run.sh --model FOLDER                                     another English Whisper, as transformers has it; a folder in
#                                                               CTranslate2's format goes through tools/from_ctranslate2.py
#   ./run.sh --help                                             options and stages
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
# shellcheck source=egs/whisper/heads1/path.sh
. ./path.sh

export RECIPE_SCRIPT=./run.sh RECIPE_ARGUMENTS="$*"
exec ../../../recipes/pretrained.sh --model openai/whisper-tiny.en \
  --tests "librispeech_dev librispeech_other5 an4_test speechocean_test" --batch-sizes 1 --drafts int8 "$@"
