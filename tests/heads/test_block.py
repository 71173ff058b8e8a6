"""The block drafter in decoding: cached drafts against teacher-forced training."""

from collections.abc import Iterator
from itertools import product
from typing import Any

import pytest
import tiny
import torch
from blocks import CORRECTION, DEPTH, INSIDE, LENGTHS, Decoding, block, random_batch
from engine_runs import Limits, generate

from speechmtp.decoding.drafters.contract import Silent
from speechmtp.decoding.drafters.heads import HeadChain
from speechmtp.decoding.rules.greedy_match import GreedyMatch


def acceptances() -> Iterator[list[int]]:
    """Every acceptance 0..DEPTH in every row, rows apart."""
    yield from ([a, (2 * a + 3) % (DEPTH + 1), DEPTH - a] for a in range(DEPTH + 1))


CASES = [
    pytest.param({"inside": inside, "correction": correction} | more, family, id=f"{inside}-{correction}-{name}")
    for inside, correction in product(INSIDE, CORRECTION)
    for name, more, family in (
        ("plain", {}, "llama"),
        ("taps-two-layers", {"taps": (0, 1), "layers": 2}, "qwen3"),
        ("audio", {"audio": True, "layers": 2}, "llama"),
    )
]


@torch.no_grad()
@pytest.mark.parametrize(("settings", "family"), CASES)
def test_fault_15_cached_drafting_equals_teacher_forcing_after_every_acceptance(
    settings: dict[str, Any], family: str
) -> None:
    trunk = tiny.trunk(0, family)
    heads = block(trunk, **settings)
    run = Decoding(trunk, heads, audio=settings.get("audio", False))
    run.commit([])
    torch.testing.assert_close(run.draft(), run.taught(), rtol=0, atol=1e-10)
    for number, accepted in enumerate(acceptances()):
        run.commit(accepted)
        if number != 2:  # once nothing is drafted between two calls
            torch.testing.assert_close(run.draft(), run.taught(), rtol=0, atol=1e-10)


@torch.no_grad()
@pytest.mark.parametrize("inside", INSIDE)
@pytest.mark.parametrize("correction", CORRECTION)
def test_rows_selected_before_during_and_after_a_draft(inside: str, correction: str) -> None:
    trunk = tiny.trunk()
    run = Decoding(trunk, block(trunk, audio=True, inside=inside, correction=correction), audio=True)
    run.commit([])
    run.select([2, 0, 1])
    torch.testing.assert_close(run.draft(), run.taught(), rtol=0, atol=1e-10)
    run.select([1, 0])  # a draft stands: its features stay with their rows
    first = run.taught()
    tokens = torch.stack([t[n + 1 : n + 2] for t, n in zip(run.tokens, run.done)])
    if correction == "none":
        again = run.heads.expand(run.state, 2, tokens, torch.zeros_like(tokens))
        torch.testing.assert_close(again[:, 0], first[:, 1], rtol=0, atol=1e-10)
    run.commit([1, 3])
    run.select([1])
    run.commit([2])
    torch.testing.assert_close(run.draft(), run.taught(), rtol=0, atol=1e-10)


@torch.no_grad()
@pytest.mark.parametrize("inside", INSIDE)
@pytest.mark.parametrize("correction", CORRECTION)
def test_a_shallow_draft_says_what_a_deep_one_says(inside: str, correction: str) -> None:
    trunk = tiny.trunk()
    heads = block(trunk, inside=inside, correction=correction)
    run = Decoding(trunk, heads, depth=2)
    run.commit([])
    run.draft()
    run.commit([1, 0, 3])
    torch.testing.assert_close(run.draft(), run.taught(), rtol=0, atol=1e-10)


@torch.no_grad()
def test_rows_that_commit_nothing_keep_their_place() -> None:
    trunk = tiny.trunk()
    heads = block(trunk)
    run = Decoding(trunk, heads)
    run.commit([])
    before = run.draft()
    run.commit([2, -1, 0])
    after = run.draft()
    torch.testing.assert_close(after[1], before[1], rtol=0, atol=1e-10)
    torch.testing.assert_close(after, run.taught(), rtol=0, atol=1e-10)
    run.commit([-1, 1, -1])
    run.commit([0, 0, 2])  # and nothing was drafted in between
    torch.testing.assert_close(run.draft(), run.taught(), rtol=0, atol=1e-10)


@torch.no_grad()
@pytest.mark.parametrize("correction", CORRECTION)
def test_nodes_of_a_tree_read_their_own_path(correction: str) -> None:
    trunk = tiny.trunk()
    run = Decoding(trunk, block(trunk, correction=correction))
    run.commit([])
    heads, state = run.heads, run.state
    base = torch.stack([t[:1] for t in run.tokens])
    zero = torch.zeros_like(base)
    heads.expand(state, 1, base, zero)
    nodes = torch.tensor([[3, 7, 5]]).repeat(3, 1)
    heads.expand(state, 2, nodes, torch.zeros_like(nodes))
    below, parent = torch.tensor([[4, 4, 9, 4]]).repeat(3, 1), torch.tensor([[2, 0, 1, 1]]).repeat(3, 1)
    tree = heads.expand(state, 3, below, parent)
    assert tree.shape == (3, 4, tiny.WIDTH)
    for node in range(4):
        heads.expand(state, 1, base, zero)
        heads.expand(state, 2, nodes.gather(1, parent[:, node : node + 1]), zero)
        alone = heads.expand(state, 3, below[:, node : node + 1], zero)
        torch.testing.assert_close(tree[:, node], alone[:, 0], rtol=0, atol=1e-12)
    same = torch.allclose(tree[:, 0], tree[:, 1])
    assert same == (correction == "none"), "only the correction tells paths apart"


@torch.no_grad()
@pytest.mark.parametrize("inside", INSIDE)
@pytest.mark.parametrize("correction", CORRECTION)
def test_revealed_tokens_matter_and_given_ones_equal_those_of_training(inside: str, correction: str) -> None:
    trunk = tiny.trunk()
    heads = block(trunk, inside=inside, correction=correction, reveal=1.0)
    run = Decoding(trunk, heads)
    run.commit([])
    run.draft()
    run.commit([1, 3, 0])
    masked = run.draft()
    torch.testing.assert_close(masked, run.taught(), rtol=0, atol=1e-10)  # eval: nothing is revealed
    assert heads.revealed_count is None
    heads.train()
    for seed in range(3):
        torch.manual_seed(seed)
        counts, rows = [], []
        for place in range(3):
            rows.append(run._taught(place))
            assert heads.revealed_count is not None
            counts.append(int(heads.revealed_count))
        ahead = torch.stack([t[n + 1 : n + 1 + DEPTH] for t, n in zip(run.tokens, run.done)])
        given = ahead.masked_fill(torch.arange(DEPTH) >= torch.tensor(counts)[:, None], -1)
        drafted = run.draft(given)
        torch.testing.assert_close(drafted, torch.cat(rows), rtol=0, atol=1e-10)
        for place, count in enumerate(counts):
            assert torch.allclose(drafted[place, count:], masked[place, count:]) == (count == 0)
    wide = run.draft(torch.cat([ahead, ahead], 1))
    torch.testing.assert_close(wide, run.draft(ahead), rtol=0, atol=0, msg="beyond the block nothing is read")


@torch.no_grad()
@pytest.mark.parametrize("inside", INSIDE)
@pytest.mark.parametrize("depth", [1, DEPTH, 9])
def test_a_draft_runs_each_layer_once_whatever_its_depth(inside: str, depth: int) -> None:
    trunk = tiny.trunk()
    heads = block(trunk, layers=2, inside=inside, depth=depth)
    run = Decoding(trunk, heads, depth=depth)
    run.commit([])
    calls: list[int] = []
    for i in range(2):
        heads.at_layer(i).mlp.register_forward_hook(lambda module, inputs, out: calls.append(out.shape[1]))
    run.draft()
    assert calls == [depth + 1] * 2, "queries of the block alone"
    assert not heads.one_pass, "all_features has no base token to give"


@pytest.mark.parametrize("inside", INSIDE)
@pytest.mark.parametrize("correction", CORRECTION)
def test_verified_drafts_decode_as_the_trunk_does(inside: str, correction: str) -> None:
    trunk = tiny.trunk(gain=1.0)
    heads = block(trunk, inside=inside, correction=correction, shortlist=8)
    prompt, limits, never = tiny.prompts(trunk, LENGTHS), Limits(max_tokens=12), -1
    plain, _ = generate(trunk, None, prompt, Silent(), GreedyMatch(), never, limits=limits)
    assert len({tuple(row) for row in plain}) == 3
    for depth in (2, DEPTH):
        drafted, traces = generate(trunk, heads, prompt, HeadChain(depth), GreedyMatch(), never, limits=limits)
        assert drafted == plain and all(trace.num_draft_tokens for trace in traces)


@torch.no_grad()
def test_depth_0_is_no_heads_at_all() -> None:
    trunk = tiny.trunk()
    heads = block(trunk, depth=0, layers=2)
    assert not list(heads.layers) and list(heads.train_depths(random_batch(trunk, torch.zeros(1, 3).long()))) == []
    run = Decoding(trunk, heads, depth=0)
    run.commit([])
    run.commit([1, 0, 2])
