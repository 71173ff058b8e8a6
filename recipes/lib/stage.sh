# shellcheck shell=bash
# Numbered stages that can be started, stopped, skipped, forced and repeated.
#
#     stage=0 stop_stage=14 only="" force=""     # usually options of the script
#     if begin_stage 5 tokens "tokenizer"; then
#       step --in data/train/text --out data/tokenizer.model -- \
#         speechmtp train tokenizer --text data/train/text --out data/tokenizer.model
#     fi
#     finish_stages
#
# A step is one command with declared inputs and outputs (lib/step.py): it writes under temporary names that
# are renamed when it succeeds, and it is skipped with a line when inputs and options are those of its last
# success. A command that fails stops the script with the number of its stage.

# The library's own folder, with symbolic links and odd characters as they are.
_stage_lib=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)

_stage_report() {
  local code=$?
  if ((code != 0)) && [[ -n ${STAGE_NUMBER:-} ]]; then
    printf '%s: stage %s (%s) failed with code %s; mend it and go on with --stage %s\n' \
      "${0##*/}" "$STAGE_NUMBER" "$STAGE_NAME" "$code" "$STAGE_NUMBER" >&2
  fi
  exit "$code"
}

# begin_stage NUMBER NAME DESCRIPTION: true when --stage, --stop-stage, --only and --skip-* let it run.
begin_stage() {
  local number=$1 name=$2
  STAGE_NUMBER="" STAGE_NAME=""
  if [[ -n ${only:-} ]]; then
    [[ $only == "$name" || $only == "$number" ]] || return 1
  else
    ((number >= ${stage:-0} && number <= ${stop_stage:-1000})) || return 1
    [[ ${skip_data:-false} == true ]] && ((number >= 1 && number <= 7)) && return 1
    [[ ${skip_train:-false} == true ]] && ((number >= 8 && number <= 10)) && return 1
    [[ ${skip_eval:-false} == true ]] && ((number >= 11 && number <= 13)) && return 1
  fi
  export STAGE_NUMBER=$number STAGE_NAME=$name STAGE_FORCE=false
  [[ ",${force:-}," != *",$number,"* && ",${force:-}," != *",$name,"* ]] || STAGE_FORCE=true
  printf 'stage %s (%s): %s\n' "$number" "$name" "$3"
  # Set here, in the shell that runs stages: a script called by a stage reports through its caller.
  trap _stage_report EXIT
}

# stage_note MESSAGE...: a line under the running stage's name.
stage_note() { printf 'stage %s (%s): %s\n' "${STAGE_NUMBER:-?}" "${STAGE_NAME:-?}" "$*"; }

# finish_stages: what fails from here on is no stage's fault.
finish_stages() { STAGE_NUMBER="" STAGE_NAME=""; }

# step [--in PATH]... [--out PATH]... [options] -- COMMAND...: see lib/step.py.
step() { "${PYTHON:-python3}" "$_stage_lib/step.py" "$@"; }
