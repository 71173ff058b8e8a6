"""Cases with draft models, runs over them, and small trunks all of whose outputs can be counted."""

import math
from collections import Counter
from functools import cache, partial
from typing import Any

import oracle
import pytest
import tiny
import torch
from cases import Case, make_case, near
from engine_runs import RowSampling, Sources, generate

from speechmtp.decoding.drafters.contract import Drafter
from speechmtp.decoding.rules.contract import AcceptanceRule
from speechmtp.decoding.rules.greedy_match import GreedyMatch
from speechmtp.decoding.sampling import SamplingConfig
from speechmtp.models.trunk import ScratchTrunkConfig, Trunk, build_trunk
from speechmtp.types import Prompt, Trace


def some(count: int, often: int) -> list[Any]:
    """Seeds of which the first `often` run with every test."""
    return [pytest.param(seed, marks=[pytest.mark.slow] * (seed >= often)) for seed in range(count)]


Out = tuple[list[list[int]], list[Trace]]


def case_and_draft(seed: int, by: float = 0.25, **sizes: Any) -> tuple[Case, Sources]:
    """A case, and a near draft model with prompts of its own lengths (at odd seeds) or the same."""
    case = make_case(seed, **sizes)
    lengths = case.prompt.lengths.tolist()
    trunk = near(case.trunk, seed, by)
    prompt = tiny.prompts(trunk, [n + 2 for n in lengths], seed) if seed % 2 else case.prompt
    return case, Sources(model=(trunk, [prompt.row(i) for i in range(len(lengths))]))


def itself(case: Case) -> Sources:
    """The trunk as its own draft model."""
    return Sources(model=(case.trunk, [case.prompt.row(i) for i in range(len(case.tokens))]))


def decode(
    case: Case, sources: Sources, drafter: Drafter, config: SamplingConfig | None = None,
    rule: AcceptanceRule | None = None,
) -> Out:  # fmt: skip
    """One run of the whole batch."""
    row_sampling = None if config is None else RowSampling.of(config, range(len(case.tokens)))
    return generate(
        case.trunk,
        None,
        case.prompt,
        drafter,
        rule or GreedyMatch(),
        tiny.EOS,
        sources,
        case.limits,
        row_sampling=row_sampling,
    )


# Distributions, on four tokens.

SMALL = 4


@cache
def small(seed: int, width: int = 8) -> Trunk:
    """A trunk of four tokens whose distributions are far from certain."""
    config = ScratchTrunkConfig(width=width, layers=1, heads=2, ff_width=width)
    with torch.random.fork_rng():
        built = build_trunk(config, SMALL)
    tiny.randomise(built, seed, 1.2)
    return built


def copies(trunk: Trunk, rows: int) -> Prompt:
    """The same prompt in every row."""
    one = tiny.prompts(trunk, [3], 1)
    return Prompt(*(part.expand(rows, *part.shape[1:]) for part in (one.embeddings, one.positions, one.lengths,
                                                                    one.next_position)))  # fmt: skip


@cache
@torch.no_grad()
def outcomes(trunk: Trunk, config: SamplingConfig, size: int) -> dict[tuple[int, ...], float]:
    """Probability of every output of at most `size` tokens, by plain forwards."""
    done: dict[tuple[int, ...], float] = {}
    going: dict[tuple[int, ...], float] = {(): 1.0}
    processors = config.processors()
    for _ in range(size):
        longer: dict[tuple[int, ...], float] = {}
        for text, chance in going.items():
            logits = trunk.unembed(oracle.full_states(trunk, copies(trunk, 1), list(text))[-1])
            if processors is not None:
                logits = processors(logits[None, None], partial(list, [[list(text)]]))[0, 0]
            for token, p in enumerate(logits.softmax(-1).tolist()):
                (done if token == tiny.EOS else longer)[*text, token] = chance * p
        going = longer
    return {text: p for text, p in (done | going).items() if p > 0}


def chi_squared(tokens: list[list[int]], probs: dict[tuple[int, ...], float]) -> float:
    """Standard deviations by which the statistic is above its mean; what is rare counts as one outcome."""
    assert set(map(tuple, tokens)) <= set(probs)
    total = len(tokens)
    often = {text for text, p in probs.items() if total * p >= 10}
    cells = {text: p for text, p in probs.items() if text in often}
    cells[(-1,)] = sum(p for text, p in probs.items() if text not in often) + 1e-12
    counts = Counter(text if text in often else (-1,) for text in map(tuple, tokens))
    value = sum((counts[text] - total * p) ** 2 / (total * p) for text, p in cells.items())
    return (value - (len(cells) - 1)) / math.sqrt(2 * (len(cells) - 1))


PLAIN = SamplingConfig(1.0, seed=1)
