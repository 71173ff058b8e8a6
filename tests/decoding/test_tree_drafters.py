"""Trees of the heads' tokens, of one shape and dynamic: exact whatever they hold, and they hold what they should."""

from dataclasses import replace
from typing import Any

import oracle
import pytest
import tiny
import torch
from cases import Case, make_case
from engine_runs import Setup, generate_mixed
from families import CONFIGS, NAMES, D
from random_trees import random_shape, trees
from torch import Tensor

from speechmtp.ancestors import ancestors_of
from speechmtp.decoding.drafters.tree import DynamicTree, HeadTree
from speechmtp.decoding.rules.greedy_match import GreedyMatch
from speechmtp.decoding.state import DecodeState
from speechmtp.decoding.trees import TreeShape
from speechmtp.errors import ConfigError
from speechmtp.types import Accepted, Draft

SMALL = "0.1.2.00.01.10.000.001.010.100"


@pytest.mark.parametrize("name", NAMES)
def test_trees_decode_as_plain_greedy(name: str) -> None:
    accepted = 0
    for seed in (NAMES.index(name), 9):
        case = make_case(seed, max_rows=6)
        heads = tiny.random_heads(CONFIGS[name], seed, case.trunk.shape)
        for drafter in trees(seed + NAMES.index(name)):
            tokens, traces = case.run(drafter, heads=heads)
            assert tokens == case.tokens
            accepted += sum(trace.num_accepted_tokens for trace in traces)
    assert accepted > 0


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(500))
def test_trees_decode_as_plain_greedy_at_length(seed: int) -> None:
    case = make_case(seed)
    heads = tiny.random_heads(CONFIGS[NAMES[seed % len(NAMES)]], seed, case.trunk.shape)
    for drafter in trees(seed):
        assert case.run(drafter, heads=heads)[0] == case.tokens


def test_fault_12_a_batch_equals_its_rows_alone() -> None:
    case = make_case(12, max_rows=6)
    heads = tiny.random_heads(CONFIGS["chain-shared-roll"], 3, case.trunk.shape)
    for drafter in trees(11):
        tokens, traces = case.run(drafter, heads=heads)
        for row in range(len(tokens)):
            alone, one = case.run(drafter, heads=heads, rows=[row])
            assert alone == [tokens[row]] and replace(one[0], gaps=[]) == replace(traces[row], gaps=[])


class Told:
    """Before each draft, heads that give the answer a known rank at every depth; the accepted path is checked.

    `nodes` are the paths of ranks that the draft has to hold (None: whichever it likes).
    """

    case: Case
    ranks: list[list[int]]
    shape: TreeShape
    right: list[int]

    def tell(self, state: DecodeState) -> None:
        """Set the heads' logits [B, D, V]."""
        rng = tiny.generator(sum(len(row.tokens) for row in state.rows))
        assert state.heads is not None
        said = torch.randn(len(state.rows), state.heads.depth, tiny.VOCAB, generator=rng, dtype=torch.float64)
        said = said.sort(-1, descending=True).values
        self.right = []
        for place, row in enumerate(state.rows):
            rest = self.case.tokens[row.slot][len(row.tokens) :]
            ranks = torch.randint(0, 3, (state.heads.depth,), generator=rng).tolist()
            for d, rank in enumerate(ranks):
                order = torch.randperm(tiny.VOCAB, generator=rng)
                if d < len(rest):
                    at = int((order == rest[d]).nonzero())
                    order[at], order[rank] = order[rank].clone(), rest[d]
                said[place, d] = said[place, d].clone()[order.argsort()]
            held = [d for d in range(1, len(ranks) + 1) if tuple(ranks[:d]) in self.shape.paths]
            self.right.append(min(max(held, default=0), len(rest)))
        state.heads.all_logits = lambda features, unembed: said[:, : features.shape[-2]]  # type: ignore[method-assign]
        state.heads.logits = lambda features, d, unembed: said[:, d - 1 : d].expand(-1, features.shape[1], -1)  # type: ignore[method-assign]

    def compare(self, state: DecodeState, emitted: list[list[int]]) -> None:
        """A row emits its right path and one token more, as far as the answer goes."""
        if self.right:
            for row, new, right in zip(state.rows, emitted, self.right):
                done = len(row.tokens) - len(new)
                assert new == self.case.tokens[row.slot][done : done + right + 1]


class ToldTree(HeadTree, Told):
    """One shape."""

    def propose(self, state: DecodeState) -> Draft:
        """After `tell`."""
        if state.prompted:
            self.tell(state)
        return super().propose(state)

    def observe(self, state: DecodeState, emitted: list[list[int]], choices: Tensor | None) -> None:
        """`compare`."""
        self.compare(state, emitted)


class ToldDynamic(DynamicTree, Told):
    """All nodes of `width` children a level, so that it holds every path."""

    def propose(self, state: DecodeState) -> Draft:
        """After `tell`."""
        if state.prompted:
            self.tell(state)
        return super().propose(state)

    def observe(self, state: DecodeState, emitted: list[list[int]], choices: Tensor | None) -> None:
        """`compare`."""
        self.compare(state, emitted)


@pytest.mark.parametrize("kind", ["latent", "hydra"])
@pytest.mark.parametrize("seed", [4, 9, 14])
def test_a_tree_that_holds_the_right_path_accepts_it(kind: str, seed: int) -> None:
    """No more and no less, at every call; families of one pass and those that go level by level."""
    case = make_case(seed, max_rows=8, most=20)
    full = TreeShape.of([(i, j)[:n] for i in range(3) for j in range(3) for n in (1, 2) if n == 2 or j == 0])
    told: list[Any] = [ToldTree(random_shape(seed, 20, D, 3)), ToldTree(full.label), ToldDynamic(2, 3, 12)]
    for drafter in told:
        object.__setattr__(drafter, "right", [])
        object.__setattr__(drafter, "case", case)
        if isinstance(drafter, ToldDynamic):
            object.__setattr__(drafter, "shape", full)
        tokens, traces = case.run(drafter, heads=tiny.heads(kind, D, seed))
        assert tokens == case.tokens
        if drafter.shape == full:
            for row, trace in zip(tokens, traces):
                assert trace.calls == 1 + -(-(len(row) - 1) // 3), "every draft of two tokens is accepted whole"


def test_dynamic_trees_are_those_of_the_definition() -> None:
    """Level by level in plain Python, from each path's distribution alone."""
    for name, width, nodes in (("latent", 3, 9), ("hydra", 2, 7), ("chain-shared-ttt", 3, 14), ("block-gru", 4, 5)):
        case = make_case(21, max_rows=1, most=12)
        looked: list[int] = []

        class Compared(DynamicTree):
            """Looks at its own drafts."""

            def propose(self, state: DecodeState) -> Draft:
                draft = super().propose(state)
                if state.prompted:
                    wanted = definition(state, self.depth, self.width, self.nodes)  # asks the heads anew
                    parents, tokens = draft.parent[0].tolist(), draft.tokens[0].tolist()
                    found = [tuple(tokens[i] for i in tiny.path_to(parents, node)) for node in range(len(tokens))]
                    assert len(set(found)) == len(found) and set(found) == wanted
                    looked.append(len(found))  # noqa: B023
                return draft

        heads = tiny.random_heads(CONFIGS[name], 5, case.trunk.shape)
        assert case.run(Compared(D, width, nodes), heads=heads)[0] == case.tokens
        assert looked and set(looked) == {nodes}


def definition(state: DecodeState, depth: int, width: int, nodes: int) -> set[tuple[int, ...]]:
    """Paths of EAGLE-2's tree of a single row; the heads are asked behind one path at a time."""
    heads: Any = state.heads
    zero = torch.zeros(1, 1, dtype=torch.long)

    def children(path: tuple[int, ...]) -> list[tuple[float, tuple[int, ...]]]:
        for d, token in enumerate((int(state.base_tokens()[0]), *path), 1):
            features = heads.expand(state.head_state, d, zero + token, zero)
        probs = heads.logits(features, len(path) + 1, state.head_state.unembed)[0, 0].log_softmax(-1)
        best = probs.topk(width)
        return [(float(v), (*path, int(heads.token_ids(i)))) for v, i in zip(best.values, best.indices)]

    frontier: list[tuple[float, tuple[int, ...]]] = [(0.0, ())]
    every: list[tuple[float, tuple[int, ...]]] = []
    for _ in range(depth):
        level = [(value + more, path) for value, above in frontier for more, path in children(above)]
        every += level
        frontier = sorted(level, reverse=True)[:width]
    return {path for _, path in sorted(every, key=lambda one: (-one[0], len(one[1])))[:nodes]}


def test_fault_25_every_node_has_its_ancestors_and_the_logits_of_its_path() -> None:
    """Closure, order of siblings, and each node's logits against one forward over its path."""
    for name, drafter in (("hydra", HeadTree(SMALL)), ("linear", HeadTree(SMALL)), ("joint", DynamicTree(3, 3, 11))):
        case = make_case(33, max_rows=3, most=9)
        last: list[Draft] = []
        logits: list[Tensor] = []
        compared = []

        class Watched(type(drafter)):  # type: ignore[misc]
            """Keeps its draft until the trunk's logits come."""

            def propose(self, state: DecodeState) -> Draft:
                last[:] = [super().propose(state)]  # noqa: B023
                return last[0]  # noqa: B023

            def observe(self, state: DecodeState, emitted: list[list[int]], choices: Tensor | None) -> None:
                draft, target = last[0], logits[0]  # noqa: B023
                check_closed(draft)
                for place, row in enumerate(state.rows):
                    before = row.tokens[: len(row.tokens) - len(emitted[place])]
                    tokens, parents = draft.tokens[place].tolist(), draft.parent[place].tolist()
                    for node in range(len(tokens)):
                        path = [tokens[i] for i in tiny.path_to(parents, node)]
                        states = oracle.full_states(case.trunk, case.prompt.row(row.slot), before + path)  # noqa: B023
                        wanted = case.trunk.unembed(states[-1])  # noqa: B023
                        torch.testing.assert_close(target[place, node + 1], wanted, rtol=0, atol=1e-9)
                        compared.append(node)  # noqa: B023

        settings = (SMALL,) if isinstance(drafter, HeadTree) else (3, 3, 11)
        heads = tiny.random_heads(CONFIGS[name], 5, case.trunk.shape)

        class Kept(GreedyMatch):
            """Keeps the logits that it judged by."""

            def accept(self, target: Tensor, *rest: Any) -> Accepted:
                logits[:] = [target]  # noqa: B023
                return super().accept(target, *rest)

        assert case.run(Watched(*settings), Kept(), heads=heads)[0] == case.tokens
        assert len(compared) > 40


def check_closed(draft: Draft) -> None:
    """Parents before children, no token twice among siblings, which are ordered by confidence."""
    assert torch.equal(draft.ancestors, ancestors_of(draft.parent))
    assert bool((draft.tokens >= 0).all()) and draft.q is None
    if not draft.tokens.shape[1]:
        return
    for tokens, parents, sure in zip(draft.tokens.tolist(), draft.parent.tolist(), draft.confidence.tolist()):  # type: ignore[union-attr]
        for node, above in enumerate(parents):
            assert -1 <= above < node
            for other in range(node):
                if parents[other] == above:
                    assert tokens[other] != tokens[node] and sure[other] >= sure[node]


class Given:
    """Limits that differ by row and call."""

    def start(self, state: DecodeState) -> None:
        """Nothing."""

    def limits(self, state: DecodeState) -> list[int]:
        """0 to 3."""
        return [(row.slot + len(row.tokens)) % 4 for row in state.rows]

    def observe(self, state: DecodeState, emitted: list[list[int]]) -> None:
        """Nothing."""


@pytest.mark.parametrize("seed", range(4))
def test_fault_08_what_is_absent_is_never_accepted(seed: int) -> None:
    """A trunk that likes token 0, paths of unequal lengths, and rows with fewer nodes than others."""
    case = make_case(40 + seed, max_rows=6, most=14)
    with torch.no_grad():
        case.trunk.unembedding().weight[0] *= 2.5
    lengths = case.prompt.lengths.tolist()
    prompts = [(case.prompt.row(i), case.limits.of(length)) for i, length in enumerate(lengths)]
    plain = [oracle.plain_greedy(case.trunk, prompt, tiny.EOS, limit).tokens for prompt, limit in prompts]
    heads = tiny.heads(("latent", "hydra")[seed % 2], D, seed)
    for drafter in (HeadTree("0.1.2.10.11.100"), DynamicTree(3, 3, 8)):
        bound = Setup(drafter, GreedyMatch(), heads, length=Given())
        tokens, traces = generate_mixed(case.trunk, case.prompt, [bound], tiny.EOS, case.limits)
        assert tokens == plain
        assert len({trace.num_draft_tokens / max(1, trace.num_drafts) for trace in traces}) > 1 or len(plain) == 1
    assert sum(row.count(0) for row in plain) > 0


def test_a_tree_deeper_than_the_heads_is_one_clear_line() -> None:
    case = make_case(3, max_rows=2)
    heads = tiny.heads("latent", 2, 1)
    for drafter in (HeadTree("0.00.000"), DynamicTree(3)):
        with pytest.raises(ConfigError, match="depth=3, expected at most 2, the depth of the model's heads"):
            case.run(drafter, heads=heads)
    narrow = tiny.heads("latent", 2, 1, shortlist=3)
    for drafter in (HeadTree("0.3"), DynamicTree(2, 4)):
        with pytest.raises(ConfigError, match="4 children, expected at most 3"):
            case.run(drafter, heads=narrow)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"depth": -1}, "depth=-1, expected 0 to"), ({"width": 0}, "width=0, expected 1 to 10"),
        ({"width": 11}, "width=11, expected 1 to 10"), ({"nodes": 0}, "nodes=0, expected 1 to 256"),
        ({"nodes": 257}, "nodes=257, expected 1 to 256"),
    ],
)  # fmt: skip
def test_options_of_dynamic_trees_are_checked(options: dict[str, int], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        DynamicTree(**({"depth": 3} | options))
    with pytest.raises(ConfigError, match="path 00 without 0"):
        HeadTree("00")
    assert DynamicTree(0).depth == 0 and HeadTree("0.00").depth == 2
