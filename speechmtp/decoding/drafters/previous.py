"""Drafts from the pass before: what was said over an overlapping or growing window is said again, in most places."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from speechmtp import types
from speechmtp.decoding.drafters.contract import Drafter
from speechmtp.decoding.drafters.ctc import beside_heads, merged
from speechmtp.decoding.drafters.recycle import Hypothesis, Pointers, TokenRow
from speechmtp.decoding.state import DecodeState
from speechmtp.errors import ConfigError
from speechmtp.types import Draft, Source

SKIP = 2  # at most what it costs that the beginning has left the window, in wrong tokens


@dataclass(frozen=True)
class PreviousPass(Drafter):
    """Draft the tokens of the previous pass and an end token, at most `depth` of them a call if given; after a mismatch
    its `pointers` best rests by edit distance, as a tree of at most `nodes` nodes whose best branch is never cut. A row
    without a previous pass drafts nothing."""

    pointers: int = 3
    nodes: int = 24
    depth: int | None = None
    source: ClassVar[type[Source] | None] = types.PreviousPass

    def __post_init__(self) -> None:
        """ConfigError for an option out of range."""
        if min(self.pointers, self.nodes) < 1:
            raise ConfigError(f"previous: pointers={self.pointers}, nodes={self.nodes}, expected 1 or more of each")

    def start(self, state: DecodeState, source: Sequence[Sequence[int]]) -> dict[int, TokenRow]:
        """Where each row's previous tokens, with or without their end token, go on."""
        rows = {}
        for row, tokens in zip(state.rows, source):
            said = [*tokens, *([state.eos] if len(tokens) and tokens[-1] != state.eos else [])]
            rows[row] = TokenRow([Hypothesis(said, [1.0] * len(said))], Pointers([said], SKIP))
        return rows

    def propose(self, state: DecodeState) -> Draft:
        """The rests of each row's previous tokens."""
        return merged([[one.tokens for one in rests] for rests in self.rests(state)], self.nodes, state)

    def rests(self, state: DecodeState) -> list[list[Hypothesis]]:
        """What to draft behind the base token of every live row, best first."""
        found = []
        for row in state.rows:
            mine: TokenRow = state.drafter_state[row]
            mine.hear(state.tokens[row])
            places = mine.pointers.best(self.pointers) if state.tokens[row] else [(0, 0)]
            found.append([mine.rest(number, start, self.depth) for number, start in places])
        return found


@dataclass(frozen=True)
class PreviousHeads(Drafter):
    """The tokens of the previous pass (`draft`) on the prompt's call; behind it, where they were wrong or have run out,
    a chain of the heads, `depth` tokens long, as one more branch beside what is left of them."""

    depth: int
    draft: PreviousPass = field(default_factory=PreviousPass)
    heads: ClassVar[bool] = True
    source: ClassVar[type[Source] | None] = types.PreviousPass

    def start(self, state: DecodeState, source: Sequence[Sequence[int]]) -> dict[int, TokenRow]:
        """What the draft from the previous pass keeps."""
        return self.draft.start(state, source)

    def propose(self, state: DecodeState) -> Draft:
        """The previous pass's branches, and the heads' behind the first of them."""
        rests = self.draft.rests(state)
        return beside_heads(rests, [True] * len(rests), self.depth, self.draft.nodes, state)
