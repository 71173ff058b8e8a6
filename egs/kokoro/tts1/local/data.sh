#!/usr/bin/env bash
# tts/kokoro to data/train and data/dev: utterances of one voice, without those whose recordings lost words. Called by
# recipes/tts.sh in the recipe folder.
set -euo pipefail
# shellcheck source=recipes/lib/log.sh
. "$SPEECHMTP_ROOT/recipes/lib/log.sh"
# shellcheck source=recipes/lib/stage.sh
. "$SPEECHMTP_ROOT/recipes/lib/stage.sh"

help_message="Usage: local/data.sh [options]"
# begin options
corpora=${SPEECHMTP_CORPORA:-}   # folder that holds tts/kokoro (default: SPEECHMTP_CORPORA)
voice=af_heart                   # voice of the corpus
# end options
# shellcheck source=recipes/lib/parse_options.sh
. "$SPEECHMTP_ROOT/recipes/lib/parse_options.sh"

[[ -n $corpora ]] || die "no corpus: set SPEECHMTP_CORPORA"
[[ -d $corpora/tts/kokoro ]] || die "$corpora: no tts/kokoro in it, expected the folder that holds the corpora"
for set in train dev; do
  step --in "$corpora/tts/kokoro/$set/wav.scp" --in "$corpora/tts/kokoro/$set/phones" --in local/select.py \
    --out "data/$set" -- "$PYTHON" local/select.py "$corpora" "tts/kokoro/$set" "$voice" "data/$set"
done
