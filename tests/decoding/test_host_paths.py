"""What is done on the host for speed is what it stands for: ancestors, prefixes that repeat themselves, families."""

import pytest
import tiny
import torch
from torch import Tensor

from speechmtp.ancestors import ancestors_by_products, ancestors_of
from speechmtp.decoding.rules.ratio import Ratio
from speechmtp.decoding.sampling import SamplingConfig
from speechmtp.types import Draft


def forest(rows: int, size: int, rng: torch.Generator) -> Tensor:
    """Parents [B, P] before their children."""
    below = torch.rand(rows, size, generator=rng) * (torch.arange(size) + 1)
    return below.long() - 1


@pytest.mark.parametrize("size", [0, 1, 7, 8, 9, 64, 65])
def test_ancestors_are_the_same_on_every_device(size: int) -> None:
    parent = forest(3, size, tiny.generator(size))
    found = ancestors_of(parent)
    assert torch.equal(found, ancestors_by_products(parent))
    for row, parents in zip(found.tolist(), parent.tolist()):
        for node in range(size):
            path, at = set(), node
            while at >= 0:
                path.add(at)
                at = parents[at]
            assert {i for i, seen in enumerate(row[node]) if seen} == path


@pytest.mark.parametrize("config", [SamplingConfig(repetition_penalty=1.7),
                                    SamplingConfig(repetition_penalty=1.7, no_repeat_ngram_size=2)])  # fmt: skip
def test_prefixes_of_many_lengths_are_processed_as_if_alone(config: SamplingConfig) -> None:
    processors = config.processors()
    assert processors is not None
    logits = torch.randn(2, 3, 6, generator=tiny.generator(0), dtype=torch.float64)
    prefixes = [[[], [4], [4, 2, 2, 4]], [[1, 1], [0, 5, 0], [3]]]
    together = processors(logits, lambda: prefixes)
    for row in range(2):
        for node in range(3):
            alone = processors(logits[row, node][None, None], lambda: [[prefixes[row][node]]])  # noqa: B023
            assert torch.equal(together[row, node], alone[0, 0])
    assert not torch.equal(together[:, 1:], logits[:, 1:]) and torch.equal(together[0, 0], logits[0, 0])


@pytest.mark.parametrize("drawn", [False, True])
def test_uneven_trees_have_the_distributions_that_they_have_alone(drawn: bool) -> None:
    rng = tiny.generator(int(drawn))
    parent = torch.tensor([[-1, -1, 0, 0, 1, 4], [-1, -1, -1, -1, -1, -1], [-1, 0, 1, 2, -1, -1], [-1] * 6])
    counts = [6, 6, 4, 0]
    tokens = torch.stack([torch.randperm(7, generator=rng)[:6] for _ in counts])
    tokens = tokens.masked_fill(torch.arange(6) >= torch.tensor(counts)[:, None], -1)
    target, probs = (torch.randn(4, n, 7, generator=rng, dtype=torch.float64) for n in (7, 6))
    q = probs.softmax(-1) if drawn else None
    stop, follow = Ratio().distributions(target, Draft(tokens, parent, chain=False, q=q))
    torch.testing.assert_close(stop.sum(1), torch.ones(4, dtype=torch.float64))
    for row, count in enumerate(counts):
        one, some = slice(row, row + 1), slice(None, count)
        draft = Draft(tokens[one, some], parent[one, some], chain=False, q=None if q is None else q[one, some])
        alone = Ratio().distributions(target[one, : count + 1], draft)
        torch.testing.assert_close(stop[row, : count + 1], alone[0][0], rtol=0, atol=1e-12)
        torch.testing.assert_close(follow[row, : count + 1], alone[1][0], rtol=0, atol=1e-12)
        assert not stop[row, count + 1 :].any()
