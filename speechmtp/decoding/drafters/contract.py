"""What every drafter offers."""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch

from speechmtp.decoding.state import DecodeState
from speechmtp.models.trunk import Trunk
from speechmtp.types import CtcLabels, Draft, Prompt, Source, SpelledText, chain_draft


@dataclass(frozen=True)
class Sources:
    """What drafters may need besides heads, a value a row: `reference` tokens, greedy `ctc` labels or characters, for
    a `model` of its own that trunk and each row's prompt for it, and the tokens of the `previous` pass."""

    reference: Sequence[Sequence[int]] = ()
    ctc: Sequence[CtcLabels | SpelledText] = ()
    model: tuple[Trunk, Sequence[Prompt]] | None = None
    previous: Sequence[Sequence[int]] = ()

    def of(self, kind: type[Source]) -> Any:
        """One of them by its class; what is not there is empty."""
        return getattr(self, kind.name) or ()


class Drafter:
    """Holds configuration only; what changes is in `state.drafter_state`.

    `heads` says whether it needs a head set, `source` what of a request it reads besides the prompt.
    """

    heads: ClassVar[bool] = False
    source: ClassVar[type[Source] | None] = None

    def start(self, state: DecodeState, source: Any) -> Any:
        """The drafter's state for the live rows; `source` is what it asked for. In the order of `state.rows`."""

    @abstractmethod
    def propose(self, state: DecodeState) -> Draft:
        """Tokens behind the base token of every live row (behind the prompt at first)."""

    def observe(self, state: DecodeState, emitted: list[list[int]], target: torch.Tensor) -> None:
        """Hear what each live row has just emitted; `target` [B, P + 1, V] are the trunk's logits behind the base
        token and behind every drafted one, with its noise where drafts share it."""

    def drop(self, state: DecodeState, kept: list[int]) -> None:
        """Rows have left; those at `kept` stay."""


class Silent(Drafter):
    """Drafts nothing: plain decoding, one token a call."""

    def propose(self, state: DecodeState) -> Draft:
        """An empty draft."""
        return empty_draft(state)


def empty_draft(state: DecodeState) -> Draft:
    """A draft without tokens."""
    return chain_draft(torch.zeros(len(state.rows), 0, dtype=torch.long, device=state.device))


def pad_lists(lists: list[list[int]], state: DecodeState) -> Draft:
    """A chain draft from token lists of different lengths."""
    size = max((len(tokens) for tokens in lists), default=0)
    rows = [tokens + [-1] * (size - len(tokens)) for tokens in lists]
    return chain_draft(torch.tensor(rows, dtype=torch.long, device=state.device).view(len(lists), size))


@dataclass
class Trie:
    """Candidate continuations of one row merged into a tree: `tokens` and `parents` (-1: base token) in order."""

    tokens: list[int]
    parents: list[int]

    @classmethod
    def of(cls, candidates: Sequence[Sequence[int]], most: int) -> "Trie":
        """At most `most` nodes, earlier candidates first; equal beginnings are one path."""
        trie = cls([], [])
        child: dict[tuple[int, int], int] = {}
        for candidate in candidates:
            at = -1
            for token in candidate:
                node = child.get((at, token))
                if node is None:
                    if len(trie.tokens) >= most:
                        break
                    node = child[at, token] = len(trie.tokens)
                    trie.tokens.append(token)
                    trie.parents.append(at)
                at = node
        return trie


def tree_draft(tries: Sequence[Trie], state: DecodeState) -> Draft:
    """One draft from a tree a row; a chain draft where all of them are chains."""
    if all(trie.parents == list(range(-1, len(trie.parents) - 1)) for trie in tries):
        return pad_lists([trie.tokens for trie in tries], state)
    size = max(len(trie.tokens) for trie in tries)
    tokens = np.full((len(tries), size), -1)
    parents = np.full((len(tries), size), -1)
    seen = np.zeros((len(tries), size, size), dtype=bool)
    seen[:, np.arange(size), np.arange(size)] = True
    for row, trie in enumerate(tries):
        tokens[row, : len(trie.tokens)] = trie.tokens
        parents[row, : len(trie.tokens)] = trie.parents
        for node, above in enumerate(trie.parents):
            if above >= 0:
                seen[row, node] |= seen[row, above]
    moved = (torch.from_numpy(array).to(state.device) for array in (tokens, parents, seen))
    own, parent, ancestors = moved
    return Draft(own, parent, chain=False, seen=ancestors)
