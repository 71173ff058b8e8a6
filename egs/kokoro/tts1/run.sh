#!/usr/bin/env bash
# A voice from the synthetic corpus tts/kokoro: from its recordings, phones and durations to RESULTS.md.
#   SPEECHMTP_CORPORA=/path/to/corpora ./run.sh          about four hours on two cores
#   PEERS=peers ./run.sh --style af_heart.bin --others hibari   rows of the teacher and of another voice beside it
#   ./run.sh --tiny                                      every stage in a minute
#   ./run.sh --help                                      options and stages
# What PEERS is to hold stands in tools/voice_eval.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
# shellcheck source=egs/kokoro/tts1/path.sh
. ./path.sh
# shellcheck source=egs/kokoro/tts1/cmd.sh
. ./cmd.sh

# Options given by the caller come last and win.
export RECIPE_SCRIPT=./run.sh RECIPE_ARGUMENTS="$*"
exec ../../../recipes/tts.sh --corpus kokoro --train-set train --dev-set dev "$@"
