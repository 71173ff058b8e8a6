#!/usr/bin/env bash
# The stages that every comparison of strategies shares. A corpus calls it from egs/<corpus>/strategies/run.sh with its
# model, head sets, draft model and data; conf/sampled.yaml lists what is compared where tokens are drawn.
set -euo pipefail

lib=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)/lib
# shellcheck source=recipes/lib/log.sh
. "$lib/log.sh"
# shellcheck source=recipes/lib/stage.sh
. "$lib/stage.sh"
read -ra typed <<< "${RECIPE_ARGUMENTS-$*}" # what the user typed, without the corpus's own options

help_message="Usage: ${RECIPE_SCRIPT:-$0} [options]
Every strategy that a model can run, side by side. Options of strategies are chosen on the development set and stored in
conf/decode.yaml; the test set is only read."
# shellcheck disable=SC2034 # options of the stage library
# begin options
stage=1             # first stage to run
stop_stage=4        # last stage to run
only=""             # run this stage alone (a name or a number)
force=""            # stages to run again though nothing changed (names or numbers, commas between)
model=""            # speech model, or text LM's folder
dev=""              # development set: a data directory, or a text file for a text LM
test=""             # test set, which is only read
draft_model=""      # smaller model of the same vocabulary
heads=""            # head sets: names or folders, the default first
batch_sizes="1 16"  # batch sizes of the comparison
temperature=1       # of the comparison where tokens are drawn
args=""             # further options of tune and compare
tag=strategies      # results go to exp/<tag>
results=RESULTS.md  # page of results
# end options
# shellcheck source=recipes/lib/parse_options.sh
. "$lib/parse_options.sh"
exp=exp/$tag
common=(--threads 1)
ins=()
for name in $heads; do
  common+=(--heads "$name")
  [[ ! -d $name ]] || ins+=(--in "$name/heads.safetensors")
done
[[ -z $draft_model ]] || { common+=(--draft-model "$draft_model") && ins+=(--in "$draft_model"); }
[[ ! -d $model ]] || ins+=(--in "$model")
read -ra more <<< "$args"
common+=("${more[@]}")

# compare NAME OPTIONS...: a comparison on the test set.
compare() {
  local name=$1
  shift
  mkdir -p "$exp/log"
  stage_note "the log is $exp/log/$name.log"
  step "${ins[@]}" --in "$list" --out "$exp/compare/$name" --via "${decode_cmd:-run.py}" --log "$exp/log/$name.log" -- \
    speechmtp compare "$test" --model "$model" --strategies "@$list" --out "$exp/compare/$name" "${common[@]}" "$@"
}

if begin_stage 1 tune "options of every strategy, on $dev"; then
  mkdir -p "$exp/log"
  stage_note "the log is $exp/log/tune.log"
  record_run "$exp" "${RECIPE_SCRIPT:-$0}" "${typed[@]}"
  step "${ins[@]}" --out "$exp/tune" --out conf/decode.yaml \
    --via "${decode_cmd:-run.py}" --log "$exp/log/tune.log" -- \
    speechmtp tune "$dev" --model "$model" --all --out "$exp/tune" --conf conf/decode.yaml "${common[@]}"
fi

if begin_stage 2 compare "every strategy on $test, beside transformers' own"; then
  for size in $batch_sizes; do
    list=conf/decode.yaml
    compare "test_batch$size" --batch-size "$size"
  done
fi

if begin_stage 3 sampled "rules that draw tokens, temperature $temperature"; then
  list=conf/sampled.yaml
  compare "test_temperature$temperature" --temperature "$temperature"
fi

if begin_stage 4 results "the page of results"; then
  step --in "$exp/compare" --in-place --out "$results" --record "$exp/.results.done.json" -- \
    speechmtp results "$exp" --out "$results"
  folder=$exp/compare/test_batch${batch_sizes%% *}
  [[ ! -f $folder/compare.png ]] || cp "$folder/compare.png" "$(dirname "$results")/STRATEGIES.png"
  [[ ! -f $folder/compare_seconds.png ]] || cp "$folder/compare_seconds.png" "$(dirname "$results")/STRATEGIES_seconds.png"
fi
finish_stages
