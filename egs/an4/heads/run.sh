#!/usr/bin/env bash
# Every family of heads on AN4, each trained for the same time on two frozen trunks, and losses and modes side by side.
#   SPEECHMTP_CORPORA=/path/to/corpora ./run.sh     about two hours on two cores, trunk included
#   ./run.sh --help                                 options and stages
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
# shellcheck source=egs/an4/heads/path.sh
. ./path.sh

# Data directories, and a trunk of the recognition recipe that has never seen heads.
asr=../asr1
if [[ $* != *--help* ]]; then
  [[ -f $asr/data/test/wav.scp && -f $asr/data/lm_text ]] || "$asr/run.sh" --stop-stage 7
  [[ -d $asr/exp/plain/model ]] ||
    "$asr/run.sh" --tag plain --only train --train-args "--threads 1 heads.kind=latent heads.depth=0"
fi

export RECIPE_SCRIPT=./run.sh
exec ../../../recipes/heads.sh \
  --data "$asr/data" --models "an4=an4 plain=$asr/exp/plain/model" \
  --picture "linear|latent|residual|layer|vocalnet|hydra|joint|chain|block_taps|block_gru" \
  "$@"
