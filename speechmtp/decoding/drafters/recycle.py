"""Drafts from a token list made beforehand, resumed after every mismatch where it fits best.

The list is the CTC head's greedy transcript (`ctc`): all of it rides on the prompt's call. After a
mismatch the emitted tokens are aligned to all prefixes of the list by edit distance, and the rest
behind the best one is drafted again.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from torch import Tensor

from speechmtp.decoding.drafters.contract import Drafter, pad_lists
from speechmtp.decoding.state import DecodeState
from speechmtp.types import CtcLabels, Draft


class Pointer:
    """Where in `draft` to go on, given what was emitted: one row of the edit-distance table, kept up to date."""

    def __init__(self, draft: list[int]) -> None:
        self.draft = draft
        self._tokens = np.array(draft, dtype=np.int64)
        self._steps = np.arange(len(draft) + 1)
        self._row = self._steps.copy()  # distance of nothing to each prefix
        self._emitted = 0

    def emit(self, token: int) -> None:
        """Take in one emitted token; O(length of the draft)."""
        row = self._row + 1
        row[1:] = np.minimum(row[1:], self._row[:-1] + (self._tokens != token))
        # Skipping draft tokens costs one each: a running minimum of distance minus index.
        self._row = np.minimum.accumulate(row - self._steps) + self._steps
        self._emitted += 1

    def rest(self) -> list[int]:
        """The draft behind the prefix closest to what was emitted; among equals the one nearest the diagonal."""
        best = np.flatnonzero(self._row == self._row.min())
        return self.draft[int(best[np.abs(best - self._emitted).argmin()]) :]


@dataclass(frozen=True)
class Recycled(Drafter):
    """Draft the rest of the CTC labels; at most `depth` tokens a call if given."""

    depth: int | None = None
    source: ClassVar[str | None] = "ctc"

    def start(self, state: DecodeState, source: Sequence[CtcLabels]) -> dict[int, Pointer]:
        """A pointer for every row of the batch."""
        return {row: Pointer([*labels.labels, state.eos]) for row, labels in zip(state.rows, source)}

    def propose(self, state: DecodeState) -> Draft:
        """The rest of each row's list."""
        return pad_lists([state.drafter_state[row].rest()[: self.depth] for row in state.rows], state)

    def observe(self, state: DecodeState, emitted: list[list[int]], target: Tensor) -> None:
        """Move every live row's pointer."""
        for row, tokens in zip(state.rows, emitted):
            for token in tokens:
                state.drafter_state[row].emit(token)


@dataclass(frozen=True)
class Oracle(Drafter):
    """Drafts the reference output itself, `depth` tokens a call behind the prompt's: the ceiling of a depth."""

    depth: int
    source: ClassVar[str | None] = "reference"

    def start(self, state: DecodeState, source: Sequence[Sequence[int]]) -> dict[int, list[int]]:
        """The reference tokens of every row."""
        return {row: list(tokens) for row, tokens in zip(state.rows, source)}

    def propose(self, state: DecodeState) -> Draft:
        """What comes next in the reference; nothing at the prompt's call, as heads cannot draft there."""
        lists = []
        for row in state.rows:
            done = len(state.tokens[row])
            lists.append(state.drafter_state[row][done : done + self.depth] if state.prompted else [])
        return pad_lists(lists, state)
