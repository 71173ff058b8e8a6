"""What every drafter offers."""

from typing import Any, Protocol

import torch

from speechmtp.decoding.state import DecodeState
from speechmtp.types import Draft, chain_draft


class Drafter(Protocol):
    """Holds configuration only; what changes is in `state.drafter_state`."""

    @property
    def heads(self) -> bool:
        """Whether it needs a head set."""

    @property
    def source(self) -> str | None:
        """Name of the per-utterance token lists it needs: `ctc`, `reference`, or None."""

    def start(self, state: DecodeState, sources: list[list[int]] | None) -> Any:
        """The drafter's state for a batch; `sources` hold one token list a row where `source` asks for them."""

    def propose(self, state: DecodeState) -> Draft:
        """Tokens behind the base token of every live row (behind the prompt at first)."""

    def observe(self, state: DecodeState, emitted: list[list[int]]) -> None:
        """Hear what each live row has just emitted."""


class Silent:
    """Drafts nothing: plain decoding, one token a call."""

    heads = False
    source: str | None = None

    def start(self, state: DecodeState, sources: list[list[int]] | None) -> None:
        """No state."""

    def propose(self, state: DecodeState) -> Draft:
        """An empty draft."""
        return empty_draft(state)

    def observe(self, state: DecodeState, emitted: list[list[int]]) -> None:
        """Nothing to learn."""


def empty_draft(state: DecodeState) -> Draft:
    """A draft without tokens."""
    return chain_draft(state.cache.lengths.new_zeros(len(state.rows), 0))


def pad_lists(lists: list[list[int]], state: DecodeState) -> Draft:
    """A chain draft from token lists of different lengths."""
    size = max((len(tokens) for tokens in lists), default=0)
    rows = [tokens + [-1] * (size - len(tokens)) for tokens in lists]
    return chain_draft(torch.tensor(rows, dtype=torch.long, device=state.device).view(len(lists), size))
