#!/usr/bin/env bash
# Heads of every family and a CTC draft head for Moonshine tiny-en, the embedded default, trained on what it says of the
# English training audio; the heads that the package ships are the first set and the CTC head.
#   SPEECHMTP_CORPORA=/path/to/corpora ./run.sh                      about three hours on two cores
#   ./run.sh --model UsefulSensors/moonshine-tiny --tag hub          the same folder from the hub
#   ./run.sh --help                                                  options and stages
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
# shellcheck source=egs/moonshine/heads1/path.sh
. ./path.sh

export RECIPE_SCRIPT=./run.sh RECIPE_ARGUMENTS="$*"
exec ../../../recipes/pretrained.sh --model default \
  --tests "librispeech_dev librispeech_other5 an4_test speechocean_test" "$@"
