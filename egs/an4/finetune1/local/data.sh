#!/usr/bin/env bash
# local/data.sh CORPORA: data/train and data/dev of AN4, data/keep and data/keep_dev of LibriSpeech (the second of each
# whole training speakers that are held out), and two test sets. Called by run.sh in the recipe folder.
set -euo pipefail
# shellcheck source=recipes/lib/log.sh
. "$SPEECHMTP_ROOT/recipes/lib/log.sh"
# shellcheck source=recipes/lib/stage.sh
. "$SPEECHMTP_ROOT/recipes/lib/stage.sh"

corpora=$1
for set in an4/train an4/test librispeech/train librispeech/dev; do
  [[ -f $corpora/$set/wav.scp ]] || die "--corpora '$corpora': no $set/wav.scp there; set SPEECHMTP_CORPORA"
done
step --in ../asr1/conf/dev_speakers --out data/dev --out data/train -- speechmtp data subset "$corpora/an4/train" \
  data/dev --spk-list ../asr1/conf/dev_speakers --rest data/train --root "$corpora"
step --out data/keep_dev --out data/keep -- speechmtp data subset "$corpora/librispeech/train" \
  data/keep_dev --hold-out 33 --rest data/keep --root "$corpora"
step --out data/test -- speechmtp data combine data/test "$corpora/an4/test" --root "$corpora"
step --out data/keep_test -- speechmtp data combine data/keep_test "$corpora/librispeech/dev" --root "$corpora"
