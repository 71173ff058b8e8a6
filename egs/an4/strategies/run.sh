#!/usr/bin/env bash
# Every strategy on AN4 with the embedded model, heads of every family and a small draft LM; the tables go to
# ../asr1/RESULTS.md.
#   SPEECHMTP_CORPORA=/path/to/corpora ./run.sh     about 20 minutes on one core, and 25 for heads and draft LM
#   ./run.sh --help                                 options and stages
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
# shellcheck source=egs/an4/strategies/path.sh
. ./path.sh
[[ $* == *--help* ]] || local/models.sh

export RECIPE_SCRIPT=./run.sh RECIPE_ARGUMENTS="$*"
sets=../heads/exp/an4
exec ../../../recipes/strategies.sh \
  --model an4 --dev ../asr1/data/dev --test ../asr1/data/test --draft-model ../asr1/exp/small/model \
  --heads "latent $sets/linear $sets/blockwise $sets/medusa $sets/layer $sets/vocalnet $sets/hydra $sets/joint \
$sets/chain_ttt $sets/eagle $sets/deepseek-mtp $sets/dflash $sets/block_gru" \
  --results ../asr1/RESULTS.md \
  "$@"
