#!/usr/bin/env bash
# Every family of heads on AN4, each trained for the same time on frozen trunks, and losses and modes side by side.
#   SPEECHMTP_CORPORA=/path/to/corpora ./run.sh     about three hours on two cores
#   ./run.sh --help                                 options and stages
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
# shellcheck source=egs/an4/heads/path.sh
. ./path.sh
# shellcheck source=recipes/lib/log.sh
. ../../../recipes/lib/log.sh
# shellcheck source=recipes/lib/stage.sh
. ../../../recipes/lib/stage.sh

# shellcheck disable=SC2034 # help_message and the options of the stage library
help_message="Usage: ./run.sh [options]
Choices are made on AN4 dev and stored in conf/chosen.yaml; AN4 test is only read. Results: RESULTS.md."
# begin options
stage=1             # first stage to run
stop_stage=8        # last stage to run
only=""             # run this stage alone (a name or a number)
seconds=75          # training of a head set, in CPU seconds of updates on one core
trial_seconds=22    # the same, for a trial of a learning rate
jobs=2              # trainings at a time
asr=../asr1         # recognition recipe with data directories and trunks
results=RESULTS.md  # page of results
picture="linear|latent|residual|layer|vocalnet|hydra|joint|chain|block_taps"  # head sets in the picture
# end options
# shellcheck source=recipes/lib/parse_options.sh
. ../../../recipes/lib/parse_options.sh
export ASR=$asr

# The lines of a list without comments.
lines_of() { grep -v '^#' "$1"; }

# Train the head sets of a list on a trunk: train_list LIST MODEL EXP.
train_list() {
  mkdir -p "$3"
  lines_of "$1" | xargs -P "$jobs" -L 1 local/train.sh "$seconds" "$2" "$3"
}

# The --heads options of the head folders of a list: `heads`.
heads_of() {
  local name
  heads=()
  while read -r name _; do
    [[ ! -f $2/$name/heads.safetensors ]] || heads+=(--heads "$2/$name")
  done < <(lines_of "$1")
}

trunks=(an4 plain)
declare -A model=([an4]=an4 [plain]="$asr/exp/plain/model")

if begin_stage 1 data "AN4 data directories of the recognition recipe"; then
  [[ -f $asr/data/test/wav.scp && -f $asr/data/lm_text ]] || "$asr/run.sh" --stop-stage 7
fi

if begin_stage 2 trunk "a trunk that has never seen heads"; then
  [[ -d $asr/exp/plain/model ]] || "$asr/run.sh" --tag plain --only train \
    --train-args "--threads 1 heads.kind=latent heads.depth=0"
fi

if begin_stage 3 choose "learning rates, on dev with the trunk of an4"; then
  mkdir -p exp/an4
  "$PYTHON" local/choose.py run an4 exp/an4 --seconds "$trial_seconds"
fi

if begin_stage 4 train "every family on every trunk, $seconds s each"; then
  for trunk in "${trunks[@]}"; do train_list conf/sets.txt "${model[$trunk]}" "exp/$trunk"; done
fi

if begin_stage 5 losses "losses and modes"; then
  train_list conf/losses.txt "${model[plain]}" exp/plain
fi

if begin_stage 6 report "predicted acceptance on dev and test, and the picture"; then
  # report TRUNK LIST SET FOLDER: the head sets of a list on a data directory.
  report() {
    heads_of "$2" "exp/$1"
    ((${#heads[@]} == 0)) || speechmtp heads report "${model[$1]}" "$asr/data/$3" "${heads[@]}" --threads 1 \
      --out "exp/$1/$4" > "exp/$1/log/$(basename "$4").log"
  }
  for trunk in "${trunks[@]}"; do
    report "$trunk" conf/sets.txt dev report/dev
    report "$trunk" conf/sets.txt test report/test
  done
  report plain conf/losses.txt test report/losses
  report plain <(grep -E "^($picture) " conf/sets.txt) test report/picture
  cp exp/plain/report/picture/report.png "${results%.md}.png"
  for folder in exp/plain/*/model; do
    speechmtp heads report "$folder" "$asr/data/test" --threads 1 --out "${folder%/model}/report/test" \
      > "exp/plain/log/report_$(basename "${folder%/model}").log"
  done
fi

if begin_stage 7 compare "measured tokens per call and times on test"; then
  for trunk in "${trunks[@]}"; do
    heads_of conf/sets.txt "exp/$trunk"
    list="ar"
    while read -r name _; do list+=",verify:depth=7,heads=$name,verify:depth=3,heads=$name"; done \
      < <(lines_of conf/sets.txt)
    speechmtp compare "${model[$trunk]}" "$asr/data/test" "${heads[@]}" --threads 1 \
      --strategies "$list,oracle:depth=3,oracle:depth=7" --out "exp/$trunk/compare/test" > "exp/$trunk/log/compare.log"
  done
  for folder in exp/plain/*/model; do
    speechmtp compare "$folder" "$asr/data/test" --threads 1 --strategies ar,verify,oracle \
      --out "${folder%/model}/compare/test" > "exp/plain/log/compare_$(basename "${folder%/model}").log"
  done
fi

if begin_stage 8 results "the page of results"; then
  "$PYTHON" local/table.py --out "$results"
fi
finish_stages
