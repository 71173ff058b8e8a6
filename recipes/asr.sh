#!/usr/bin/env bash
# The stages that every speech recognition recipe shares. A corpus calls it from its recipe folder:
# egs/<corpus>/asr1/run.sh sources path.sh and cmd.sh, then runs this file with its options.
set -euo pipefail

lib=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)/lib
# shellcheck source=recipes/lib/log.sh
. "$lib/log.sh"
# shellcheck source=recipes/lib/stage.sh
. "$lib/stage.sh"
read -ra typed <<< "${RECIPE_ARGUMENTS-$*}" # what the user typed, without the corpus's own options
command_line=("${RECIPE_SCRIPT:-$0}" "${typed[@]}")

help_message="Usage: ${RECIPE_SCRIPT:-$0} [options]
From a raw corpus to a table of results. Stages whose inputs and options are unchanged are skipped."
# shellcheck disable=SC2034 # options of the stage library
# begin options
stage=0                 # first stage to run
stop_stage=14           # last stage to run
only=""                 # run this stage alone (a name or a number)
force=""                # stages to run again though nothing changed (names or numbers, commas between)
skip_data=false         # flag: leave out stages 1 to 7
skip_train=false        # flag: leave out stages 8 to 10
skip_eval=false         # flag: leave out stages 11 to 13
tiny=false              # flag: 32 utterances and a tiny model through every stage
corpus=corpus           # name of the corpus, for the archive
data_args=""            # further options of local/data.sh
train_set="train"       # data/<set> to train on
dev_set="dev"           # data/<set> on which every choice is made
test_sets="test"        # data/<set>s that are only read
vocab_size=30           # sentencepiece vocabulary
text_args=""            # further options of local/make_text.py
train_config=conf/train.yaml  # model and training configuration
train_args=""           # further options of speechmtp train asr
tag=""                  # results go to exp/<tag> (default: name of the training configuration)
decode_conf=""          # strategies as tuned on dev (default: conf/decode_<tag>.yaml)
decode_strategies="ar ctc ctc-only"  # strategies that are decoded and scored
tune_args=""            # further options of speechmtp tune
decode_args=""          # further options of speechmtp decode and compare
batch_sizes="1 16"      # batch sizes of the comparison
nj=2                    # jobs that decode at a time
results=""              # the results page (default: RESULTS.md, with --tiny exp/tiny/RESULTS.md)
seed=0                  # seed of the texts for the text-only training stage
# end options
# shellcheck source=recipes/lib/parse_options.sh
. "$lib/parse_options.sh"

data=data
if [[ $tiny == true ]]; then
  data=data/tiny
  train_config=conf/tiny.yaml
  : "${tag:=tiny}" "${tune_args:=--thetas 0.9}" "${decode_conf:=exp/$tag/decode.yaml}" "${results:=exp/$tag/RESULTS.md}"
fi
config_name=${train_config##*/}
: "${tag:=${config_name%.*}}" "${decode_conf:=conf/decode_$tag.yaml}" "${results:=RESULTS.md}"
exp=exp/$tag
read -ra data_words <<< "$data_args"
read -ra train_words <<< "$train_args"
read -ra text_words <<< "$text_args"
read -ra tune_words <<< "$tune_args"
read -ra decode_words <<< "$decode_args"
read -ra tests <<< "$test_sets"
read -ra strategies <<< "$decode_strategies"
sets=("$train_set" "$dev_set" "${tests[@]}")
: "${train_cmd:=run.py}" "${decode_cmd:=run.py}"

# Collect in `ins` the --in options for data directories: the files that training and decoding read, not
# what other commands may add to the folder.
inputs_of() {
  local folder name
  ins=()
  for folder in "$@"; do
    for name in wav.scp segments text utt2spk info.json; do
      [[ ! -e $folder/$name ]] || ins+=(--in "$folder/$name")
    done
    [[ -e $folder/wav.scp ]] || die "$folder/wav.scp: no such file; run the stages from --stage 1" 1
  done
}

# A strategy with options as a folder name.
folder_name() { printf '%s\n' "${1//[^A-Za-z0-9._-]/_}"; }

if begin_stage 0 preflight "tools, disk and configuration"; then
  for program in speechmtp "${train_cmd%% *}" "${decode_cmd%% *}" tar; do
    command -v "$program" > /dev/null || die "$program: not on PATH; see path.sh and cmd.sh"
  done
  [[ -f $train_config ]] || die "--train-config $train_config: no such file"
  [[ -x local/data.sh ]] || die "local/data.sh: missing or not executable"
  free_kb=$(df -Pk . | tail -n 1 | { read -r _ _ _ free _ && printf '%s' "$free"; })
  ((free_kb > 1000000)) || die "$PWD: $((free_kb / 1000)) MB free, expected at least 1000 MB"
fi

if begin_stage 1 data "corpus to data/<set>"; then
  local/data.sh "${data_words[@]}"
  if [[ $tiny == true ]]; then
    for set in "${sets[@]}"; do
      size=8
      [[ $set != "$train_set" ]] || size=32
      inputs_of "data/$set"
      step "${ins[@]}" --out "$data/$set" -- \
        speechmtp data subset "data/$set" "$data/$set" --first "$size"
    done
  fi
fi

if begin_stage 2 validate "every data directory"; then
  for set in "${sets[@]}"; do
    against=()
    [[ $set == "$train_set" ]] || against=(--against "$data/$train_set")
    inputs_of "$data/$set" "$data/$train_set"
    step "${ins[@]}" --stdout "$data/report/validate_$set.txt" -- \
      speechmtp data validate "$data/$set" "${against[@]}"
  done
fi

if begin_stage 3 format "command pipes, rates, channels"; then
  lists=()
  for set in "${sets[@]}"; do lists+=("$data/$set/wav.scp"); done
  if [[ -x local/format.sh ]]; then
    local/format.sh "$data" "${sets[@]}"
  elif grep -l '|[[:space:]]*$' "${lists[@]}"; then
    die "these lists hold command pipes; turn them into files in local/format.sh" 1
  else
    stage_note "nothing to convert: stage 2 found plain audio files of one rate"
  fi
fi

if begin_stage 4 filter "training utterances that cannot be used"; then
  if [[ -x local/filter.sh ]]; then
    local/filter.sh "$data/$train_set" "$data/$dev_set"
  else
    stage_note "this corpus has no local/filter.sh: all training utterances are kept"
  fi
fi

if begin_stage 5 tokens "tokenizer, and texts for the text-only training stage"; then
  step --in "$data/$train_set/text" --out "$data/tokenizer.model" -- \
    speechmtp train tokenizer --text "$data/$train_set/text" --vocab-size "$vocab_size" \
    --out "$data/tokenizer.model"
  if [[ -f local/make_text.py ]]; then
    step --in "$data/$train_set/text" --in local/make_text.py --out "$data/lm_text" -- \
      "${PYTHON:-python3}" local/make_text.py --train "$data/$train_set/text" --out "$data/lm_text" \
      --seed "$seed" "${text_words[@]}"
  fi
fi

if begin_stage 7 stats "hours, lengths and characters of every set"; then
  for set in "${sets[@]}"; do
    inputs_of "$data/$set"
    step "${ins[@]}" --stdout "$data/report/stats_$set.txt" -- speechmtp data stats "$data/$set"
  done
fi

if begin_stage 8 train "encoder, trunk and heads"; then
  inputs_of "$data/$train_set" "$data/$dev_set"
  for path in "$data/tokenizer.model" "$data/lm_text"; do
    [[ ! -e $path ]] || ins+=(--in "$path")
  done
  stage_note "the log is $exp/log/train.log"
  record_run "$exp" "${command_line[@]}"
  step --resumable "${ins[@]}" --in "$train_config" --out "$exp" --makes "$exp/model" \
    --via "$train_cmd" --log "$exp/log/train.log" -- \
    speechmtp train asr --config "$train_config" --train "$data/$train_set" --dev "$data/$dev_set" \
    --out "$exp" "${train_words[@]}"
  # Again, since a run of other options has been moved aside with its record.
  record_run "$exp" "${command_line[@]}"
fi

if begin_stage 10 tune "thresholds and depths, chosen on $dev_set"; then
  inputs_of "$data/$dev_set"
  step "${ins[@]}" --in "$exp/model" --out "$exp/tune" --out "$decode_conf" \
    --via "$decode_cmd" --log "$exp/log/tune.log" -- \
    speechmtp tune "$data/$dev_set" --model "$exp/model" --out "$exp/tune" --conf "$decode_conf" "${tune_words[@]}"
fi

if begin_stage 11 decode "strategies on $test_sets, and their comparison"; then
  for set in "${tests[@]}"; do
    inputs_of "$data/$set"
    for strategy in "${strategies[@]}"; do
      name=${set}_$(folder_name "$strategy")
      step "${ins[@]}" --in "$exp/model" --out "$exp/decode/$name" -- \
        speechmtp decode "$data/$set" --model "$exp/model" --strategy "$strategy" --nj "$nj" \
        --cmd "$decode_cmd" --out "$exp/decode/$name" "${decode_words[@]}"
    done
    for size in $batch_sizes; do
      name=${set}_batch$size
      step "${ins[@]}" --in "$exp/model" --in "$decode_conf" --out "$exp/compare/$name" \
        --via "$decode_cmd" --log "$exp/log/compare_$name.log" -- \
        speechmtp compare "$data/$set" --model "$exp/model" --strategies "@$decode_conf" --batch-size "$size" \
        --out "$exp/compare/$name" "${decode_words[@]}"
    done
  done
fi

if begin_stage 12 score "word and character error rates"; then
  for set in "${tests[@]}"; do
    for strategy in "${strategies[@]}"; do
      name=${set}_$(folder_name "$strategy")
      step --in "$data/$set/text" --in "$exp/decode/$name/text" --out "$exp/score/$name" -- \
        speechmtp score "$data/$set" "$exp/decode/$name/text" --out "$exp/score/$name"
    done
  done
fi

if begin_stage 13 results "the page of results"; then
  step --in "$exp/score" --in "$exp/compare" --in-place --out "$results" \
    --record "$exp/.results.done.json" -- speechmtp results "$exp" --out "$results"
fi

if begin_stage 14 pack "the model folder as one file"; then
  archive=$exp/pack/${corpus}_$tag.tar.gz
  step --in "$exp/model" --out "$archive" -- tar -czf "$archive" -C "$exp" model
fi
finish_stages
