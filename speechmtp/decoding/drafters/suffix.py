"""Drafts along counted continuations of the longest suffixes of the text (Oliaro et al., arXiv 2411.04975)."""

from dataclasses import dataclass
from typing import Any, Optional

from torch import Tensor

from speechmtp.decoding.drafters.contract import Drafter, pad_lists
from speechmtp.decoding.state import DecodeState
from speechmtp.errors import ConfigError
from speechmtp.types import Draft


class Node:
    """An n-gram in a tree of counts: its last `token`, how often it stood (`count`) and went on (`followed`), the
    n-grams one longer, and the most frequent of these, the latest of equals."""

    __slots__ = ("best", "count", "followed", "longer", "token")

    def __init__(self, token: int = -1) -> None:
        self.token = token
        self.count = 0
        self.followed = 0
        self.longer: dict[int, Node] = {}
        self.best: Optional[Node] = None  # noqa: UP045 - the class is not yet defined

    def follow(self, token: int) -> "Node":
        """Count one more `token` behind this n-gram; the longer n-gram."""
        child = self.longer.get(token)
        if child is None:
            child = self.longer[token] = Node(token)
        child.count += 1
        self.followed += 1
        if self.best is None or child.count >= self.best.count:
            self.best = child
        return child


class Cursor:
    """A text's place in a tree of counts: the nodes of all its suffixes, shortest first, shorter than `depth`."""

    def __init__(self, root: Node, depth: int) -> None:
        self._root = root
        self._depth = depth
        self._suffixes: list[Node] = []

    def emit(self, token: int) -> None:
        """Take in one token: `depth` counts."""
        open_nodes = [self._root, *self._suffixes]
        grown = [node.follow(token) for node in open_nodes]
        self._suffixes = grown[: self._depth - 1]

    def best(self, factor: float, least: float) -> tuple[float, list[int]]:
        """The draft with the highest sum of estimated probabilities, that of the longest suffix among equals."""
        score, draft = 0.0, list[int]()
        for length in range(len(self._suffixes), 0, -1):
            most = int(factor * length)
            if most <= score:
                break  # no probability is above 1, and shorter suffixes allow less
            found, tokens = _walk(self._suffixes[length - 1], most, least)
            if found > score:
                score, draft = found, tokens
        return score, draft


def _walk(node: Node, most: int, least: float) -> tuple[float, list[int]]:
    """The likeliest tokens one by one while the path's probability is at least `least`, and the sum of these."""
    total, probability, tokens = 0.0, 1.0, list[int]()
    while node.best is not None and len(tokens) < most:
        probability *= node.best.count / node.followed
        if probability < least:
            break
        node = node.best
        total += probability
        tokens.append(node.token)
    return total, tokens


@dataclass(frozen=True)
class Suffix(Drafter):
    """Drafts of at most `factor` times the length of the suffix that stood before; suffix and draft together have at
    most `depth` tokens, a draft's estimated probability stays at `least` or above.

    Counts are of the row's own text and, in a second tree, of what all rows of the batch have read and emitted so
    far; the draft with the higher score is taken. What a row drafts thus depends on its neighbours, what it says does
    not. Nothing is remembered from one batch to the next. ConfigError for options out of range.
    """

    depth: int = 24
    factor: float = 1.0
    least: float = 0.1

    def __post_init__(self) -> None:
        """Check the options."""
        if self.depth < 2:
            raise ConfigError(f"suffix: depth {self.depth}, expected 2 or more")
        if not 0 < self.factor < float("inf"):
            raise ConfigError(f"suffix: factor {self.factor}, expected a number above 0")
        if not 0 <= self.least <= 1:
            raise ConfigError(f"suffix: least {self.least}, expected a number from 0 to 1")

    def start(self, state: DecodeState, source: Any) -> dict[int, list[Cursor]]:
        """Two trees a row, one its own; a single row has that alone."""
        shared = [Node()] if len(state.rows) > 1 else []
        cursors = {row: [Cursor(root, self.depth) for root in (Node(), *shared)] for row in state.rows}
        for row, places in cursors.items():
            for cursor in places:
                for token in state.prompt_ids[row]:
                    cursor.emit(token)
        return cursors

    def propose(self, state: DecodeState) -> Draft:
        """The better draft of both trees; nothing where no suffix stood before."""
        found = [[cursor.best(self.factor, self.least) for cursor in state.drafter_state[row]] for row in state.rows]
        return pad_lists([max(drafts, key=lambda scored: scored[0])[1] for drafts in found], state)

    def observe(self, state: DecodeState, emitted: list[list[int]], target: Tensor) -> None:
        """Count what was emitted, in both trees."""
        for row, tokens in zip(state.rows, emitted):
            for cursor in state.drafter_state[row]:
                for token in tokens:
                    cursor.emit(token)
