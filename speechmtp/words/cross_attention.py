"""When tokens were said, by the cross-attention that emits them, for models without a CTC head.

Dynamic time warping of the shares of attention, as Whisper's word times (arXiv 2212.04356) are made, but between tokens
the path may wait where no token is attended to. Shares are taken as they are: filters over time and normalisation over
tokens made times worse for Moonshine and Whisper.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from speechmtp.models.alignment import Lag
from speechmtp.models.seq2seq import Seq2SeqTrunk
from speechmtp.words.monotone import place_labels

# The share of a state below which none of the tokens in the order of the text is said there; from 0.005 to 0.02 word
# starts differ little.
_SILENT = 0.01
# Median seconds that a first token takes, and those of each of its characters, on training speech.
_FIRST, _EACH = 0.075, 0.032


def token_times(
    trunk: Seq2SeqTrunk, memory: Tensor, start_tokens: Sequence[int], tokens: Sequence[int],
    heads: Sequence[tuple[int, int]], steps: int,
) -> NDArray[np.int64]:  # fmt: skip
    """Return the first and the last state [N, 2] of each of the tokens [N], which follow `start_tokens`.

    `memory` [1, S, E] are the encoder outputs, of which `steps` have audio.
    """
    ids = [*start_tokens, *tokens[:-1]]  # each entry attends to what it emits next
    shares = trunk.attention_shares(ids, memory, heads)[len(start_tokens) - 1 :, :steps].cpu().numpy()
    scores = np.full((shares.shape[1], len(tokens) + 1), _SILENT, np.float32)
    scores[:, :-1] = shares.T
    placed = place_labels(scores, np.arange(len(tokens)))
    return np.stack([placed.first, placed.last], 1)


def attended_times(
    states: NDArray[np.int64], words: Sequence[tuple[int, int]], hop: float, lag: Lag, first_token: str
) -> list[tuple[float, float]]:
    """Return start and end in seconds of words, each with its first and its last token, from `states` [N, 2], one every
    `hop` seconds.

    The first token may attend to the first states, where encoders gather how a text begins; it starts no earlier than
    tokens of its length do before the next one. `first_token` is its text.
    """
    found = [(float(states[first, 0] * hop + lag.start), float((states[last, 1] + 1) * hop + lag.end))
             for first, last in words]  # fmt: skip
    if words and words[0][0] == 0:
        following = states[1, 0] if len(states) > 1 else states[0, 1] + 1
        takes = _FIRST + _EACH * len(first_token)
        latest = float(following * hop + lag.start) - takes
        if latest > found[0][0]:
            found[0] = latest, max(found[0][1], latest + takes)
    return found
