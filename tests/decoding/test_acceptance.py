"""Acceptance rules as distributions, in plain loops; what a finished row keeps of its last draft."""

from typing import Any

import oracle
import pytest
import tiny
import torch
from cases import Case, make_case
from engine_runs import Limits, generate
from torch import Tensor

from speechmtp.decoding.drafters.contract import Drafter
from speechmtp.decoding.drafters.heads import HeadChain
from speechmtp.decoding.rules.contract import AcceptanceRule, draw_outcome
from speechmtp.decoding.rules.greedy_match import GreedyMatch
from speechmtp.decoding.rules.keep_draft import KeepDraft
from speechmtp.decoding.state import DecodeState
from speechmtp.decoding.strategies import parse_strategy
from speechmtp.types import Accepted, Draft, chain_draft

RULES: list[AcceptanceRule] = [GreedyMatch(), KeepDraft()]


def random_draft(seed: int, tree: bool) -> tuple[Tensor, Draft]:
    """Target logits [B, P + 1, V] and a draft of up to 6 nodes in which many nodes are right."""
    rng = tiny.generator(seed)
    rows, size = 5, int(torch.randint(0, 7, (), generator=rng))
    target = torch.randn(rows, size + 1, 4, generator=rng, dtype=torch.float64)
    tokens, parent = tiny.random_tree(rng, rows, size)
    draft = Draft(tokens, parent, chain=False)
    if not tree:
        draft = chain_draft(tokens)
        parent = draft.parent
    best = target.argmax(-1).gather(1, parent + 1)
    right = torch.rand(rows, size, generator=rng) < 0.6
    tokens = torch.where(right & (tokens >= 0), best, torch.where(tokens >= 0, tokens % 4, -1))
    return target, Draft(tokens, parent, chain=not tree)


def kept_by_hand(rule: AcceptanceRule, target: Tensor, draft: Draft, row: int) -> list[int]:
    """Nodes of the deepest kept path of one row; the first of equally deep ones."""
    tokens, parents = draft.tokens[row].tolist(), draft.parent[row].tolist()
    best: list[int] = []
    for node, token in enumerate(tokens):
        path = tiny.path_to(parents, node)
        choice = target[row].argmax(-1)
        right = all(tokens[i] >= 0 and (not rule.exact or tokens[i] == int(choice[parents[i] + 1])) for i in path)
        if token >= 0 and right and len(path) > len(best):
            best = path
    return best


def path_of(accepted: Accepted, row: int) -> list[int]:
    """Accepted nodes of a row; behind them stands nothing but -1."""
    path, count = accepted.path[row].tolist(), int(accepted.count[row])
    assert set(path[count:]) <= {-1}
    return path[:count]


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("tree", [False, True])
@pytest.mark.parametrize("seed", range(25))
def test_laws_sum_to_one_and_settle_on_the_deepest_kept_path(rule: AcceptanceRule, tree: bool, seed: int) -> None:
    target, draft = random_draft(seed, tree)
    rows, size = draft.tokens.shape
    stop, follow = rule.distributions(target, draft)
    assert stop.shape == (rows, size + 1) and follow.shape == target.shape
    assert bool((stop >= 0).all()) and torch.equal(stop.sum(1), torch.ones(rows).double())
    assert bool((follow >= 0).all()) and torch.equal(follow.sum(-1), torch.ones(rows, size + 1).double())
    accepted = draw_outcome(stop, follow, draft)
    for row in range(rows):
        path = kept_by_hand(rule, target, draft, row)
        count = int(accepted.count[row])
        assert path_of(accepted, row) == path and count == len(path)
        last = path[-1] + 1 if path else 0
        assert float(stop[row, last]) == 1 and int(accepted.next[row]) == int(target[row, last].argmax())


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("tree", [False, True])
def test_rows_of_a_mixed_batch_are_settled_as_if_alone(rule: AcceptanceRule, tree: bool) -> None:
    target, draft = random_draft(8, tree)
    together = draw_outcome(*rule.distributions(target, draft), draft)
    for row in range(len(target)):
        size = int(draft.count[row])
        one = Draft(draft.tokens[row : row + 1, :size], draft.parent[row : row + 1, :size], chain=draft.chain)
        alone = draw_outcome(*rule.distributions(target[row : row + 1, : size + 1], one), one)
        assert alone.count.tolist() == together.count[row : row + 1].tolist()
        assert alone.next.tolist() == together.next[row : row + 1].tolist()
        assert path_of(alone, 0) == path_of(together, row)


@pytest.mark.parametrize("rule", RULES)
def test_fault_08_absent_nodes_are_never_accepted(rule: AcceptanceRule) -> None:
    """A model that always prefers token 0, and rows whose drafts differ in length."""
    target = torch.zeros(3, 5, 4)
    target[..., 0] = 9
    tokens = torch.tensor([[0, 0, -1, -1], [-1, -1, -1, -1], [0, 0, 0, 0]])
    accepted = draw_outcome(*rule.distributions(target, chain_draft(tokens)), chain_draft(tokens))
    assert accepted.count.tolist() == [2, 0, 4] and accepted.next.tolist() == [0, 0, 0]
    parent = torch.tensor([[-1, -1, -1, -1], [-1, -1, -1, -1], [-1, 0, 0, 2]])
    tree = Draft(tokens, parent, chain=False)
    accepted = draw_outcome(*rule.distributions(target, tree), tree)
    assert accepted.count.tolist() == [1, 0, 3] and path_of(accepted, 2) == [0, 2, 3]


class UnevenTrees(Drafter):
    """Trees of zeros whose paths differ in length from row to row; each row has nodes that hang nowhere."""

    def propose(self, state: DecodeState) -> Draft:
        """Row r has a path of r nodes and absent ones behind it."""
        tokens = torch.tensor([[0] * row.slot + [-1] * (4 - row.slot) for row in state.rows])
        parent = torch.tensor([[*range(-1, row.slot - 1), *[-1] * (4 - row.slot)] for row in state.rows])
        return Draft(tokens, parent, chain=False)

    def observe(self, state: DecodeState, emitted: list[list[int]], choices: Tensor | None) -> None:
        """Each row emits its own path and one token."""
        assert [len(new) for new in emitted] == [min(row.slot + 1, row.limit) for row in state.rows]


def test_fault_08_unequal_paths_through_the_loop() -> None:
    case = make_case(2)
    unembed = case.trunk.unembed
    case.trunk.unembed = lambda hidden: unembed(hidden) + 1000 * torch.eye(tiny.VOCAB)[0]
    prompt = tiny.prompts(case.trunk, [4, 2, 6, 1, 3], 2)
    tokens, traces = generate(
        case.trunk, None, prompt, UnevenTrees(), GreedyMatch(), tiny.EOS, limits=Limits(0, 60)
    )  # fmt: skip
    assert tokens == [[0] * 60] * 5
    assert [trace.calls for trace in traces] == [60, 30, 20, 15, 12]


def test_limits() -> None:
    assert Limits(2.0, 20, 1000).of(7) == 34
    assert Limits(2.0, 20, 30).of(7) == 30
    assert Limits(0.5, 0).of(3) == 1


def kept_draft_by_hand(case: Case, row: int, depth: int, theta: float, measure: str, heads: Any) -> list[int]:
    """Threshold decoding in plain words: keep what the heads say while they are sure, then ask the trunk."""
    prompt = case.prompt.row(row)
    limit = case.limits.of(int(prompt.lengths[0]))
    tokens: list[int] = []
    draft: list[int] = []
    while True:
        states = oracle.full_states(case.trunk, prompt, tokens + draft)
        new = [*draft, int(case.trunk.unembed(states[-1]).argmax())]
        for token in new:
            tokens.append(token)
            if token == tiny.EOS or len(tokens) == limit:
                return tokens
        logits = oracle.head_logits(heads, case.trunk, states[-1])[:depth]
        draft, product = [], 1.0
        for probs in logits.softmax(-1):
            product *= float(probs.max())
            if (float(probs.max()) if measure == "token" else product) < theta:
                break
            draft.append(int(probs.argmax()))


@torch.no_grad()
@pytest.mark.parametrize("measure", ["token", "product"])
@pytest.mark.parametrize("theta", [0.0, 0.4, 0.7, 1.0])
def test_keep_draft_is_threshold_decoding(measure: str, theta: float) -> None:
    case = make_case(9, max_rows=6, most=14)
    heads = tiny.heads("linear", 3, 9)
    heads.weight.mul_(4)
    strategy = parse_strategy(f"threshold:depth=2,theta={theta},measure={measure}")
    tokens, traces = case.run(strategy.drafter, strategy.rule, heads=heads)
    for row, said in enumerate(tokens):
        assert said == kept_draft_by_hand(case, row, 2, theta, measure, heads)
    accepted = sum(trace.num_accepted_tokens for trace in traces)
    if theta < 1:
        assert accepted > 0 and tokens != case.tokens, "lossy, and faster"
    else:
        assert tokens == case.tokens and accepted == 0


@torch.no_grad()
def test_a_row_stops_drafting_at_the_first_unsure_depth() -> None:
    case = make_case(9, max_rows=6)
    heads = tiny.heads("linear", 3, 9)
    heads.weight.mul_(4)
    drafts: list[Draft] = []

    class Listening(HeadChain):
        """Keeps its drafts."""

        def propose(self, state: DecodeState) -> Draft:
            drafts.append(super().propose(state))
            return drafts[-1]

    case.run(Listening(3, 0.5), KeepDraft(), heads=heads)
    counts = set()
    assert drafts[0].tokens.shape[1] == 0, "the heads have seen nothing yet"
    for draft in drafts[1:]:
        assert draft.confidence is not None
        for row, count in enumerate(draft.count.tolist()):
            counts.add(count)
            assert bool((draft.tokens[row, :count] >= 0).all() and (draft.tokens[row, count:] == -1).all())
            assert bool((draft.confidence[row, :count] >= 0.5).all())
            assert count == 3 or float(draft.confidence[row, count]) < 0.5
    assert len(counts) > 2
