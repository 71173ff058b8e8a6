"""Drafts from the trunk's own parallel guesses (lookahead decoding; Fu et al. 2024, arXiv 2402.02057).

A window of guesses, `window` columns by `ngram - 1` levels, goes through every call behind the base token. Level 0 is
a chain that begins with the base token; the guess of level j hangs on that of level j - 1 in its column, so it
sees its own column and the chain up to it, and stands i + j positions behind the base token in column i. The trunk's
first choices behind the last level complete an n-gram a column for the pool, and are the next call's last level.
"""

from dataclasses import dataclass, field
from typing import Annotated, ClassVar

from torch import Tensor

from speechmtp.config import Range
from speechmtp.decoding.drafters.contract import Drafter, Trie, empty_draft, tree_draft
from speechmtp.decoding.state import DecodeState
from speechmtp.types import Draft


@dataclass
class GuessWindow:
    """A row's guesses: `levels` from the oldest, each a token a column; `pool`, for a first token the rests of its
    n-grams, latest first; `columns` that the last call carried."""

    levels: list[list[int]]
    pool: dict[int, list[tuple[int, ...]]] = field(default_factory=dict)
    columns: int = 0

    def fill(self, size: int, text: list[int]) -> None:
        """Widen all levels to `size` columns by what the text said last, and put the base token in its place."""
        recent = text[-(size + len(self.levels)) :]
        for level, row in enumerate(self.levels):
            row += [recent[(level + column) % len(recent)] for column in range(len(row), size)]
        self.levels[0][0] = text[-1]

    def tree(self, columns: int, candidates: list[tuple[int, ...]], longest: int) -> Trie:
        """The first `columns` of the window, and n-grams that go on from the base token as branches beside it."""
        self.columns = columns
        tokens = [token for row in self.levels for token in row[:columns]][1:]
        # Counted with the base token, the guess of level j and column i is number j * columns + i.
        parents = [*range(-1, columns - 2), *range(-1, len(tokens) - columns)] if columns else []
        known = Trie.of([rest[:longest] for rest in candidates], len(candidates) * longest)
        shift = len(tokens)
        return Trie(tokens + known.tokens, parents + [above + shift if above >= 0 else -1 for above in known.parents])

    def learn(self, chosen: list[int], guesses: int) -> None:
        """Keep the n-grams that the trunk's choices [columns] complete, at most `guesses` a first token."""
        if not guesses:
            return
        for column, token in enumerate(chosen):
            first, *rest = (row[column] for row in self.levels)
            known, gram = self.pool.setdefault(first, []), (*rest, token)
            if gram in known:
                known.remove(gram)
            known.insert(0, gram)
            del known[guesses:]

    def shift(self, chosen: list[int], emitted: int) -> None:
        """The oldest level leaves, the trunk's choices [columns] come in, and columns go where the text has passed."""
        rows = [*(row[: self.columns] for row in self.levels[1:]), chosen]
        self.levels = [row[emitted - 1 :] for row in rows]


@dataclass(frozen=True)
class Lookahead(Drafter):
    """A window of `window` columns, n-grams of `ngram` tokens, and up to `guesses` of those in the pool that begin with
    the base token: (window + guesses) * (ngram - 1) - 1 drafted tokens at most.

    The window's own paths are verified as well, so that `ngram` 2 with no `guesses` is Jacobi decoding over a window
    (Santilli et al. 2023, arXiv 2305.10427). Columns that nothing is known of yet are filled from the row's own text:
    the paper draws them at random, this way a run repeats. Columns move on by all tokens emitted, so that a guess
    stays at its position. Nothing rides on the prompt's call. ConfigError for sizes out of range.
    """

    window: Annotated[int, Range(1)] = 7
    ngram: Annotated[int, Range(2)] = 5
    guesses: Annotated[int, Range(0)] = 7
    name: ClassVar[str] = "lookahead"
    wants_choices: ClassVar[bool] = True

    @property
    def branches(self) -> bool:
        """Only the guesses of a window of one level are a chain."""
        return self.ngram > 2 or self.guesses > 0

    def start(self, state: DecodeState) -> None:
        """Empty windows and pools."""
        for row in state.rows:
            row.kept = GuessWindow([[] for _ in range(self.ngram - 1)])

    def propose(self, state: DecodeState) -> Draft:
        """Window and n-grams of each row, no deeper than its limit."""
        if not state.prompted:
            return empty_draft(state)
        tries = []
        for place, row in enumerate(state.rows):
            text, mine = row.prefix, row.kept
            limit = self.window + self.ngram if state.limits is None else state.limits[place]
            mine.fill(self.window, text)
            # Column i ends i + ngram - 2 tokens behind the base token.
            columns = max(0, min(self.window, limit - self.ngram + 3))
            tries.append(mine.tree(columns, mine.pool.get(text[-1], []), min(limit, self.ngram - 1)))
        return tree_draft(tries, state)

    def observe(self, state: DecodeState, emitted: list[list[int]], choices: Tensor | None) -> None:
        """New n-grams, and the next window."""
        assert choices is not None
        windows = [row.kept for row in state.rows]
        columns = [mine.columns for mine in windows]
        first, past = min(columns) * (self.ngram - 2), max(columns) * (self.ngram - 1)
        for mine, best, new in zip(windows, choices[:, first:past].tolist(), emitted):
            begin = mine.columns * (self.ngram - 2) - first  # of the last level
            chosen = best[begin : begin + mine.columns]
            mine.learn(chosen, self.guesses)
            mine.shift(chosen, len(new))
