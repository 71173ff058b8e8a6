"""Drafters that ask a language model: the same tokens as plain decoding, the same distributions, and caches that stay
true."""

import math
from collections import Counter
from dataclasses import replace
from functools import cache, partial
from itertools import product
from typing import Any, ClassVar

import oracle
import pytest
import tiny
import torch
from cases import Case, make_case, near
from engine_runs import Drawing, Limits, Plan, Sources, generate, generate_mixed
from torch import Tensor

from speechmtp.decoding.drafters.beams import BeamSample
from speechmtp.decoding.drafters.contract import Drafter, Silent
from speechmtp.decoding.drafters.heads import HeadChain
from speechmtp.decoding.drafters.joint import Joint
from speechmtp.decoding.drafters.marginal import Marginal
from speechmtp.decoding.drafters.model import DraftModel
from speechmtp.decoding.rules.contract import AcceptanceRule, GreedyMatch, KeepDraft
from speechmtp.decoding.rules.rejection import Ratio
from speechmtp.decoding.rules.relaxed import JointRatio
from speechmtp.decoding.sampling import SamplingConfig
from speechmtp.decoding.state import DecodeState
from speechmtp.errors import ConfigError
from speechmtp.models.trunk import ScratchTrunkConfig, Trunk, build_trunk
from speechmtp.types import Accepted, Draft, Prompt, Trace


def some(count: int, often: int) -> list[Any]:
    """Seeds of which the first `often` run with every test."""
    return [pytest.param(seed, marks=[pytest.mark.slow] * (seed >= often)) for seed in range(count)]


EXACT = [
    DraftModel(3), DraftModel(4, theta=0.4), BeamSample(3, 3, 5, 0.9), BeamSample(2, 4, 2, 0.5), Marginal(2),
    Marginal(3, top=2),
]  # fmt: skip
SAMPLED = [
    SamplingConfig(1.0), SamplingConfig(0.7, top_k=4), SamplingConfig(1.3, repetition_penalty=1.4),
    SamplingConfig(1.0, no_repeat_ngram_size=2, top_p=0.9),
]  # fmt: skip
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
    drawing = None if config is None else Drawing.of(config, range(len(case.tokens)))
    return generate(
        case.trunk, None, case.prompt, drafter, rule or GreedyMatch(), tiny.EOS, sources, case.limits, drawing=drawing
    )


@pytest.mark.parametrize("seed", some(5, 2))
def test_greedy_equals_plain_decoding(seed: int) -> None:
    case, sources = case_and_draft(seed, max_rows=5, most=8)
    for drafter in EXACT:
        tokens, _ = decode(case, sources, drafter)
        assert tokens == case.tokens, drafter
    assert decode(case, sources, Joint(1), rule=KeepDraft())[0] == case.tokens, (
        "a joint distribution of one token is its distribution"
    )


@pytest.mark.parametrize("seed", some(20, 8))
def test_seeded_coupling_equals_plain_sampling(seed: int) -> None:
    case, sources = case_and_draft(seed, max_rows=2, most=6)
    config = replace(SAMPLED[seed % 4], seed=seed)
    plain, _ = decode(case, Sources(), Silent(), config)
    for drafter in EXACT[(seed // 4) % 2 :: 2]:
        assert decode(case, sources, drafter, config)[0] == plain, drafter
    assert decode(case, sources, Joint(3, top=2), config, KeepDraft())[0] == plain, "drawn token by token"


def test_processors_apply_to_greedy_drafts_as_well() -> None:
    calls = 0
    for seed in range(2):
        case, sources = case_and_draft(seed, max_rows=3, most=8)
        config = SamplingConfig(repetition_penalty=1.5, no_repeat_ngram_size=2)
        plain, _ = decode(case, Sources(), Silent(), config)
        for drafter in EXACT:
            assert decode(case, sources, drafter, config)[0] == plain
        _, traces = decode(case, itself(case), DraftModel(3), config)
        assert [t.calls for t in traces] == [-(-len(tokens) // 4) for tokens in plain], (
            "the prefix counts for the draft"
        )
        calls += sum(t.calls for t in traces)
    assert calls > 5


@pytest.mark.parametrize(
    ("drafter", "config"),
    [(DraftModel(3), None), (DraftModel(3), SamplingConfig(0.8, top_k=6, seed=5)), (BeamSample(3, width=1), None)],
)
def test_a_trunk_that_drafts_for_itself_is_accepted_whole(drafter: Any, config: SamplingConfig | None) -> None:
    seen = 0
    for seed in range(5):
        case = make_case(seed, max_rows=1, most=20)
        tokens, (trace,) = decode(case, itself(case), drafter, config)
        size, depth = len(tokens[0]), drafter.depth
        assert trace.calls == -(-size // (depth + 1)) and trace.num_accepted_tokens >= size - trace.calls
        # A forward a drafted token; the last draft ends with an end token.
        left = size - (depth + 1) * (trace.calls - 1)
        last = min(left, depth) if trace.finished else depth
        assert trace.draft_calls == depth * (trace.calls - 1) + last
        seen += trace.calls
    assert seen > 7


class Uneven:
    """Limits of 0 to 2 tokens, which differ by row; none at all at every third call."""

    def start(self, state: DecodeState) -> None:
        """Nothing."""

    def limits(self, state: DecodeState) -> list[int]:
        """By row and number of calls so far."""
        calls = state.rows[0].trace.calls
        return [(row.slot + calls) % 3 if calls % 3 else 0 for row in state.rows]

    def observe(self, state: DecodeState, emitted: list[list[int]]) -> None:
        """Nothing."""


class Watched(DraftModel):
    """Compares every draft with that of a fresh prefill, and the cache with what it should hold."""

    compared = 0
    own: Any = None

    def propose(self, state: DecodeState) -> Draft:
        draft = super().propose(state)
        trunk, prompts = self.own
        mine = state.drafter_state
        for place, row in enumerate(state.rows):
            text, said = list(row.tokens), draft.tokens[place].tolist()
            for token in said:
                if token < 0:
                    break
                logits = trunk.unembed(oracle.full_states(trunk, prompts[row.slot], text)[-1])
                assert token == int(logits.argmax())
                text.append(token)
            width = draft.tokens.shape[1]
            if not width:
                continue
            held = int(prompts[row.slot].lengths) + len(row.tokens) + width - 1
            assert int(mine.cache.lengths[place]) == held
            type(self).compared += 1
        return draft


def test_fault_13_a_draft_after_a_commit_is_that_of_a_fresh_prefill() -> None:
    """After full acceptance the last drafted token is fed, what was rejected is overwritten, and a row whose draft was
    cut off may emit what the draft model has read already."""
    whole = refused = 0
    for seed in range(6):
        case, sources = case_and_draft(seed, by=0.05, max_rows=5, most=16)
        Watched.own = sources.model
        plan = Plan(Watched(3), GreedyMatch(), None, sources, Uneven() if seed % 3 == 0 else None)
        tokens, traces = generate_mixed(case.trunk, case.prompt, [plan], tiny.EOS, case.limits)
        assert tokens == case.tokens
        for trace in traces:
            whole += sum(trace.num_accepted_tokens_per_pos[2:])
            refused += trace.num_draft_tokens - trace.num_accepted_tokens
    assert whole > 4 and refused > 5 and Watched.compared > 25


def test_accepted_tokens_are_not_fed_again() -> None:
    """The draft model reads every token once where all are accepted, but the last drafted one with the base token."""
    case = make_case(3, max_rows=1, most=20)
    draft, fed = near(case.trunk, 0, 0.0), list[int]()
    inner = draft.extend

    def spy(embeddings: Tensor, *rest: Any) -> Any:
        fed.append(embeddings.shape[1])
        return inner(embeddings, *rest)

    draft.extend = spy  # type: ignore[method-assign, assignment]
    _, (trace,) = decode(case, Sources(model=(draft, [case.prompt])), DraftModel(3))
    assert trace.calls > 2 and fed[: 3 * (trace.calls - 1)] == [
        *(int(case.prompt.lengths[0]), 1, 1), *([2, 1, 1] * (trace.calls - 2))
    ]  # fmt: skip


@pytest.mark.parametrize("seed", [1, 3])
def test_rows_of_a_batch_leave_the_draft_model_with_it(seed: int) -> None:
    """A batch whose rows end at different times equals its rows alone, counts included."""
    case, sources = case_and_draft(seed, max_rows=5)
    assert sources.model is not None
    for drafter in (DraftModel(3), BeamSample(3, 3)):
        tokens, traces = decode(case, sources, drafter)
        for row in range(len(tokens)):
            own = Sources(model=(sources.model[0], sources.model[1][row : row + 1]))
            alone, (one,) = generate(
                case.trunk, None, case.prompt.row(row), drafter, GreedyMatch(), tiny.EOS, own, case.limits
            )
            assert alone == [tokens[row]]
            assert (one.calls, one.num_accepted_tokens) == (traces[row].calls, traces[row].num_accepted_tokens)


@pytest.mark.parametrize("config", [None, SamplingConfig(1.0, seed=3), SamplingConfig(1.2, repetition_penalty=1.3)])
@pytest.mark.parametrize("seed", [6, pytest.param(3, marks=pytest.mark.slow)])
def test_rows_under_different_strategies(seed: int, config: SamplingConfig | None) -> None:
    case, sources = case_and_draft(seed, max_rows=16, most=9)
    assert sources.model is not None
    rows, (trunk, prompts) = len(case.tokens), sources.model
    heads = tiny.heads("latent", 2, seed)
    drafters: list[Drafter] = [DraftModel(3), Silent(), HeadChain(2), BeamSample(2, 3), Marginal(2, 3), Joint(1)]
    plans = []
    for number, drafter in enumerate(drafters):
        mine = list(range(number, rows, len(drafters)))
        own = Sources(model=(trunk, [prompts[row] for row in mine]))
        rule = KeepDraft() if isinstance(drafter, Joint) else GreedyMatch()
        plans.append(Plan(drafter, rule, heads if drafter.heads else None, own, rows=mine))
    drawing = None if config is None else Drawing.of(config, range(rows))
    tokens, traces = generate_mixed(case.trunk, case.prompt, plans, tiny.EOS, case.limits, drawing)
    assert len(plans) == len(drafters) and tokens == decode(case, Sources(), Silent(), config)[0]
    for row, trace in enumerate(traces):
        asked = not isinstance(drafters[row % len(drafters)], Silent | HeadChain)
        assert (trace.draft_calls > 0) == asked
        if row % len(drafters) == 4 and (config is None or config.repetition_penalty == 1):
            # The first token of a marginal draft is the trunk's own.
            assert trace.num_accepted_tokens_per_pos[0] == trace.num_drafts == trace.calls


@pytest.mark.parametrize("drafter", EXACT)
def test_limits_bound_the_draft_and_save_its_calls(drafter: Any) -> None:
    for seed in (1, 4):
        case, sources = case_and_draft(seed, by=0.1, max_rows=4, most=12)
        tokens, traces = generate_mixed(
            case.trunk, case.prompt, [Plan(drafter, GreedyMatch(), None, sources, Uneven())], tiny.EOS, case.limits
        )
        assert tokens == case.tokens
        for trace in traces:
            assert trace.num_draft_tokens <= 2 * trace.calls * 2 / 3
            # The prompt, which no draft was asked behind, is a forward of its own.
            assert trace.draft_calls <= 2 * (trace.calls - -(-trace.calls // 3)) + 1


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
RATIO = [
    (DraftModel(3), PLAIN), (DraftModel(3), replace(PLAIN, temperature=0.7, top_k=2)),
    (DraftModel(3), replace(PLAIN, repetition_penalty=1.5)), (Marginal(2), PLAIN),
    *(pytest.param(drafter, PLAIN, marks=pytest.mark.slow) for drafter in (DraftModel(3, theta=0.4), BeamSample(2, 3))),
]  # fmt: skip


@pytest.mark.parametrize(("drafter", "config"), RATIO)
def test_fault_01_to_05_the_ratio_rule_keeps_the_distribution(drafter: Any, config: SamplingConfig) -> None:
    """χ² of whole outputs over several calls; the draft's distribution is that which tokens were drawn from."""
    trunk, draft, rows = small(0), small(1), 2000
    sources = Sources(model=(draft, [copies(draft, 1)] * rows))
    tokens, traces = generate(
        trunk, None, copies(trunk, rows), drafter, Ratio(), tiny.EOS, sources, Limits(0, 4),
        drawing=Drawing.of(config, range(rows)),
    )  # fmt: skip
    assert chi_squared(tokens, outcomes(trunk, config, 4)) < 4
    accepted, drafted = (sum(getattr(t, f"num_{kind}_tokens") for t in traces) for kind in ("accepted", "draft"))
    assert 0.1 * drafted < accepted < 0.9 * drafted


# What is drafted.


class Kept(KeepDraft):
    """Keeps everything, and remembers it."""

    def __init__(self) -> None:
        self.drafts: list[Draft] = []

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
    drawing = None if config is None else Drawing.of(config, [0])
    generate(trunk, None, copies(trunk, 1), drafter, rule, tiny.EOS, sources, Limits(0, 1), drawing=drawing)
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
    for joint, message in (
        (Joint(5), r"joint: depth 5 and top 11 \(all tokens\) make more than 4096 nodes; lower depth or top"),
        (Joint(100_000, top=2), "joint: depth 100000 and top 2 make more than 4096 nodes"),
        (Joint(2, top=0), "joint: top 0, expected 1 or more"),
        (Marginal(9, top=8), "marginal: depth 9 and top 8 make more than 4096 nodes; lower depth or top"),
        (Marginal(1, top=0), "marginal: top 0, expected 1 or more"),
    ):
        with pytest.raises(ConfigError, match=message):
            decode(case, Sources(), joint, rule=KeepDraft())


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
            drawing=Drawing.of(config, [0]),
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
        drawing = Drawing.of(config, range(rows))
        generate(trunk, None, copies(trunk, rows), drafter, rule, tiny.EOS, sources, Limits(0, 1), drawing=drawing)
        said[name] = [[t for t in row if t >= 0] for row in rule.drafts[0].tokens.tolist()]
    assert chi_squared(said["free"], outcomes(draft, config, 2)) < 4
    greedy = oracle.plain_greedy(draft, copies(draft, 1), tiny.EOS, 2).tokens
    assert all(row == greedy for row in said["cut"])


def test_a_marginal_draft_is_the_likeliest_token_of_each_position() -> None:
    for seed in range(6):
        trunk = small(seed)
        draft = first_draft(trunk, Marginal(2), Sources())
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
        ({"width": 0}, "beams: width 0"), ({"top_k": -1}, "top_k -1"), ({"top_p": 0.0}, r"top_p 0\.0"),
    ):  # fmt: skip
        with pytest.raises(ConfigError, match=message):
            BeamSample(2, **wrong)
