# shellcheck shell=bash
# The environment of the recipe whose models and texts this one reads.
# shellcheck source=egs/lm_en/lm1/path.sh
. "$(dirname "${BASH_SOURCE[0]}")/../lm1/path.sh"
