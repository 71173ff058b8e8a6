#!/usr/bin/env bash
# The stages that every voice recipe shares. A corpus calls it from its recipe folder: egs/<corpus>/tts1/run.sh sources
# path.sh and cmd.sh, then runs this file with its options. Training data are data directories with the tables phones and
# frames besides wav.scp, text and utt2spk.
set -euo pipefail

lib=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)/lib
# shellcheck source=recipes/lib/log.sh
. "$lib/log.sh"
# shellcheck source=recipes/lib/stage.sh
. "$lib/stage.sh"
read -ra typed <<< "${RECIPE_ARGUMENTS-$*}" # what the user typed, without the corpus's own options
command_line=("${RECIPE_SCRIPT:-$0}" "${typed[@]}")

help_message="Usage: ${RECIPE_SCRIPT:-$0} [options]
From recordings with phones and durations to a voice and a table of results. Stages whose inputs and options are unchanged
are skipped. Opinions are predicted, and rows of other systems made, where the folder PEERS has what tools/voice_eval
needs; without it the table has this project's recogniser and rows alone, on dev."
# shellcheck disable=SC2034 # options of the stage library
# begin options
stage=0                 # first stage to run
stop_stage=14           # last stage to run
only=""                 # run this stage alone (a name or a number)
force=""                # stages to run again though nothing changed (names or numbers, commas between)
skip_data=false         # flag: leave out stages 1 to 7
skip_train=false        # flag: leave out stages 8 to 10
skip_eval=false         # flag: leave out stages 11 to 13
tiny=false              # flag: a few utterances and a tiny model through every stage
corpus=corpus           # name of the corpus, for the archive
data_args=""            # further options of local/data.sh
train_set="train"       # data/<set> to train on
dev_set="dev"           # data/<set> on which every choice is made
sentences=conf/sentences.txt  # lines `id text` that are spoken for the table, if the teacher can speak them (--style)
codec=""                # codec folder (default: that of the embedded voice, or the one that is trained)
codec_config=""         # configuration of a codec's training; empty: none is trained
codec_init=none         # codec whose weights a training begins with; none: random ones
train_config=conf/train.yaml  # model and training configuration
train_args="--storage int8" # further options of speechmtp train tts
heads_config=conf/heads.yaml  # configuration of the heads
heads_args=""           # further options of speechmtp train heads
strategy=verify:depth=5 # the voice's own
temperatures="0.6 0.8 1.0" # that are compared on dev
top_ks="20"             # that are compared on dev; 0 leaves all tokens
dev_lines=20            # sentences of dev that are spoken for each of them
seeds="0 1 2"           # seeds of the voice's rows
style=""                # the teacher's voice (see tools/voice_eval/others.py); empty: dev is spoken, its recordings are the teacher
others=""               # further rows of other systems, with phones: hibari
opinions=50             # sentences whose opinions are predicted
tag=""                  # results go to exp/<tag> (default: name of the training configuration)
results=""              # the results page (default: RESULTS.md, with --tiny exp/tiny/RESULTS.md)
# end options
# shellcheck source=recipes/lib/parse_options.sh
. "$lib/parse_options.sh"

data=data
if [[ $tiny == true ]]; then
  data=data/tiny train_config=conf/tiny.yaml heads_config=conf/tiny_heads.yaml
  temperatures="0.8" top_ks="20" seeds="0" dev_lines=1 opinions=1
  : "${tag:=tiny}" "${results:=exp/$tag/RESULTS.md}"
fi
config_name=${train_config##*/}
: "${tag:=${config_name%.*}}" "${results:=RESULTS.md}"
exp=exp/$tag rows=exp/$tag/rows
eval_tools=$lib/../../tools/voice_eval
read -ra data_words <<< "$data_args"
read -ra train_words <<< "$train_args"
read -ra heads_words <<< "$heads_args"
sets=("$train_set" "$dev_set")
: "${train_cmd:=run.py}" "${decode_cmd:=run.py}" "${PYTHON:=python3}"
codec_words=() # options that name the codec
[[ -z $codec ]] || codec_words=(--codec "$codec")
if [[ -z $codec && -n $codec_config ]]; then
  codec_words=(--codec "$exp/codec/model")
fi

# Collect in `ins` the --in options of data directories: the files that stages read, tokens only with `with_tokens`.
inputs_of() {
  local folder name names=(wav.scp text phones frames utt2speed)
  ins=()
  if [[ $1 == with_tokens ]]; then
    names+=(tokens)
    shift
  fi
  for folder in "$@"; do
    [[ -e $folder/wav.scp ]] || die "$folder/wav.scp: no such file; run the stages from --stage 1" 1
    for name in "${names[@]}"; do
      [[ ! -e $folder/$name ]] || ins+=(--in "$folder/$name")
    done
  done
}

# measure LINES ROW...: what recognisers hear in rows, their melody, and predicted opinions where packages are there.
measure() {
  local lines=$1 row ins=() outs=()
  shift
  for row in "$@"; do ins+=(--in "$row") outs+=(--out "$row.measures"); done
  step "${ins[@]}" --in "$lines" "${outs[@]}" --in-place --record "$exp/.measures_$STAGE_NAME.done.json" -- \
    "$PYTHON" "$eval_tools/measure.py" "$@" --texts "$lines" --opinions "$opinions"
}

if begin_stage 0 preflight "tools, disk and configuration"; then
  for program in speechmtp "${train_cmd%% *}" "${decode_cmd%% *}" tar; do
    command -v "$program" > /dev/null || die "$program: not on PATH; see path.sh and cmd.sh"
  done
  for file in "$train_config" "$heads_config" "$sentences"; do
    [[ -f $file ]] || die "$file: no such file"
  done
  [[ -x local/data.sh ]] || die "local/data.sh: missing or not executable"
  "$PYTHON" -c 'import librosa' 2> /dev/null || die "librosa: not installed, F0 needs it; pip install 'speechmtp[train]'"
fi

if begin_stage 1 data "corpus to data/<set>, with phones and durations"; then
  local/data.sh "${data_words[@]}"
  if [[ $tiny == true ]]; then
    mkdir -p "$data"
    for set in "${sets[@]}"; do
      size=2
      [[ $set != "$train_set" ]] || size=8
      inputs_of "data/$set"
      step "${ins[@]}" --out "$data/$set" -- speechmtp data subset "data/$set" "$data/$set" --first "$size"
    done
  fi
fi
if [[ -n $style ]]; then
  spoken=$sentences taught=$data/teacher
else # the table is of dev
  spoken=$data/spoken.txt taught=$data/$dev_set
fi

if begin_stage 2 validate "every data directory"; then
  for set in "${sets[@]}"; do
    inputs_of "$data/$set"
    step "${ins[@]}" --stdout "$data/report/validate_$set.txt" -- speechmtp data validate "$data/$set"
  done
fi

if begin_stage 3 codec "a codec of one's own"; then
  if [[ -n $codec_config ]]; then
    for set in "${sets[@]}"; do # by the levels that it begins with, in directories of their own
      inputs_of "$data/$set"
      step "${ins[@]}" --out "$data/for_codec/$set" -- cp -R "$data/$set" "$data/for_codec/$set"
      step --in "$data/for_codec/$set/frames" --out "$data/for_codec/$set/tokens" -- \
        speechmtp codec encode "$data/for_codec/$set" --out "$data/for_codec/$set/tokens"
    done
    inputs_of with_tokens "$data/for_codec/$train_set" "$data/for_codec/$dev_set"
    stage_note "the log is $exp/log/codec.log"
    step --resumable "${ins[@]}" --in "$codec_config" --out "$exp/codec" --makes "$exp/codec/model" \
      --via "$train_cmd" --log "$exp/log/codec.log" -- \
      speechmtp train codec --config "$codec_config" --init "$codec_init" --train "$data/for_codec/$train_set" \
      --dev "$data/for_codec/$dev_set" --out "$exp/codec"
  else
    stage_note "${codec:-the codec of the embedded voice} is taken as it is"
  fi
fi

if begin_stage 4 encode "speech tokens of every utterance"; then
  for set in "${sets[@]}"; do
    inputs=()
    for name in wav.scp phones frames; do inputs+=(--in "$data/$set/$name"); done
    [[ ${#codec_words[@]} == 0 ]] || inputs+=(--in "${codec_words[1]}")
    step "${inputs[@]}" --out "$data/$set/tokens" -- \
      speechmtp codec encode "$data/$set" --out "$data/$set/tokens" "${codec_words[@]}"
  done
fi

if begin_stage 7 stats "hours and lengths of every set"; then
  for set in "${sets[@]}"; do
    inputs_of "$data/$set"
    step "${ins[@]}" --stdout "$data/report/stats_$set.txt" -- speechmtp data stats "$data/$set"
  done
fi

if begin_stage 8 train "durations, hints and trunk"; then
  inputs_of with_tokens "$data/$train_set" "$data/$dev_set"
  stage_note "the log is $exp/log/train.log"
  record_run "$exp" "${command_line[@]}"
  step --resumable "${ins[@]}" --in "$train_config" --out "$exp/voice" --makes "$exp/voice/model" \
    --via "$train_cmd" --log "$exp/log/train.log" -- \
    speechmtp train tts --config "$train_config" --train "$data/$train_set" --dev "$data/$dev_set" \
    --out "$exp/voice" "${codec_words[@]}" "${train_words[@]}"
fi

if begin_stage 9 tune "temperature and top-k, chosen on $dev_set"; then
  lines=$data/tune.txt
  step --in "$data/$dev_set/text" --out "$lines" --out "$rows/tune/recordings" -- \
    "$PYTHON" "$eval_tools/lines.py" "$data/$dev_set" "$lines" --first "$dev_lines" --recordings "$rows/tune/recordings"
  model=$exp/voice/model options=() tried=("$rows/tune/recordings")
  for temperature in $temperatures; do
    for top_k in $top_ks; do
      name=tune/t${temperature}_k$top_k
      step --in "$model" --in "$lines" --out "$rows/$name" -- \
        speechmtp speak "$lines" --lines --voice "$model" --out "$rows/$name" --temperature "$temperature" --top-k "$top_k"
      tried+=("$rows/$name")
      options+=(--try "$temperature,$top_k=$rows/$name.measures")
    done
  done
  measure "$lines" "${tried[@]}"
  inputs=()
  for row in "${tried[@]}"; do inputs+=(--in "$row.measures"); done
  step "${inputs[@]}" --in "$model" --out "$exp/tuned" --out "$exp/tune.md" -- \
    "$PYTHON" "$eval_tools/choose.py" --model "$model" "${options[@]}" \
    --recordings "$rows/tune/recordings.measures" --out "$exp/tuned" --table "$exp/tune.md"
fi

if begin_stage 10 heads "heads, trained on tokens that the trunk draws"; then
  inputs_of with_tokens "$data/$train_set" "$data/$dev_set"
  stage_note "the log is $exp/log/heads.log"
  step --resumable "${ins[@]}" --in "$heads_config" --in "$exp/tuned" --out "$exp/heads" \
    --makes "$exp/heads/config.yaml" --via "$train_cmd" --log "$exp/log/heads.log" -- \
    speechmtp train heads --model "$exp/tuned" --config "$heads_config" --train "$data/$train_set" \
    --dev "$data/$dev_set" --out "$exp/heads" "${heads_words[@]}"
  step --in "$exp/tuned" --in "$exp/heads" --out "$exp/model" -- \
    "$PYTHON" "$eval_tools/with_heads.py" --model "$exp/tuned" --heads "$exp/heads" --strategy "$strategy" \
    --out "$exp/model"
fi

names=("codec round trip=round_trip") # rows of the table besides the teacher's
[[ -z $style ]] || for name in $others; do names+=("$name=$name"); done
voices=()
for seed in $seeds; do names+=("voice:$seed=voice_$seed") voices+=("$rows/voice_$seed"); done
if begin_stage 11 speak "rows: the teacher, others, the codec's round trip, the voice"; then
  if [[ -n $style ]]; then
    step --in "$spoken" --out "$data/phones.txt" -- "$PYTHON" "$eval_tools/phones.py" "$spoken" "$data/phones.txt"
    step --in "$data/phones.txt" --in-place --out "$taught/frames" --out "$rows/teacher" -- \
      "$PYTHON" "$eval_tools/others.py" kokoro "$data/phones.txt" "$rows/teacher" --style "$style" \
      --data "$taught" --texts "$spoken"
    step --in "$taught/frames" --out "$taught/tokens" -- \
      speechmtp codec encode "$taught" --out "$taught/tokens" "${codec_words[@]}"
    for name in $others; do
      step --in "$data/phones.txt" --out "$rows/$name" -- \
        "$PYTHON" "$eval_tools/others.py" "$name" "$data/phones.txt" "$rows/$name"
    done
  else
    step --in "$taught/text" --out "$spoken" --out "$rows/teacher" -- \
      "$PYTHON" "$eval_tools/lines.py" "$taught" "$spoken" --recordings "$rows/teacher"
  fi
  step --in "$taught/tokens" --out "$rows/round_trip" -- \
    speechmtp codec decode "$taught" --out "$rows/round_trip" "${codec_words[@]}"
  for seed in $seeds; do
    step --in "$exp/model" --in "$spoken" --out "$rows/voice_$seed" -- \
      speechmtp speak "$spoken" --lines --voice "$exp/model" --out "$rows/voice_$seed" --seed "$seed"
  done
fi

if begin_stage 12 measure "what recognisers hear, predicted opinions, melody"; then
  measured=("$rows/teacher")
  for name in "${names[@]}"; do measured+=("$rows/${name#*=}"); done
  measure "$spoken" "${measured[@]}"
  inputs=()
  for voice in "${voices[@]}"; do inputs+=(--in "$voice"); done
  step "${inputs[@]}" --in "$spoken" --out "$exp/melody.json" -- \
    "$PYTHON" "$eval_tools/pitch.py" "${voices[@]}" --texts "$spoken" --out "$exp/melody.json"
fi

if begin_stage 13 results "the page of results"; then
  words=(--teacher "$rows/teacher.measures") inputs=(--in "$rows/teacher.measures")
  for name in "${names[@]}"; do
    words+=(--row "${name%%=*}=$rows/${name#*=}.measures") inputs+=(--in "$rows/${name#*=}.measures")
  done
  step "${inputs[@]}" --in "$exp/tune.md" --in "$exp/melody.json" --in-place --out "$results" \
    --record "$exp/.results.done.json" -- \
    "$PYTHON" "$eval_tools/results.py" "${words[@]}" --tune "$exp/tune.md" --melody "$exp/melody.json" \
    --run "${command_line[*]}" --name "$tag" --out "$results"
fi

if begin_stage 14 pack "the voice as one file"; then
  archive=$exp/pack/${corpus}_$tag.tar.gz
  step --in "$exp/model" --out "$archive" -- tar -czf "$archive" -C "$exp" model
fi
finish_stages
