"""Faults of public systems that bias drawn outputs, looked for through `generate` in many rows of one prompt."""

from dataclasses import replace
from functools import cache
from typing import Any

import oracle
import pytest
import tiny
import torch
from engine_runs import Limits, RowSampling, Setup, generate, generate_mixed
from judge import chi_squared
from torch import Tensor

from speechmtp.decoding.drafters.heads import HeadChain
from speechmtp.decoding.noise import DRAFT, FOLLOW, Noise
from speechmtp.decoding.rules.block_verification import BlockVerification
from speechmtp.decoding.rules.contract import AcceptanceRule
from speechmtp.decoding.rules.greedy_match import GreedyMatch
from speechmtp.decoding.rules.k_seq import KSeq
from speechmtp.decoding.rules.ratio import Ratio
from speechmtp.decoding.rules.sample_match import SampleMatch
from speechmtp.decoding.rules.thresholds import Thresholds
from speechmtp.decoding.sampling import SamplingConfig
from speechmtp.decoding.state import DecodeState
from speechmtp.models.trunk import Trunk
from speechmtp.types import Draft, Prompt, Trace

ROWS = 2500
LEVEL = 1e-3
OFTEN: list[AcceptanceRule] = [GreedyMatch(), Ratio(), BlockVerification()]
OTHER: list[AcceptanceRule] = [KSeq(), SampleMatch(), Thresholds(1.0, 1.0)]


def model() -> tuple[Trunk, Any, Prompt]:
    """A trunk that is seldom sure, heads that do not say what it says, and one prompt."""
    trunk = tiny.trunk(4, gain=1.5)
    return trunk, tiny.heads("linear", 2, 4), tiny.prompts(trunk, [4], 4)


def processed(logits: Tensor, config: SamplingConfig) -> Tensor:
    """The distribution [.., V] of logits under a temperature and a top-k."""
    logits = logits / config.temperature
    if config.top_k:
        logits = logits.masked_fill(logits < logits.topk(config.top_k, -1).values[..., -1:], -torch.inf)
    return logits.softmax(-1)


@cache
@torch.no_grad()
def plain_distribution(config: SamplingConfig, total: int) -> dict[tuple[int, ...], float]:
    """The distribution of plain sampling, by full forwards of every prefix."""
    trunk, _, prompt = model()
    found: dict[tuple[int, ...], float] = {(): 1.0}
    for _ in range(total):
        longer: dict[tuple[int, ...], float] = {}
        for tokens, chance in found.items():
            if tokens[-1:] == (tiny.EOS,):
                longer[tokens] = chance
                continue
            probs = processed(trunk.unembed(oracle.full_states(trunk, prompt, list(tokens))[-1]), config)
            longer.update({(*tokens, v): chance * p for v, p in enumerate(probs.tolist())})
        found = longer
    return found


def many(prompt: Prompt, rows: int) -> Prompt:
    """The same prompt in all rows."""
    parts = (prompt.embeddings, prompt.positions, prompt.lengths, prompt.next_position)
    return Prompt(*(part.repeat_interleave(rows, 0) for part in parts))


def p_value(drafter: HeadChain, rule: AcceptanceRule, config: SamplingConfig) -> float:
    """Of the first three tokens, two of which were drafted."""
    trunk, heads, prompt = model()
    tokens, traces = generate(
        trunk, heads, many(prompt, ROWS), drafter, rule, tiny.EOS, limits=Limits(0, 3),
        row_sampling=RowSampling.of(config, range(ROWS)),
    )  # fmt: skip
    assert sum(trace.num_accepted_tokens for trace in traces) > ROWS / 20
    probs = plain_distribution(config, 3)
    counts = dict.fromkeys(probs, 0)
    for row in tokens:
        counts[tuple(row)] += 1
    return chi_squared(list(counts.values()), list(probs.values()))


class Argmax(HeadChain):
    """Fault 1: takes the likeliest and says that it drew."""

    def propose(self, state: DecodeState) -> Draft:
        """The same q, other tokens."""
        draft = super().propose(state)
        return draft if draft.q is None else replace(draft, tokens=draft.q.argmax(-1))


class Raw(HeadChain):
    """Fault 2: says that it drew from the distribution without top-k."""

    def propose(self, state: DecodeState) -> Draft:
        """The same tokens, another q."""
        draft = super().propose(state)
        if draft.q is None:
            return draft
        q = draft.q + 0.1
        return replace(draft, q=q / q.sum(-1, keepdim=True))


@pytest.mark.parametrize("rule", [*OFTEN, *OTHER])
def test_fault_01_drafts_of_every_mode_of_drawing_say_what_they_were_drawn_from(rule: AcceptanceRule) -> None:
    config = SamplingConfig(temperature=1.0, seed=3)
    assert p_value(HeadChain(2), rule, config) > LEVEL
    if isinstance(rule, BlockVerification):
        assert p_value(Argmax(2), rule, config) < 1e-6


@pytest.mark.parametrize("rule", [*OFTEN, *(pytest.param(rule, marks=pytest.mark.slow) for rule in OTHER)])
def test_fault_02_q_is_what_the_processors_leave(rule: AcceptanceRule) -> None:
    config = SamplingConfig(temperature=1.3, top_k=2, seed=8)
    assert p_value(HeadChain(2), rule, config) > LEVEL
    if isinstance(rule, BlockVerification):
        assert p_value(Raw(2), rule, config) < 1e-6


def two_tokens(config: SamplingConfig, rule: AcceptanceRule) -> tuple[list[list[int]], list[Trace]]:
    """Outputs of two tokens, the second of which was drafted, and traces with overlaps."""
    trunk, heads, prompt = model()
    row_sampling = RowSampling.of(config, range(ROWS))
    bound = Setup(HeadChain(1), rule, heads)
    return generate_mixed(trunk, many(prompt, ROWS), [bound], tiny.EOS, Limits(0, 2), row_sampling, overlap=True)


@cache
@torch.no_grad()
def second_probs(config: SamplingConfig) -> tuple[Tensor, Tensor]:
    """The trunk's distribution [V, V] of the second token behind each first, and the head's [V], which hears of
    none."""
    trunk, heads, prompt = model()
    start = oracle.full_states(trunk, prompt, [])[-1]
    p = [trunk.unembed(oracle.full_states(trunk, prompt, [v])[-1]) for v in range(tiny.VOCAB)]
    return processed(torch.stack(p), config), processed(oracle.head_logits(heads, trunk, start)[0], config)


def refused(config: SamplingConfig) -> float:
    """The p value of second tokens behind a refused draft: norm(p - q)+ behind the first that came."""
    tokens, traces = two_tokens(config, Ratio())
    p, q = second_probs(config)
    rows = [row for row, trace in zip(tokens, traces) if trace.num_drafts and not trace.num_accepted_tokens]
    assert len(rows) > ROWS / 10
    rest = (p - q).clamp_min(0)
    rest /= rest.sum(-1, keepdim=True)
    counts, probs = [0] * tiny.VOCAB, torch.zeros(tiny.VOCAB, dtype=torch.float64)
    for first, second in rows:
        counts[second] += 1
        probs += rest[first] / len(rows)
    return chi_squared(counts, probs.tolist())


def test_fault_03_what_follows_a_refused_draft_has_noise_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    config = SamplingConfig(temperature=1.0, seed=1)
    assert refused(config) > LEVEL
    honest = Noise.gumbel

    def shared(self: Noise, position: Tensor, size: int, purpose: int, node: Tensor | None = None) -> Tensor:
        if purpose == FOLLOW:
            return honest(self, position, size, DRAFT, torch.full_like(position, -1))
        return honest(self, position, size, purpose, node)

    monkeypatch.setattr(Noise, "gumbel", shared)
    assert refused(config) < 1e-4


@pytest.mark.parametrize("temperature", [0.3, pytest.param(0.7, marks=pytest.mark.slow), 1.0])
@pytest.mark.parametrize("rule", [Ratio(), BlockVerification()])
def test_fault_04_and_05_acceptance_is_the_overlap_at_every_temperature(
    temperature: float, rule: AcceptanceRule
) -> None:
    """Measured acceptance against sum min(p, q) of both distributions under the temperature, from full forwards."""
    config = SamplingConfig(temperature=temperature, seed=2)
    tokens, traces = two_tokens(config, rule)
    p, q = second_probs(config)
    overlap = torch.minimum(p, q).sum(-1).tolist()
    asked = [(row[0], trace) for row, trace in zip(tokens, traces) if trace.num_drafts]
    expected = [overlap[first] for first, _ in asked]
    for (_, trace), wanted in zip(asked, expected):
        assert trace.examined == 1 and trace.overlap == pytest.approx(wanted, abs=1e-6)
    accepted = sum(trace.num_accepted_tokens for _, trace in asked)
    spread = sum(o * (1 - o) for o in expected) ** 0.5
    assert abs(accepted - sum(expected)) < 3.5 * spread
    assert accepted > 100, "never none at a temperature above 0"
    if temperature < 0.5:
        _, untempered = second_probs(SamplingConfig(temperature=1.0))
        wrong = torch.minimum(p, untempered).sum(-1).tolist()
        assert abs(accepted - sum(wrong[first] for first, _ in asked)) > 5 * spread, "a draft without the temperature"
