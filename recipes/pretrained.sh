#!/usr/bin/env bash
# The stages that every recipe of heads for a pretrained recogniser shares. A corpus calls it from
# egs/<model>/heads1/run.sh with its model; conf/sets.txt lists the head sets, conf/train.yaml has what all of them share.
set -euo pipefail

lib=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)/lib
# shellcheck source=recipes/lib/log.sh
. "$lib/log.sh"
# shellcheck source=recipes/lib/stage.sh
. "$lib/stage.sh"
read -ra typed <<< "${RECIPE_ARGUMENTS-$*}" # what the user typed, without the recipe's own options

help_message="Usage: ${RECIPE_SCRIPT:-$0} [options]
Heads and a CTC draft head for a pretrained recogniser, which stays as it is, trained on what it says itself. Every choice
is made on held-out training speakers and stored in conf/decode.yaml; the test sets are only read. Strategies are compared
with one set of heads, families by \`verify\`."
# shellcheck disable=SC2034 # options of the stage library
# begin options
stage=1             # first stage to run
stop_stage=7        # last stage to run
only=""             # run this stage alone (a name or a number)
force=""            # stages to run again though nothing changed (names or numbers, commas between)
model=""            # folder or hub name of the recogniser
data=data           # folder of the data directories train, dev, tune and the test sets
tests=""            # test sets, which are only read; the first at every batch size and with lossy strategies too
batch_sizes="1 16"  # batch sizes of the comparison
device=cpu          # where to train
threads=1           # of trainings and comparisons
drafts=""           # how heads compute: int8, float32, or empty for what the model says
heads=chain         # the set of conf/sets.txt with which strategies are compared
strategies=ar,verify,threshold,tree,dynamic-tree,ctc,ctc-only,ctc-heads,lookup,suffix # what is tuned and compared
depths="3 7"        # drafted tokens a call at which families are compared
tag=heads1          # results go to exp/<tag>
results=RESULTS.md  # page of results
# end options
# shellcheck source=recipes/lib/parse_options.sh
. "$lib/parse_options.sh"
exp=exp/$tag
ins=()
[[ ! -d $model ]] || ins+=(--in "$model")
training=(--model "$model" --train "$data/train" --dev "$data/dev"
  --device "$device" --threads "$threads" --storage int8)

# The lines of the list of head sets without comments.
sets() { grep -v '^#' conf/sets.txt; }

# train KIND NAME OPTIONS...: heads or a CTC head, once.
train() {
  local kind=$1 name=$2 passes config=conf/train.yaml
  shift 2
  [[ $kind != ctc ]] || config=conf/ctc.yaml
  passes=$(sed -n 's/^passes: *//p' "$config")
  passes=${passes:-1}
  [[ " $* " =~ " passes="([0-9]+) ]] && passes=${BASH_REMATCH[1]}
  stage_note "the log is $exp/log/$name.log"
  step "${ins[@]}" --in "$config" --in "$data/train" --resumable --out "$exp/$name" --makes "$exp/$name/config.yaml" \
    --via "${train_cmd:-run.py}" --log "$exp/log/$name.log" -- \
    speechmtp train "$kind" "${training[@]}" --config "$config" \
    --out "$exp/$name" --prompts "$exp/memories_$passes.safetensors" "$@" "passes=$passes"
}

mkdir -p "$exp/log"
if begin_stage 1 data "audio for training, tuning and tests"; then
  local/data.sh
fi

if begin_stage 2 heads "every set of conf/sets.txt"; then
  while read -r name options; do
    read -ra words <<< "${options//EXP/$exp}"
    train heads "$name" "${words[@]}"
  done < <(sets)
fi

if begin_stage 3 ctc "a CTC head that spells"; then
  [[ ! -f conf/ctc.yaml ]] || train ctc ctc
fi

drafting=()
[[ -z $drafts ]] || drafting=(--drafts "$drafts")
loaded=("${drafting[@]}" --heads "$exp/$heads")
drafters=(--in "$exp/$heads/heads.safetensors") # what tuning and comparisons depend on
if [[ -f $exp/ctc/config.yaml ]]; then
  loaded+=(--ctc "$exp/ctc")
  drafters+=(--in "$exp/ctc/ctc.safetensors")
fi

if begin_stage 4 tune "options of every strategy, on $data/tune"; then
  record_run "$exp" "${RECIPE_SCRIPT:-$0}" "${typed[@]}"
  stage_note "the log is $exp/log/tune.log"
  step "${ins[@]}" "${drafters[@]}" --in "$data/tune" --out "$exp/tune" --out conf/decode.yaml \
    --via "${decode_cmd:-run.py}" --log "$exp/log/tune.log" -- \
    speechmtp tune "$data/tune" --model "$model" --all --strategies "$strategies" --thetas 0.5 0.8 0.95 --out "$exp/tune" --conf conf/decode.yaml --threads "$threads" "${loaded[@]}"
fi

# compare NAME SET OPTIONS...
compare() {
  local name=$1 set=$2
  shift 2
  stage_note "the log is $exp/log/$name.log"
  step "${ins[@]}" "${drafters[@]}" --in conf/decode.yaml --in "$data/$set" --out "$exp/compare/$name" \
    --via "${decode_cmd:-run.py}" --log "$exp/log/$name.log" -- \
    speechmtp compare "$data/$set" --model "$model" --out "$exp/compare/$name" --threads "$threads" "$@"
}

if begin_stage 5 compare "every strategy on $tests, beside transformers' own"; then
  sizes=$batch_sizes
  exact=()
  for set in $tests; do
    for size in $sizes; do
      compare "${set}_batch$size" "$set" --strategies @conf/decode.yaml --batch-size "$size" "${exact[@]}" "${loaded[@]}"
    done
    sizes=${batch_sizes%% *} exact=(--exact)
  done
fi

if begin_stage 6 families "every set of conf/sets.txt on ${tests%% *}"; then
  list=ar families=("${drafting[@]}")
  while read -r name _; do
    families+=(--heads "$exp/$name")
    drafters+=(--in "$exp/$name/heads.safetensors")
    for depth in $depths; do list+=",verify:depth=$depth,heads=$name"; done
  done < <(sets)
  for depth in $depths; do list+=",oracle:depth=$depth"; done
  compare "${tests%% *}_families" "${tests%% *}" --strategies "$list" "${families[@]}"
fi

if begin_stage 7 results "the page of results"; then
  step --in "$exp/compare" --in-place --out "$results" --record "$exp/.results.done.json" -- \
    speechmtp results "$exp" --out "$results"
  folder=$exp/compare/${tests%% *}_batch${batch_sizes%% *}
  for picture in compare compare_seconds; do
    [[ ! -f $folder/$picture.png ]] || cp "$folder/$picture.png" "$(dirname "$results")/$picture.png"
  done
fi
finish_stages
