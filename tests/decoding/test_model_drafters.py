"""Drafters that ask a language model: the same tokens as plain decoding, and caches that stay true."""

from dataclasses import replace
from typing import Any

import oracle
import pytest
import tiny
from cases import make_case, near
from draft_model_runs import case_and_draft, decode, itself, some
from engine_runs import RowSampling, Setup, Sources, generate, generate_mixed
from torch import Tensor

from speechmtp.decoding.drafters.beams import BeamSample
from speechmtp.decoding.drafters.contract import Drafter, Silent
from speechmtp.decoding.drafters.heads import HeadChain
from speechmtp.decoding.drafters.joint import Joint
from speechmtp.decoding.drafters.marginal import Marginal
from speechmtp.decoding.drafters.model import DraftModel
from speechmtp.decoding.rules.greedy_match import GreedyMatch
from speechmtp.decoding.rules.keep_draft import KeepDraft
from speechmtp.decoding.sampling import SamplingConfig
from speechmtp.decoding.state import DecodeState
from speechmtp.types import Draft

EXACT = [
    DraftModel(3), DraftModel(4, theta=0.4), BeamSample(3, 3, 5, 0.9), BeamSample(2, 4, 2, 0.5), Marginal(2, top=None),
    Marginal(3, top=2),
]  # fmt: skip
SAMPLED = [
    SamplingConfig(1.0), SamplingConfig(0.7, top_k=4), SamplingConfig(1.3, repetition_penalty=1.4),
    SamplingConfig(1.0, no_repeat_ngram_size=2, top_p=0.9),
]  # fmt: skip


@pytest.mark.parametrize("seed", some(5, 2))
def test_greedy_equals_plain_decoding(seed: int) -> None:
    case, sources = case_and_draft(seed, max_rows=5, most=8)
    for drafter in EXACT:
        tokens, _ = decode(case, sources, drafter)
        assert tokens == case.tokens, drafter
    assert decode(case, sources, Joint(1, top=None), rule=KeepDraft())[0] == case.tokens, (
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
        bound = Setup(Watched(3), GreedyMatch(), None, sources, Uneven() if seed % 3 == 0 else None)
        tokens, traces = generate_mixed(case.trunk, case.prompt, [bound], tiny.EOS, case.limits)
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
    drafters: list[Drafter] = [DraftModel(3), Silent(), HeadChain(2), BeamSample(2, 3), Marginal(2, 3), Joint(1, None)]
    bound_strategies = []
    for number, drafter in enumerate(drafters):
        mine = list(range(number, rows, len(drafters)))
        own = Sources(model=(trunk, [prompts[row] for row in mine]))
        rule = KeepDraft() if isinstance(drafter, Joint) else GreedyMatch()
        bound_strategies.append(Setup(drafter, rule, heads if drafter.heads else None, own, rows=mine))
    row_sampling = None if config is None else RowSampling.of(config, range(rows))
    tokens, traces = generate_mixed(case.trunk, case.prompt, bound_strategies, tiny.EOS, case.limits, row_sampling)
    assert len(bound_strategies) == len(drafters) and tokens == decode(case, Sources(), Silent(), config)[0]
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
            case.trunk, case.prompt, [Setup(drafter, GreedyMatch(), None, sources, Uneven())], tiny.EOS, case.limits
        )
        assert tokens == case.tokens
        for trace in traces:
            assert trace.num_draft_tokens <= 2 * trace.calls * 2 / 3
            # The prompt, which no draft was asked behind, is a forward of its own.
            assert trace.draft_calls <= 2 * (trace.calls - -(-trace.calls // 3)) + 1
