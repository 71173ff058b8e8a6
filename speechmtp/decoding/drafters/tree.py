"""Trees of the heads' tokens: of one fixed shape, or grown from the heads' confidence at every call."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Annotated, ClassVar

import torch
from torch import Tensor

from speechmtp.config import Form, Range
from speechmtp.decoding.drafters.contract import Drafter, empty_draft
from speechmtp.decoding.sampling import PickedTokens, pick_tokens
from speechmtp.decoding.state import DecodeState
from speechmtp.decoding.trees import MAX_DRAFT, MAX_NODES, RANKS, TreeShape
from speechmtp.errors import ConfigError
from speechmtp.heads.contract import HeadSet
from speechmtp.models.trunk import Trunk
from speechmtp.types import Draft, Request

# The default tree: probable paths of heads of depth 7.
PATHS = "0.1.2.00.01.02.10.000.001.010.100.0000.0001.0010.0100.1000.00000.000000.0000000"


@dataclass(frozen=True)
class HeadTree(Drafter):
    """A tree of one fixed shape, `paths` as in `TreeShape.parse`; a node of rank j is choice (or sample) number j of
    the head, counted from 0 (Medusa, arXiv 2401.10774). Siblings are in the order of sampling, in which the ratio rule
    tests them."""

    paths: Annotated[str, Form("ranks from 0 to 9 as in 0.00.1")] = PATHS
    name: ClassVar[str] = "head-tree"
    heads: ClassVar[bool] = True
    gives_probabilities: ClassVar[bool] = True
    adapts: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Raise ConfigError for a wrong path."""
        _ = self.shape

    @cached_property
    def shape(self) -> TreeShape:
        """The shape of the tree."""
        return TreeShape.parse(self.paths)

    @property
    def depth(self) -> int:
        """The deepest level; the heads must be at least as deep."""
        return self.shape.depth

    @property
    def branches(self) -> bool:
        """Whether a node has siblings."""
        return not self.shape.chain

    def check(self, trunk: Trunk, heads: HeadSet | None, request: Request) -> None:
        """Raise ConfigError if a node has more children than the heads have tokens."""
        _check_width(heads, self.shape.width)

    def propose(self, state: DecodeState) -> Draft:
        """Draft one tree per row; nothing in the prompt's call, where the heads have no trunk state yet."""
        shape = self.shape if state.limits is None else self.shape.cut(max(state.limits))
        if not state.prompted or not shape.paths:
            return empty_draft(state)
        layout = _layout_of(shape, state.device)
        if _one_pass(state):
            _, choice = _all_levels(state, shape.depth, shape.width)
            parts = [_picked(choice, layout.picks)]
        else:
            parts = self._level_by_level(state, layout)
        rows, q = len(state.rows), [part.q for part in parts if part.q is not None]
        return Draft(
            torch.cat([part.tokens for part in parts], 1), layout.parent.expand(rows, -1),
            torch.cat([part.confidence for part in parts], 1), layout.chain, torch.cat(q, 1) if q else None,
            layout.seen.expand(rows, -1, -1),
        )  # fmt: skip

    def _level_by_level(self, state: DecodeState, layout: "_TreeLayout") -> list[PickedTokens]:
        """The chosen tokens of each level; the heads run only for nodes that have children."""
        tokens = state.base_tokens()[:, None]
        paths = tokens[:, :, None][..., :0]  # drafted tokens before those of this level
        found: list[PickedTokens] = []
        first = 0
        for d, level in enumerate(layout.levels, 1):
            if d > 1:
                tokens = found[-1].tokens[:, level.inner]
                paths = torch.cat([paths[:, level.parent], tokens[..., None]], 2)
            parent = level.parent.expand(len(tokens), -1)
            found.append(_picked(_level(state, d, tokens, parent, paths, first, level.width)[1], level.picks))
            first += tokens.shape[1]
        return found


@dataclass(frozen=True)
class _LevelLayout:
    """A level as tensors of indices. `inner`: the nodes of the level above that have children here, within that level.
    `parent`: the parent of each, within the inner nodes of the level above that. `picks`: this level's nodes, within
    the `width` choices after each inner node."""

    inner: Tensor
    parent: Tensor
    picks: Tensor
    width: int


@dataclass(frozen=True)
class _TreeLayout:
    """A shape as tensors; `picks` [N] are the indices of its nodes within `depth` times `width` choices of all levels
    at once."""

    parent: Tensor
    seen: Tensor
    picks: Tensor
    chain: bool
    levels: tuple[_LevelLayout, ...]


@lru_cache(maxsize=64)
def _layout_of(shape: TreeShape, device: torch.device) -> _TreeLayout:
    def ids(values: Sequence[int]) -> Tensor:
        return torch.tensor(values, dtype=torch.long, device=device)

    size, parents = len(shape.paths), shape.parents
    seen = torch.eye(size, dtype=torch.bool)
    for node, above in enumerate(parents):
        if above >= 0:
            seen[node] |= seen[above]
    levels: list[_LevelLayout] = []
    before, above_nodes = [-1], [-1]  # inner nodes two levels above, nodes of the level above
    for nodes in shape.levels:
        inner = sorted({parents[node] for node in nodes})
        width = 1 + max(shape.paths[node][-1] for node in nodes)
        picks = [inner.index(parents[node]) * width + shape.paths[node][-1] for node in nodes]
        parent = [0 if node < 0 else before.index(parents[node]) for node in inner]
        levels.append(_LevelLayout(ids([above_nodes.index(node) for node in inner]), ids(parent), ids(picks), width))
        before, above_nodes = inner, list(nodes)
    flat = [(len(path) - 1) * shape.width + path[-1] for path in shape.paths]
    return _TreeLayout(ids(parents), seen.to(device), ids(flat), shape.chain, tuple(levels))


@dataclass(frozen=True)
class DynamicTree(Drafter):
    """The best `nodes` nodes of a tree grown from the heads' confidence (EAGLE-2, arXiv 2406.16858).

    At each level the `width` nodes with the most probable paths get `width` children each; of all nodes the best are
    kept. A node never has a higher value than its parent and comes after it, so that a tie cannot keep a child without
    its parent.

    When tokens are sampled with their own noise, for a ratio rule, dropping a sampled token because of its value would
    bias the output: the remaining ones are more probable than their distribution says. Every level then has its share
    of the nodes, which is divided among the parents by the distributions of their children before any is sampled, and
    all samples are kept. The sampled tokens decide only which nodes get children.
    """

    depth: Annotated[int, Range(0, MAX_DRAFT)] = 7
    width: Annotated[int, Range(1, RANKS)] = 4
    nodes: Annotated[int, Range(1, MAX_NODES)] = 24
    name: ClassVar[str] = "dynamic-tree"
    heads: ClassVar[bool] = True
    gives_probabilities: ClassVar[bool] = True
    adapts: ClassVar[bool] = True

    @property
    def branches(self) -> bool:
        """Whether a node may get several children."""
        return self.width > 1

    def check(self, trunk: Trunk, heads: HeadSet | None, request: Request) -> None:
        """Raise ConfigError if a node may get more children than the heads have tokens."""
        _check_width(heads, self.width)

    def propose(self, state: DecodeState) -> Draft:
        """Draft one tree per row; nothing in the prompt's call, where the heads have no trunk state yet."""
        depth = min(self.depth, self.nodes, *([] if state.limits is None else [max(state.limits)]))
        if not state.prompted or depth == 0:
            return empty_draft(state)
        own = state.noise is not None and state.draws == "own"
        grown = _Grown(state, self.width)
        once = _all_levels(state, depth, self.width) if _one_pass(state) else None
        for d in range(1, depth + 1):
            logits, choice = grown.ask(d) if once is None else grown.share(*once, d)
            kept = None
            if own:
                left = self.nodes - grown.count
                kept = grown.children_to_draw(logits, -(-left // (depth + 1 - d)))
            grown.add(choice, kept, d == depth)
        return grown.draft(grown.count if own else self.nodes, self.width == 1)


class _Grown:
    """The trees of a batch of rows while they grow: candidates of all levels, and the nodes that get children next."""

    def __init__(self, state: DecodeState, width: int) -> None:
        self.state, self.width = state, width
        self.count = 0  # candidates per row
        self.asked = 0  # nodes whose children have been chosen
        self.tokens = state.base_tokens()[:, None]  # of the nodes that get children
        self.above = torch.zeros_like(self.tokens)  # index of each one's parent among the nodes of the level above
        self.node = torch.full_like(self.tokens, -1)  # index of each among the candidates
        self.prefixed = state.reads_prefix
        self.paths = self.tokens[:, :, None][..., :0]  # kept only if processors read them
        self.value: Tensor | None = None  # log confidence of their paths, None: 0
        self.levels: list[tuple[Tensor, ...]] = []  # tokens, parent, value, confidence and perhaps q

    def ask(self, d: int) -> tuple[Tensor, PickedTokens]:
        """Logits and `width` choices of the heads after each node."""
        found = _level(self.state, d, self.tokens, self.above, self.paths, self.asked, self.width)
        self.asked += self.tokens.shape[1]
        return found

    def share(self, logits: Tensor, choice: PickedTokens, d: int) -> tuple[Tensor, PickedTokens]:
        """The same for heads whose choices at a level do not depend on the nodes. All nodes may share one sample: at
        most one of them is accepted, and that is decided without these tokens."""
        nodes, one = self.tokens.shape[1], slice(d - 1, d)
        q = None if choice.q is None else choice.q[:, one].expand(-1, nodes, -1, -1)
        shared = PickedTokens(
            choice.tokens[:, one].expand(-1, nodes, -1), choice.confidence[:, one].expand(-1, nodes, -1), q
        )
        return logits[:, one].expand(-1, nodes, -1), shared

    def children_to_draw(self, logits: Tensor, count: int) -> Tensor:
        """Choose which `count` children to sample, before they are sampled: indices [B, M] among `width` per node."""
        likeliest = logits.log_softmax(-1).topk(self.width, -1).values
        if self.value is not None:
            likeliest = likeliest + self.value[..., None]
        flat = likeliest.flatten(1)
        order = flat.sort(dim=1, descending=True, stable=True).indices[:, :count]  # stable: elder siblings first
        return order.sort(1).values

    def add(self, choice: PickedTokens, kept: Tensor | None, last: bool) -> None:
        """Add children as candidates, those at `kept` or all; unless this is the last level, the most probable of them
        get children next."""
        value = choice.confidence.log().clamp_max_(0.0)
        if self.value is not None:
            value = value + self.value[..., None]
        level = [choice.tokens, self.node[..., None].expand_as(choice.tokens), value, choice.confidence]
        level = [part.flatten(1) for part in level]
        probs = None if choice.q is None else choice.q.flatten(1, 2)
        if kept is not None:
            level = [part.gather(1, kept) for part in level]
            probs = None if probs is None else probs.gather(1, kept[..., None].expand(-1, -1, probs.shape[-1]))
        self.levels.append((*level, *([] if probs is None else [probs])))
        tokens, _, value, _ = level
        if not last:
            best, index = value.topk(min(self.width, value.shape[1]), 1)
            self.value, self.tokens, self.node = best, tokens.gather(1, index), index + self.count
            self.above = (index if kept is None else kept.gather(1, index)) // self.width
            if self.prefixed:
                path = self.paths.gather(1, self.above[..., None].expand(-1, -1, self.paths.shape[-1]))
                self.paths = torch.cat([path, self.tokens[..., None]], 2)
        self.count += tokens.shape[1]

    def draft(self, max_nodes: int, chain: bool) -> Draft:
        """A draft of the best `max_nodes` candidates."""
        tokens, parent, value, confidence, *q = (torch.cat(parts, 1) for parts in zip(*self.levels))
        probs = q[0] if q else None
        if max_nodes < self.count:
            # Candidates are in the order of levels, so that a stable sort breaks ties by depth.
            order = value.sort(dim=1, descending=True, stable=True).indices[:, :max_nodes].sort(1).values
            number = torch.full_like(tokens, -1).scatter(
                1, order, torch.arange(max_nodes, device=order.device).expand_as(order)
            )
            parent = parent.gather(1, order)
            parent = number.gather(1, parent.clamp_min(0)).where(parent >= 0, -1)
            tokens, confidence = tokens.gather(1, order), confidence.gather(1, order)
            probs = None if probs is None else probs.gather(1, order[..., None].expand(-1, -1, probs.shape[-1]))
        return Draft(tokens, parent, confidence, chain, probs)


def _check_width(heads: HeadSet | None, width: int) -> None:
    if heads is not None and width > heads.vocab_size:
        raise ConfigError(
            f"tree: {width} children, expected at most {heads.vocab_size}, the tokens that the heads draft"
        )


def _one_pass(state: DecodeState) -> bool:
    """Whether the choices of all levels are known before any token is chosen."""
    assert state.heads is not None
    return state.heads.one_pass and not state.reads_prefix


def _all_levels(state: DecodeState, depth: int, k: int) -> tuple[Tensor, PickedTokens]:
    """Logits [B, depth, V'] and `k` choices of every level, for heads that read no drafted tokens."""
    heads = state.heads
    assert heads is not None
    logits = state.step.levels(heads, state.head_state, depth)
    steps = torch.arange(1, depth + 1, device=logits.device)
    return logits, pick_tokens(state, logits, heads.shortlist, steps, lambda: [], 0, k)


def _level(
    state: DecodeState, d: int, tokens: Tensor, parent: Tensor, paths: Tensor, first: int, k: int
) -> tuple[Tensor, PickedTokens]:
    """Logits and `k` choices of level `d` after the nodes `tokens` [B, N], where the drafted `paths` [B, N, d - 1]
    end."""
    heads = state.heads
    assert heads is not None
    logits = state.step.level(heads, state.head_state, d, tokens, parent)

    def prefixes() -> list[list[list[int]]]:
        return [[row.prefix + path for path in nodes] for row, nodes in zip(state.rows, paths.tolist())]

    return logits, pick_tokens(state, logits, heads.shortlist, d, prefixes, first, k)


def _picked(choice: PickedTokens, picks: Tensor) -> PickedTokens:
    """Some of all choices [B, N, k], flattened to one row [B, M]."""
    q = None if choice.q is None else choice.q.flatten(1, 2)[:, picks]
    return PickedTokens(choice.tokens.flatten(1)[:, picks], choice.confidence.flatten(1)[:, picks], q)
