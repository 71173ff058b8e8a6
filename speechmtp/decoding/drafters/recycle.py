"""Where to resume in drafts made beforehand, by edit distance; and drafts from the reference itself."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np

from speechmtp.config import Range
from speechmtp.decoding.drafters.contract import Drafter, pad_lists
from speechmtp.decoding.state import DecodeState
from speechmtp.decoding.trees import MAX_DRAFT
from speechmtp.types import Draft, Reference, Source


class Pointers:
    """Where to resume in each of several drafts after the emitted tokens: one row of each draft's edit distance table,
    updated with every emitted token."""

    def __init__(self, drafts: Sequence[Sequence[int]], skip: int | None = None) -> None:
        """Skipping the beginning of a draft costs at most `skip`; with None, each of its tokens costs 1 as
        elsewhere."""
        self._drafts = [list(draft) for draft in drafts]
        lengths = np.array([len(draft) for draft in drafts])
        self._tokens = np.full((len(drafts), int(lengths.max())), -1)
        for row, draft in zip(self._tokens, drafts):
            row[: len(draft)] = draft
        self._steps = np.arange(self._tokens.shape[1] + 1)
        self._absent = self._steps > lengths[:, None]
        first = self._steps if skip is None else np.minimum(self._steps, skip)
        self._row = np.tile(first, (len(drafts), 1))  # distance of the empty output to each prefix
        self.emitted = 0  # number of emitted tokens taken in

    def emit(self, token: int) -> None:
        """Take in one emitted token; O(length of the drafts)."""
        row = self._row + 1
        np.minimum(row[:, 1:], self._row[:, :-1] + (self._tokens != token), out=row[:, 1:])
        # Skipping draft tokens costs one each: a running minimum of distance minus index.
        row -= self._steps
        np.minimum.accumulate(row, axis=1, out=row)
        self._row = row + self._steps
        self.emitted += 1

    def best(self, count: int) -> list[tuple[int, int]]:
        """Up to `count` pairs (draft, length of its prefix) of the prefixes closest to the emitted tokens, each with a
        different rest. Ties go to earlier drafts, then to prefixes whose length is closest to the number of emitted
        tokens."""
        off = np.abs(self._steps - self.emitted)
        size = int(off.max()) + 1
        key = (self._row * len(self._row) + np.arange(len(self._row))[:, None]) * size + off
        key[self._absent] = np.iinfo(key.dtype).max
        found: list[tuple[int, int]] = []
        rests: list[list[int]] = []
        for place in np.argsort(key, axis=None, kind="stable").tolist():
            number, start = divmod(place, len(self._steps))
            rest = self._drafts[number][start:]
            if start > len(self._drafts[number]) or len(found) == count:
                break
            if rest not in rests:
                found.append((number, start))
                rests.append(rest)
        return found


@dataclass(frozen=True)
class Hypothesis:
    """A hypothesis of the text: tokens and the posterior of each."""

    tokens: list[int]
    confidence: list[float]


@dataclass
class TokenRow:
    """The hypotheses of one row, most probable first, and where each resumes after the emitted tokens."""

    hypotheses: list[Hypothesis]
    pointers: Pointers

    @property
    def count(self) -> int:
        """Number of hypotheses."""
        return len(self.hypotheses)

    def take_in(self, emitted: list[int]) -> None:
        """Take in the new tokens of `emitted`, which is all that the row has emitted so far."""
        for token in emitted[self.pointers.emitted :]:
            self.pointers.emit(token)

    def rest(self, number: int, start: int, max_tokens: int | None) -> Hypothesis:
        """Up to `max_tokens` tokens (None: all) of hypothesis `number` from index `start` on."""
        one, end = self.hypotheses[number], None if max_tokens is None else start + max_tokens
        return Hypothesis(one.tokens[start:end], one.confidence[start:end])


@dataclass(frozen=True)
class Oracle(Drafter):
    """Drafts the reference output itself, `depth` tokens per call after the prompt's: the upper bound for drafts of
    this depth."""

    depth: Annotated[int, Range(0, MAX_DRAFT)] = 7
    name: ClassVar[str] = "oracle"
    source: ClassVar[type[Source] | None] = Reference
    exact_rules_only: ClassVar[bool] = True

    def start(self, state: DecodeState) -> None:
        """Store the reference tokens of every row."""
        for row in state.rows:
            source = row.request.source(Reference)
            row.kept = [] if source is None else list(source.tokens)

    def propose(self, state: DecodeState) -> Draft:
        """Draft the next tokens of the reference; nothing in the prompt's call, since heads cannot draft there
        either."""
        lists = []
        for row in state.rows:
            done = len(row.tokens)
            lists.append(row.kept[done : done + self.depth] if state.prompted else [])
        return pad_lists(lists, state)
