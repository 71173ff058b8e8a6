"""Drafts from the CTC head's transcript: all of it in the prompt's call, and the rest of it after a mismatch.

`mode` says where to resume: nowhere (`whole`; Saon et al., arXiv 2603.11243), at the label whose index is the number of
emitted tokens (`resume`), where the transcript fits best by edit distance (`recycle`), or at several such places of
several hypotheses, as one tree (`tree`). From a CTC head over characters the transcript is a text: the places are then
found among its characters, and the rest is encoded into tokens anew.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, ClassVar, Literal

from speechmtp.config import Range
from speechmtp.decoding.drafters.contract import Drafter, Trie, tree_draft
from speechmtp.decoding.drafters.heads import HeadChain
from speechmtp.decoding.drafters.recycle import Hypothesis, Pointers, TokenRow
from speechmtp.decoding.drafters.spelled import TextRow
from speechmtp.decoding.state import DecodeState
from speechmtp.decoding.trees import MAX_DRAFT
from speechmtp.types import CtcCharacters, CtcLabels, CtcSource, Draft, Source

Mode = Literal["whole", "resume", "recycle", "tree"]
CtcRow = TokenRow | TextRow


@dataclass(frozen=True)
class CtcDraft(Drafter):
    """Draft the CTC labels, or the tokens of the CTC text, and an end token; at most `depth` of them per call if given.

    The mode `tree` merges up to `alternatives` hypotheses (with edits at least `least` times as probable as what they
    replace) and, after a mismatch, their `pointers` best rests into one tree of at most `nodes` nodes; the best one is
    never cut. A text has no other hypotheses.
    """

    mode: Mode = "recycle"
    depth: Annotated[int | None, Range(0, MAX_DRAFT)] = None
    pointers: Annotated[int, Range(1, MAX_DRAFT)] = 3
    alternatives: Annotated[int, Range(1, MAX_DRAFT)] = 2
    nodes: Annotated[int, Range(1, MAX_DRAFT)] = 96
    least: Annotated[float, Range(0, 1, above=True)] = 0.5
    name: ClassVar[str] = "ctc"
    source: ClassVar[type[Source] | None] = CtcSource

    @property
    def branches(self) -> bool:
        """Several rests make a tree."""
        return self.mode == "tree"

    def start(self, state: DecodeState) -> None:
        """Set up the hypotheses of every row."""
        for row in state.rows:
            source = row.request.source(CtcSource)
            assert source is not None  # by `BoundStrategy.check`
            row.kept = self._row(source.read(), state)

    def _row(self, one: CtcSource, state: DecodeState) -> CtcRow:
        if isinstance(one, CtcCharacters):
            return TextRow(one.text, one.spelling, state.eos)
        assert isinstance(one, CtcLabels)
        count = self.alternatives if self.mode == "tree" else 1
        found = hypotheses(one, count, self.least, state.batch.trunk.vocab_size, state.eos)
        return TokenRow(found, Pointers([each.tokens for each in found]))

    def propose(self, state: DecodeState) -> Draft:
        """Draft the rests of each row's hypotheses."""
        return merged([[one.tokens for one in rests] for rests in self.rests(state)], self.nodes, state)

    def rests(self, state: DecodeState) -> list[list[Hypothesis]]:
        """What to draft after the base token of every live row, best first."""
        return [self._rests(row.kept, row.tokens) for row in state.rows]

    def _rests(self, row: CtcRow, emitted: list[int]) -> list[Hypothesis]:
        if self.mode == "whole" and emitted:
            return []
        row.take_in(emitted)
        if not emitted:
            places = [(number, 0) for number in range(row.count)]
        elif self.mode == "resume":
            places = [(0, row.pointers.emitted)]
        else:
            places = row.pointers.best(self.pointers if self.mode == "tree" else 1)
        return [row.rest(number, start, self.depth) for number, start in places]


@dataclass(frozen=True)
class CtcHeads(Drafter):
    """Draft the CTC transcript as `CtcDraft` does, at most `labels` tokens per call if given. Where the confidence of
    one of its next `depth` tokens is below `theta`, or no token is left, add a chain of `depth` tokens from the heads
    as another branch of the same tree."""

    depth: Annotated[int, Range(0, MAX_DRAFT)] = 7
    theta: Annotated[float, Range(0, 1)] = 0.9
    mode: Mode = "tree"
    labels: Annotated[int | None, Range(0, MAX_DRAFT)] = None
    pointers: Annotated[int, Range(1, MAX_DRAFT)] = 3
    alternatives: Annotated[int, Range(1, MAX_DRAFT)] = 2
    name: ClassVar[str] = "ctc-heads"
    heads: ClassVar[bool] = True
    source: ClassVar[type[Source] | None] = CtcSource

    @property
    def branches(self) -> bool:
        """The heads' chain may be a second branch beside the CTC transcript."""
        return True

    @cached_property
    def draft(self) -> CtcDraft:
        """The drafter for the CTC transcript."""
        return CtcDraft(self.mode, self.labels, self.pointers, self.alternatives)

    @cached_property
    def chain(self) -> HeadChain:
        """The drafter for the heads."""
        return HeadChain(self.depth)

    def start(self, state: DecodeState) -> None:
        """Set up the CTC hypotheses of every row."""
        self.draft.start(state)

    def propose(self, state: DecodeState) -> Draft:
        """Draft the CTC branches, with the heads' chain after the first of them."""
        rests = self.draft.rests(state)
        unsure = [self._unsure(row[0] if row else None) for row in rests]
        return beside_heads(rests, unsure, self.chain, self.draft.nodes, state)

    def _unsure(self, best: Hypothesis | None) -> bool:
        """Whether one of the next `depth` tokens has a low confidence, or no token but an end token is left."""
        return best is None or len(best.tokens) < 2 or any(c < self.theta for c in best.confidence[: self.depth])


def beside_heads(
    rests: Sequence[Sequence[Hypothesis]], asked: Sequence[bool], chain: HeadChain, nodes: int, state: DecodeState
) -> Draft:
    """Merge each row's rests into one tree, with a `chain` of the heads after the best rest of rows that are `asked`;
    the rests alone in the prompt's call, where the heads have no trunk state yet."""
    lists = [[one.tokens for one in row] for row in rests]
    if state.prompted and any(asked):
        # The heads' tokens may have been sampled, but without `q` ratio rules treat them as certain (one-hot).
        chains = chain.propose(state).tokens.tolist()
        for row, drafted, wanted in zip(lists, chains, asked):
            if wanted:
                row.insert(1, drafted)
    return merged(lists, nodes, state)


def merged(lists: Sequence[Sequence[list[int]]], nodes: int, state: DecodeState) -> Draft:
    """Merge each row's candidates into one tree of at most `nodes` nodes; the first candidate is never cut."""
    return tree_draft([Trie.of(row, max(nodes, len(row[0]) if row else 0)) for row in lists], state)


def hypotheses(labels: CtcLabels, count: int, min_ratio: float, size: int, eos: int) -> list[Hypothesis]:
    """The greedy labels and up to `count` - 1 variants of them, most probable first, each with an end token. A variant
    replaces labels by their runner-up, drops labels whose runner-up is the blank (any id that is not below `size`), or
    inserts labels that may have been missed.

    The cost of an edit is the logarithm of how much less probable it is than what it replaces. Edits with less than
    `min_ratio` of that probability are left out; adjacent edits exclude each other.
    """
    found: list[tuple[float, dict[int, tuple[int, float]]]] = [(0.0, {})]
    for cost, place, token, confidence in _edits(labels, min_ratio, size)[: count - 1] if count > 1 else []:
        # The best sets of the first edits are among those without the last one and those with it.
        more = [
            (cost + before, {**chosen, place: (token, confidence)})
            for before, chosen in found
            if not any(abs(place - other) < 2 for other in chosen)
        ]
        found = sorted([*found, *more], key=lambda item: item[0])[:count]
    return [_edited(labels, chosen, eos) for _, chosen in found]


def _edits(labels: CtcLabels, min_ratio: float, size: int) -> list[tuple[float, int, int, float]]:
    """(cost, place, token or -1 to drop the label, posterior), cheapest first; place 2i + 1 is label i, 2i the gap
    before it."""
    odds = [
        (second / max(first, 1e-9), 2 * i + 1, token if token < size else -1, second)
        for i, (first, token, second) in enumerate(
            zip(labels.confidence, labels.runner_up, labels.runner_up_confidence)
        )
    ]
    odds += [(peak / max(1 - peak, 1e-9), 2 * before, token, peak) for before, token, peak in labels.gaps]
    return sorted((-math.log(min(item[0], 1.0)), *item[1:]) for item in odds if item[0] >= min_ratio)


def _edited(labels: CtcLabels, chosen: dict[int, tuple[int, float]], eos: int) -> Hypothesis:
    """The labels with some edits and an end token; without posteriors every confidence is 1."""
    tokens, confidence = list(labels.labels), list(labels.confidence or [1.0] * len(labels.labels))
    for place in sorted(chosen, reverse=True):
        token, sure = chosen[place]
        at, end = place // 2, place // 2 + place % 2
        tokens[at:end], confidence[at:end] = ([], []) if token < 0 else ([token], [sure])
    return Hypothesis([*tokens, eos], [*confidence, 1.0])
