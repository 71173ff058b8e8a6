"""Drafts from the previous pass over an overlapping or growing window, whose output mostly repeats."""

from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, ClassVar

from speechmtp.config import Range
from speechmtp.decoding.drafters.contract import Drafter
from speechmtp.decoding.drafters.ctc import beside_heads, merged
from speechmtp.decoding.drafters.heads import HeadChain
from speechmtp.decoding.drafters.recycle import Hypothesis, Pointers, TokenRow
from speechmtp.decoding.state import DecodeState
from speechmtp.decoding.trees import MAX_DRAFT
from speechmtp.types import Draft, Source
from speechmtp.types import PreviousPass as Previous

SKIP = 2  # the most that a beginning that has left the window costs, in wrong tokens


@dataclass(frozen=True)
class PreviousPass(Drafter):
    """Draft the tokens of the previous pass and an end token, at most `depth` of them per call if given. After a
    mismatch, draft their `pointers` best rests by edit distance, as a tree of at most `nodes` nodes whose best branch
    is never cut. A row without a previous pass drafts nothing."""

    depth: Annotated[int | None, Range(0, MAX_DRAFT)] = None
    pointers: Annotated[int, Range(1, MAX_DRAFT)] = 3
    nodes: Annotated[int, Range(1, MAX_DRAFT)] = 24
    name: ClassVar[str] = "previous"
    source: ClassVar[type[Source] | None] = Previous
    source_is_optional: ClassVar[bool] = True

    @property
    def branches(self) -> bool:
        """Several rests make a tree."""
        return self.pointers > 1

    def start(self, state: DecodeState) -> None:
        """Set up where each row's previous tokens resume; an end token is added if they have none."""
        for row in state.rows:
            source = row.request.source(Previous)
            tokens = () if source is None else source.tokens
            said = [*tokens, *([state.eos] if tokens and state.ends and tokens[-1] not in state.ends else [])]
            row.kept = TokenRow([Hypothesis(said, [1.0] * len(said))], Pointers([said], SKIP))

    def propose(self, state: DecodeState) -> Draft:
        """Draft the rests of each row's previous tokens."""
        return merged([[one.tokens for one in rests] for rests in self.rests(state)], self.nodes, state)

    def rests(self, state: DecodeState) -> list[list[Hypothesis]]:
        """What to draft after the base token of every live row, best first."""
        found = []
        for row in state.rows:
            mine: TokenRow = row.kept
            mine.take_in(row.tokens)
            places = mine.pointers.best(self.pointers) if row.tokens else [(0, 0)]
            found.append([mine.rest(number, start, self.depth) for number, start in places])
        return found


@dataclass(frozen=True)
class PreviousHeads(Drafter):
    """Draft the tokens of the previous pass as `PreviousPass` does. After the prompt's call, when they were wrong or
    have run out, add a chain of `depth` tokens from the heads as one more branch beside what is left of them."""

    depth: Annotated[int, Range(0, MAX_DRAFT)] = 7
    pointers: Annotated[int, Range(1, MAX_DRAFT)] = 3
    name: ClassVar[str] = "previous-heads"
    heads: ClassVar[bool] = True
    source: ClassVar[type[Source] | None] = Previous
    source_is_optional: ClassVar[bool] = True

    @property
    def branches(self) -> bool:
        """The heads' chain may be a second branch beside the previous tokens."""
        return True

    @cached_property
    def draft(self) -> PreviousPass:
        """The drafter for the previous pass."""
        return PreviousPass(pointers=self.pointers)

    @cached_property
    def chain(self) -> HeadChain:
        """The drafter for the heads."""
        return HeadChain(self.depth)

    def start(self, state: DecodeState) -> None:
        """Set up where each row's previous tokens resume."""
        self.draft.start(state)

    def propose(self, state: DecodeState) -> Draft:
        """Draft the branches of the previous pass, with the heads' chain after the first of them."""
        rests = self.draft.rests(state)
        return beside_heads(rests, [True] * len(rests), self.chain, self.draft.nodes, state)
