"""Masks against what they are defined as, entry by entry."""

import itertools

import pytest
import torch

from speechmtp.models.cache import RaggedCache
from speechmtp.models.masks import (
    additive_mask,
    additive_ragged_mask,
    causal_mask,
    chunk_mask,
    chunk_step_mask,
    drafting_block_mask,
    length_mask,
    memory_mask,
    padded_mask,
    ragged_mask,
    training_block_mask,
)

SEGMENTS = torch.tensor([[0, 0, 0, 1, 1, 1, 1, -1], [0, 0, 0, 0, 0, 0, 0, 0], [2, 1, 1, -1, -1, -1, -1, -1]])


def cache_of(lengths: list[int]) -> RaggedCache:
    """A cache with so many committed entries a row."""
    cache = RaggedCache(1, len(lengths))
    cache.rewind(lengths)
    return cache


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_an_additive_mask_is_zero_where_a_key_is_seen(dtype: torch.dtype) -> None:
    seen = torch.tensor([[[True, False], [True, True]]])
    found = additive_mask(seen, dtype)
    low = torch.finfo(dtype).min
    assert found.dtype == dtype and found.tolist() == [[[[0.0, low], [0.0, 0.0]]]]


def test_lengths_are_the_first_entries() -> None:
    assert length_mask(torch.tensor([0, 2, 3]), 3).int().tolist() == [[0, 0, 0], [1, 1, 0], [1, 1, 1]]


def test_a_memory_that_is_all_there_needs_no_mask() -> None:
    memory = torch.zeros(2, 3, 4)
    assert memory_mask(memory, None) is None and memory_mask(memory, torch.tensor([3, 3])) is None
    found = memory_mask(memory, torch.tensor([1, 3]))
    assert found is not None and (found == 0).int().tolist() == [[[[1, 0, 0]]], [[[1, 1, 1]]]]


@pytest.mark.parametrize("behind", [0, 1, 2, 5])
def test_entries_see_their_own_sample_up_to_themselves(behind: int) -> None:
    """Without the first `behind` of the sample, but always themselves."""
    found = causal_mask(SEGMENTS, behind)
    rows, size = SEGMENTS.shape
    for row, i, j in itertools.product(range(rows), range(size), range(size)):
        segment = SEGMENTS[row].tolist()
        same = segment[i] == segment[j] and j <= i
        late = j >= behind and segment[j - behind] == segment[j]
        assert bool(found[row, i, j]) == ((same and late) or i == j), (row, i, j)


@pytest.mark.parametrize("causal", [False, True])
def test_a_block_sees_its_context_and_itself(causal: bool) -> None:
    anchors, width = torch.tensor([[1, 4], [0, 6], [2, 2]]), 3
    found = training_block_mask(SEGMENTS, anchors, width, causal)
    rows, size = SEGMENTS.shape
    assert found.shape == (rows, 2 * width, size + 2 * width)
    for row, place in itertools.product(range(rows), range(2 * width)):
        anchor, segment = int(anchors[row, place // width]), SEGMENTS[row].tolist()
        context = [segment[i] == segment[anchor] and i <= anchor for i in range(size)]
        own = [p // width == place // width and (not causal or p <= place) for p in range(2 * width)]
        assert found[row, place].tolist() == context + own


@pytest.mark.parametrize("lengths", [[4, 4], [1, 4], [0, 3]])
def test_new_entries_see_what_is_committed_and_their_ancestors(lengths: list[int]) -> None:
    """A chain without ancestors; a tree by them; the additive form says the same."""
    tree = torch.tensor([[1, 0, 0], [1, 1, 0], [1, 0, 1]], dtype=torch.bool).expand(2, -1, -1)
    for ancestors in (None, tree):
        cache = cache_of(lengths)
        cache.begin(3)
        found = ragged_mask(cache, 3, ancestors).expand(2, -1, -1)
        chain = torch.ones(3, 3, dtype=torch.bool).tril()
        inside = chain.expand(2, -1, -1) if ancestors is None else ancestors
        for row, i, slot in itertools.product(range(2), range(3), range(cache.width)):
            at = slot - lengths[row]
            expected = at < 0 or (at < 3 and bool(inside[row, i, at]))
            assert bool(found[row, i, slot]) == expected, (row, i, slot)
        additive = additive_ragged_mask(cache, 3, ancestors, torch.float32)
        assert additive.shape == (2, 1, 3, cache.width) and torch.equal(additive[:, 0] == 0, found)


@pytest.mark.parametrize("causal", [False, True])
def test_a_drafted_block_sees_all_that_is_fresh(causal: bool) -> None:
    cache, count, width = cache_of([2, 5]), torch.tensor([2, 1]), 3
    cache.begin(5)
    found = drafting_block_mask(cache, count, width, causal)
    for row, place, slot in itertools.product(range(2), range(width), range(cache.width)):
        at = slot - int(cache.lengths[row] + count[row])
        assert bool(found[row, place, slot]) == (at <= (place if causal else width - 1))


def test_padded_steps_see_themselves_alone_and_what_is_there() -> None:
    found = padded_mask(chunk_mask(4, 2, 0), torch.tensor([[True, True, True, False], [True, False, False, False]]))
    assert found[:, 0].int().tolist() == [
        [[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 1, 1]],
        [[1, 0, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]],
    ]


def test_a_step_sees_the_last_cached_and_the_first_new_ones() -> None:
    """Nothing is masked where all rows have as much as the longest."""
    device = torch.device("cpu")
    assert chunk_step_mask([3, 3], [2, 2], device) is None
    found = chunk_step_mask([3, 1, 0], [2, 1, 2], device)
    assert found is not None and found[:, 0, 0].int().tolist() == [[1, 1, 1, 1, 1], [0, 0, 1, 1, 0], [0, 0, 0, 1, 1]]
