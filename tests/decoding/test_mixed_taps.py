"""Heads of several strategies in one batch read the trunk's layers that are theirs."""

from dataclasses import replace

import pytest
import tiny
import torch
from cases import Watched, make_case
from engine_runs import Setup, generate_mixed

from speechmtp.decoding.drafters.contract import Drafter, Silent
from speechmtp.decoding.drafters.heads import HeadChain
from speechmtp.decoding.drafters.tree import HeadTree
from speechmtp.decoding.rules.greedy_match import GreedyMatch
from speechmtp.heads.contract import HeadSet

DEPTH = 3
# Taps in an order of their own, shared ones, heads that read the raw state besides, and heads without taps.
HEADS: tuple[tuple[Drafter, HeadSet], ...] = (
    (HeadChain(DEPTH), tiny.heads("latent", DEPTH, 1, taps=(2, 0))),
    (HeadTree("0.1.2.00.01.10.20.100"), tiny.heads("layer", DEPTH, 2, taps=(1,))),
    (HeadChain(DEPTH), tiny.heads("chain", DEPTH, 3, taps=(1, 0), attention="ttt")),
    (HeadTree("0.1.2.10.20.200"), tiny.heads("latent", DEPTH, 4)),
)


@pytest.mark.parametrize("seed", [1, 9])
def test_drafts_of_a_mixed_batch_are_those_of_the_rows_alone(seed: int) -> None:
    """Tokens and confidences of every draft, of rows that leave at different times."""
    case = make_case(seed, max_rows=16, most=9)
    rows = len(case.tokens)
    assert rows > 6
    rules = [Watched() for _ in HEADS]
    setups = [
        Setup(drafter, rule, heads, rows=range(place, rows, len(HEADS) + 1))
        for place, (rule, (drafter, heads)) in enumerate(zip(rules, HEADS))
    ]
    setups.append(Setup(Silent(), GreedyMatch(), rows=range(len(HEADS), rows, len(HEADS) + 1)))
    tokens, traces = generate_mixed(case.trunk, case.prompt, setups, tiny.EOS, case.limits)
    assert tokens == case.tokens
    for setup, rule in zip(setups, rules):
        alone = Watched()
        assert setup.rows is not None
        for row in setup.rows:
            one = replace(setup, rule=alone, rows=None)
            _, (trace,) = generate_mixed(case.trunk, case.prompt.row(row), [one], tiny.EOS, [len(case.tokens[row])])
            assert trace.num_draft_tokens == traces[row].num_draft_tokens
            assert trace.num_accepted_tokens_per_pos == traces[row].num_accepted_tokens_per_pos
        assert confidences(rule) == pytest.approx(confidences(alone), abs=1e-9)


def confidences(rule: Watched) -> list[float]:
    """Those of all drafts, in order of size."""
    found = [draft.confidence.flatten() for draft in rule.drafts if draft.confidence is not None]
    return sorted(torch.cat(found).tolist())
