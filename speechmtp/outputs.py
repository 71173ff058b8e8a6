"""What a request says of its output beside tokens: where they stand, and which are allowed at each of them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from speechmtp.errors import ShapeError


@dataclass(frozen=True)
class OutputPositions:
    """Positions of output tokens, relative to the prompt's `next_position`: token k = 0, 1, .. is at `stride` * k or
    `table`[k]; after the table's end positions grow by `stride` per token. Tokens may share or skip positions."""

    stride: int = 1
    table: tuple[int, ...] = ()

    def offset(self, index: int) -> int:
        """Return the relative position of output token `index`; ShapeError if it is negative."""
        if index < 0:
            raise ShapeError(f"positions: output token {index}, expected 0 or more")
        if not self.table:
            return self.stride * index
        last = len(self.table) - 1
        return self.table[index] if index <= last else self.table[-1] + self.stride * (index - last)


ONE_APART = OutputPositions()


class RowProcessor(Protocol):
    """Changes the logits of one request's tokens, the trunk's and the drafters' alike, before all other processors:
    a table of allowed tokens, or a silence. It must be a pure function, since it is called for drafted tokens too,
    in any order. `reads_prefix` says whether it asks for prefixes."""

    @property
    def reads_prefix(self) -> bool:
        """Whether the logits depend on the tokens before."""

    def __call__(self, logits: Tensor, index: Tensor, prefixes: Callable[[], Sequence[Sequence[int]]]) -> Tensor:
        """Return processed logits [N, V] of N candidate tokens, whose output indices are `index` [N]. `prefixes` gives
        the N lists of tokens before them, the request's `ids` included."""
