"""Drafts copied from the text so far (prompt lookup; Saxena 2023, and the n-gram drafters of transformers and vLLM)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from torch import Tensor

from speechmtp.config import Range
from speechmtp.decoding.drafters.contract import Drafter, pad_lists
from speechmtp.decoding.state import DecodeState
from speechmtp.errors import ConfigError
from speechmtp.types import Draft


class History:
    """A row's ids and, for each n-gram of them that something followed, where that stands."""

    def __init__(self, options: "PromptLookup", ids: Sequence[int]) -> None:
        self._options = options
        self._ids: list[int] = []
        self._behind: dict[tuple[int, ...], int] = {}
        for token in ids:
            self.emit(token)

    def emit(self, token: int) -> None:
        """Take in one token: as many dictionary entries as there are lengths of n-grams."""
        options, ids = self._options, self._ids
        end = len(ids)
        for size in range(options.shortest, min(options.longest, end) + 1):
            gram = tuple(ids[end - size :])
            if options.match == "last" or gram not in self._behind:
                self._behind[gram] = end
        ids.append(token)

    def continuation(self) -> list[int]:
        """What followed the longest n-gram at the end; a copy that reaches the end goes on with what it copied."""
        options, ids = self._options, self._ids
        for size in range(min(options.longest, len(ids)), options.shortest - 1, -1):
            start = self._behind.get(tuple(ids[-size:]))
            if start is not None:
                period = len(ids) - start
                return [ids[start + step % period] for step in range(options.depth)]
        return []


@dataclass(frozen=True)
class PromptLookup(Drafter):
    """Up to `depth` tokens behind the place where the last `longest` ids stood before, else fewer, down to `shortest`.

    `match` says which place: the `last` before the end, as text takes up again what it said recently, or the `first`,
    as transformers does. A draft rides on the prompt's call where the prompt has ids. ConfigError for sizes that
    leave nothing to look up.
    """

    depth: Annotated[int, Range(0)] = 10
    longest: Annotated[int, Range(1)] = 3
    shortest: Annotated[int, Range(1)] = 1
    match: Literal["last", "first"] = "last"
    name: ClassVar[str] = "lookup"
    adapts: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """ConfigError for an option that is not allowed."""
        super().__post_init__()
        if self.shortest > self.longest:
            found = f"shortest={self.shortest} and longest={self.longest}"
            raise ConfigError(f"lookup: {found}, expected shortest <= longest")

    def start(self, state: DecodeState) -> None:
        """Each row's prompt ids."""
        for row in state.rows:
            row.kept = History(self, row.request.ids)

    def propose(self, state: DecodeState) -> Draft:
        """A copy a row; nothing where no n-gram at the end stood before."""
        return pad_lists([row.kept.continuation() for row in state.rows], state)

    def observe(self, state: DecodeState, emitted: list[list[int]], choices: Tensor | None) -> None:
        """Add what was emitted."""
        for row, tokens in zip(state.rows, emitted):
            for token in tokens:
                row.kept.emit(token)
