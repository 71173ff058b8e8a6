#!/usr/bin/env bash
# split.sh TEXT.gz TRAIN DEV TEST HEADS: documents of 8 sentences, a document a line. The text comes in blocks of 200
# sentences from 81 novels; the whole 34th and 67th of every hundred blocks are dev and test, 13 each. HEADS is every
# fifteenth document of TRAIN.
set -euo pipefail
zcat "$1" | paste -d ' ' - - - - - - - - | awk -v train="$2" -v dev="$3" -v test="$4" -v heads="$5" '{
  block = int((NR - 1) / 25) % 100
  print > (block == 33 ? dev : block == 66 ? test : train)
  if (block != 33 && block != 66 && NR % 15 == 0) print > heads
}'
