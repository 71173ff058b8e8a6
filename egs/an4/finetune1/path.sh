# shellcheck shell=bash
# The environment of the recognition recipe.
# shellcheck source=egs/an4/asr1/path.sh
. "$(dirname "${BASH_SOURCE[0]}")/../asr1/path.sh"
