"""What drafters that ask a language model draft: the likeliest texts, or draws that keep the trunk's distribution."""

import math
from dataclasses import dataclass, field, replace
from itertools import product
from typing import Any, ClassVar

import oracle
import pytest
import tiny
import torch
from cases import make_case
from draft_model_runs import (
    PLAIN,
    SMALL,
    chi_squared,
    copies,
    decode,
    outcomes,
    small,
)
from engine_runs import Limits, RowSampling, Sources, generate
from torch import Tensor

from speechmtp.decoding.drafters.beams import BeamSample
from speechmtp.decoding.drafters.contract import Drafter
from speechmtp.decoding.drafters.joint import Joint
from speechmtp.decoding.drafters.marginal import Marginal
from speechmtp.decoding.drafters.model import DraftModel
from speechmtp.decoding.rules.joint_ratio import JointRatio
from speechmtp.decoding.rules.keep_draft import KeepDraft
from speechmtp.decoding.rules.ratio import Ratio
from speechmtp.decoding.sampling import SamplingConfig
from speechmtp.errors import ConfigError
from speechmtp.models.trunk import Trunk
from speechmtp.types import Accepted, Draft

RATIO = [
    (DraftModel(3), PLAIN), (DraftModel(3), replace(PLAIN, temperature=0.7, top_k=2)),
    (DraftModel(3), replace(PLAIN, repetition_penalty=1.5)), (Marginal(2, top=None), PLAIN),
    *(pytest.param(drafter, PLAIN, marks=pytest.mark.slow) for drafter in (DraftModel(3, theta=0.4), BeamSample(2, 3))),
]  # fmt: skip


@pytest.mark.parametrize(("drafter", "config"), RATIO)
def test_fault_01_to_05_the_ratio_rule_keeps_the_distribution(drafter: Any, config: SamplingConfig) -> None:
    """χ² of whole outputs over several calls; the draft's distribution is that which tokens were drawn from."""
    trunk, draft, rows = small(0), small(1), 2000
    sources = Sources(model=(draft, [copies(draft, 1)] * rows))
    tokens, traces = generate(
        trunk, None, copies(trunk, rows), drafter, Ratio(), tiny.EOS, sources, Limits(0, 4),
        row_sampling=RowSampling.of(config, range(rows)),
    )  # fmt: skip
    assert chi_squared(tokens, outcomes(trunk, config, 4)) < 4
    accepted, drafted = (sum(getattr(t, f"num_{kind}_tokens") for t in traces) for kind in ("accepted", "draft"))
    assert 0.1 * drafted < accepted < 0.9 * drafted


# What is drafted.


@dataclass(frozen=True, eq=False)
class Kept(KeepDraft):
    """Keeps everything, and remembers it."""

    drafts: list[Draft] = field(default_factory=list)

    def judge(self, choices: Tensor, draft: Draft) -> Any:
        """Note the draft."""
        self.drafts.append(draft)
        return super().judge(choices, draft)


@torch.no_grad()
def scored(trunk: Trunk, text: tuple[int, ...]) -> tuple[float, list[float]]:
    """Probability of a text, and of each of its tokens."""
    states = oracle.full_states(trunk, copies(trunk, 1), list(text))
    distributions = trunk.unembed(states).softmax(-1)
    size = len(states) - len(text)
    chances = [float(distributions[size + i - 1, token]) for i, token in enumerate(text)]
    return math.prod(chances), chances


def first_draft(trunk: Trunk, drafter: Drafter, sources: Sources, config: SamplingConfig | None = None) -> Draft:
    """What is drafted behind the prompt."""
    rule = Kept()
    row_sampling = None if config is None else RowSampling.of(config, [0])
    generate(trunk, None, copies(trunk, 1), drafter, rule, tiny.EOS, sources, Limits(0, 1), row_sampling=row_sampling)
    return rule.drafts[0]


def likeliest(trunk: Trunk, depth: int) -> tuple[int, ...]:
    """The best text of `depth` tokens, or fewer where an end token is last."""
    probs = outcomes(trunk, PLAIN, depth)
    return max(probs, key=lambda text: probs[text])


def test_the_joint_drafter_finds_the_likeliest_text() -> None:
    differ = 0
    for seed in range(6):
        trunk = small(seed)
        best = likeliest(trunk, 3)
        for top in (None, SMALL, 3):
            draft = first_draft(trunk, Joint(3, top), Sources())
            said = tuple(token for token in draft.tokens[0].tolist() if token >= 0)
            assert said == best or (top == 3 and scored(trunk, said)[0] < scored(trunk, best)[0])
        greedy = oracle.plain_greedy(trunk, copies(trunk, 1), tiny.EOS, 3)
        differ += tuple(greedy.tokens) != best
    assert differ, "it is not greedy decoding"


def test_joint_calls_are_counted_and_its_tree_is_bounded() -> None:
    case = make_case(6, max_rows=3)
    _, traces = decode(case, Sources(), Joint(2, top=3), rule=KeepDraft())
    assert all(trace.draft_calls == 2 * trace.calls for trace in traces)
    for drafter, message in (
        (Joint(5, top=None), r"joint: depth=5 and top=11 \(all tokens\) make more than 4096 nodes; lower depth or top"),
        (Joint(1000, top=2), "joint: depth=1000 and top=2 make more than 4096 nodes"),
        (Marginal(9, top=8), "marginal: depth=9 and top=8 make more than 4096 nodes; lower depth or top"),
    ):
        with pytest.raises(ConfigError, match=message):
            decode(case, Sources(), drafter, rule=KeepDraft())
    for kind in (Joint, Marginal):
        with pytest.raises(ConfigError, match=f"{kind.name}: top=0, expected 1 or more"):
            kind(1, top=0)


def test_wide_beams_find_the_likeliest_text_and_know_its_probabilities() -> None:
    for seed in range(8):
        trunk = small(seed)
        sources = Sources(model=(trunk, [copies(trunk, 1)]))
        draft = first_draft(trunk, BeamSample(3, width=64), sources)
        said = tuple(token for token in draft.tokens[0].tolist() if token >= 0)
        assert said == likeliest(trunk, 3)
        assert draft.confidence is not None
        torch.testing.assert_close(
            draft.confidence[0, : len(said)],
            torch.tensor(scored(trunk, said)[1], dtype=torch.float64),
            rtol=0,
            atol=1e-6,
        )
        # One beam goes greedily.
        draft = first_draft(trunk, BeamSample(3, width=1), sources)
        greedy = oracle.plain_greedy(trunk, copies(trunk, 1), tiny.EOS, 3).tokens
        assert [token for token in draft.tokens[0].tolist() if token >= 0] == greedy


class Noted(JointRatio):
    """Remembers drafts and how much of them stayed."""

    seen: ClassVar[list[tuple[Draft, Accepted]]] = []

    def accept(self, target: Tensor, draft: Draft, *rest: Any) -> Accepted:
        """Note both."""
        accepted = super().accept(target, draft, *rest)
        self.seen.append((draft, accepted))
        return accepted


def test_assisted_decoding_compares_the_joint_probabilities_of_both_models() -> None:
    """The longest prefix that the trunk finds at least half as likely as the draft model does."""
    counts = set()
    for seed in range(12):
        trunk, draft = small(seed % 4), small(seed)
        sources, config = Sources(model=(draft, [copies(draft, 1)])), replace(PLAIN, seed=seed)
        Noted.seen.clear()
        generate(
            trunk, None, copies(trunk, 1), BeamSample(3), Noted(0.5), tiny.EOS, sources, Limits(0, 4),
            row_sampling=RowSampling.of(config, [0]),
        )  # fmt: skip
        drafted, accepted = Noted.seen[0]
        said = [token for token in drafted.tokens[0].tolist() if token >= 0]
        texts = [tuple(said[:n]) for n in range(len(said) + 1)]
        wanted = max(n for n, text in enumerate(texts) if scored(trunk, text)[0] / scored(draft, text)[0] > 0.5)
        assert int(accepted.count) == wanted and (wanted == len(said) or seed >= 4)
        counts.add(wanted)
    assert len(counts) > 2


def test_drawn_beams_stay_inside_the_cut_and_follow_the_draft_models_distribution() -> None:
    """One beam, no cut: plain sampling from the draft model; `top_k` 1: its greedy text, whatever the noise."""
    trunk, draft, rows = small(2), small(3), 3000
    sources = Sources(model=(draft, [copies(draft, 1)] * rows))
    config = SamplingConfig(1.0, seed=4)
    said = {}
    for name, drafter in (("free", BeamSample(2, 1, 0, 1.0)), ("cut", BeamSample(2, 2, 1, 1.0))):
        rule = Kept()
        row_sampling = RowSampling.of(config, range(rows))
        generate(
            trunk, None, copies(trunk, rows), drafter, rule, tiny.EOS, sources, Limits(0, 1), row_sampling=row_sampling
        )
        said[name] = [[t for t in row if t >= 0] for row in rule.drafts[0].tokens.tolist()]
    assert chi_squared(said["free"], outcomes(draft, config, 2)) < 4
    greedy = oracle.plain_greedy(draft, copies(draft, 1), tiny.EOS, 2).tokens
    assert all(row == greedy for row in said["cut"])


def test_a_marginal_draft_is_the_likeliest_token_of_each_position() -> None:
    for seed in range(6):
        trunk = small(seed)
        draft = first_draft(trunk, Marginal(2, top=None), Sources())
        distributions = torch.zeros(2, SMALL, dtype=torch.float64)
        for a, b in product(range(SMALL), repeat=2):
            first, second = scored(trunk, (a, b))[1]
            distributions[0, a] += first * second
            distributions[1, b] += first * second
        assert draft.tokens[0].tolist() == distributions.argmax(1).tolist()
        assert draft.confidence is not None
        torch.testing.assert_close(draft.confidence[0], distributions.max(1).values, rtol=0, atol=1e-9)


def test_theta_ends_a_draft_before_an_unsure_token() -> None:
    for seed in range(6):
        trunk = small(seed)
        sources = Sources(model=(trunk, [copies(trunk, 1)]))
        greedy = oracle.plain_greedy(trunk, copies(trunk, 1), tiny.EOS, 4).tokens
        chances = scored(trunk, tuple(greedy))[1]
        theta = sorted(chances)[1]
        wanted = greedy[: next(i for i, chance in enumerate(chances) if chance < theta)]
        draft = first_draft(trunk, DraftModel(4, theta=theta - 1e-9), sources)
        assert [t for t in draft.tokens[0].tolist() if t >= 0] == wanted


def test_a_draft_model_of_another_vocabulary_is_refused() -> None:
    case = make_case(1, max_rows=2)
    other = small(0)
    sources = Sources(model=(other, [tiny.prompts(other, [2]) for _ in case.tokens]))
    for drafter in (DraftModel(2), BeamSample(2)):
        with pytest.raises(ConfigError, match="draft model: 4 tokens, expected the trunk's 11; give one of the same"):
            decode(case, sources, drafter)
    for wrong, message in (
        ({"width": 0}, "beams: width=0"), ({"top_k": -1}, "top_k=-1"), ({"top_p": 0.0}, r"top_p=0\.0"),
    ):  # fmt: skip
        with pytest.raises(ConfigError, match=message):
            BeamSample(2, **wrong)
