"""Drafts from the counted continuations of the text's longest suffixes (Oliaro et al., arXiv 2411.04975)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

from torch import Tensor

from speechmtp.config import Range
from speechmtp.decoding.drafters.contract import Drafter, pad_lists
from speechmtp.decoding.state import DecodeState, Row
from speechmtp.decoding.trees import MAX_DRAFT
from speechmtp.types import Draft

MAX_NODES = 1 << 18  # n-grams in the tree that rows share, before it is built anew


class Counts:
    """A tree of counted n-grams; node 0 is the empty one. Each node has its last `token`, how often the n-gram occurred
    (`count`) and was continued (`followed`), and the most frequent n-gram that is one token longer (`best`; the latest
    among ties, 0: none).

    It is made of lists of numbers, since Python's garbage collector would visit tens of thousands of objects
    repeatedly.
    """

    def __init__(self) -> None:
        self.token = [-1]
        self.count = [0]
        self.followed = [0]
        self.best = [0]
        self._longer: dict[tuple[int, int], int] = {}

    def follow(self, node: int, token: int) -> int:
        """Count one more `token` after the n-gram `node`; return the node of the longer n-gram."""
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
        """Follow the most frequent continuations from `node` on while the path's probability is at least
        `min_probability`; return the sum of these probabilities and the tokens."""
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
        """Take in one token, which updates up to `depth` counts."""
        follow = self.counts.follow
        grown = [follow(node, token) for node in (0, *self._suffixes)]
        self._suffixes = grown[: self._depth - 1]

    def best(self, factor: float, min_probability: float) -> tuple[float, list[int]]:
        """The draft with the highest sum of estimated probabilities, and that sum; ties go to the longest suffix."""
        score, draft = 0.0, list[int]()
        for length in range(len(self._suffixes), 0, -1):
            max_tokens = int(factor * length)
            if max_tokens <= score:
                break  # no probability is above 1, and shorter suffixes allow fewer tokens
            found, tokens = self.counts.walk(self._suffixes[length - 1], max_tokens, min_probability)
            if found > score:
                score, draft = found, tokens
        return score, draft


@dataclass(frozen=True)
class Suffix(Drafter):
    """Draft the most frequent continuation of a suffix of the text: at most `factor` times as many tokens as the suffix
    has, at most `depth` tokens together with it, and with an estimated probability of `least` or above.

    Counts are of the row's own text and, in a second tree, of what all rows in the batch have read and emitted so far;
    the draft with the higher score is taken. Drafts thus depend on the other rows; under an exact rule the distribution
    of the output does not. The counts are dropped once all rows have left. ConfigError for options out of range.
    """

    depth: Annotated[int, Range(2, MAX_DRAFT)] = 24
    factor: Annotated[float, Range(0, above=True)] = 1.0
    least: Annotated[float, Range(0, 1)] = 0.1
    name: ClassVar[str] = "suffix"

    def start(self, state: DecodeState) -> Counts | None:
        """Make a tree for each row, and return one that the rows share; a single row has only its own."""
        for row in state.rows:
            row.kept = [self._cursor(Counts(), row)]
        return self._share(Counts(), state.rows) if len(state.rows) > 1 else None

    def join(self, state: DecodeState, other: DecodeState) -> Counts:
        """The tree that all rows share."""
        if state.drafter_state is not None:
            return self._share(state.drafter_state, other.rows)
        return self._share(Counts(), [*state.rows, *other.rows])

    def _share(self, counts: Counts, rows: Sequence[Row]) -> Counts:
        """Let rows count in a shared tree besides their own."""
        for row in rows:
            if not (len(row.kept) > 1 and row.kept[1].counts is counts):  # rows that already share it are counted
                row.kept = [row.kept[0], self._cursor(counts, row)]
        return counts

    def _cursor(self, counts: Counts, row: Row) -> Cursor:
        """A row's place in a tree, after counting all of the row's text."""
        cursor = Cursor(counts, self.depth)
        for token in row.prefix:
            cursor.emit(token)
        return cursor

    def propose(self, state: DecodeState) -> Draft:
        """The better draft of the two trees; nothing if no suffix occurred before."""
        found = [[cursor.best(self.factor, self.least) for cursor in row.kept] for row in state.rows]
        return pad_lists([max(drafts, key=lambda scored: scored[0])[1] for drafts in found], state)

    def observe(self, state: DecodeState, emitted: list[list[int]], choices: Tensor | None) -> None:
        """Count the emitted tokens in both trees."""
        for row, tokens in zip(state.rows, emitted):
            for cursor in row.kept:
                for token in tokens:
                    cursor.emit(token)
        # The shared tree keeps the n-grams of rows that have left: build it anew from the live rows.
        if state.drafter_state is not None and len(state.drafter_state.token) > MAX_NODES:
            state.drafter_state = self._share(Counts(), state.rows)
