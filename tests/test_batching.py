"""Batches by size: every item once, like sizes together, ties in their order."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from speechmtp.batching import batches_by_size


def test_small_sizes_come_first_and_ties_keep_their_order() -> None:
    assert batches_by_size([5, 1, 5, 3, 1], 2) == [[1, 4], [3, 0], [2]]


def test_nothing_gives_no_batch() -> None:
    assert batches_by_size([], 3) == []


def test_rows_beyond_the_items_give_one_batch() -> None:
    assert batches_by_size([2, 1], 99) == [[1, 0]]


@pytest.mark.parametrize("rows", [0, -1])
def test_rows_below_one_are_refused(rows: int) -> None:
    with pytest.raises(ValueError, match=f"rows={rows}, expected 1 or more"):
        batches_by_size([1], rows)


@given(st.lists(st.integers(0, 20)), st.integers(1, 7))
def test_every_item_is_in_one_batch(sizes: list[int], rows: int) -> None:
    batches = batches_by_size(sizes, rows)
    flat = [index for batch in batches for index in batch]
    assert sorted(flat) == list(range(len(sizes)))
    assert [sizes[index] for index in flat] == sorted(sizes)
    assert all(len(batch) == rows for batch in batches[:-1])
    assert all(0 < len(batch) <= rows for batch in batches[-1:])
    for a, b in pairwise(flat):
        assert sizes[a] < sizes[b] or a < b
