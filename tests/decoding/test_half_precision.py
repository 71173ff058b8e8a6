"""Models in half precision are drawn from as in float32: noise, processors and rules see float32 logits."""

from collections import Counter
from typing import Any

import pytest
import tiny
import torch
from engine_runs import Limits, Setup, generate_mixed
from judge import chi_squared
from torch import Tensor

from speechmtp.decoding.bound import BoundStrategy
from speechmtp.decoding.drafters.beams import BeamSample
from speechmtp.decoding.drafters.contract import Drafter, Silent
from speechmtp.decoding.drafters.heads import HeadChain
from speechmtp.decoding.drafters.joint import Joint
from speechmtp.decoding.drafters.marginal import Marginal
from speechmtp.decoding.drafters.model import DraftModel
from speechmtp.decoding.drafters.tree import HeadTree
from speechmtp.decoding.engine import Recorded, generate
from speechmtp.decoding.rules.block_verification import BlockVerification
from speechmtp.decoding.rules.contract import AcceptanceRule
from speechmtp.decoding.rules.greedy_match import GreedyMatch
from speechmtp.decoding.rules.keep_draft import KeepDraft
from speechmtp.decoding.rules.ratio import Ratio
from speechmtp.decoding.rules.sample_match import SampleMatch
from speechmtp.decoding.sampling import RowSampling, SamplingConfig
from speechmtp.decoding.step import in_float32
from speechmtp.heads.joint import JointHeadsConfig
from speechmtp.heads.table import build_heads
from speechmtp.models.draft_prompt import DraftPrompt
from speechmtp.types import Draft, Prompt, Request, Trace

ROWS = 3000
# Near 100, bfloat16 has steps of a half. The first two are equal; token 2 ends texts and is never said.
TARGET = torch.tensor([100.0, 100.0, -300.0, 99.0, 99.5, *[50.0] * 6])
DRAFTED = torch.tensor([99.5, 100.0, -300.0, 100.0, 98.0, *[50.0] * 6])
CONFIGS = (SamplingConfig(1.0, seed=5), SamplingConfig(0.7, seed=6), SamplingConfig(1.0, top_p=0.85, seed=7))
COUPLED, RATIO, MATCH, BLOCK = GreedyMatch(), Ratio(), SampleMatch(), BlockVerification()
CASES: list[tuple[Drafter, AcceptanceRule]] = [
    (Silent(), COUPLED), (Silent(), RATIO),
    (HeadChain(2), COUPLED), (HeadChain(2), RATIO), (HeadChain(2), MATCH), (HeadChain(2), BLOCK),
    (HeadTree("0.1.00.01.10"), RATIO), (DraftModel(2), RATIO), (DraftModel(2), BLOCK), (Marginal(2, 3), RATIO),
    (Joint(2, 4), KeepDraft()), (BeamSample(2, 3), RATIO),
]  # fmt: skip


def always(logits: Tensor) -> Any:
    """An output layer that says the same of every state."""
    half = logits.bfloat16()
    return lambda hidden, *_: half.expand(*hidden.shape[:-1], -1)


def drawn(
    drafter: Drafter, rule: AcceptanceRule, config: SamplingConfig, rows: int = ROWS
) -> tuple[list[list[int]], list[Trace]]:
    """Three tokens in many rows, by a model in bfloat16, and their traces with log probabilities."""
    trunk, draft = tiny.trunk(0).bfloat16(), tiny.trunk(1).bfloat16()
    heads = tiny.heads("hydra" if isinstance(drafter, HeadTree) else "latent", 2).bfloat16()
    trunk.unembed, draft.unembed = always(TARGET), always(DRAFTED)  # type: ignore[method-assign]
    heads.logits = heads.all_logits = always(DRAFTED)
    one = tiny.prompts(trunk, [2])
    prompt = Prompt(one.embeddings.bfloat16(), one.positions, one.lengths, one.next_position)
    sources = (DraftPrompt(draft, prompt),) if drafter.source is DraftPrompt else ()
    requests = [Request(prompt, tiny.RULES, 3, (), sources, row) for row in range(rows)]
    bound = BoundStrategy(drafter, rule, heads if drafter.heads else None)
    return generate(trunk, requests, bound, RowSampling.of(config), recorded=Recorded(logprobs=True))


def wanted(config: SamplingConfig) -> list[float]:
    """The distribution of every token: float32 logits, processed as transformers does."""
    processors, logits = config.processors(), TARGET[None, None]
    return (logits if processors is None else processors(logits, lambda: []))[0, 0].double().softmax(-1).tolist()


@pytest.mark.parametrize("case", range(len(CASES)))
def test_equal_logits_are_drawn_equally_often(case: int) -> None:
    """Tokens of a row are independent here, so all of them count."""
    drafter, rule = CASES[case]
    config = CONFIGS[case % len(CONFIGS)]
    tokens, _ = drawn(drafter, rule, config)
    counts = Counter(token for row in tokens for token in row)
    probs = wanted(config)
    assert sum(counts.values()) == 3 * ROWS
    assert chi_squared([counts[token] for token in range(tiny.VOCAB)], probs) > 1e-3, (counts, probs)


@pytest.mark.parametrize("drafter", [HeadChain(2), DraftModel(2), Marginal(2, 3)])
def test_what_is_recorded_is_of_float32_logits(drafter: Drafter) -> None:
    """Log probabilities of tokens, and the distribution that a draft was drawn from."""
    found: list[Tensor] = []

    class Seen(Ratio):
        def distributions(self, target: Tensor, draft: Draft) -> tuple[Tensor, Tensor]:
            """Keep what is compared."""
            assert target.dtype == torch.float32
            if draft.q is not None:
                found.append(draft.q)
            return super().distributions(target, draft)

    traces = drawn(drafter, Seen(), CONFIGS[0], 20)[1]
    probs = TARGET.double().softmax(-1)
    assert all(min((probs.log() - value).abs()) < 1e-6 for trace in traces for value in trace.logprobs)
    wanted = (TARGET if isinstance(drafter, Marginal) else DRAFTED).double().softmax(-1)
    assert found and all(q.dtype == torch.float32 and (q - wanted).abs().max() < 1e-6 for q in found)


def test_greedy_tokens_are_those_of_the_half_precision_logits() -> None:
    """The first of equal ones, and whatever logits are asked for besides."""
    trunk = tiny.trunk(3).bfloat16()
    one = tiny.prompts(trunk, [3, 5, 2])
    prompt = Prompt(one.embeddings.bfloat16(), one.positions, one.lengths, one.next_position)
    setup = Setup(Silent(), GreedyMatch())
    by_argmax, _ = generate_mixed(trunk, prompt, [setup], tiny.EOS, Limits(0, 12))
    by_logits, traces = generate_mixed(trunk, prompt, [setup], tiny.EOS, Limits(0, 12), record_gaps=True)
    assert by_argmax == by_logits and all(len(t.gaps) == len(row) for t, row in zip(traces, by_logits))
    trunk.unembed = always(TARGET)  # type: ignore[method-assign]
    assert generate_mixed(trunk, prompt, [setup], tiny.EOS, Limits(0, 3), record_gaps=True)[0] == [[0, 0, 0]] * 3


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_nothing_is_copied_that_is_precise_enough(dtype: torch.dtype) -> None:
    logits = torch.zeros(2, 3, dtype=dtype)
    assert in_float32(logits) is logits


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_the_joint_family_drafts_in_half_precision(dtype: torch.dtype) -> None:
    """Its mixture is computed in float32, as it is a distribution; the posterior stays with the features."""
    trunk = tiny.trunk(5).to(dtype)
    heads = build_heads(JointHeadsConfig(depth=3, rank=3), trunk.shape).to(dtype)
    state, base = heads.start(1, trunk), torch.tensor([[4]])
    state.hidden = torch.randn(1, tiny.WIDTH, generator=tiny.generator(1)).to(dtype)
    for d in range(1, 4):
        logits = heads.logits(heads.expand(state, d, base, torch.zeros_like(base)), d, state.unembed)
        assert logits.dtype == torch.float32 and abs(float(logits.logsumexp(-1))) < 0.02
