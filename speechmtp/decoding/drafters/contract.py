"""What every drafter offers."""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from speechmtp.config import check_fields
from speechmtp.decoding.state import DecodeState
from speechmtp.heads.contract import HeadSet
from speechmtp.models.trunk import Trunk
from speechmtp.types import Draft, Request, Source, chain_draft


class Drafter:
    """Configuration only: a frozen dataclass whose fields are its options. What changes while requests are decoded is
    in `row.kept`, of each row alone, and in `state.drafter_state`, of all rows of a strategy together.

    `name` is what it is called in the table of drafters. `heads` says whether it needs a head set, `source` which class
    of sources it reads of a request; with `source_is_optional` a request may lack it. `wants_choices` says whether
    `observe` wants the trunk's choices.

    Which rules and lengths go with it is said here too: `gives_probabilities` if its drafts always come with the
    probabilities of their tokens, `exact_rules_only` if any other rule would mean nothing, `adapts` if strategies offer
    draft lengths for it; `branches` is whether its drafts may be trees.
    """

    name: ClassVar[str] = ""
    heads: ClassVar[bool] = False
    source: ClassVar[type[Source] | None] = None
    source_is_optional: ClassVar[bool] = False
    wants_choices: ClassVar[bool] = False
    gives_probabilities: ClassVar[bool] = False
    exact_rules_only: ClassVar[bool] = False
    adapts: ClassVar[bool] = False

    def __post_init__(self) -> None:
        """ConfigError for an option that is not allowed."""
        check_fields(self, self.name or type(self).__name__)

    @property
    def branches(self) -> bool:
        """Whether a draft may be a tree; else all of them are chains."""
        return False

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
        and behind every drafted one, under its noise where drafts share it; None unless it `wants_choices`."""


@dataclass(frozen=True)
class Silent(Drafter):
    """Drafts nothing: plain decoding, one token a call."""

    name: ClassVar[str] = "silent"
    exact_rules_only: ClassVar[bool] = True

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
    def of(cls, candidates: Sequence[Sequence[int]], max_nodes: int) -> "Trie":
        """At most `max_nodes` nodes, earlier candidates first; equal beginnings are one path."""
        trie = cls([], [])
        child: dict[tuple[int, int], int] = {}
        for candidate in candidates:
            at = -1
            for token in candidate:
                node = child.get((at, token))
                if node is None:
                    if len(trie.tokens) >= max_nodes:
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
