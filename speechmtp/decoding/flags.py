"""What looks wrong about an output; nothing is changed."""

from collections.abc import Sequence

LONGEST_PERIOD, REPEATS, LEAST = 16, 4, 12


def flags_of(tokens: Sequence[int], ends: Sequence[int]) -> tuple[str, ...]:
    """`empty`: no token before the end; `limit`: no end token came; `repetition`: the output ends in the same up to 16
    tokens at least 4 times over, 12 tokens or more."""
    found = []
    text = [token for token in tokens if token not in ends]
    if not text:
        found.append("empty")
    if tokens and tokens[-1] not in ends:
        found.append("limit")
    if _repeats(text):
        found.append("repetition")
    return tuple(found)


def _repeats(tokens: Sequence[int]) -> bool:
    for period in range(1, LONGEST_PERIOD + 1):
        size = max(REPEATS * period, LEAST)
        if len(tokens) >= size and all(tokens[-i] == tokens[-i - period] for i in range(1, size - period + 1)):
            return True
    return False
