"""Packing of texts into rows of equal size, so that a batch has little padding."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor


@dataclass(frozen=True)
class Piece:
    """Tokens `begin` to `end` (exclusive) of text number `text`; `place` is the index of the piece in its row."""

    text: int
    begin: int
    end: int
    place: int


def pack_rows(lengths: Sequence[int], order: Iterable[int], size: int, cut: bool) -> list[list[Piece]]:
    """Pack texts of these `lengths`, in `order`, into rows of at most `size` tokens.

    With `cut`, a text that does not fit continues in the next row, so that all rows but the last are full. Otherwise it
    moves to the next row as a whole, and no text may be longer than `size`. Texts without tokens are left out.
    """
    rows: list[list[Piece]] = []
    room = 0
    for text in order:
        begin, length = 0, lengths[text]
        while begin < length:
            if not room or (not cut and length > room):
                rows.append([])
                room = size
            end = min(length, begin + room) if cut else length
            rows[-1].append(Piece(text, begin, end, len(rows[-1])))
            room -= end - begin
            begin = end
    return rows


def fill_rows(
    rows: Sequence[Sequence[Piece]], size: int, padding: int, values: Callable[[Piece], ArrayLike]
) -> Tensor:  # fmt: skip
    """Build an int64 tensor [rows, size] from the `values` of each piece (one number for all its tokens, or one number
    per token), filled up with `padding`."""
    found = np.full((len(rows), size), padding, dtype=np.int64)
    for row, pieces in zip(found, rows):
        used = 0
        for piece in pieces:
            length = piece.end - piece.begin
            row[used : used + length] = values(piece)
            used += length
    return torch.from_numpy(found)


def positions_in(segments: Tensor) -> Tensor:
    """Positions [B, L] that restart from 0 wherever the value of `segments` [B, L] changes, also in padding."""
    index = torch.arange(segments.shape[1])
    begins = torch.nn.functional.pad((segments[:, 1:] != segments[:, :-1]).long(), (1, 0)) * index
    return index - begins.cummax(1).values
