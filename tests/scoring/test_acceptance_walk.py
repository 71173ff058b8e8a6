"""Predicted acceptance: runs, the walk, the ceiling and what is counted at each depth."""

import math

import numpy as np
import pytest

from speechmtp.errors import DataError
from speechmtp.scoring.acceptance import Acceptance, Forced, acceptance, ceiling, walk
from speechmtp.scoring.plot_acceptance import legend_label, plot_acceptance


def random_pass(rng: np.random.Generator, depth: int, tokens: int | None = None, rate: float = 0.7) -> Forced:
    """A pass with random right answers, and rubbish where there is no label."""
    tokens = int(rng.integers(0, 30)) if tokens is None else tokens
    shape = (max(0, tokens - 1), depth)
    right = rng.random(shape) < rate
    return Forced(right, right | (rng.random(shape) < 0.3), rng.random(shape), tokens)


def simulated(right: np.ndarray, tokens: int, depth: int) -> tuple[int, list[int], list[int]]:
    """Calls, tokens that each gave, and the starts, by drafting and verifying one token at a time."""
    if not tokens:
        return 0, [], []
    emitted, gave, starts = 1, [1], []
    while emitted < tokens:
        starts.append(emitted - 1)
        new = 0
        for d in range(depth):
            if emitted + new == tokens or not right[emitted - 1, d]:
                break
            new += 1
        if emitted + new < tokens:  # the trunk's own token behind what was accepted
            new += 1
        emitted += new
        gave.append(new)
    return len(gave), gave, starts


@pytest.mark.parametrize("seed", range(40))
def test_the_walk_is_a_plain_simulation(seed: int) -> None:
    rng = np.random.default_rng(seed)
    depth = int(rng.integers(1, 9))
    one = random_pass(rng, depth, rate=(0.3, 0.7, 0.95)[seed % 3])
    for d in range(depth + 1):
        calls, gave, starts = simulated(one.right, one.tokens, d)
        found = walk(one.runs, one.tokens, d)
        assert (found.calls, list(found.starts)) == (calls, starts)
        assert sum(gave) == one.tokens, "no call gives what lies behind the end"


def test_runs_end_where_labels_end() -> None:
    right = np.ones(
        (4, 3), bool
    )  # five tokens, the end token last; entries past it are rubbish that happens to be right
    one = Forced(right, right, np.zeros((4, 3)), 5)
    assert one.runs.tolist() == [3, 3, 2, 1]
    assert one.labelled.sum() == 4 + 3 + 2
    assert walk(one.runs, 5, 3).calls == 2  # 1, then 3 accepted and the end token
    assert walk(one.runs, 5, 2).calls == 3  # 1, then 3 and the rest, cut
    right[0, 1] = False
    assert Forced(right, right, np.zeros((4, 3)), 5).runs.tolist() == [1, 3, 2, 1]


def test_short_outputs() -> None:
    for tokens, calls in ((0, 0), (1, 1), (2, 2)):
        one = random_pass(np.random.default_rng(0), 3, tokens)
        assert walk(one.runs, tokens, 3).calls == calls


@pytest.mark.parametrize("depth", [0, 1, 3, 7])
def test_the_ceiling_is_the_walk_with_every_token_right(depth: int) -> None:
    rng = np.random.default_rng(1)
    passes = [random_pass(rng, max(depth, 1), rate=1.1) for _ in range(50)]
    lengths = [p.tokens for p in passes]
    calls = sum(walk(p.runs, p.tokens, depth).calls for p in passes)
    assert ceiling(lengths, depth) == sum(lengths) / calls
    plain = sum(1 + math.ceil((n - 1) / (depth + 1)) for n in lengths if n)
    assert calls == plain
    assert ceiling([0, 0], depth) is None
    assert all(p.runs.max(initial=0) <= max(depth, 1) for p in passes)
    if depth:
        assert acceptance(passes).share == 1


def by_hand(passes: list[Forced], d: int) -> dict[str, float]:
    """What depth d says, one start at a time."""
    right = total = first = before = near = 0
    nats, outside = [], 0
    for one in passes:
        for k in range(one.tokens - 1):
            if k + d > one.tokens - 1:
                continue
            total += 1
            right += one.right[k, d - 1]
            near += one.near[k, d - 1]
            first += all(one.right[k, :d])
            before += all(one.right[k, : d - 1])
            if math.isnan(one.nats[k, d - 1]):
                outside += 1
            else:
                nats.append(one.nats[k, d - 1])
    return {"labels": total, "top1": right / total, "top5": near / total, "cross_entropy": sum(nats) / len(nats),
            "outside": outside / total, "unconditional": first / total, "conditional": first / before}  # fmt: skip


def test_every_depth_against_counting_by_hand() -> None:
    rng = np.random.default_rng(3)
    passes = [random_pass(rng, 4) for _ in range(12)]
    for one in passes:
        lost = rng.random(one.nats.shape) < 0.1
        one.nats[lost], one.right[lost], one.near[lost] = np.nan, False, False
    found = acceptance(passes)
    for d, score in enumerate(found.depths, 1):
        for key, value in by_hand(passes, d).items():
            assert getattr(score, key) == pytest.approx(value), key
        assert score.product == pytest.approx(1 + sum(s.unconditional or 0 for s in found.depths[:d]))
        calls = sum(simulated(p.right, p.tokens, d)[0] for p in passes)
        assert score.tokens_per_call == pytest.approx(sum(p.tokens for p in passes) / calls)
    assert found.tokens_per_call == found.depths[-1].tokens_per_call
    assert found.as_dict()["product_note"] == "biased: the text is harder after a miss"


def test_acceptance_in_real_calls_is_of_the_starts_that_were_walked() -> None:
    """Right at every start but the first: unconditional acceptance is high, yet the first call drafts in vain."""
    right = np.ones((5, 1), bool)
    right[0] = False
    one = Forced(right, right, np.zeros((5, 1)), 6)
    found = acceptance([one])
    assert found.depths[0].unconditional == 0.8
    assert walk(one.runs, 6, 1).starts == (0, 1, 3)
    assert found.depths[0].walked == pytest.approx(2 / 3)
    assert found.tokens_per_call == 6 / 4


def test_nothing_to_divide_by_is_none() -> None:
    found = acceptance([random_pass(np.random.default_rng(0), 3, tokens) for tokens in (0, 1, 2)])
    assert (found.utterances, found.tokens, found.calls) == (3, 3, 3)
    assert found.depths[2].labels == 0
    assert found.depths[2].top1 is None
    assert found.depths[2].walked is None
    assert acceptance([]).tokens_per_call is None
    bare = acceptance([Forced(np.zeros((4, 0), bool), np.zeros((4, 0), bool), np.zeros((4, 0)), 5)])
    assert (bare.depths, bare.tokens_per_call, bare.product) == ((), 1.0, 1.0)


def test_the_picture_and_its_legend(tmp_path) -> None:
    pytest.importorskip("matplotlib")
    rng = np.random.default_rng(0)
    one: Acceptance = acceptance([random_pass(rng, 3) for _ in range(5)])
    row = one.as_dict() | {"name": "chain"}
    label = legend_label(row)
    assert label == f"chain: {one.tokens_per_call:.2f} tokens per call of at most {one.ceiling:.2f}"
    plot_acceptance([row, row | {"depths": []}], tmp_path / "a.png", "a note")
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(DataError, match="no head set with a depth"):
        plot_acceptance([row | {"depths": []}], tmp_path / "b.png")
