# shellcheck shell=bash
# Messages and the record of a run. Sourced; defines functions only.

# log MESSAGE...: a line with the time of day on stderr.
log() { printf '%(%H:%M:%S)T %s\n' -1 "$*" >&2; }

# die MESSAGE [CODE]: one line that names the script, then exit (code 2, the code of a usage error).
die() {
  printf '%s: %s\n' "${0##*/}" "$1" >&2
  exit "${2:-2}"
}

# quoted WORD...: the words as a shell would read them back.
quoted() {
  local word line=""
  for word in "$@"; do printf -v line '%s%q ' "$line" "$word"; done
  printf '%s\n' "${line% }"
}

# record_run FOLDER COMMAND...: write FOLDER/run.sh (the exact command, to be run from this folder) and
# FOLDER/environment.txt (commit, hash of uncommitted changes, host, package versions).
record_run() {
  local folder=$1 commit="unknown" changes="none"
  shift
  mkdir -p "$folder"
  printf '#!/usr/bin/env bash\ncd %q || exit 1\n%s\n' "$PWD" "$(quoted "$@")" > "$folder/run.sh"
  chmod +x "$folder/run.sh"
  if commit=$(git rev-parse HEAD 2> /dev/null); then
    git diff --quiet HEAD 2> /dev/null || changes=$(git diff HEAD | git hash-object --stdin)
  else
    commit="unknown"
  fi
  {
    printf 'commit: %s\nuncommitted changes: %s\nhost: %s\ndate: %s\n' \
      "$commit" "$changes" "$(uname -nsrm)" "$(date -u +%Y-%m-%dT%H:%M:%SZ)"
    "${PYTHON:-python3}" - << 'PY'
import sys
from importlib.metadata import distributions

print("python:", sys.version.split()[0])
for line in sorted({f"{d.metadata['Name']}=={d.version}" for d in distributions()}, key=str.lower):
    print(line)
PY
  } > "$folder/environment.txt"
}
