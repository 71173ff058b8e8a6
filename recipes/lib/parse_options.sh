# shellcheck shell=bash
# Command-line options of a recipe script, in the manner of Kaldi's parse_options.sh but without eval.
#
# A script assigns its defaults between two marks and sources this file with its own arguments:
#
#     help_message="Usage: run.sh [options]"   # optional
#     # begin options
#     nj=2              # jobs that decode at a time
#     tiny=false        # flag: a small run of every stage
#     # end options
#     . parse_options.sh
#
# Then `--nj 4`, `--my-opt v` and `--my_opt v` set what the block declares, and nothing else. Values are
# taken literally. An option whose default is true or false takes only these; one described as "flag:" may
# also stand alone. `--config FILE` (flat YAML) sets options too, the command line wins. `--` ends the
# options. Arguments that are no options are refused unless allow_positionals=true. Errors exit with 2.

_po_script=${BASH_SOURCE[1]:-$0}
_po_program=${0##*/}
declare -A _po_help=() _po_kind=()
_po_names=()

_po_fail() {
  printf '%s: %s\n' "$_po_program" "$1" >&2
  exit 2
}

# Read the option block of the calling script: names, kinds (text, bool, flag) and help lines.
_po_declare() {
  local line name inside=false comment
  while IFS= read -r line || [[ -n $line ]]; do
    [[ $line =~ ^[[:space:]]*'# begin options' ]] && inside=true && continue
    [[ $line =~ ^[[:space:]]*'# end options' ]] && break
    [[ $inside == true && $line =~ ^[[:space:]]*([A-Za-z_][A-Za-z0-9_]*)= ]] || continue
    name=${BASH_REMATCH[1]}
    comment=""
    [[ $line == *[[:space:]]'# '* ]] && comment=${line##*[[:space:]]# }
    _po_names+=("$name")
    _po_kind[$name]=text
    [[ ${!name} == true || ${!name} == false ]] && _po_kind[$name]=bool
    [[ $comment == 'flag: '* ]] && _po_kind[$name]=flag
    _po_help[$name]=${comment#flag: }
  done < "$_po_script"
}

# Print the Levenshtein distance of two words.
_po_distance() {
  local a=$1 b=$2 i j diagonal old best
  local -a row=()
  for ((j = 0; j <= ${#b}; j++)); do row[j]=$j; done
  for ((i = 1; i <= ${#a}; i++)); do
    diagonal=${row[0]}
    row[0]=$i
    for ((j = 1; j <= ${#b}; j++)); do
      old=${row[j]}
      best=$diagonal
      [[ ${a:i-1:1} == "${b:j-1:1}" ]] || best=$((diagonal + 1))
      ((row[j - 1] + 1 < best)) && best=$((row[j - 1] + 1))
      ((old + 1 < best)) && best=$((old + 1))
      row[j]=$best
      diagonal=$old
    done
  done
  printf '%s\n' "${row[${#b}]}"
}

# Print the declared name that is nearest to a wrong one.
_po_nearest() {
  local name distance least=1000 nearest=""
  for name in "${_po_names[@]}" config help; do
    distance=$(_po_distance "$1" "$name")
    if ((distance < least)); then
      least=$distance
      nearest=$name
    fi
  done
  printf -- '--%s\n' "${nearest//_/-}"
}

# Set _po_found to the kind of an option name ("" when it is not declared). The pattern comes first, since
# a subscript such as @ would mean the whole array.
_po_look_up() {
  local name=${1//-/_}
  _po_found=""
  if [[ $name =~ ^[A-Za-z_][A-Za-z0-9_]*$ ]]; then _po_found=${_po_kind[$name]:-}; fi
}

# True when the word is an option that this script knows.
_po_known() {
  [[ $1 == --?* ]] || return 1
  [[ $1 == --config || $1 == --help ]] && return 0
  _po_look_up "${1#--}"
  [[ -n $_po_found ]]
}

# _po_set WHERE OPTION VALUE: check and assign one value; WHERE begins the error message.
_po_set() {
  local where=$1 option=$2 value=$3 name=${2//-/_}
  _po_look_up "$name"
  if [[ -z $_po_found ]]; then
    _po_fail "${where}invalid option --$option; did you mean $(_po_nearest "$name")?"
  fi
  if [[ $_po_found != text && $value != true && $value != false ]]; then
    _po_fail "${where}expected \"true\" or \"false\": --$option $value"
  fi
  if [[ -z $value && ($name == cmd || $name == *_cmd) ]]; then
    _po_fail "${where}empty argument to --$option option"
  fi
  printf -v "$name" '%s' "$value"
}

# Read `key: value` lines. Nested YAML, lists and anchors are refused with file and line.
_po_read_config() {
  local file=$1 line key value number=0
  local re_pair='^([A-Za-z_][A-Za-z0-9_-]*):([[:space:]]+(.*))?$'
  local re_double='^"(([^"\\]|\\["\\])*)"[[:space:]]*(#.*)?$' re_single="^'(([^']|'')*)'[[:space:]]*(#.*)?\$"
  [[ -f $file && -r $file ]] || _po_fail "--config $file: no such file"
  while IFS= read -r line || [[ -n $line ]]; do
    number=$((number + 1))
    line=${line%$'\r'}
    [[ $line =~ ^[[:space:]]*(#.*)?$ || $line == --- ]] && continue
    [[ $line =~ $re_pair ]] || _po_fail "$file:$number: found '$line', expected 'option: value'"
    key=${BASH_REMATCH[1]}
    value=${BASH_REMATCH[3]}
    if [[ $value =~ $re_double ]]; then
      value=${BASH_REMATCH[1]//\\\"/\"}
      value=${value//\\\\/\\}
    elif [[ $value =~ $re_single ]]; then
      value=${BASH_REMATCH[1]//"''"/"'"}
    elif [[ $value == [\"\'\[\{\&\*\|\>\!]* ]]; then
      _po_fail "$file:$number: found '$value', expected one plain or quoted value"
    else
      [[ $value == '#'* ]] && value=""
      value=${value%%[[:space:]]#*}
      value=${value%"${value##*[![:space:]]}"}
    fi
    _po_set "$file:$number: " "$key" "$value"
  done < "$file"
}

# Print usage, options with their defaults, and the stages that the script declares.
_po_print_help() {
  local name row line
  [[ -z ${help_message:-} ]] || printf '%s\n\n' "$help_message"
  printf 'Options (with defaults):\n'
  for name in "${_po_names[@]}"; do
    row="--${name//_/-} ${!name}"
    [[ ${_po_kind[$name]} == flag ]] && row="--${name//_/-}"
    printf '  %-30s %s\n' "$row" "${_po_help[$name]}"
  done
  printf '  %-30s %s\n' '--config FILE' 'options from a flat YAML file; the command line wins'
  local re_stage='begin_stage[[:space:]]+(-?[0-9]+)[[:space:]]+([a-z_]+)[[:space:]]+"([^"]*)"'
  local heading='\nStages:\n'
  while IFS= read -r line; do
    [[ $line =~ $re_stage ]] || continue
    # shellcheck disable=SC2059 # the heading is ours, and empty after the first stage
    printf "$heading"
    heading=""
    printf '  %3s %-12s %s\n' "${BASH_REMATCH[1]}" "${BASH_REMATCH[2]}" "${BASH_REMATCH[3]}"
  done < "$_po_script"
}

# _po_scan PASS WORD...: walk the options. Pass `config` reads the --config files, pass `set` assigns the
# rest. Leaves the number of words consumed in _po_consumed.
_po_scan() {
  local pass=$1 option words
  shift
  words=$#
  _po_consumed=0
  while (($# > 0)); do
    case $1 in
      --)
        _po_consumed=$((words - $# + 1))
        return 0
        ;;
      -h | --help)
        _po_print_help
        exit 0
        ;;
      --*=*) _po_fail "options to scripts must be of the form --name value, got '$1'" ;;
      --?*) option=${1#--} ;;
      *) break ;;
    esac
    _po_look_up "$option"
    if [[ $_po_found == flag && ${2:-} != true && ${2:-} != false ]]; then
      [[ $pass == config ]] || _po_set "" "$option" true
      shift
      continue
    fi
    if ! _po_known "--$option"; then
      _po_fail "invalid option --$option; did you mean $(_po_nearest "${option//-/_}")?"
    fi
    (($# > 1)) || _po_fail "option --$option needs a value"
    ! _po_known "$2" || _po_fail "option --$option needs a value, found the option $2"
    if [[ $option == config ]]; then
      [[ $pass == set ]] || _po_read_config "$2"
    elif [[ $pass == set ]]; then
      _po_set "" "$option" "$2"
    fi
    shift 2
  done
  _po_consumed=$((words - $#))
}

_po_declare
_po_scan config "$@"
_po_scan set "$@"
shift "$_po_consumed"
if (($# > 0)) && [[ ${allow_positionals:-false} != true ]]; then
  _po_fail "unexpected argument '$1', expected options only (--help lists them)"
fi
