"""Drafts copied from the text so far (prompt lookup; Saxena 2023, and the n-gram drafters of transformers and vLLM)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from torch import Tensor

from speechmtp.config import Range
from speechmtp.decoding.drafters.contract import Drafter, pad_lists
from speechmtp.decoding.state import DecodeState
from speechmtp.decoding.trees import MAX_DRAFT
from speechmtp.errors import ConfigError
from speechmtp.types import Draft


class History:
    """The token ids of a row and, for each n-gram in them that was continued, the index at which it continues."""

    def __init__(self, options: "PromptLookup", ids: Sequence[int]) -> None:
        self._options = options
        self._ids: list[int] = []
        self._behind: dict[tuple[int, ...], int] = {}
        for token in ids:
            self.emit(token)

    def emit(self, token: int) -> None:
        """Take in one token, which makes one dictionary entry per length of n-grams."""
        options, ids = self._options, self._ids
        end = len(ids)
        for size in range(options.shortest, min(options.longest, end) + 1):
            gram = tuple(ids[end - size :])
            if options.match == "last" or gram not in self._behind:
                self._behind[gram] = end
        ids.append(token)

    def continuation(self) -> list[int]:
        """What followed an earlier occurrence of the longest n-gram at the end; a copy that reaches the end of the text
        continues with what it has copied."""
        options, ids = self._options, self._ids
        for size in range(min(options.longest, len(ids)), options.shortest - 1, -1):
            start = self._behind.get(tuple(ids[-size:]))
            if start is not None:
                period = len(ids) - start
                return [ids[start + step % period] for step in range(options.depth)]
        return []


@dataclass(frozen=True)
class PromptLookup(Drafter):
    """Draft up to `depth` tokens that followed an earlier occurrence of the last `longest` ids, or of fewer, down to
    `shortest`.

    `match` says which occurrence: the `last` one, since text tends to repeat recent text, or the `first`, as in
    transformers. If the prompt has ids, the prompt's call has a draft too. ConfigError for an option out of range, or
    `shortest` above `longest`.
    """

    depth: Annotated[int, Range(0, MAX_DRAFT)] = 10
    longest: Annotated[int, Range(1, MAX_DRAFT)] = 3
    shortest: Annotated[int, Range(1, MAX_DRAFT)] = 1
    match: Literal["last", "first"] = "last"
    name: ClassVar[str] = "lookup"
    adapts: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Raise ConfigError for options that are not allowed."""
        super().__post_init__()
        if self.shortest > self.longest:
            found = f"shortest={self.shortest} and longest={self.longest}"
            raise ConfigError(f"lookup: {found}, expected shortest <= longest")

    def start(self, state: DecodeState) -> None:
        """Store each row's prompt ids."""
        for row in state.rows:
            row.kept = History(self, row.request.ids)

    def propose(self, state: DecodeState) -> Draft:
        """Draft one copy per row; nothing if no n-gram at the end occurred before."""
        return pad_lists([row.kept.continuation() for row in state.rows], state)

    def observe(self, state: DecodeState, emitted: list[list[int]], choices: Tensor | None) -> None:
        """Take in the emitted tokens."""
        for row, tokens in zip(state.rows, emitted):
            for token in tokens:
                row.kept.emit(token)
