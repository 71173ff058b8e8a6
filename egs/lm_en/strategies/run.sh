#!/usr/bin/env bash
# Every strategy on a text LM, its heads and its small draft LM; the tables go to ../lm1/RESULTS.md.
#   SPEECHMTP_CORPORA=/path/to/corpora ./run.sh     about 20 minutes on one core, and 45 for the models
#   ./run.sh --help                                 options and stages
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
# shellcheck source=egs/lm_en/strategies/path.sh
. ./path.sh
lm=../lm1
if [[ $* != *--help* ]]; then
  [[ -f $lm/exp/report.txt ]] || "$lm/run.sh"
  mkdir -p data # some of the held-out documents are enough for strategies
  head -n 60 $lm/data/dev.txt > data/dev.txt
  head -n 80 $lm/data/test.txt > data/test.txt
fi

export RECIPE_SCRIPT=./run.sh RECIPE_ARGUMENTS="$*"
exec ../../../recipes/strategies.sh \
  --model $lm/exp/big/model --dev data/dev.txt --test data/test.txt --draft-model $lm/exp/small/model \
  --heads "$lm/exp/heads/chain_ttt $lm/exp/heads/block_gru $lm/exp/heads/residual $lm/exp/heads/latent $lm/exp/heads/chain_text" \
  --results $lm/RESULTS.md \
  "$@"
