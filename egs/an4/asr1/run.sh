#!/usr/bin/env bash
# AN4 (spelled letters, numbers, short commands): from the raw corpus to RESULTS.md.
#   SPEECHMTP_CORPORA=/path/to/corpora ./run.sh          about 90 minutes on two cores
#   ./run.sh --data-args "--download true"               fetches the corpus first
#   ./run.sh --tiny                                      every stage in about two minutes
#   ./run.sh --help                                      options and stages
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
# shellcheck source=egs/an4/asr1/path.sh
. ./path.sh
# shellcheck source=egs/an4/asr1/cmd.sh
. ./cmd.sh

# Words to spell in the texts of the text-only training stage; without the file that source is left out.
words=${SPEECHMTP_CORPORA:-}/text/lm_en.txt.gz
text_args=""
[[ ! -f $words ]] || text_args="--words $words"

# Options given by the caller come last and win.
export RECIPE_SCRIPT=./run.sh RECIPE_ARGUMENTS="$*"
exec ../../../recipes/asr.sh \
  --corpus an4 \
  --train-set train --dev-set dev --test-sets test \
  --vocab-size 30 --text-args "$text_args" \
  "$@"
