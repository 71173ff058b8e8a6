#!/usr/bin/env bash
# The stages of live recognition: a stream is chosen on data/dev and measured on test sets. Called by
# egs/<model>/live1/run.sh in the recipe folder.
set -euo pipefail

lib=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)/lib
# shellcheck source=recipes/lib/log.sh
. "$lib/log.sh"
# shellcheck source=recipes/lib/stage.sh
. "$lib/stage.sh"
read -ra typed <<< "${RECIPE_ARGUMENTS-$*}" # what the user typed

help_message="Usage: ${RECIPE_SCRIPT:-$0} [options]
Chooses how a stream commits words on data/dev, and measures it on the test sets, which are only read."
# shellcheck disable=SC2034 # options of the stage library
# begin options
stage=1             # first stage to run
stop_stage=7        # last stage to run
only=""             # run this stage alone (a name or a number)
force=""            # stages to run again though nothing changed (names or numbers, commas between)
model=default       # folder or hub name of the recogniser
steps=0.5,1.0       # seconds between passes; the first is that of the choice
peers=""            # folder of moonshine-voice and what it needs; without it the stream is measured alone
threads=1           # of PyTorch
tag=live1           # results go to exp/<tag>
results=RESULTS.md  # page of results
# end options
# shellcheck source=recipes/lib/parse_options.sh
. "$lib/parse_options.sh"
exp=exp/$tag tests="librispeech_dev librispeech_other5" scripts=$SPEECHMTP_ROOT/benchmarks
ins=(--in conf/live.yaml)
[[ ! -d $model ]] || ins+=(--in "$model")

# table NAME COMMAND...: the table that a script prints, in exp/TAG/tables/NAME.md.
table() {
  local name=$1
  shift
  step "${ins[@]}" --stdout "$exp/tables/$name.md" -- "$PYTHON" "$@"
}

mkdir -p "$exp/log" "$exp/tables" "$exp/latency"
if begin_stage 1 data "speech for the choice and for tests"; then
  local/data.sh
fi

if begin_stage 2 choose "options of the stream, on data/dev"; then
  record_run "$exp" "${RECIPE_SCRIPT:-$0}" "${typed[@]}"
  stage_note "the log is $exp/log/choose.log"
  step "${ins[@]:2}" --in conf/grid.yaml --in data/dev --out "$exp/choose" --out conf/live.yaml \
    --via "${decode_cmd:-run.py}" --log "$exp/log/choose.log" -- \
    speechmtp latency data/dev --model "$model" --step "${steps%%,*}" --grid conf/grid.yaml --choose conf/live.yaml \
    --threads "$threads" --out "$exp/choose"
fi

if begin_stage 3 latency "delays, errors and times on the test sets"; then
  for set in $tests; do
    stage_note "the log is $exp/log/$set.log"
    command=(speechmtp latency "data/$set" --threads "$threads")
    [[ -z $peers ]] || command=(env PEERS="$peers" "$PYTHON" "$scripts/live_peers.py" "data/$set")
    step "${ins[@]}" --in "data/$set" --out "$exp/latency/$set" \
      --via "${decode_cmd:-run.py}" --log "$exp/log/$set.log" -- \
      "${command[@]}" --model "$model" --conf conf/live.yaml --step "$steps" --out "$exp/latency/$set"
  done
fi

read -ra sets <<< "$tests"
if begin_stage 4 long "the tests joined by tens, in parts and live"; then
  table joined_by_tens "$scripts/long_recordings.py" "${sets[@]/#/data/}" --model "$model" --live conf/live.yaml
fi

if begin_stage 5 words "times of words on exact spans, and confidence"; then
  table word_times "$scripts/word_times.py" "$SPEECHMTP_CORPORA/tts/kokoro/dev" --model "$model" \
    --confidence data/librispeech_other5
fi

if begin_stage 6 noise "words said to noise, with the guard and without"; then
  table noise "$scripts/live_noise.py" "$SPEECHMTP_CORPORA/noise/esc10" zeros white "${sets[@]/#/data/}" \
    --model "$model"
fi

if begin_stage 7 results "the page of results"; then
  step --in "$exp/latency" --in "$exp/tables" --in-place --out "$results" --record "$exp/.results.done.json" -- \
    speechmtp results "$exp" --out "$results"
  folder=$exp/latency/${tests%% *}
  [[ ! -f $folder/latency.png ]] || cp "$folder/latency.png" "$(dirname "$results")/latency.png"
fi
finish_stages
