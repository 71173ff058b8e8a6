#!/usr/bin/env bash
# data/dev: the LibriSpeech training speakers that the shipped heads were not trained on. librispeech_dev and
# librispeech_other5 are only tests, as are tts_kokoro, whose spans of words are exact, and esc10, noise without speech.
set -euo pipefail
# shellcheck source=recipes/lib/log.sh
. "$SPEECHMTP_ROOT/recipes/lib/log.sh"
# shellcheck source=recipes/lib/stage.sh
. "$SPEECHMTP_ROOT/recipes/lib/stage.sh"

corpora=${SPEECHMTP_CORPORA:-}
[[ -d $corpora ]] || die "no corpora: set SPEECHMTP_CORPORA to the folder that holds librispeech/, tts/ and noise/"
for set in librispeech/train librispeech/dev librispeech/test_other5 tts/kokoro/dev noise/esc10; do
  [[ -f $corpora/$set/wav.scp ]] || die "$corpora/$set: not there, a Kaldi data directory is expected"
done

mkdir -p data
grep -xFf ../heads1/conf/dev_speakers <(cut -d ' ' -f 1 "$corpora/librispeech/train/spk2utt") > data/dev_speakers
step --in data/dev_speakers --out data/dev -- \
  speechmtp data subset "$corpora/librispeech/train" data/dev --spk-list data/dev_speakers --root "$corpora"
for pair in librispeech_dev=librispeech/dev librispeech_other5=librispeech/test_other5; do
  step --out "data/${pair%%=*}" -- speechmtp data combine "data/${pair%%=*}" "$corpora/${pair#*=}" --root "$corpora"
done
