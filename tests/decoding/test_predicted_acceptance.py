"""One teacher-forced pass says what cached drafting does, for every family."""

from typing import Any

import numpy as np
import oracle
import pytest
import tiny
import torch
from cases import Case, make_case

from speechmtp.decoding.drafters.heads import HeadChain
from speechmtp.evaluation.teacher_forced import teacher_forced
from speechmtp.heads.table import FAMILIES
from speechmtp.scoring.acceptance import acceptance, walk

KINDS = [config.kind for config in FAMILIES]  # type: ignore[attr-defined]


def prompts_of(case: Case) -> list[Any]:
    return [case.prompt.row(i) for i in range(len(case.tokens))]


@pytest.mark.parametrize("kind", KINDS)
def test_the_walk_of_the_pass_is_what_verify_does(kind: str) -> None:
    """Calls and acceptance by position; random heads, and heads that say what the trunk itself would."""
    accepted = 0
    for seed, depth in ((4, 3), (9, 2)):
        case = make_case(seed, max_rows=6, most=14)
        heads = tiny.heads(kind, depth, seed)
        if seed == 9:
            heads.start_from(case.trunk)
        passes = teacher_forced(case.trunk, heads, prompts_of(case), case.tokens)
        for shallow in range(depth + 1):
            _, traces = case.run(HeadChain(shallow), heads=heads)
            for one, trace in zip(passes, traces):
                found = walk(one.runs, one.tokens, shallow)
                assert found.calls == trace.calls
                accepted += trace.num_accepted_tokens
        assert acceptance(passes).tokens_per_call == sum(map(len, case.tokens)) / sum(t.calls for t in traces)
    assert accepted > 0


def test_ranks_and_nats_against_full_forwards() -> None:
    case = make_case(4, max_rows=5, most=9)
    heads = tiny.heads("latent", 3, 1)
    passes = teacher_forced(case.trunk, heads, prompts_of(case), case.tokens)
    for plain, one in zip(case.plain, passes):
        logits = oracle.head_logits(heads, case.trunk, plain.hidden).detach()
        assert one.right.shape == (len(plain.tokens) - 1, 3)
        for k, d in zip(*np.nonzero(one.labelled)):
            row, label = logits[k, d], plain.tokens[k + d + 1]
            rank = int((row > row[label]).sum())
            assert (one.right[k, d], one.near[k, d]) == (rank == 0, rank < 5)
            assert one.nats[k, d] == pytest.approx(float(row.logsumexp(-1) - row[label]))


def test_tokens_outside_a_shortlist_are_wrong_and_have_no_cross_entropy() -> None:
    case = make_case(4, max_rows=5, most=9)
    heads = tiny.heads("latent", 2, 1, shortlist=4)
    heads.shortlist.copy_(torch.tensor([2, 3, 7, 9]))
    passes = teacher_forced(case.trunk, heads, prompts_of(case), case.tokens)
    lost = 0
    for tokens, one in zip(case.tokens, passes):
        for k, d in zip(*np.nonzero(one.labelled)):
            outside = tokens[k + d + 1] not in (2, 3, 7, 9)
            assert bool(np.isnan(one.nats[k, d])) == outside
            assert not (outside and (one.right[k, d] or one.near[k, d]))
            lost += outside
    scores = acceptance(passes).depths
    assert lost == round(sum((s.outside or 0) * s.labels for s in scores)) > 0
    _, traces = case.run(HeadChain(2), heads=heads)
    assert [walk(one.runs, one.tokens, 2).calls for one in passes] == [trace.calls for trace in traces]


def test_short_outputs_and_heads_without_depth() -> None:
    case = make_case(4)
    prompts = prompts_of(case)[:3]
    found = teacher_forced(case.trunk, tiny.heads("latent", 2), prompts, [[], [3], [3, 4, 5]])
    assert [one.right.shape for one in found] == [(0, 2), (0, 2), (2, 2)]
    assert [one.tokens for one in found] == [0, 1, 3]
    bare = teacher_forced(case.trunk, tiny.heads("latent", 0), prompts, [[], [3], [3, 4, 5]])
    assert [one.right.shape for one in bare] == [(0, 0), (0, 0), (2, 0)]
    assert acceptance(bare).tokens_per_call == 1
