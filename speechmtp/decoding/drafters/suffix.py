"""Drafts along counted continuations of the longest suffixes of the text (Oliaro et al., arXiv 2411.04975)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

from torch import Tensor

from speechmtp.config import Range
from speechmtp.decoding.drafters.contract import Drafter, pad_lists
from speechmtp.decoding.state import DecodeState, Row
from speechmtp.types import Draft

MAX_NODES = 1 << 18  # n-grams of the tree that rows share, before it is begun anew


class Counts:
    """A tree of counted n-grams; node 0 is the empty one. Of each node: its last `token`, how often it stood (`count`)
    and went on (`followed`), and the most frequent n-gram one longer (`best`, the latest of equals; 0: none).

    Lists of numbers, since a collector of garbage would visit objects by the ten thousand again and again.
    """

    def __init__(self) -> None:
        self.token = [-1]
        self.count = [0]
        self.followed = [0]
        self.best = [0]
        self._longer: dict[tuple[int, int], int] = {}

    def follow(self, node: int, token: int) -> int:
        """Count one more `token` behind an n-gram; the longer n-gram."""
        child = self._longer.setdefault((node, token), len(self.token))
        if child == len(self.token):
            self.token.append(token)
            self.count.append(0)
            self.followed.append(0)
            self.best.append(0)
        self.count[child] += 1
        self.followed[node] += 1
        best = self.best[node]
        if not best or self.count[child] >= self.count[best]:
            self.best[node] = child
        return child

    def walk(self, node: int, max_tokens: int, min_probability: float) -> tuple[float, list[int]]:
        """The likeliest tokens one by one while the path's probability is at least `min_probability`, and the sum of
        these."""
        total, probability, tokens = 0.0, 1.0, list[int]()
        while self.best[node] and len(tokens) < max_tokens:
            below = self.best[node]
            probability *= self.count[below] / self.followed[node]
            if probability < min_probability:
                break
            node = below
            total += probability
            tokens.append(self.token[node])
        return total, tokens


class Cursor:
    """A text's place in a tree of counts: the nodes of all its suffixes shorter than `depth`, shortest first."""

    def __init__(self, counts: Counts, depth: int) -> None:
        self.counts = counts
        self._depth = depth
        self._suffixes: list[int] = []

    def emit(self, token: int) -> None:
        """Take in one token: `depth` counts."""
        follow = self.counts.follow
        grown = [follow(node, token) for node in (0, *self._suffixes)]
        self._suffixes = grown[: self._depth - 1]

    def best(self, factor: float, min_probability: float) -> tuple[float, list[int]]:
        """The draft with the highest sum of estimated probabilities, that of the longest suffix among equals."""
        score, draft = 0.0, list[int]()
        for length in range(len(self._suffixes), 0, -1):
            max_tokens = int(factor * length)
            if max_tokens <= score:
                break  # no probability is above 1, and shorter suffixes allow less
            found, tokens = self.counts.walk(self._suffixes[length - 1], max_tokens, min_probability)
            if found > score:
                score, draft = found, tokens
        return score, draft


@dataclass(frozen=True)
class Suffix(Drafter):
    """Drafts of at most `factor` times the length of the suffix that stood before; suffix and draft together have at
    most `depth` tokens, a draft's estimated probability stays at `least` or above.

    Counts are of the row's own text and, in a second tree, of what all rows beside it have read and emitted so
    far; the draft with the higher score is taken. What a row drafts thus depends on its neighbours, what it says does
    not. Nothing is remembered once all rows have left. ConfigError for options out of range.
    """

    depth: Annotated[int, Range(2)] = 24
    factor: Annotated[float, Range(0, above=True)] = 1.0
    least: Annotated[float, Range(0, 1)] = 0.1
    name: ClassVar[str] = "suffix"

    def start(self, state: DecodeState) -> Counts | None:
        """Two trees a row, one its own; a single row has that alone."""
        for row in state.rows:
            row.kept = [self._cursor(Counts(), row)]
        return self._share(Counts(), state.rows) if len(state.rows) > 1 else None

    def join(self, state: DecodeState, other: DecodeState) -> Counts:
        """One tree for all rows."""
        if state.drafter_state is not None:
            return self._share(state.drafter_state, other.rows)
        return self._share(Counts(), [*state.rows, *other.rows])

    def _share(self, counts: Counts, rows: Sequence[Row]) -> Counts:
        """Let rows count in a tree beside their own."""
        for row in rows:
            if not (len(row.kept) > 1 and row.kept[1].counts is counts):  # one that goes on has been counted
                row.kept = [row.kept[0], self._cursor(counts, row)]
        return counts

    def _cursor(self, counts: Counts, row: Row) -> Cursor:
        """A row's place in a tree, which has counted all of its text."""
        cursor = Cursor(counts, self.depth)
        for token in row.prefix:
            cursor.emit(token)
        return cursor

    def propose(self, state: DecodeState) -> Draft:
        """The better draft of both trees; nothing where no suffix stood before."""
        found = [[cursor.best(self.factor, self.least) for cursor in row.kept] for row in state.rows]
        return pad_lists([max(drafts, key=lambda scored: scored[0])[1] for drafts in found], state)

    def observe(self, state: DecodeState, emitted: list[list[int]], choices: Tensor | None) -> None:
        """Count what was emitted, in both trees."""
        for row, tokens in zip(state.rows, emitted):
            for cursor in row.kept:
                for token in tokens:
                    cursor.emit(token)
        if (
            state.drafter_state is not None and len(state.drafter_state.token) > MAX_NODES
        ):  # rows came and went for long
            state.drafter_state = self._share(Counts(), state.rows)
