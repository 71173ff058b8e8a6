"""Drafts from the pass before: what was said over an overlapping or growing window is said again, in most places."""

from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, ClassVar

from speechmtp.config import Range
from speechmtp.decoding.drafters.contract import Drafter
from speechmtp.decoding.drafters.ctc import beside_heads, merged
from speechmtp.decoding.drafters.heads import HeadChain
from speechmtp.decoding.drafters.recycle import Hypothesis, Pointers, TokenRow
from speechmtp.decoding.state import DecodeState
from speechmtp.types import Draft, Source
from speechmtp.types import PreviousPass as Previous

SKIP = 2  # at most what it costs that the beginning has left the window, in wrong tokens


@dataclass(frozen=True)
class PreviousPass(Drafter):
    """Draft the tokens of the previous pass and an end token, at most `depth` of them a call if given; after a mismatch
    its `pointers` best rests by edit distance, as a tree of at most `nodes` nodes whose best branch is never cut. A row
    without a previous pass drafts nothing."""

    depth: Annotated[int | None, Range(0)] = None
    pointers: Annotated[int, Range(1)] = 3
    nodes: Annotated[int, Range(1)] = 24
    name: ClassVar[str] = "previous"
    source: ClassVar[type[Source] | None] = Previous
    source_is_optional: ClassVar[bool] = True

    @property
    def branches(self) -> bool:
        """Several rests make a tree."""
        return self.pointers > 1

    def start(self, state: DecodeState) -> None:
        """Where each row's previous tokens, with or without their end token, go on."""
        for row in state.rows:
            source = row.request.source(Previous)
            tokens = () if source is None else source.tokens
            said = [*tokens, *([state.eos] if tokens and state.ends and tokens[-1] not in state.ends else [])]
            row.kept = TokenRow([Hypothesis(said, [1.0] * len(said))], Pointers([said], SKIP))

    def propose(self, state: DecodeState) -> Draft:
        """The rests of each row's previous tokens."""
        return merged([[one.tokens for one in rests] for rests in self.rests(state)], self.nodes, state)

    def rests(self, state: DecodeState) -> list[list[Hypothesis]]:
        """What to draft behind the base token of every live row, best first."""
        found = []
        for row in state.rows:
            mine: TokenRow = row.kept
            mine.take_in(row.tokens)
            places = mine.pointers.best(self.pointers) if row.tokens else [(0, 0)]
            found.append([mine.rest(number, start, self.depth) for number, start in places])
        return found


@dataclass(frozen=True)
class PreviousHeads(Drafter):
    """The tokens of the previous pass as `PreviousPass` drafts them on the prompt's call; behind it, where they were
    wrong or have run out, a chain of the heads, `depth` tokens long, as one more branch beside what is left of them."""

    depth: Annotated[int, Range(0)] = 7
    pointers: Annotated[int, Range(1)] = 3
    name: ClassVar[str] = "previous-heads"
    heads: ClassVar[bool] = True
    source: ClassVar[type[Source] | None] = Previous
    source_is_optional: ClassVar[bool] = True

    @property
    def branches(self) -> bool:
        """The heads' chain may stand beside the previous tokens."""
        return True

    @cached_property
    def draft(self) -> PreviousPass:
        """What drafts from the previous pass."""
        return PreviousPass(pointers=self.pointers)

    @cached_property
    def chain(self) -> HeadChain:
        """What drafts from the heads."""
        return HeadChain(self.depth)

    def start(self, state: DecodeState) -> None:
        """What the draft from the previous pass keeps."""
        self.draft.start(state)

    def propose(self, state: DecodeState) -> Draft:
        """The previous pass's branches, and the heads' behind the first of them."""
        rests = self.draft.rests(state)
        return beside_heads(rests, [True] * len(rests), self.chain, self.draft.nodes, state)
