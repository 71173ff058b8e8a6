"""What every drafter offers."""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from speechmtp.decoding.state import DecodeState
from speechmtp.heads.contract import HeadSet
from speechmtp.models.trunk import Trunk
from speechmtp.types import Draft, Request, Source, chain_draft


class Drafter:
    """Holds configuration only; what changes is in `row.kept`, a row each, and in `state.drafter_state` for the rows of
    a strategy together.

    `heads` says whether it needs a head set, `source` which class of sources it reads of a request, which
    `source_is_optional` may lack.
    """

    heads: ClassVar[bool] = False
    source: ClassVar[type[Source] | None] = None
    source_is_optional: ClassVar[bool] = False
    hears_choices: ClassVar[bool] = False  # whether `observe` wants the trunk's choices

    def start(self, state: DecodeState) -> Any:
        """Set `kept` of new rows, which `check` has let pass; what it keeps of all of them together comes back."""

    def join(self, state: DecodeState, other: DecodeState) -> Any:
        """What is kept of all rows together when those of `other` go along with those of `state`."""
        return state.drafter_state

    def keep(self, kept: Any, rows: Sequence[int]) -> Any:
        """What is kept of these rows alone, when the others leave."""
        return kept

    def take(self, kept: Any, rows: Sequence[int]) -> Any:
        """Copies of what is `kept` of some rows."""
        return kept

    def check(self, trunk: Trunk, heads: HeadSet | None, request: Request) -> None:
        """ConfigError for what this trunk, these heads or this request do not allow, before anything is decoded."""

    def apart(self, request: Request) -> Any:
        """What requests must have alike to be drafted together."""
        return None

    @abstractmethod
    def propose(self, state: DecodeState) -> Draft:
        """Tokens behind the base token of every row (behind the prompt at first)."""

    def observe(self, state: DecodeState, emitted: list[list[int]], choices: Tensor | None) -> None:
        """Hear what each row has just emitted; `choices` [B, P + 1] are the trunk's first choices behind the base token
        and behind every drafted one, under its noise where drafts share it; None unless it `hears_choices`."""


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
