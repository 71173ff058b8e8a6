#!/usr/bin/env bash
# A language model of English novels, a small one that drafts for it, and multi-token heads: no audio anywhere.
#   SPEECHMTP_CORPORA=/path/to/corpora ./run.sh     about 45 minutes on one core
#   ./run.sh --help                                 options and stages
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
# shellcheck source=egs/lm_en/lm1/path.sh
. ./path.sh
# shellcheck source=egs/lm_en/lm1/cmd.sh
. ./cmd.sh
# shellcheck source=recipes/lib/log.sh
. ../../../recipes/lib/log.sh
# shellcheck source=recipes/lib/stage.sh
. ../../../recipes/lib/stage.sh
# shellcheck disable=SC2034 # options of the stage library
# begin options
stage=1             # first stage to run
stop_stage=4        # last stage to run
only=""             # run this stage alone (a name or a number)
corpora=${SPEECHMTP_CORPORA:-}  # folder that holds text/ (default: SPEECHMTP_CORPORA)
# end options
# shellcheck source=recipes/lib/parse_options.sh
. ../../../recipes/lib/parse_options.sh

if begin_stage 1 data "documents: train, dev, test, and those of train that heads learn on"; then
  [[ -f $corpora/text/lm_en.txt.gz ]] || die "--corpora '$corpora': no text/lm_en.txt.gz there; set SPEECHMTP_CORPORA"
  parts=(data/train.txt data/dev.txt data/test.txt data/heads.txt)
  step --in "$corpora/text/lm_en.txt.gz" --in local/split.sh "${parts[@]/#/--out=}" -- \
    local/split.sh "$corpora/text/lm_en.txt.gz" "${parts[@]}"
fi
if begin_stage 2 big "the language model, 18 minutes"; then
  local/train.sh big
fi
if begin_stage 3 small "a small one with the same tokenizer, 5 minutes"; then
  local/train.sh small --tokenizer exp/big/tokenizer
fi
if begin_stage 4 heads "multi-token heads, 2 minutes each, and their acceptance on dev"; then local/heads.sh; fi
finish_stages
