# shellcheck shell=bash
# The environment of the recognition recipe, whose data directories this one reads.
# shellcheck source=egs/an4/asr1/path.sh
. "$(dirname "${BASH_SOURCE[0]}")/../asr1/path.sh"
