"""Trees where tokens are drawn: by the trunk's own noise, and by noise of their own for the ratio rule."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import oracle
import pytest
import tiny
import torch
from cases import Case, make_case
from engine_runs import Limits, RowSampling, generate
from families import CONFIGS, NAMES, D
from random_trees import trees
from torch import Tensor

from speechmtp.decoding.drafters.contract import Drafter, Silent
from speechmtp.decoding.drafters.tree import DynamicTree, HeadTree
from speechmtp.decoding.rules.greedy_match import GreedyMatch
from speechmtp.decoding.rules.ratio import Ratio
from speechmtp.decoding.sampling import SamplingConfig
from speechmtp.decoding.state import DecodeState
from speechmtp.decoding.trees import TreeShape
from speechmtp.models.trunk import Trunk
from speechmtp.types import Draft, Prompt

ROWS = 3000
SAMPLING = (
    SamplingConfig(temperature=1.0),
    SamplingConfig(temperature=0.7, top_k=6),
    SamplingConfig(temperature=1.0, repetition_penalty=1.4, no_repeat_ngram_size=2),
)


def sample(case: Case, drafter: Drafter, rule: Any, heads: Any, config: SamplingConfig) -> tuple[Any, int]:
    """Tokens, and how many drafted ones were accepted."""
    row_sampling = RowSampling.of(config, range(len(case.tokens)))
    tokens, traces = generate(
        case.trunk, heads, case.prompt, drafter, rule, tiny.EOS, None, case.limits, row_sampling=row_sampling
    )  # fmt: skip
    return tokens, sum(trace.num_accepted_tokens for trace in traces)


SAMPLED = ("latent", "linear-taps", "chain-own-roll", "chain-shared-ttt", "hydra-own", "joint", "block-gru")


def check_sampling(name: str, seeds: Sequence[int], max_rows: int) -> None:
    """Trees with the trunk's noise against plain sampling, every kind of sampling in turn."""
    accepted = 0
    case = make_case(5 * NAMES.index(name) + 3, max_rows=max_rows)  # whose limits leave room for drafts
    heads = tiny.random_heads(CONFIGS[name], 1, case.trunk.shape)
    for seed in seeds:
        config = replace(SAMPLING[seed % len(SAMPLING)], seed=seed)
        plain, _ = sample(case, Silent(), GreedyMatch(), None, config)
        for drafter in trees(seed + 5):
            tokens, count = sample(case, drafter, GreedyMatch(), heads, config)
            assert tokens == plain
            accepted += count
    assert accepted > 0


@pytest.mark.parametrize("name", SAMPLED)
def test_with_shared_noise_trees_sample_as_plain_sampling(name: str) -> None:
    check_sampling(name, range(3), 4)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_with_shared_noise_trees_sample_as_plain_sampling_at_length(name: str) -> None:
    check_sampling(name, range(60), 8)


@torch.no_grad()
def probs_of_three(trunk: Trunk, prompt: Prompt) -> Tensor:
    """The trunk's distribution [V, V, V] of the first three tokens, from full forwards; zeros follow an end token."""
    probs = torch.zeros(tiny.VOCAB, tiny.VOCAB, tiny.VOCAB, dtype=torch.float64)
    end = torch.eye(tiny.VOCAB, dtype=torch.float64)[0]

    def behind(path: list[int]) -> Tensor:
        return trunk.unembed(oracle.full_states(trunk, prompt, path)[-1]).softmax(-1)

    for a, first in enumerate(behind([]).tolist()):
        for b, second in enumerate((end if a == tiny.EOS else behind([a])).tolist()):
            if second > 0:
                probs[a, b] = first * second * (end if tiny.EOS in (a, b) else behind([a, b]))
    return probs


@pytest.mark.parametrize(
    ("kind", "drafter"),
    [
        ("latent", HeadTree("0.1.2.00.01.10.11.12")), ("hydra", HeadTree("1.2.10.11")),
        ("latent", DynamicTree(2, 3, 4)), ("hydra", DynamicTree(2, 3, 4)),
    ],
)  # fmt: skip
def test_fault_03_the_ratio_rule_on_trees_draws_from_the_trunks_distribution(kind: str, drafter: Any) -> None:
    """Chi-squared on the first three tokens of many rows; a dynamic tree that leaves out drawn tokens would show."""
    trunk = tiny.trunk(3, gain=1.5)
    one = tiny.prompts(trunk, [3], 2)
    prompt = Prompt(one.embeddings.expand(ROWS, -1, -1), one.positions.expand(ROWS, -1), one.lengths.expand(ROWS),
                    one.next_position.expand(ROWS))  # fmt: skip
    row_sampling = RowSampling.of(SamplingConfig(temperature=1.0, seed=11), range(ROWS))
    tokens, traces = generate(
        trunk, tiny.heads(kind, 2, 4), prompt, drafter, Ratio(), tiny.EOS, None, Limits(0.0, 3),
        row_sampling=row_sampling,
    )  # fmt: skip
    assert sum(trace.num_accepted_tokens for trace in traces) > 0.3 * ROWS, "trees are used"
    probs = probs_of_three(trunk, one)
    padded = torch.tensor([(row + [0, 0])[:3] for row in tokens])  # noqa: RUF005
    cells = (padded * torch.tensor([tiny.VOCAB**2, tiny.VOCAB, 1])).sum(1)
    z = chi_squared_z(torch.bincount(cells, minlength=probs.numel()).double(), ROWS * probs.flatten())
    assert z < 4


@pytest.mark.parametrize("kind", ["latent", "hydra"])
@pytest.mark.parametrize("drafter", [HeadTree("0.2.1.00.02.10.001"), HeadTree("1.12.11"), DynamicTree(3, 3, 9)])
def test_fault_01_q_is_the_distribution_that_each_node_was_drawn_from(kind: str, drafter: Any) -> None:
    """Each node's distribution without its elders, which stand before it in the tree or were drawn and left out."""
    case = make_case(14, max_rows=8, most=20)
    heads: Any = tiny.heads(kind, D, 2)
    looked: list[float] = []

    class Looked(type(drafter)):  # type: ignore[misc]
        """Looks at its own drafts."""

        def propose(self, state: DecodeState) -> Draft:
            draft: Draft = super().propose(state)
            for place, row in enumerate(state.rows if state.prompted else ()):
                assert draft.q is not None and draft.confidence is not None
                tokens, parents = draft.tokens[place].tolist(), draft.parent[place].tolist()
                for node, token in enumerate(tokens):
                    path = [row.tokens[-1], *(tokens[i] for i in tiny.path_to(parents, node)[:-1])]
                    probs = probs_behind(heads, state, place, path)
                    q = draft.q[place, node]
                    elders = [tokens[i] for i in range(node) if parents[i] == parents[node]]
                    assert q.sum() == pytest.approx(1) and q[token] > 0 and all(q[elders] == 0)
                    there = q > 0  # a rank left out has taken one more
                    missing = (~there).sum() - len(elders)
                    assert missing == (0 if isinstance(drafter, DynamicTree) else shape_gap(self.shape, node))
                    torch.testing.assert_close(q[there], (probs / probs[there].sum())[there])
                    assert draft.confidence[place, node] == pytest.approx(float(probs[token]))
                    looked.append(float(missing))
            return draft

    settings = (drafter.paths,) if isinstance(drafter, HeadTree) else (3, 3, 9)
    sample(case, Looked(*settings), Ratio(), heads, SamplingConfig(temperature=1.0, seed=3))
    assert len(looked) > 15


def shape_gap(shape: TreeShape, node: int) -> int:
    """Elder siblings that the shape leaves out."""
    path = shape.paths[node]
    return sum((*path[:-1], j) not in shape.paths for j in range(path[-1]))


def probs_behind(heads: Any, state: DecodeState, place: int, path: list[int]) -> Tensor:
    """The heads' distribution [V] behind the base token and drafted ones `path`, asked along this path alone."""
    rows, zero = len(state.rows), torch.zeros(len(state.rows), 1, dtype=torch.long)
    for d, token in enumerate(path, 1):
        base = state.base_tokens()[:, None]
        features = heads.expand(state.head_state, d, base if d == 1 else zero + token, zero)
    return heads.logits(features, len(path), state.head_state.unembed).view(rows, -1)[place].softmax(-1)


def chi_squared_z(counts: Tensor, expected: Tensor) -> float:
    """Standard normal score of Pearson's statistic (Wilson and Hilferty), rare cells as one."""
    rare = expected < 8
    assert bool((counts[expected == 0] == 0).all())
    seen = torch.cat([counts[~rare], counts[rare].sum()[None]])
    wanted = torch.cat([expected[~rare], expected[rare].sum()[None]])
    free = len(seen) - 1
    statistic = float(((seen - wanted) ** 2 / wanted).sum())
    return ((statistic / free) ** (1 / 3) - (1 - 2 / (9 * free))) / math.sqrt(2 / (9 * free))
