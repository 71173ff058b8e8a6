#!/usr/bin/env bash
# English training audio of the corpora folder to data/train and data/dev (whole speakers, conf/dev_speakers), data/tune,
# thirty utterances of dev, and the test sets. Called by recipes/pretrained.sh in the recipe folder.
set -euo pipefail
# shellcheck source=recipes/lib/log.sh
. "$SPEECHMTP_ROOT/recipes/lib/log.sh"
# shellcheck source=recipes/lib/stage.sh
. "$SPEECHMTP_ROOT/recipes/lib/stage.sh"

corpora=${SPEECHMTP_CORPORA:-}
[[ -d $corpora ]] || die "no corpora: set SPEECHMTP_CORPORA to the folder that holds librispeech/, an4/, tts/ and others"
sets=()
for set in librispeech an4 speechocean762 tts/kathleen tts/kokoro; do
  [[ -f $corpora/$set/train/wav.scp ]] || die "$corpora/$set/train: not there, a Kaldi data directory is expected"
  sets+=("$corpora/$set/train")
done

step --out data/train_all -- speechmtp data combine data/train_all "${sets[@]}" --root "$corpora"
# A list, not a draw: the shipped heads were trained without these speakers.
step --in data/train_all --in conf/dev_speakers --out data/dev --out data/train -- \
  speechmtp data subset data/train_all data/dev --spk-list conf/dev_speakers --rest data/train
step --in data/dev --out data/tune -- speechmtp data subset data/dev data/tune --random 30
for pair in librispeech_dev=librispeech/dev librispeech_other5=librispeech/test_other5 an4_test=an4/test; do
  step --out "data/${pair%%=*}" -- speechmtp data combine "data/${pair%%=*}" "$corpora/${pair#*=}" --root "$corpora"
done
step --out data/speechocean_test -- \
  speechmtp data subset "$corpora/speechocean762/test" data/speechocean_test --random 200 --root "$corpora"
