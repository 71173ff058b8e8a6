"""Calls, drafts and acceptance as the trace counts them."""

from dataclasses import dataclass
from typing import Any

import pytest
import tiny
import torch
from cases import Scripted, make_case
from engine_runs import Limits, RowSampling, Setup, generate, generate_mixed
from scenes import make_scene

from speechmtp.decoding.drafters.contract import Silent
from speechmtp.decoding.drafters.ctc import CtcDraft
from speechmtp.decoding.drafters.heads import HeadChain
from speechmtp.decoding.drafters.marginal import Marginal
from speechmtp.decoding.drafters.recycle import Oracle
from speechmtp.decoding.presets import PRESETS
from speechmtp.decoding.rules.greedy_match import GreedyMatch
from speechmtp.decoding.state import DecodeState
from speechmtp.decoding.strategies import parse_strategy
from speechmtp.decoding.strategy_table import STRATEGIES
from speechmtp.errors import ConfigError
from speechmtp.types import Draft, Trace, chain_draft

SEEDS = [0, 3, 5, 9]


@pytest.mark.parametrize("seed", SEEDS)
def test_plain_decoding_is_one_token_a_call(seed: int) -> None:
    case = make_case(seed)
    for plain, trace in zip(case.tokens, case.run(Silent())[1]):
        assert trace.tokens_per_call == 1.0 and trace.calls == len(plain) and trace.prompt_calls == 1
        assert trace.num_drafts == trace.num_draft_tokens == trace.draft_calls == 0
        assert trace.mean_acceptance_length is None and trace.num_accepted_tokens_per_pos == []


def test_fault_22_counts_by_hand() -> None:
    """One row, drafts of known acceptance: every number of the trace."""
    case = make_case(1, most=40)
    said = [3, 4, 5, 6, 7, 8, 9, 10, 2]
    case.trunk.unembed = Parrot(said)
    prompt = tiny.prompts(case.trunk, [5], 1)
    script = {
        0: [3, 4, 0, 6],  # 2 of 4 accepted, emits 3 4 5
        3: [0],  # 0 of 1, emits 6
        4: [],  # no draft, emits 7
        5: [8, 9, 10, 2, 2, 2],  # the end token at index 3, two more behind it
    }  # fmt: skip
    tokens, traces = generate(
        case.trunk, None, prompt, Scripted([script]), GreedyMatch(), tiny.EOS, limits=Limits(0, 40)
    )
    assert tokens == [said]
    assert traces[0] == Trace(
        calls=4, prompt_calls=1, draft_calls=0, fed=(5 + 4) + (1 + 1) + 1 + (1 + 6), emitted=9,
        num_drafts=3, num_draft_tokens=11, num_accepted_tokens=2 + 0 + 4,
        num_accepted_tokens_per_pos=[2, 2, 1, 1], gaps=[], finished=True,
    )  # fmt: skip
    assert traces[0].tokens_per_call == 9 / 4 and traces[0].mean_acceptance_length == 1 + 6 / 3


class Parrot:
    """An unembedding that says one sentence: it is asked for base token and draft, in order."""

    def __init__(self, said: list[int]) -> None:
        self.said, self.done = said, [0, 3, 4, 5]

    def __call__(self, hidden: torch.Tensor) -> torch.Tensor:
        start = self.done.pop(0)
        answer = (self.said + [2] * 9)[start : start + hidden.shape[1]]
        return torch.nn.functional.one_hot(torch.tensor([answer]), tiny.VOCAB).double()


@pytest.mark.parametrize("seed", SEEDS)
def test_fault_22_tokens_per_call_times_calls_is_what_was_emitted(seed: int) -> None:
    case = make_case(seed)
    rng = tiny.generator(seed)
    tokens, traces = case.run(CtcDraft(), sources=tiny.sentences(rng, len(case.tokens), 9))
    calls = sum(trace.calls for trace in traces)
    per_call = sum(trace.emitted for trace in traces) / calls
    assert sum(map(len, tokens)) == pytest.approx(per_call * calls)
    for said, trace in zip(tokens, traces):
        assert trace.tokens_per_call is not None and trace.tokens_per_call * trace.calls == pytest.approx(len(said))
        # Each call emits what it accepted and one token of the trunk's own, but the last may be cut.
        assert trace.calls + trace.num_accepted_tokens - trace.emitted in (0, 1)
    assert Trace().tokens_per_call is None


@pytest.mark.parametrize("seed", SEEDS)
def test_fault_09_one_trunk_forward_a_step(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Verification and the next draft come from the same forward, for all rows."""
    case = make_case(seed)
    heads = tiny.heads("latent", 3, seed)
    forwards: list[int] = []
    fed: list[int] = []
    extend = case.trunk.extend

    def counted(embeddings: torch.Tensor, *rest: Any) -> Any:
        forwards.append(len(embeddings))
        fed.append(embeddings.shape[1])
        return extend(embeddings, *rest)

    monkeypatch.setattr(case.trunk, "extend", counted)
    for drafter, sources in (
        (HeadChain(3), None),
        (CtcDraft(), tiny.sentences(tiny.generator(seed), len(case.tokens), 6)),
    ):
        forwards.clear()
        _, traces = case.run(drafter, sources=sources, heads=heads)
        assert len(forwards) == max(trace.calls for trace in traces)
        assert sum(forwards) == sum(trace.calls for trace in traces), "finished rows leave the batch"


def test_fed_counts_entries_without_padding() -> None:
    case = make_case(3)
    entries = case.prompt.lengths.tolist()
    for trace, size, plain in zip(case.run(Silent())[1], entries, case.tokens):
        assert trace.fed == size + len(plain) - 1
    for trace, size in zip(case.run(Oracle(2), sources=case.tokens)[1], entries):
        assert trace.fed == size + (trace.calls - 1) + trace.num_draft_tokens


STRATEGY_NAMES = [name for name in (*STRATEGIES, *PRESETS) if parse_strategy(name).drafter is not None]


@pytest.mark.parametrize("label", [*STRATEGY_NAMES, "verify:theta=0.3", "draft-model:theta=0.5", "marginal:depth=3"])
def test_fed_is_what_the_trunk_was_given(label: str) -> None:
    """All its forwards, those that only draft and what a draft leaves unused among them."""
    drawn = RowSampling(seeds=[3], noise_keys=[5]) if label in ("ensemble", "mtjd") else None
    strategy = parse_strategy(label)
    for seed in (0, 5):
        scene, given = make_scene(seed), list[int]()

        def count(_: Any, args: Any, named: dict[str, Any], given: list[int] = given) -> None:
            given.append(named["inputs_embeds"].shape[1])

        hook = scene.trunk.model.get_decoder().register_forward_pre_hook(count, with_kwargs=True)
        traces = [*scene.run([label], [0], drawn)[1]]
        if label == "mtjd":  # the likeliest continuation, and a drawn one
            traces += scene.run([label], [0])[1]
        hook.remove()
        assert sum(trace.fed for trace in traces) == sum(given)
        if "model" not in strategy.needs:
            assert sum(trace.calls + trace.draft_calls for trace in traces) == len(given)


@dataclass(frozen=True)
class Unused(Silent):
    """Drafts two tokens in row 0 and one in row 1, in four places."""

    def propose(self, state: DecodeState) -> Draft:
        """The same in every call."""
        lists = [[3, 4, -1, -1], [5, -1, -1, -1]]
        return chain_draft(torch.tensor([lists[row.slot] for row in state.rows]))


def test_fed_counts_what_no_row_uses_but_no_padding_to_longer_rows() -> None:
    trunk = tiny.trunk(2)
    trunk.unembed = lambda hidden: torch.eye(tiny.VOCAB, dtype=torch.float64)[7].expand(*hidden.shape[:-1], -1)
    prompt = tiny.prompts(trunk, [5, 3])
    _, traces = generate(trunk, None, prompt, Unused(), GreedyMatch(), tiny.EOS, limits=[2, 3])
    # Two places of the first calls are nobody's; later row 1 is alone and three are.
    assert [trace.fed for trace in traces] == [(5 + 2 + 2) + (1 + 2 + 2), (3 + 1 + 2) + (1 + 1 + 2) + (1 + 1 + 3)]


def test_fed_of_drafts_by_the_trunk_itself_counts_the_rows_own_prompt() -> None:
    """In a batch of several strategies, the forwards of one lane do not count for the others."""
    trunk = tiny.trunk(2)
    prompt = tiny.prompts(trunk, [5, 3, 4])
    setups = [Setup(Marginal(2, 3), GreedyMatch(), rows=[0, 2]), Setup(Silent(), GreedyMatch(), rows=[1])]
    _, traces = generate_mixed(trunk, prompt, setups, tiny.EOS, [1, 1, 1])
    assert [trace.fed for trace in traces] == [5 + (5 + 3) + (5 + 2), 3, 4 + (4 + 3) + (4 + 2)]
    assert [trace.draft_calls for trace in traces] == [2, 0, 2]


def test_gaps_only_where_they_are_asked_for() -> None:
    case = make_case(0)
    _, traces = generate(case.trunk, None, case.prompt, Silent(), GreedyMatch(), tiny.EOS)
    assert all(trace.gaps == [] for trace in traces)


def test_what_a_strategy_lacks_is_one_clear_line() -> None:
    case = make_case(0)
    heads = tiny.heads("latent", 3)
    with pytest.raises(ConfigError, match="depth=4, expected at most 3, the depth of the model's heads"):
        case.run(HeadChain(4), heads=heads)
    with pytest.raises(ConfigError, match="needs multi-token heads and the model has none"):
        case.run(HeadChain(1))
    with pytest.raises(ConfigError, match="needs ctc tokens and the request has none; choose another"):
        case.run(CtcDraft())
    with pytest.raises(ConfigError, match="needs reference tokens and the request has none"):
        case.run(Oracle(2))


def test_heads_of_depth_zero_draft_nothing() -> None:
    case = make_case(0)
    tokens, traces = case.run(HeadChain(0), heads=tiny.heads("linear", 0))
    assert tokens == case.tokens and all(trace.num_drafts == 0 for trace in traces)
