"""Draft lengths that follow acceptance and measured costs."""

import json
import time
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest
import tiny
import torch
from cases import Case, make_case, mutate
from engine_runs import RowSampling, Setup, Sources, generate_mixed
from families import CONFIGS, D

from speechmtp.decoding.draft_length import Costed, CostTable, DraftLength, Running, measure_costs
from speechmtp.decoding.drafters.contract import Silent
from speechmtp.decoding.drafters.heads import HeadChain
from speechmtp.decoding.drafters.recycle import Oracle
from speechmtp.decoding.rules.greedy_match import GreedyMatch
from speechmtp.decoding.rules.ratio import Ratio
from speechmtp.decoding.sampling import SamplingConfig
from speechmtp.errors import ConfigError
from speechmtp.types import Trace

FLAT = CostTable((1, 8), (1, 9), ((1.0, 1.0), (1.0, 1.0)))  # a call costs the same whatever its size
STEEP = CostTable((1, 8), (1, 9), ((1.0, 1.4), (1.0, 9.0)))  # 0.05 and 1 a token more


@dataclass
class Stub:
    """As much of a state as the controls read; `call` is one call's outcome, a row each."""

    rows: list[int]
    length_state: Any = None
    batch: Any = None
    drafts: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.numbers = list(self.rows)
        self.rows = [SimpleNamespace(slot=slot, trace=Trace(), adapted=None) for slot in self.numbers]
        self.batch = SimpleNamespace(rows=list(self.rows))

    def begin(self, control: DraftLength) -> "Stub":
        """Start a control."""
        self.length_state = control.start(self)  # type: ignore[arg-type]
        return self

    def call(self, control: DraftLength, right: dict[int, int], depth: int = 99) -> list[int]:
        """Draft to the limits and accept what is right; the limits."""
        limits = control.limits(self)  # type: ignore[arg-type]
        for row, limit in zip(self.rows, limits):
            drafted = min(limit, depth)
            if drafted:
                trace = row.trace
                trace.num_drafts += 1
                trace.num_draft_tokens += drafted
                trace.num_accepted_tokens += min(drafted, right[row.slot])
        control.observe(self, [[] for _ in self.rows])  # type: ignore[arg-type]
        return limits


def test_running_limits_follow_each_rows_own_acceptance() -> None:
    control = Running(0.5, 4.0)
    state = Stub([2, 5]).begin(control)
    assert control.limits(state) == [5, 5]  # type: ignore[arg-type]
    for _ in range(12):
        last = state.call(control, {2: 99, 5: 0})
    assert last[0] > 8 and last[1] == 1, "all right: ever longer; never right: one token, to notice a good spell"
    assert state.rows[1].adapted.mean == pytest.approx(4 * 0.5**12)
    for _ in range(20):
        last = state.call(control, {2: 3, 5: 1})
    assert last == [4, 2], "a little above what is accepted"
    del state.rows[0]  # row 2 has left
    assert len(state.call(control, {5: 1})) == 1


def test_running_does_not_learn_from_calls_without_a_draft() -> None:
    control = Running()
    state = Stub([0]).begin(control)
    state.call(control, {0: 0}, depth=0)
    assert state.rows[0].adapted.mean == 4.0
    state.call(control, {0: 2})
    assert state.rows[0].adapted.mean == pytest.approx(4 + 0.2 * (2 - 4))


def test_costed_takes_the_best_ratio_of_tokens_to_time() -> None:
    """Against the formula written out."""
    for costs in (FLAT, STEEP):
        for rows in (1, 8):
            for prior in ((0.9,), (0.9, 0.5, 0.1), (0.3,)):
                control = Costed(costs, prior)
                state = Stub(list(range(rows))).begin(control)
                ratios = []
                for d in range(9):
                    rates = [prior[min(i, len(prior) - 1)] for i in range(d)]
                    reach = [torch.tensor(rates[: i + 1]).prod().item() for i in range(d)]
                    at = dict(zip((1, 8), costs.calls))[rows]
                    ratios.append((1 + sum(reach)) / ((at[0] + d / 8 * (at[1] - at[0])) / at[0]))
                limits = control.limits(state)  # type: ignore[arg-type]
                assert limits == [max(range(9), key=lambda d: ratios[d])] * rows
    free = Stub([0]).begin(Costed(FLAT))
    assert Costed(FLAT).limits(free) == [8]  # type: ignore[arg-type]
    dear = Stub(list(range(8))).begin(Costed(STEEP))
    assert set(Costed(STEEP).limits(dear)) == {0}, "in a large batch a draft costs more than it gives"  # type: ignore[arg-type]


def test_costed_learns_and_forgets() -> None:
    control = Costed(STEEP, (0.5,))
    state = Stub([0]).begin(control)
    first = state.call(control, {0: 99})[0]
    for _ in range(40):
        grown = state.call(control, {0: 99})[0]
    assert grown == 8 > first
    for _ in range(100):
        short = state.call(control, {0: 1})[0]
    assert short <= 2 < grown
    mine = state.length_state
    rates = control.rates(mine.asked, mine.kept)
    assert rates[0] > 0.85 and rates[1] < 0.2
    for _ in range(200):
        state.call(control, {0: 1}, depth=0)
    assert control.rates(mine.asked, mine.kept) == pytest.approx([0.5] * 8, abs=1e-3), "back at the prior"


def test_costed_counts_no_position_that_was_not_drafted_or_lies_behind_an_end() -> None:
    control = Costed(FLAT, (0.9,), decay=0.0)
    state = Stub([0]).begin(control)
    state.call(control, {0: 99}, depth=3)
    assert state.length_state.asked == [1, 1, 1, 0, 0, 0, 0, 0] == state.length_state.kept
    state.call(control, {0: 1}, depth=3)
    assert state.length_state.asked == [2, 2, 1, 0, 0, 0, 0, 0]
    assert state.length_state.kept == [2, 1, 1, 0, 0, 0, 0, 0]
    state.rows[0].trace.finished = True
    state.call(control, {0: 1}, depth=3)
    assert state.length_state.asked == [3, 2, 1, 0, 0, 0, 0, 0]


def test_costs_between_and_beyond_what_was_measured() -> None:
    table = CostTable((1, 4), (1, 3), ((1.0, 2.0), (2.0, 6.0)), ((0.1, 0.2), (0.4, 0.8)))
    assert table.depth == 1 and STEEP.depth == 8
    assert table.call(1, 2) == pytest.approx(1.5) and table.call(1, 5) == pytest.approx(3.0)
    assert table.call(2, 1) == pytest.approx(4 / 3) and table.call(7, 3) == pytest.approx(10.0)
    assert table.draft(4, 1) == 0.8 and STEEP.draft(3, 5) == 0.0
    assert table.of(4, 1, 1) == pytest.approx((4.0 + 0.2) / 2.0)
    assert CostTable.from_dict(json.loads(json.dumps(table.to_dict()))) == table
    for values in ({}, {"rows": [1], "widths": [1], "calls": [[0.0]], "drafts": []}, {"rows": 3},
                   table.to_dict() | {"rows": [4, 1]}, table.to_dict() | {"drafts": [[0.1]]}):  # fmt: skip
        with pytest.raises(ConfigError, match=r"costs: .*measure"):
            CostTable.from_dict(values)


@pytest.mark.parametrize("name", [None, "latent", "chain-own-roll", "block-gru"])
def test_costs_are_measured_in_little_time(name: str | None) -> None:
    trunk = tiny.trunk(2).float()
    heads = None if name is None else tiny.random_heads(CONFIGS[name], 1, trunk.shape).float()
    measure_costs(trunk, (1,), (1,), heads, seconds=0.0)  # what torch does only once
    began = time.process_time()
    table = measure_costs(trunk, (4, 1), (1, 8, 40), heads, seconds=0.1)
    assert time.process_time() - began < 1.5
    assert table.rows == (1, 4) and table.widths == (1, 8, 40) and len(table.calls) == 2
    assert all(0 < a <= b <= c for a, b, c in table.calls)
    assert table.depth == (39 if heads is None else D)
    assert all(0 < row[0] <= row[-1] for row in table.drafts)
    assert CostTable.from_dict(json.loads(json.dumps(table.to_dict()))) == table
    with pytest.raises(ConfigError, match="numbers of 1 or more"):
        measure_costs(trunk, (0,), (1,))


def run(case: Case, bound: Setup, row_sampling: RowSampling | None = None) -> tuple[list[list[int]], list[Trace]]:
    return generate_mixed(case.trunk, case.prompt, [bound], tiny.EOS, case.limits, row_sampling)


@pytest.mark.parametrize("control", [Running(), Running(1.0, 0.0), Costed(FLAT), Costed(STEEP, (0.95,), decay=0.3)])
@pytest.mark.parametrize("seed", range(4))
def test_whatever_the_length_the_tokens_are_those_of_plain_decoding(control: Any, seed: int) -> None:
    """Greedy, and with a seed; drafts that are right now and then, rows that leave."""
    case = make_case(60 + seed, max_rows=5, most=20)
    rng = tiny.generator(seed)
    wrong = [mutate(tokens, 0.2, rng) for tokens in case.tokens]
    assert run(case, Setup(Oracle(9), GreedyMatch(), None, Sources(wrong), control))[0] == case.tokens
    heads = tiny.random_heads(CONFIGS["hydra"], seed, case.trunk.shape)
    assert run(case, Setup(HeadChain(D), GreedyMatch(), heads, length=control))[0] == case.tokens
    row_sampling = RowSampling.of(SamplingConfig(temperature=1.0, seed=seed), range(len(case.tokens)))
    plain = run(case, Setup(Silent(), GreedyMatch()), row_sampling)[0]
    assert run(case, Setup(HeadChain(D), GreedyMatch(), heads, length=control), row_sampling)[0] == plain
    run(case, Setup(HeadChain(D), Ratio(), heads, length=control), row_sampling)


def test_lengths_grow_where_drafts_are_right() -> None:
    case = next(c for c in map(make_case, range(70, 99)) if max(map(len, c.tokens)) > 9)
    sources = Sources(case.tokens)
    fixed = run(case, Setup(Oracle(1), GreedyMatch(), None, sources))[1]
    grown = run(case, Setup(Oracle(8), GreedyMatch(), None, sources, Running(0.5, 0.0)))[1]
    assert sum(trace.calls for trace in grown) < sum(trace.calls for trace in fixed)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Running(0.0), "decay=0.0, expected a number above 0"),
        (lambda: Running(0.2, -1.0), "first=-1.0, expected 0"),
        (lambda: Costed(FLAT, ()), "expected rates from 0 to 1"), (lambda: Costed(FLAT, (1.5,)), "expected rates"),
        (lambda: Costed(FLAT, weight=0.0), "weight=0.0, expected a number above 0"),
        (lambda: Costed(FLAT, decay=1.0), "decay=1.0, expected 0 or more, below 1"),
    ],
)  # fmt: skip
def test_options_are_checked(make: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make()
