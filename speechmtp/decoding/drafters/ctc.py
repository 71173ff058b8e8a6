"""Drafts from the CTC head's transcript: all of it on the prompt's call, and what is left of it after a mismatch.

How to go on is the `mode`: not at all (Saon et al., arXiv 2603.11243), at the label behind as many as were emitted,
where the transcript fits best by edit distance, or at several such places of several transcripts as one tree.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

from speechmtp.decoding.drafters.contract import Drafter, Trie, tree_draft
from speechmtp.decoding.drafters.heads import HeadChain
from speechmtp.decoding.drafters.recycle import Pointers
from speechmtp.decoding.state import DecodeState
from speechmtp.errors import ConfigError
from speechmtp.types import CtcLabels, Draft

Mode = Literal["whole", "resume", "recycle", "tree"]


@dataclass(frozen=True)
class Hypothesis:
    """What may have been said: tokens and the posterior of each."""

    tokens: list[int]
    confidence: list[float]


@dataclass
class CtcRow:
    """What one row keeps: its hypotheses, likeliest first, where they go on, and how many tokens that knows of."""

    hypotheses: list[Hypothesis]
    pointers: Pointers
    known: int = 0


@dataclass(frozen=True)
class CtcDraft(Drafter):
    """Draft the CTC labels and an end token; at most `depth` of them a call if given.

    `tree` merges up to `alternatives` hypotheses (edits at least `least` times as likely as what they replace) and,
    after a mismatch, the `pointers` best rests of them, into one tree of at most `nodes` nodes; the best is never cut.
    """

    mode: Mode = "recycle"
    pointers: int = 3
    alternatives: int = 2
    nodes: int = 96
    least: float = 0.5
    depth: int | None = None
    source: ClassVar[str | None] = "ctc"

    def __post_init__(self) -> None:
        """ConfigError for an option out of range."""
        if self.mode not in get_args(Mode):
            raise ConfigError(f"ctc: mode={self.mode!r}, expected one of {', '.join(get_args(Mode))}")
        if min(self.pointers, self.alternatives, self.nodes) < 1:
            raise ConfigError(
                f"ctc: pointers={self.pointers}, alternatives={self.alternatives}, nodes={self.nodes}, "
                f"expected 1 or more of each"
            )
        if not 0 < self.least <= 1:
            raise ConfigError(f"ctc: least={self.least}, expected a number above 0 and up to 1")

    def start(self, state: DecodeState, source: Sequence[CtcLabels]) -> dict[int, CtcRow]:
        """Hypotheses of every row of the batch."""
        count, size = self.alternatives if self.mode == "tree" else 1, state.batch.trunk.vocab_size
        rows = {}
        for row, labels in zip(state.rows, source):
            found = hypotheses(labels, count, self.least, size, state.eos)
            rows[row] = CtcRow(found, Pointers([one.tokens for one in found]))
        return rows

    def propose(self, state: DecodeState) -> Draft:
        """The rest of each row's hypotheses."""
        return merged([[one.tokens for one in rests] for rests in self.rests(state)], self.nodes, state)

    def rests(self, state: DecodeState) -> list[list[Hypothesis]]:
        """What to draft behind the base token of every live row, best first."""
        mine: dict[int, CtcRow] = state.drafter_state
        return [self._rests(mine[row], state.tokens[row]) for row in state.rows]

    def _rests(self, row: CtcRow, emitted: list[int]) -> list[Hypothesis]:
        if not emitted:
            places = [(number, 0) for number in range(len(row.hypotheses))]
        elif self.mode in ("whole", "resume"):
            places = [(0, len(emitted))] if self.mode == "resume" else []
        else:
            for token in emitted[row.known :]:
                row.pointers.emit(token)
            row.known = len(emitted)
            places = row.pointers.best(self.pointers if self.mode == "tree" else 1)
        found = []
        for number, start in places:
            one, end = row.hypotheses[number], None if self.depth is None else start + self.depth
            found.append(Hypothesis(one.tokens[start:end], one.confidence[start:end]))
        return found


@dataclass(frozen=True)
class CtcHeads(Drafter):
    """The CTC transcript (`draft`) and, where one of its next `depth` labels is less sure than `theta` or none is left,
    a chain of the heads as one more branch of the same tree."""

    depth: int
    theta: float = 0.9
    draft: CtcDraft = CtcDraft("tree")
    heads: ClassVar[bool] = True
    source: ClassVar[str | None] = "ctc"

    def start(self, state: DecodeState, source: Sequence[CtcLabels]) -> dict[int, CtcRow]:
        """What the CTC draft keeps."""
        return self.draft.start(state, source)

    def propose(self, state: DecodeState) -> Draft:
        """The CTC branches, and the heads' behind the first of them; the CTC's alone at the prompt's call, where the
        heads have seen no trunk state yet."""
        rests = self.draft.rests(state)
        lists = [[one.tokens for one in row] for row in rests]
        unsure = [self._unsure(row[0] if row else None) for row in rests]
        if state.prompted and any(unsure):
            # However the heads' tokens were drawn, here they are as given: ratio rules take a draft without `q` so.
            chains = HeadChain(self.depth).propose(state).tokens.tolist()
            for row, chain, asked in zip(lists, chains, unsure):
                if asked:
                    row.insert(1, chain)
        return merged(lists, self.draft.nodes, state)

    def _unsure(self, best: Hypothesis | None) -> bool:
        """Whether a draft may go wrong within the heads' reach; one of an end token alone has run out."""
        return best is None or len(best.tokens) < 2 or any(c < self.theta for c in best.confidence[: self.depth])


def merged(lists: Sequence[Sequence[list[int]]], nodes: int, state: DecodeState) -> Draft:
    """Each row's candidates as one tree of at most `nodes` nodes; the first candidate is never cut."""
    return tree_draft([Trie.of(row, max(nodes, len(row[0]) if row else 0)) for row in lists], state)


def hypotheses(labels: CtcLabels, count: int, least: float, size: int, eos: int) -> list[Hypothesis]:
    """The greedy labels and up to `count` - 1 variants of them, likeliest first, an end token behind each: a label
    replaced by its runner-up, or left out where that is the blank (no token of `size`), or a missed one put in.

    Each edit costs the logarithm of how much less likely it is than what it replaces, at most by the factor `least`;
    edits that touch each other exclude each other.
    """
    found: list[tuple[float, dict[int, tuple[int, float]]]] = [(0.0, {})]
    for cost, place, token, confidence in _edits(labels, least, size)[: count - 1] if count > 1 else []:
        # The best sets of the first edits are among those without the last one and those with it.
        more = [
            (cost + before, {**chosen, place: (token, confidence)})
            for before, chosen in found
            if not any(abs(place - other) < 2 for other in chosen)
        ]
        found = sorted([*found, *more], key=lambda item: item[0])[:count]
    return [_edited(labels, chosen, eos) for _, chosen in found]


def _edits(labels: CtcLabels, least: float, size: int) -> list[tuple[float, int, int, float]]:
    """(cost, place, token or -1, posterior), cheapest first; place 2i + 1 is label i, 2i the gap before it."""
    odds = [
        (second / max(first, 1e-9), 2 * i + 1, token if token < size else -1, second)
        for i, (first, token, second) in enumerate(
            zip(labels.confidence, labels.runner_up, labels.runner_up_confidence)
        )
    ]
    odds += [(peak / max(1 - peak, 1e-9), 2 * before, token, peak) for before, token, peak in labels.gaps]
    return sorted((-math.log(min(item[0], 1.0)), *item[1:]) for item in odds if item[0] >= least)


def _edited(labels: CtcLabels, chosen: dict[int, tuple[int, float]], eos: int) -> Hypothesis:
    """The labels with some edits and an end token; without posteriors all is sure."""
    tokens, confidence = list(labels.labels), list(labels.confidence or [1.0] * len(labels.labels))
    for place in sorted(chosen, reverse=True):
        token, sure = chosen[place]
        at, end = place // 2, place // 2 + place % 2
        tokens[at:end], confidence[at:end] = ([], []) if token < 0 else ([token], [sure])
    return Hypothesis([*tokens, eos], [*confidence, 1.0])
