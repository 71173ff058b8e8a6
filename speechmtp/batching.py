"""Batches of items of similar size, so that little of a batch is padding."""

from collections.abc import Sequence

ROWS = 16  # default number of items in a batch
ROWS_ON_CPU = 4  # of recordings decoded together there: more are no faster, and wait for each other


def default_rows(device: str) -> int:
    """The default number of recordings decoded together on a device."""
    return ROWS_ON_CPU if device.startswith("cpu") else ROWS


def batches_by_size(sizes: Sequence[float], rows: int) -> list[list[int]]:
    """Indices of `sizes` in batches of `rows` (the last one may have fewer), from the smallest size to the largest.

    Items of equal size keep their order. ValueError for `rows` below 1.
    """
    if rows < 1:
        raise ValueError(f"batches_by_size: rows={rows}, expected 1 or more")
    order = sorted(range(len(sizes)), key=lambda index: sizes[index])
    return [order[start : start + rows] for start in range(0, len(order), rows)]


def rows_for(items: int, rows: int, workers: int) -> int:
    """The number of rows of a batch, at most `rows`, with which every one of `workers` has the same number of batches
    of `items`, or one at most where there are few items."""
    if workers == 1 or not items:
        return rows
    batches = -(-items // rows)
    return -(-items // (-(-batches // workers) * workers))
