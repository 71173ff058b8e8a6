# shellcheck shell=bash
# Environment of the recipe, that of the others.
# shellcheck source=egs/an4/asr1/path.sh
. "$(dirname "${BASH_SOURCE[0]}")/../../an4/asr1/path.sh"
