#!/usr/bin/env bash
# train.sh NAME [OPTIONS...]: the model of conf/NAME.yaml in exp/NAME.
set -euo pipefail
# shellcheck source=recipes/lib/stage.sh
. "$SPEECHMTP_ROOT/recipes/lib/stage.sh"
name=$1
shift
inputs=(--in data/train.txt --in data/dev.txt --in "conf/$name.yaml")
[[ $# == 0 ]] || inputs+=(--in "$2")
stage_note "the log is exp/$name/log/train.log"
step --resumable "${inputs[@]}" --out "exp/$name" --makes "exp/$name/model" \
  --via "${train_cmd:-run.py}" --log "exp/$name/log/train.log" -- \
  speechmtp train lm --config "conf/$name.yaml" --text data/train.txt --dev data/dev.txt --out "exp/$name" \
  --threads 1 "$@"
