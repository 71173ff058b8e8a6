# shellcheck shell=bash
# The environment of the first recipe, which is that of every recipe.
# shellcheck source=egs/an4/asr1/path.sh
. "$(dirname "${BASH_SOURCE[0]}")/../../an4/asr1/path.sh"
