"""Marginal distributions of the trunk itself, against full enumeration by plain forward passes."""

from itertools import product

import pytest
import tiny
import torch
from torch import Tensor

from speechmtp.decoding.drafters.marginal import marginal_probs
from speechmtp.errors import ConfigError
from speechmtp.models.cache import RaggedCache, RaggedLayer
from speechmtp.models.trunk import Trunk
from speechmtp.types import Prompt

TEXTS = [[4, 9, 3], [7], [10, 10, 5, 6]]  # what is committed behind each row's prompt
LENGTHS = [5, 2, 3]


def committed(trunk: Trunk) -> RaggedCache:
    """A cache of ragged rows: prompts, then texts; what was rejected lies behind them."""
    cache = trunk.new_cache(3)
    prompt = tiny.prompts(trunk, LENGTHS)
    trunk.extend(prompt.embeddings, prompt.positions, None, cache)
    cache.commit(prompt.lengths)
    ids = torch.tensor([(text + [8] * 5)[:5] for text in TEXTS])
    trunk.extend(trunk.embed(ids), 1 + torch.arange(5).repeat(3, 1), None, cache)
    cache.commit(torch.tensor([len(text) for text in TEXTS]))
    return cache


def pending(trunk: Trunk, tails: list[list[int]]) -> Prompt:
    """Entries behind `TEXTS`, rubbish past each row's own."""
    size = max(map(len, tails))
    ids = torch.tensor([(tail + [1] * size)[:size] for tail in tails])
    lengths = torch.tensor([len(tail) for tail in tails])
    first = 1 + torch.tensor([len(text) for text in TEXTS])
    return Prompt(trunk.embed(ids), first[:, None] + torch.arange(size), lengths, first + lengths)


def next_probs(trunk: Trunk, row: int, tokens: list[int], count: int) -> Tensor:
    """Distributions [count, V] of the last `count` entries of the row's prompt and these tokens, without a cache."""
    prompt = tiny.prompts(trunk, LENGTHS).row(row)
    embeddings = torch.cat([prompt.embeddings, trunk.embed(torch.tensor(tokens))[None]], 1)
    positions = torch.cat([prompt.positions, 1 + torch.arange(len(tokens))[None]], 1)
    states = trunk(embeddings, positions, torch.zeros_like(positions))
    return trunk.unembed(states.hidden)[0, -count:].softmax(-1)


def enumerated(trunk: Trunk, row: int, tokens: list[int], depth: int) -> Tensor:
    """Distributions [depth, V] by one forward pass a path."""
    distributions = torch.zeros(depth, tiny.VOCAB, dtype=torch.float64)
    for d in range(1, depth + 1):
        for path in product(range(tiny.VOCAB), repeat=d):
            steps = next_probs(trunk, row, [*tokens, *path], d + 1)
            weight = torch.stack([steps[k, token] for k, token in enumerate(path)]).prod()
            distributions[d - 1] += weight * steps[d]
    return distributions


@torch.no_grad()
@pytest.mark.parametrize("family", tiny.TRUNKS)
@pytest.mark.parametrize("tails", [[[2], [6], [3]], [[2, 5, 8], [6], [3, 3]]])
def test_exact_distributions_equal_full_enumeration_in_ragged_rows(family: str, tails: list[list[int]]) -> None:
    trunk = tiny.trunk(0, family)
    distributions = marginal_probs(trunk, committed(trunk), pending(trunk, tails), 2)
    assert distributions.shape == (3, 2, tiny.VOCAB)
    rows = range(3) if len(tails[0]) > 1 else [1]
    for row in rows:
        wanted = enumerated(trunk, row, TEXTS[row] + tails[row], 2)
        torch.testing.assert_close(distributions[row], wanted, rtol=0, atol=1e-12)


@torch.no_grad()
def test_distributions_behind_a_prompt_that_nothing_is_committed_of() -> None:
    trunk = tiny.trunk()
    distributions = marginal_probs(trunk, trunk.new_cache(3), tiny.prompts(trunk, LENGTHS), 1)
    for row in range(3):
        torch.testing.assert_close(distributions[row], enumerated(trunk, row, [], 1), rtol=0, atol=1e-12)


@torch.no_grad()
@pytest.mark.parametrize("top", [1, 2, 4, 10])
def test_total_variation_of_the_top_m_is_bounded_by_the_mass_left_out(top: int) -> None:
    trunk = tiny.trunk(1)
    tails = [[2, 5], [6], [3]]
    exact = marginal_probs(trunk, committed(trunk), pending(trunk, tails), 1)
    cut = marginal_probs(trunk, committed(trunk), pending(trunk, tails), 2, top)
    torch.testing.assert_close(cut.sum(-1), torch.ones(3, 2, dtype=torch.float64), rtol=0, atol=1e-12)
    for row in range(3):
        probs = next_probs(trunk, row, TEXTS[row] + tails[row], 1)[0]
        mass = probs.topk(top)
        error = float((cut[row, 0] - exact[row, 0]).abs().sum() / 2)
        assert 1e-9 < error <= 1 - float(mass.values.sum()) + 1e-12
        wanted = torch.zeros(tiny.VOCAB, dtype=torch.float64)
        for token, value in zip(mass.indices.tolist(), mass.values / mass.values.sum()):
            wanted += value * next_probs(trunk, row, [*TEXTS[row], *tails[row], token], 1)[0]
        torch.testing.assert_close(cut[row, 0], wanted, rtol=0, atol=1e-12)


@torch.no_grad()
def test_each_node_of_a_cut_tree_keeps_its_own_likeliest_tokens() -> None:
    trunk, tokens = tiny.trunk(2), [*TEXTS[0], 2]
    cut = marginal_probs(trunk, committed(trunk), pending(trunk, [[2], [6], [3]]), 2, 2)
    wanted = torch.zeros(tiny.VOCAB, dtype=torch.float64)
    first = next_probs(trunk, 0, tokens, 1)[0].topk(2)
    for a, p in zip(first.indices.tolist(), first.values / first.values.sum()):
        second = next_probs(trunk, 0, [*tokens, a], 1)[0].topk(2)
        for b, q in zip(second.indices.tolist(), second.values / second.values.sum()):
            wanted += p * q * next_probs(trunk, 0, [*tokens, a, b], 1)[0]
    torch.testing.assert_close(cut[0, 1], wanted, rtol=0, atol=1e-12)


@torch.no_grad()
def test_a_vocabulary_of_tokens_is_no_cut() -> None:
    trunk, tails = tiny.trunk(), [[2], [6, 6], [3]]
    exact = marginal_probs(trunk, committed(trunk), pending(trunk, tails), 2)
    for top in (tiny.VOCAB, 1000):
        cut = marginal_probs(trunk, committed(trunk), pending(trunk, tails), 2, top)
        torch.testing.assert_close(cut, exact, rtol=0, atol=1e-12)


@torch.no_grad()
def test_nothing_is_committed_and_committed_entries_stay_as_they_are() -> None:
    trunk = tiny.trunk()
    cache, untouched, entries = committed(trunk), committed(trunk), pending(trunk, [[2, 5], [6], [3]])
    marginal_probs(trunk, cache, entries, 2)
    assert torch.equal(cache.lengths, untouched.lengths)
    for mine, theirs in zip(cache.layers, untouched.layers):
        assert isinstance(mine, RaggedLayer) and isinstance(theirs, RaggedLayer)
        assert mine.keys is not None and theirs.keys is not None
        assert mine.values is not None and theirs.values is not None
        for row, length in enumerate(cache.lengths.tolist()):
            assert torch.equal(mine.keys[row, :, :length], theirs.keys[row, :, :length])
            assert torch.equal(mine.values[row, :, :length], theirs.values[row, :, :length])
    states = [trunk.extend(entries.embeddings, entries.positions, None, c).hidden for c in (cache, untouched)]
    for row, length in enumerate(entries.lengths.tolist()):
        assert torch.equal(states[0][row, :length], states[1][row, :length])


def test_no_depth_gives_no_distributions_and_wrong_numbers_are_named() -> None:
    trunk = tiny.trunk()
    cache, entries = committed(trunk), pending(trunk, [[2], [6], [3]])
    assert marginal_probs(trunk, cache, entries, 0).shape == (3, 0, tiny.VOCAB)
    for depth, top in ((-1, None), (1, 0)):
        with pytest.raises(ConfigError, match=f"marginal: depth={depth} and top={top}, expected"):
            marginal_probs(trunk, cache, entries, depth, top)
