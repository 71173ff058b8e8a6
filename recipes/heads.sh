#!/usr/bin/env bash
# The stages that every comparison of heads shares. A corpus calls it from egs/<corpus>/heads/run.sh with its data
# and models; conf/sets.txt lists the head sets, conf/losses.txt variants of some of them, conf/train.yaml what all share.
set -euo pipefail

lib=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)/lib
# shellcheck source=recipes/lib/log.sh
. "$lib/log.sh"
# shellcheck source=recipes/lib/stage.sh
. "$lib/stage.sh"

help_message="Usage: ${RECIPE_SCRIPT:-$0} [options]
Every set of conf/sets.txt on every model, trained for the same time; losses and modes on one of them. Every choice is
made on the development set and stored in conf/chosen.yaml; the test set is only read."
# shellcheck disable=SC2034 # options of the stage library
# begin options
stage=1             # first stage to run
stop_stage=6        # last stage to run
only=""             # run this stage alone (a name or a number)
data=data           # folder of the data directories
train_set="train"   # data directory to train on
dev_set="dev"       # data directory on which every choice is made
test_set="test"     # data directory that is only read
models=""           # name=MODEL name=MODEL ...: learning rates are chosen on the first, losses compared on the last
seconds=75          # training of a head set, in CPU seconds of updates on one core
trial_seconds=22    # the same, for a trial of a learning rate
depths="3 7"        # drafted tokens a call that are compared
jobs=2              # trainings at a time
picture=""          # names of head sets in the picture, | between
results=RESULTS.md  # page of results
# end options
# shellcheck source=recipes/lib/parse_options.sh
. "$lib/parse_options.sh"
export TRAIN_DIR=$data/$train_set DEV_DIR=$data/$dev_set

names=()
declare -A model=()
for pair in $models; do
  names+=("${pair%%=*}")
  model[${pair%%=*}]=${pair#*=}
done
((${#names[@]})) || die "--models: none given, name=MODEL expected"
first=${names[0]} last=${names[-1]}

# The lines of a list without comments.
lines_of() { grep -v '^#' "$1"; }

# train_list LIST NAME: train the head sets of a list on a model.
train_list() {
  mkdir -p "exp/$2"
  lines_of "$1" | xargs -P "$jobs" -L 1 "$lib/heads/train.sh" "$seconds" "${model[$2]}" "exp/$2"
}

# heads_of LIST NAME: collect in `heads` the --heads options of those that have a head folder.
heads_of() {
  local name
  heads=()
  while read -r name _; do
    [[ ! -f exp/$2/$name/heads.safetensors ]] || heads+=(--heads "exp/$2/$name")
  done < <(lines_of "$1")
}

# report NAME LIST SET FOLDER: predicted acceptance of a list on a data directory.
report() {
  heads_of "$2" "$1"
  ((${#heads[@]} == 0)) || speechmtp heads report "$data/$3" --model "${model[$1]}" "${heads[@]}" --threads 1 \
    --out "exp/$1/report/$4" > "exp/$1/log/report_$4.log"
}

if begin_stage 1 choose "learning rates, on $dev_set with $first"; then
  mkdir -p "exp/$first"
  "${PYTHON:-python3}" "$lib/heads/choose.py" run "${model[$first]}" "exp/$first" --seconds "$trial_seconds"
fi

if begin_stage 2 train "every set on ${names[*]}, $seconds s each"; then
  for name in "${names[@]}"; do train_list conf/sets.txt "$name"; done
fi

if begin_stage 3 losses "losses and modes on $last"; then
  [[ ! -f conf/losses.txt ]] || train_list conf/losses.txt "$last"
fi

if begin_stage 4 report "predicted acceptance on $dev_set and $test_set, and the picture"; then
  for name in "${names[@]}"; do
    report "$name" conf/sets.txt "$dev_set" dev
    report "$name" conf/sets.txt "$test_set" test
  done
  [[ ! -f conf/losses.txt ]] || report "$last" conf/losses.txt "$test_set" losses
  grep -E "^(${picture:-.*}) " conf/sets.txt > "exp/$last/picture.txt"
  report "$last" "exp/$last/picture.txt" "$test_set" picture
  cp "exp/$last/report/picture/report.png" "${results%.md}.png"
  for folder in "exp/$last"/*/model; do
    [[ ! -d $folder ]] || speechmtp heads report "$data/$test_set" --model "$folder" --threads 1 \
      --out "${folder%/model}/report/test" > "exp/$last/log/report_$(basename "${folder%/model}").log"
  done
fi

if begin_stage 5 compare "measured tokens per call and times on $test_set"; then
  for name in "${names[@]}"; do
    heads_of conf/sets.txt "$name"
    list="ar"
    for option in "${heads[@]}"; do
      [[ $option == --heads ]] && continue
      for depth in $depths; do list+=",verify:depth=$depth,heads=${option##*/}"; done
    done
    for depth in $depths; do list+=",oracle:depth=$depth"; done
    speechmtp compare "$data/$test_set" --model "${model[$name]}" "${heads[@]}" --threads 1 --strategies "$list" \
      --out "exp/$name/compare/test" > "exp/$name/log/compare.log"
  done
  for folder in "exp/$last"/*/model; do
    [[ ! -d $folder ]] || speechmtp compare "$data/$test_set" --model "$folder" --threads 1 --strategies ar,verify,oracle \
      --out "${folder%/model}/compare/test" > "exp/$last/log/compare_$(basename "${folder%/model}").log"
  done
fi

if begin_stage 6 results "the page of results"; then
  "${PYTHON:-python3}" "$lib/heads/table.py" "${names[@]}" --out "$results"
fi
finish_stages
