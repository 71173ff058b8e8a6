#!/usr/bin/env bash
# Live recognition by Moonshine tiny-en, the embedded default: options of the stream are chosen on held-out training
# speakers, then delays, errors and times are measured on the tests, beside Moonshine's own live transcriber.
#   SPEECHMTP_CORPORA=/path/to/corpora ./run.sh                      about an hour on one core
#   ./run.sh --peers FOLDER                                          with what `benchmarks/live_peers.py` asks for
#   ./run.sh --help                                                  options and stages
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
# shellcheck source=egs/moonshine/live1/path.sh
. ./path.sh

export RECIPE_SCRIPT=./run.sh RECIPE_ARGUMENTS="$*"
exec ../../../recipes/live.sh "$@"
