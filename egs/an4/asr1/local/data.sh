#!/usr/bin/env bash
# AN4 to data/train_all and data/test (the corpus's own split), then data/dev and data/train: 100 utterances
# of whole training speakers are held out. Called by recipes/asr.sh in the recipe folder.
set -euo pipefail
# shellcheck source=recipes/lib/log.sh
. "$SPEECHMTP_ROOT/recipes/lib/log.sh"
# shellcheck source=recipes/lib/stage.sh
. "$SPEECHMTP_ROOT/recipes/lib/stage.sh"

help_message="Usage: local/data.sh [options]"
# begin options
corpora=${SPEECHMTP_CORPORA:-}   # folder that holds an4/ (default: SPEECHMTP_CORPORA)
download=false                   # flag: fetch the corpus into downloads/ when it is not there
dev_speakers=conf/dev_speakers    # speakers of data/dev, 100 utterances
# end options
# shellcheck source=recipes/lib/parse_options.sh
. "$SPEECHMTP_ROOT/recipes/lib/parse_options.sh"

words=()
if [[ $download == true ]]; then
  : "${corpora:=downloads}"
  words+=(--download)
fi
[[ -n $corpora ]] || die "no corpus: set SPEECHMTP_CORPORA, or give --data-args '--download true'"
[[ $download == true || -d $corpora ]] || die "$corpora: no such folder, expected the one that holds an4/"

step --in-place --out data/train_all --out data/test -- \
  speechmtp data prepare an4 --source "$corpora" --out data "${words[@]}"
# A list, not a draw: the shipped model was trained without these speakers.
step --in data/train_all/text --in data/train_all/wav.scp --in "$dev_speakers" --out data/dev --out data/train -- \
  speechmtp data subset data/train_all data/dev --spk-list "$dev_speakers" --rest data/train
