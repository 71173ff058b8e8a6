"""Drafts from the pass before: exact whatever it said, and few calls where most of it is said again."""

from types import SimpleNamespace
from typing import Any, cast

import pytest
import tiny
import torch
from cases import Case, make_case, mutate
from engine_runs import RowSampling, Sources, generate, row_of

from speechmtp import types
from speechmtp.cli.checks import check_strategies
from speechmtp.decoding.drafters.contract import Drafter, Silent
from speechmtp.decoding.drafters.previous import PreviousHeads, PreviousPass
from speechmtp.decoding.rules.greedy_match import GreedyMatch
from speechmtp.decoding.runner import Runner
from speechmtp.decoding.sampling import SamplingConfig
from speechmtp.decoding.strategies import parse_strategy
from speechmtp.errors import ConfigError
from speechmtp.types import Request, Trace

DRAFTERS: list[Any] = [
    PreviousPass(), PreviousPass(pointers=1), PreviousPass(pointers=5, nodes=3), PreviousPass(depth=2),
    PreviousHeads(3), PreviousHeads(2, pointers=1),
]  # fmt: skip


def run(
    case: Case, drafter: Drafter, previous: list[list[int]], row_sampling: RowSampling | None = None
) -> tuple[list[list[int]], list[Trace]]:
    """The case's batch; heads of random weights for those who ask."""
    heads = tiny.heads("latent", 3, case.seed) if drafter.heads else None
    return generate(case.trunk, heads, case.prompt, drafter, GreedyMatch(), tiny.EOS, Sources(previous=previous),
                    case.limits, row_sampling=row_sampling)  # fmt: skip


def passes_before(answers: list[list[int]], seed: int) -> list[list[int]]:
    """The answers with edits, their beginnings, their ends, random tokens or nothing."""
    rng, found = tiny.generator(seed), []
    for row, tokens in enumerate(answers):
        noise = torch.randint(0, tiny.VOCAB, (seed % 7,), generator=rng).tolist()
        half = len(tokens) // 2
        kinds = [mutate(tokens, 0.3, rng), tokens[:half], tokens[half:], noise, [], [*noise[:3], *tokens]]
        found.append(kinds[(seed + row) % len(kinds)])
    return found


@pytest.mark.parametrize("seed", range(12))
def test_every_pass_before_gives_the_tokens_of_plain_greedy_decoding(seed: int) -> None:
    case = make_case(500 + seed, max_rows=6, most=10)
    for drafter in DRAFTERS:
        assert run(case, drafter, passes_before(case.tokens, seed))[0] == case.tokens


@pytest.mark.parametrize("seed", range(12))
def test_every_pass_before_gives_the_tokens_of_plain_sampling_with_the_same_seed(seed: int) -> None:
    config = SamplingConfig(temperature=0.9, top_p=0.9, repetition_penalty=1.2)
    case = make_case(seed, max_rows=3, most=8)
    rows = len(case.tokens)
    row_sampling = RowSampling(config.processors(), [seed] * rows, list(range(rows)))
    plain, _ = run(case, Silent(), [], row_sampling)
    for drafter in DRAFTERS:
        assert run(case, drafter, passes_before(plain, seed), row_sampling)[0] == plain


@pytest.mark.parametrize("seed", range(8))
def test_what_is_said_again_costs_one_call(seed: int) -> None:
    """With or without the end token, and what comes new costs no more than plain decoding of it."""
    case = make_case(seed, max_rows=6, most=30)
    for drafter in (PreviousPass(), PreviousHeads(3)):
        for before in (case.tokens, [[t for t in tokens if t != tiny.EOS] for tokens in case.tokens]):
            tokens, traces = run(case, drafter, before)
            assert tokens == case.tokens and {trace.calls for trace in traces} == {1}
        for new in (1, 3):
            _, traces = run(case, drafter, [tokens[:-new] for tokens in case.tokens])
            assert all(trace.calls <= new for trace in traces)
        _, traces = run(case, drafter, [[] for _ in case.tokens])
        assert all(trace.calls <= len(tokens) for tokens, trace in zip(case.tokens, traces))
    _, traces = run(case, PreviousPass(), [[] for _ in case.tokens])
    assert all(trace.num_draft_tokens == 0 for trace in traces), "nothing known: nothing drafted"


def calls_for(drafter: PreviousPass, before: list[int], truth: list[int]) -> int:
    """Trunk calls for `truth`, from token lists alone."""
    row = row_of([], sources=(types.PreviousPass(tuple(before)),))
    state = cast(Any, SimpleNamespace(rows=[row], eos=0, ends=(0,)))
    drafter.start(state)
    calls = 0
    while len(row.tokens) < len(truth):
        left, [rests] = truth[len(row.tokens) :], drafter.rests(state)
        right = max(next((i for i, (a, b) in enumerate(zip(r.tokens, left)) if a != b), min(len(r.tokens), len(left)))
                    for r in rests)  # fmt: skip
        row.tokens = truth[: len(row.tokens) + right + 1]
        calls += 1
    return calls


TRUTH = list(range(1, 31))


@pytest.mark.parametrize(
    ("before", "most"),
    [
        (TRUTH, 1),
        (TRUTH[:-3], 4),  # the window has grown by two tokens and an end token
        ([*TRUTH[:-4], 77, 78], 5),  # whose last words were heard otherwise
        ([*TRUTH[:9], 77, *TRUTH[10:]], 2),  # one word was
        ([*TRUTH[:9], *TRUTH[12:]], 5),  # some are new
        ([*TRUTH[:9], 77, 78, 79, *TRUTH[9:]], 5),  # some are gone
        ([*range(40, 50), *TRUTH[:-3]], 7),  # the window has moved on by ten words
        ([], 31),
    ],
)
def test_calls_after_each_change_of_the_window(before: list[int], most: int) -> None:
    assert calls_for(PreviousPass(), before, [*TRUTH, 0]) <= most
    assert calls_for(PreviousPass(pointers=1), before, [*TRUTH, 0]) <= most


def test_heads_are_asked_behind_the_prompts_call_only() -> None:
    case = make_case(3, max_rows=4, most=12)
    before = [[(tokens[0] + 1) % tiny.VOCAB] * 2 for tokens in case.tokens]
    alone, beside = run(case, PreviousPass(), before)[1], run(case, PreviousHeads(3), before)[1]
    drafted = [[trace.num_draft_tokens for trace in traces] for traces in (alone, beside)]
    assert all(few < many for few, many, tokens in zip(*drafted, case.tokens) if len(tokens) > 2)
    _, traces = run(case, PreviousHeads(3), case.tokens)
    assert {trace.calls for trace in traces} == {1}
    assert [t.num_draft_tokens for t in traces] == [
        t.num_draft_tokens for t in run(case, PreviousPass(), case.tokens)[1]
    ]


@pytest.mark.parametrize("name", ["previous", "previous-heads", "previous:depth=3,pointers=1"])
def test_the_runner_takes_no_pass_before_for_an_empty_one(name: str) -> None:
    case = make_case(4, max_rows=5, most=8)
    most = [case.limits.of(n) for n in case.prompt.lengths.tolist()]
    runner = Runner(case.trunk, {"own": tiny.heads("latent", 3)})
    for known in (False, True):
        requests = [
            Request(case.prompt.row(i), tiny.RULES, most[i]).knowing(
                *[types.PreviousPass(tuple(tokens))] * (known or i % 2)
            )
            for i, tokens in enumerate(case.tokens)
        ]
        tokens, traces = runner.run(requests, [parse_strategy(name)] * len(requests))
        assert tokens == case.tokens
        assert not known or "depth" in name or all(trace.calls == 1 for trace in traces)


def test_separate_recordings_have_no_pass_before() -> None:
    runner = Runner(tiny.trunk(), {"own": tiny.heads("latent", 3)})
    assert not {"previous", "previous-heads"} & {strategy.name for strategy in runner.usable(ctc=True)}
    for name in ("previous", "previous-heads"):
        strategy = parse_strategy(name)
        assert "previous" in strategy.needs
        with pytest.raises(
            ConfigError, match=f"strategy {name}: needs a pass before over the same audio; choose another"
        ):
            check_strategies([strategy], runner)
        [found] = check_strategies([strategy], runner, with_previous=True)
        assert found.options.get("depth", 3) == 3


@pytest.mark.parametrize("options", [{"pointers": 0}, {"nodes": 0}])
def test_options_out_of_range_are_refused(options: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match=r"previous: .* expected 1 to"):
        PreviousPass(**options)
