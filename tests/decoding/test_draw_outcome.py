"""What noise makes of distributions: `draw_outcome` draws from the two distributions of a rule, `pick_tokens` from a
drafter's."""

import math

import pytest
import tiny
import torch
from engine_runs import row_of
from judge import chi_squared
from torch import Tensor

from speechmtp.decoding.bound import BoundStrategy
from speechmtp.decoding.drafters.contract import Silent
from speechmtp.decoding.noise import TARGET, Noise
from speechmtp.decoding.rules.contract import draw_outcome
from speechmtp.decoding.rules.greedy_match import GreedyMatch
from speechmtp.decoding.rules.ratio import Ratio
from speechmtp.decoding.rules.sample_match import SampleMatch
from speechmtp.decoding.sampling import PickedTokens, pick_tokens
from speechmtp.decoding.state import Batch, DecodeState, Draws
from speechmtp.decoding.step import make_step
from speechmtp.types import Draft, chain_draft

LEVEL = 1e-3
TOKENS = 5
CHAIN = (-1, 0, 1, 2)
TREE = (-1, -1, 0, 0, 2)


def distributions(seed: int, size: int) -> tuple[Tensor, Tensor]:
    """A stop and a follow distribution, some of whose outcomes are impossible."""
    rng = tiny.generator(seed)
    stop, follow = torch.rand(size + 1, generator=rng).double(), torch.rand(size + 1, TOKENS, generator=rng).double()
    stop[seed % 2 :: 3] = 0
    follow[:, seed % TOKENS] = 0
    return stop / stop.sum(), follow / follow.sum(-1, keepdim=True)


@pytest.mark.parametrize("parents", [CHAIN, TREE])
@pytest.mark.parametrize("seed", range(3))
def test_draw_outcome_follows_both_distributions(parents: tuple[int, ...], seed: int) -> None:
    """Many rows at once; their output indices differ, and half of them share a stream with a row at another index."""
    size, rows = len(parents), 200_000
    stop, follow = distributions(seed, size)
    parent = torch.tensor(parents).expand(rows, -1)
    draft = Draft(torch.zeros(rows, size).long(), parent, chain=parents == CHAIN)
    streams = torch.arange(rows) // 2
    noise = Noise(torch.full((rows,), seed), streams)
    drawn = streams % 7 + 10 * (torch.arange(rows) % 2)
    accepted = draw_outcome(stop.expand(rows, -1), follow.expand(rows, -1, -1), draft, noise, drawn)
    slot = accepted.path.max(1).values + 1  # parents stand before their children
    counts = torch.bincount(slot * TOKENS + accepted.next, minlength=(size + 1) * TOKENS)
    assert chi_squared(counts.tolist(), (stop[:, None] * follow).flatten().tolist()) > LEVEL
    lengths = torch.tensor([0, *(len(tiny.path_to(list(parents), i)) for i in range(size))])
    assert torch.equal(accepted.count, lengths[slot])
    again = draw_outcome(stop.expand(rows, -1), follow.expand(rows, -1, -1), draft, noise, drawn)
    assert torch.equal(again.next, accepted.next) and torch.equal(again.path, accepted.path)
    wrong = stop.roll(1)
    assert chi_squared(counts.tolist(), (wrong[:, None] * follow).flatten().tolist()) < 1e-9


def test_draw_outcome_of_a_tree_without_nodes_draws_what_follows() -> None:
    """As of an empty chain: a tree all of whose nodes may not be said is cut to this."""
    rows = 1000
    empty = torch.zeros(rows, 0).long()
    stop, follow = torch.ones(rows, 1).double(), torch.tensor([0.5, 0.5, 0.0]).expand(rows, 1, -1)
    noise, index = Noise(torch.zeros(rows).long(), torch.arange(rows)), torch.zeros(rows).long()
    tree = draw_outcome(stop, follow, Draft(empty, empty, chain=False), noise, index)
    chain = draw_outcome(stop, follow, chain_draft(empty), noise, index)
    assert torch.equal(tree.next, chain.next) and set(tree.next.tolist()) == {0, 1}
    assert not tree.count.any() and tree.path.shape == (rows, 0)


def test_draw_outcome_never_stops_where_it_may_not() -> None:
    """Probability 0 at either end, however the total is rounded."""
    rows = 100_000
    stop = torch.tensor([0.0, 0.7, 0.3 - 1e-9, 0.0], dtype=torch.float64).float().expand(rows, -1)
    follow = torch.tensor([0.0, 1.0, 0.0]).expand(rows, 4, -1)
    noise = Noise(torch.zeros(rows).long(), torch.arange(rows))
    accepted = draw_outcome(stop, follow, chain_draft(torch.zeros(rows, 3).long()), noise, torch.zeros(rows).long())
    assert set(accepted.count.tolist()) == {1, 2} and set(accepted.next.tolist()) == {1}


def chosen(draws: Draws, logits: Tensor, rows: int, k: int, first: int = 0) -> tuple[PickedTokens, Noise]:
    """`pick_tokens` behind the nodes of `logits` [N, V] for many rows that have emitted three tokens."""
    trunk = tiny.trunk()
    batch = Batch(trunk, make_step(trunk), trunk.new_cache(1), [row_of([3, 4, 5])] * rows)
    noise = Noise(torch.full((rows,), 5), torch.arange(rows))
    rule = {"shared": GreedyMatch(), "own": Ratio(), "best": SampleMatch()}[draws]
    state = DecodeState(BoundStrategy(Silent(), rule), rule, batch.rows, list(range(rows)), batch, noise=noise)
    return pick_tokens(state, logits.expand(rows, -1, -1), None, 1, lambda: [], first, k), noise


def some_logits(nodes: int) -> Tensor:
    """Logits [N, VOCAB] of which five are possible."""
    logits = torch.randn(nodes, tiny.VOCAB, generator=tiny.generator(2), dtype=torch.float64)
    logits[:, 5:] = -math.inf
    return logits


def test_pick_tokens_draws_siblings_without_replacement() -> None:
    """Pairs of siblings follow q(x) q(y) / (1 - q(x)), and the distribution given for the second is q without the
    first."""
    logits = some_logits(2)
    choice, _ = chosen("own", logits, 100_000, 2, first=3)
    assert choice.q is not None
    for node, q in enumerate(logits.softmax(-1)):
        first, second = choice.tokens[:, node].unbind(1)
        pairs = torch.tensor([[0 if x == y else q[x] * q[y] / (1 - q[x]) for y in range(11)] for x in range(11)])
        counts = torch.bincount(first * 11 + second, minlength=121)
        assert chi_squared(counts.tolist(), pairs.flatten().tolist()) > LEVEL
        left = q.repeat(11, 1).fill_diagonal_(0)
        left = left / left.sum(-1, keepdim=True)
        assert torch.allclose(choice.q[:, node, 0], q.expand(len(first), -1), atol=1e-12, rtol=0)
        assert torch.allclose(choice.q[:, node, 1], left[first], atol=1e-12, rtol=0)
        assert torch.allclose(choice.confidence[:, node], q[choice.tokens[:, node]], atol=1e-12, rtol=0)


def test_pick_tokens_draws_behind_different_nodes_independently() -> None:
    logits = some_logits(2)
    tokens = chosen("own", logits, 100_000, 1)[0].tokens[..., 0]
    first, second = logits.softmax(-1)
    counts = torch.bincount(tokens[:, 0] * 11 + tokens[:, 1], minlength=121)
    assert chi_squared(counts.tolist(), (first[:, None] * second).flatten().tolist()) > LEVEL


def test_pick_tokens_under_shared_noise_follows_the_distribution_by_the_trunks_noise() -> None:
    logits = some_logits(1)
    choice, noise = chosen("shared", logits, 100_000, 2)
    counts = torch.bincount(choice.tokens[:, 0, 0], minlength=11)
    assert chi_squared(counts.tolist(), logits[0].softmax(-1).tolist()) > LEVEL
    trunk = logits[0] + noise.gumbel(torch.full((100_000, 1), 3), 11, TARGET)[:, 0].double()
    assert torch.equal(choice.tokens[:, 0, 0], trunk.argmax(-1)) and choice.q is None


def test_pick_tokens_takes_the_likeliest_where_nothing_is_to_be_drawn() -> None:
    logits = some_logits(1)
    choice, _ = chosen("best", logits, 5, 3)
    assert choice.q is None and choice.tokens[:, 0].tolist() == [logits[0].topk(3).indices.tolist()] * 5
