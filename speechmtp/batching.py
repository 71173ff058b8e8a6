"""Batches of items of like size, so that little of a batch is padding."""

from collections.abc import Sequence


def batches_by_size(sizes: Sequence[int], rows: int) -> list[list[int]]:
    """Indices of `sizes` in batches of `rows` (the last one may have fewer), from the smallest size to the largest.

    Items of one size keep their order. ValueError for `rows` below 1.
    """
    if rows < 1:
        raise ValueError(f"batches_by_size: rows={rows}, expected 1 or more")
    order = sorted(range(len(sizes)), key=lambda index: sizes[index])
    return [order[start : start + rows] for start in range(0, len(order), rows)]
