"""Drafts from the trunk's own parallel guesses (lookahead decoding; Fu et al. 2024, arXiv 2402.02057).

A window of guesses, `window` columns by `ngram - 1` levels, is drafted after the base token in every call. Level 0 is a
chain that begins with the base token. In each column, the guess of level j is a child of the guess of level j - 1, so
that it attends to its own column and to the chain up to it; in column i it is i + j positions after the base token. The
trunk's argmax tokens after the last level complete one n-gram per column for the pool, and become the last level of the
next call.
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
    """The guesses of one row: `levels`, oldest first, with one token per column; `pool`, which maps a first token to
    the rests of its n-grams, latest first; and the number of `columns` in the last call."""

    levels: list[list[int]]
    pool: dict[int, list[tuple[int, ...]]] = field(default_factory=dict)
    columns: int = 0

    def fill(self, size: int, text: list[int]) -> None:
        """Extend all levels to `size` columns with the last tokens of the text, and put the base token in its place."""
        recent = text[-(size + len(self.levels)) :]
        for level, row in enumerate(self.levels):
            row += [recent[(level + column) % len(recent)] for column in range(len(row), size)]
        self.levels[0][0] = text[-1]

    def tree(self, columns: int, candidates: list[tuple[int, ...]], longest: int) -> Trie:
        """The first `columns` of the window, and beside it, as further branches, n-grams that continue from the base
        token."""
        self.columns = columns
        tokens = [token for row in self.levels for token in row[:columns]][1:]
        # Counting the base token as number 0, the guess of level j and column i is number j * columns + i.
        parents = [*range(-1, columns - 2), *range(-1, len(tokens) - columns)] if columns else []
        known = Trie.of([rest[:longest] for rest in candidates], len(candidates) * longest)
        shift = len(tokens)
        return Trie(tokens + known.tokens, parents + [above + shift if above >= 0 else -1 for above in known.parents])

    def learn(self, chosen: list[int], guesses: int) -> None:
        """Add the n-grams that the trunk's argmax tokens `chosen` [columns] complete to the pool; keep at most
        `guesses` n-grams per first token."""
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
        """Drop the oldest level, append the trunk's argmax tokens `chosen` [columns] as the last level, and drop the
        columns that the output has passed."""
        rows = [*(row[: self.columns] for row in self.levels[1:]), chosen]
        self.levels = [row[emitted - 1 :] for row in rows]


@dataclass(frozen=True)
class Lookahead(Drafter):
    """Draft a window of `window` columns, n-grams of `ngram` tokens, and up to `guesses` n-grams of the pool that begin
    with the base token: (window + guesses) * (ngram - 1) - 1 drafted tokens at most.

    The paths of the window are verified too, so that `ngram` 2 without `guesses` is Jacobi decoding over a window
    (Santilli et al. 2023, arXiv 2305.10427). Columns without guesses yet are filled from the row's own text, where the
    paper samples them at random, so that runs are repeatable. Columns move on by the number of emitted tokens, so that
    a guess keeps its position. Nothing is drafted in the prompt's call. ConfigError for sizes out of range.
    """

    window: Annotated[int, Range(1, 128)] = 7
    ngram: Annotated[int, Range(2, 32)] = 5
    guesses: Annotated[int, Range(0, 128)] = 7
    name: ClassVar[str] = "lookahead"
    wants_choices: ClassVar[bool] = True

    @property
    def branches(self) -> bool:
        """All drafts are chains only with a window of one level and no guesses."""
        return self.ngram > 2 or self.guesses > 0

    def start(self, state: DecodeState) -> None:
        """Set up empty windows and pools."""
        for row in state.rows:
            row.kept = GuessWindow([[] for _ in range(self.ngram - 1)])

    def propose(self, state: DecodeState) -> Draft:
        """Draft the window and the n-grams of each row, no deeper than its limit."""
        if not state.prompted:
            return empty_draft(state)
        tries = []
        for place, row in enumerate(state.rows):
            text, mine = row.prefix, row.kept
            limit = self.window + self.ngram if state.limits is None else state.limits[place]
            mine.fill(self.window, text)
            # Column i ends i + ngram - 2 tokens after the base token.
            columns = max(0, min(self.window, limit - self.ngram + 3))
            tries.append(mine.tree(columns, mine.pool.get(text[-1], []), min(limit, self.ngram - 1)))
        return tree_draft(tries, state)

    def observe(self, state: DecodeState, emitted: list[list[int]], choices: Tensor | None) -> None:
        """Add new n-grams to the pool and set up the next window."""
        assert choices is not None
        windows = [row.kept for row in state.rows]
        columns = [mine.columns for mine in windows]
        first, past = min(columns) * (self.ngram - 2), max(columns) * (self.ngram - 1)
        for mine, best, new in zip(windows, choices[:, first:past].tolist(), emitted):
            begin = mine.columns * (self.ngram - 2) - first  # where the last level begins
            chosen = best[begin : begin + mine.columns]
            mine.learn(chosen, self.guesses)
            mine.shift(chosen, len(new))
