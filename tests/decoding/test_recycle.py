"""Where a prepared draft is resumed after a mismatch."""

import oracle
import pytest
import tiny
import torch

from speechmtp.decoding.drafters.recycle import Pointers


def rest(pointer: Pointers, draft: list[int]) -> list[int]:
    """What is behind the best prefix."""
    [(_, start)] = pointer.best(1)
    return draft[start:]


@pytest.mark.parametrize("seed", range(40))
def test_the_pointer_is_the_best_prefix_by_edit_distance(seed: int) -> None:
    rng = tiny.generator(seed)
    letters = int(torch.randint(1, 5, (), generator=rng))
    size, steps = torch.randint(0, 10, (2,), generator=rng).tolist()
    draft = torch.randint(0, letters, (size,), generator=rng).tolist()
    emitted = torch.randint(0, letters, (steps,), generator=rng).tolist()
    pointer = Pointers([draft])
    assert rest(pointer, draft) == draft, "nothing emitted: all of it"
    for count in range(1, steps + 1):
        pointer.emit(emitted[count - 1])
        distances = [oracle.edit_distance(emitted[:count], draft[:end]) for end in range(size + 1)]
        best = [end for end, distance in enumerate(distances) if distance == min(distances)]
        assert rest(pointer, draft) == draft[min(best, key=lambda end: abs(end - count)) :]


@pytest.mark.parametrize(
    ("emitted", "left"),
    [
        ([1, 2, 9], [4, 5, 6]),  # a substitution: go on behind it
        ([1, 2, 4], [4, 5, 6]),  # still as likely a substitution
        ([1, 2, 4, 5], [6]),  # the draft had one token too many
        ([1, 2, 9, 3], [4, 5, 6]),  # the draft lacked one
        ([1, 2, 3, 4, 5, 6], []),
    ],
)
def test_simple_mismatches(emitted: list[int], left: list[int]) -> None:
    draft = [1, 2, 3, 4, 5, 6]
    pointer = Pointers([draft])
    for token in emitted:
        pointer.emit(token)
    assert rest(pointer, draft) == left
