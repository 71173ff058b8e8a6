"""Where a prepared draft is resumed after a mismatch."""

import oracle
import pytest
import tiny
import torch
from cases import make_case, mutate

from speechmtp.decoding.drafters.recycle import Pointer, Recycled


@pytest.mark.parametrize("seed", range(40))
def test_the_pointer_is_the_best_prefix_by_edit_distance(seed: int) -> None:
    rng = tiny.generator(seed)
    letters = int(torch.randint(1, 5, (), generator=rng))
    size, steps = torch.randint(0, 10, (2,), generator=rng).tolist()
    draft = torch.randint(0, letters, (size,), generator=rng).tolist()
    emitted = torch.randint(0, letters, (steps,), generator=rng).tolist()
    pointer = Pointer(draft)
    assert pointer.rest() == draft, "nothing emitted: all of it"
    for count in range(1, steps + 1):
        pointer.emit(emitted[count - 1])
        distances = [oracle.edit_distance(emitted[:count], draft[:end]) for end in range(size + 1)]
        best = [end for end, distance in enumerate(distances) if distance == min(distances)]
        assert pointer.rest() == draft[min(best, key=lambda end: abs(end - count)) :]


@pytest.mark.parametrize(
    ("emitted", "rest"),
    [
        ([1, 2, 9], [4, 5, 6]),  # a substitution: go on behind it
        ([1, 2, 4], [4, 5, 6]),  # still as likely a substitution
        ([1, 2, 4, 5], [6]),  # the draft had one token too many
        ([1, 2, 9, 3], [4, 5, 6]),  # the draft lacked one
        ([1, 2, 3, 4, 5, 6], []),
    ],
)
def test_simple_mismatches(emitted: list[int], rest: list[int]) -> None:
    pointer = Pointer([1, 2, 3, 4, 5, 6])
    for token in emitted:
        pointer.emit(token)
    assert pointer.rest() == rest


def calls_with(draft: list[int], truth: list[int], recycle: bool) -> int:
    """Trunk calls for `truth` when each call drafts the pointer's rest (or nothing behind the first mismatch)."""
    pointer, done, calls = Pointer(draft), 0, 0
    while done < len(truth):
        rest = pointer.rest() if recycle or calls == 0 else []
        new = truth[done : done + oracle.matched(rest, truth[done:]) + 1]
        for token in new:
            pointer.emit(token)
        done, calls = done + len(new), calls + 1
    return calls


@pytest.mark.parametrize(
    ("size", "rate", "least", "most"), [(20, 0.02, 12, 15), (20, 0.05, 8, 10), (20, 0.10, 5, 6.5), (60, 0.05, 11, 13.5)]
)
def test_pitfall_06_recycling_keeps_its_pace(size: int, rate: float, least: float, most: float) -> None:
    """The simulator of Monte Carlo edits: 13.0, 8.7, 5.5 and 11.8 tokens a call are known for these settings."""
    rng = tiny.generator(0)
    tokens = calls = resumed = 0
    for _ in range(250):
        truth = torch.randint(1, 31, (size,), generator=rng).tolist()
        draft = mutate(truth, rate, rng, vocab=31)
        calls += calls_with([*draft, 0], [*truth, 0], True)
        resumed += calls_with([*draft, 0], [*truth, 0], False)
        tokens += size + 1
    assert least <= tokens / calls <= most
    assert tokens / resumed < 0.7 * tokens / calls, "decoding on without a draft is what recycling beats"


@pytest.mark.parametrize("seed", [2, 5, 7, 11, 13])
def test_the_loop_recycles_as_the_simulator_does(seed: int) -> None:
    """Calls of every row in a batch, from token lists alone."""
    case = make_case(seed, most=20)
    rng = tiny.generator(seed)
    drafts = [mutate(tokens, 0.2, rng) for tokens in case.tokens]
    _, traces = case.run(Recycled(), sources=drafts)
    for draft, tokens, trace in zip(drafts, case.tokens, traces):
        assert trace.calls == calls_with([*draft, tiny.EOS], tokens, True)
