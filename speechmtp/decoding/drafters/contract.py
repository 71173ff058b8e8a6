"""The interface of drafters, and helpers that build drafts."""

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
    """Base class of drafters: configuration only, a frozen dataclass whose fields are its options. State that changes
    during decoding is in `row.kept`, for one row, and in `state.drafter_state`, for all rows of a strategy together.

    `name` is its name in the table of drafters. `heads` says whether it needs a head set, `source` which class of
    request source it reads; with `source_is_optional` a request may lack it. `wants_choices` says whether `observe`
    needs the trunk's argmax tokens.

    Other attributes say which rules and draft lengths can be used with it: `gives_probabilities` if its drafts always
    have the probabilities of their tokens, `exact_rules_only` if lossy rules make no sense with it, `adapts` if
    strategies offer draft lengths for it, `branches` if its drafts may be trees.
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
        """Raise ConfigError for an option that is not allowed."""
        check_fields(self, self.name or type(self).__name__)

    @property
    def branches(self) -> bool:
        """Whether a draft may be a tree; otherwise all drafts are chains."""
        return False

    def start(self, state: DecodeState) -> Any:
        """Set `row.kept` of new rows, which have passed `check`, and return the state for all of them together."""

    def join(self, state: DecodeState, other: DecodeState) -> Any:
        """The state for all rows together when the rows of `other` are appended to those of `state`."""
        return state.drafter_state

    def keep(self, kept: Any, rows: Sequence[int]) -> Any:
        """The state for the rows at `rows` alone, when the others leave; `kept` is the state before."""
        return kept

    def take(self, kept: Any, rows: Sequence[int]) -> Any:
        """A copy of the state `kept` for the rows at `rows`."""
        return kept

    def check(self, trunk: Trunk, heads: HeadSet | None, request: Request) -> None:
        """Raise ConfigError if the trunk, the heads or the request do not suit the drafter; called before anything is
        decoded."""

    def apart(self, request: Request) -> Any:
        """A value that must be equal for requests to be drafted together."""
        return None

    @abstractmethod
    def propose(self, state: DecodeState) -> Draft:
        """Draft tokens after the base token of every row (after the prompt in the first call)."""

    def observe(self, state: DecodeState, emitted: list[list[int]], choices: Tensor | None) -> None:
        """Take in the tokens that each row has just emitted. `choices` [B, P + 1] are the trunk's argmax tokens after
        the base token and after each drafted one, with its noise if drafts share it; they may be None unless the
        drafter `wants_choices`."""


@dataclass(frozen=True)
class Silent(Drafter):
    """Drafts nothing: plain decoding, one token per call."""

    name: ClassVar[str] = "silent"
    exact_rules_only: ClassVar[bool] = True

    def propose(self, state: DecodeState) -> Draft:
        """Return an empty draft."""
        return empty_draft(state)


def empty_draft(state: DecodeState) -> Draft:
    """A draft without tokens [B, 0]."""
    return chain_draft(torch.zeros(len(state.rows), 0, dtype=torch.long, device=state.device))


def pad_lists(lists: list[list[int]], state: DecodeState) -> Draft:
    """A chain draft [B, P] from token lists of different lengths, padded with -1."""
    size = max((len(tokens) for tokens in lists), default=0)
    rows = [tokens + [-1] * (size - len(tokens)) for tokens in lists]
    return chain_draft(torch.tensor(rows, dtype=torch.long, device=state.device).view(len(lists), size))


@dataclass
class Trie:
    """Candidate continuations of one row, merged into a tree: `tokens` and `parents` (-1: the base token), parents
    first."""

    tokens: list[int]
    parents: list[int]

    @classmethod
    def of(cls, candidates: Sequence[Sequence[int]], max_nodes: int) -> "Trie":
        """Merge candidates into at most `max_nodes` nodes, earlier candidates first; equal beginnings share their
        nodes."""
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
    """One draft from one tree per row; a chain draft if all trees are chains."""
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
