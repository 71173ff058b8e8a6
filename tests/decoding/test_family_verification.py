"""Every family under `verify`: the tokens are those of plain greedy decoding; without depths nothing changes at all."""

from dataclasses import replace
from functools import lru_cache
from typing import Any

import pytest
import tiny
import torch
from cases import Case, make_case
from families import CONFIGS, NAMES, D
from torch import Tensor

from speechmtp.decoding.drafters.contract import Silent
from speechmtp.decoding.drafters.heads import HeadChain
from speechmtp.decoding.rules.contract import AcceptanceRule
from speechmtp.decoding.rules.greedy_match import GreedyMatch
from speechmtp.decoding.state import DecodeState
from speechmtp.heads.contract import HeadSet
from speechmtp.heads.latent import LatentHeadsConfig
from speechmtp.heads.residual import ResidualHeadsConfig
from speechmtp.heads.table import HeadsConfig, build_heads
from speechmtp.types import Draft, Trace

every = pytest.mark.parametrize("name", NAMES)


@lru_cache
def case_of(seed: int) -> Case:
    """A ragged batch of a few rows; seeds alternate between the two families of trunks."""
    return make_case(seed, max_rows=5)


def started(config: HeadsConfig, case: Case) -> HeadSet:
    """Heads where training starts."""
    with torch.random.fork_rng():
        heads = build_heads(config, case.trunk.shape).double().eval()
    heads.start_from(case.trunk)
    return heads


def check(case: Case, result: tuple[list[list[int]], list[Trace]]) -> int:
    """Tokens and gaps of plain greedy decoding; how many drafted tokens were accepted."""
    tokens, traces = result
    assert tokens == case.tokens
    for plain, trace in zip(case.plain, traces):
        assert trace.gaps == pytest.approx(plain.gaps, abs=1e-8)
        assert trace.emitted == len(plain.tokens) and trace.num_accepted_tokens <= trace.num_draft_tokens
    return sum(trace.num_accepted_tokens for trace in traces)


def helped(case: Case, depth: int) -> HeadChain:
    """A drafter that asks the heads and then puts the right token in many places, so that acceptance is ragged."""
    rng = tiny.generator(case.seed)

    class Helped(HeadChain):
        """Says the answer now and then."""

        def propose(self, state: DecodeState) -> Draft:
            draft = super().propose(state)
            for place, row in enumerate(state.rows):
                rest = case.tokens[row.slot][len(row.tokens) :]
                for d, token in enumerate(rest[: draft.tokens.shape[1]]):
                    if float(torch.rand((), generator=rng)) < 0.7:
                        draft.tokens[place, d] = token
            return draft

    return Helped(depth)


@every
def test_verified_drafts_decode_as_plain_greedy(name: str) -> None:
    """Random heads, alone and helped, and heads that repeat the base head's choice."""
    accepted = 0
    for seed in (3, 10):
        case = case_of(seed)
        random = tiny.random_heads(CONFIGS[name], seed, case.trunk.shape)
        check(case, case.run(HeadChain(D - 1), heads=random))
        check(case, case.run(HeadChain(D), heads=started(CONFIGS[name], case)))
        accepted += check(case, case.run(helped(case, D), heads=random))
    assert accepted > 5


@every
def test_fault_12_a_batch_equals_its_rows_alone(name: str) -> None:
    """Tokens and every count: what a row drafts does not depend on its neighbours."""
    case = case_of(12)
    heads = started(CONFIGS[name], case)
    tokens, traces = case.run(HeadChain(D), heads=heads)
    assert len(tokens) > 2
    for row in range(len(tokens)):
        alone, one = case.run(HeadChain(D), heads=heads, rows=[row])
        assert alone == [tokens[row]]
        assert replace(one[0], gaps=[]) == replace(traces[row], gaps=[])


class Watched(AcceptanceRule):
    """Greedy acceptance that keeps the target logits it is shown."""

    exact = True
    draws = "shared"

    def __init__(self) -> None:
        self.seen: list[Tensor] = []

    def distributions(self, target: Tensor, draft: Draft) -> tuple[Tensor, Tensor]:
        """That of `GreedyMatch`."""
        self.seen.append(target)
        return GreedyMatch().distributions(target, draft)


def watch(case: Case, drafter: Any, heads: HeadSet | None) -> tuple[list[list[int]], list[Trace], list[Tensor]]:
    """Tokens, traces and the trunk's logits of every call."""
    rule = Watched()
    tokens, traces = case.run(drafter, rule, heads=heads)
    return tokens, traces, rule.seen


def assert_bits(found: tuple[Any, Any, list[Tensor]], wanted: tuple[Any, Any, list[Tensor]]) -> None:
    """Equal to the last bit."""
    assert found[:2] == wanted[:2], "tokens, counts, gaps"
    assert len(found[2]) == len(wanted[2]) and all(map(torch.equal, found[2], wanted[2]))


@every
def test_no_depths_leave_the_bare_trunk_bit_for_bit(name: str) -> None:
    """A set of depth 0, and no draft from one that has depths."""
    case = case_of(7)
    wanted = watch(case, Silent(), None)
    none = build_heads(replace(CONFIGS[name], depth=0), case.trunk.shape).double().eval()
    some = tiny.random_heads(CONFIGS[name], 1, case.trunk.shape)
    for heads in (none, some):
        assert_bits(watch(case, HeadChain(0), heads), wanted)
        assert_bits(watch(case, Silent(), heads), wanted)


@pytest.mark.parametrize("config", [LatentHeadsConfig(D), ResidualHeadsConfig(D)])
@pytest.mark.parametrize("seed", [3, 8])
def test_a_fresh_set_changes_nothing_in_plain_decoding(config: HeadsConfig, seed: int) -> None:
    case = case_of(seed)
    heads = started(config, case)
    assert_bits(watch(case, Silent(), heads), watch(case, Silent(), None))
    assert check(case, case.run(HeadChain(D), heads=heads)) >= 0
