"""Ragged cache: whatever was fed, rejected, grown, moved or selected, states equal one full forward."""

import oracle
import pytest
import tiny
import torch
from torch import Tensor

from speechmtp.ancestors import ancestors_of
from speechmtp.errors import ShapeError
from speechmtp.models.cache import RaggedCache
from speechmtp.models.trunk import Trunk

EXACT = {"rtol": 0.0, "atol": 1e-9}


class Rows:
    """Rows of random entries beside a cache that takes them in by pieces."""

    def __init__(self, trunk: Trunk, rows: int, size: int, seed: int, capacity: int = 4) -> None:
        rng = tiny.generator(seed)
        self.trunk, self.rng = trunk, rng
        self.entries = torch.randn(rows, size, trunk.width, generator=rng, dtype=torch.float64)
        # Positions that repeat and jump, as audio and text on one axis do.
        self.positions = torch.randint(0, 12, (rows, size), generator=rng)
        self.cache = RaggedCache(trunk.layers, rows, capacity=capacity)

    def expected(self, row: int) -> Tensor:
        """States [L, C] of one row by a single forward."""
        segments = torch.zeros(1, self.entries.shape[1], dtype=torch.long)
        return self.trunk(self.entries[row : row + 1], self.positions[row : row + 1], segments).hidden[0]

    def feed(self, queries: int, right: list[int]) -> Tensor:
        """States [B, Q, C] of a call whose first `right[b]` entries are row b's next ones, the rest rubbish."""
        rows = len(self.cache.lengths)
        embeddings = 10 * torch.randn(rows, queries, self.trunk.width, generator=self.rng, dtype=torch.float64)
        positions = torch.randint(0, 12, (rows, queries), generator=self.rng)
        for row, count in enumerate(right):
            at = int(self.cache.lengths[row])
            embeddings[row, :count] = self.entries[row, at : at + count]
            positions[row, :count] = self.positions[row, at : at + count]
        return self.trunk.extend(embeddings, positions, None, self.cache).hidden

    def select(self, rows: list[int]) -> None:
        """Keep these rows, in this order."""
        index = torch.tensor(rows, dtype=torch.long)
        self.cache.select(index)
        self.entries, self.positions = self.entries[index], self.positions[index]


def poison(cache: RaggedCache) -> None:
    """Write huge values into every slot that holds nothing committed."""
    for layer in cache.layers:
        for row, length in enumerate(cache.lengths.tolist()):
            layer.keys[row, :, length:] = 1e6
            layer.values[row, :, length:] = -1e6


@torch.no_grad()
@pytest.mark.parametrize("family", tiny.TRUNKS)
@pytest.mark.parametrize("seed", range(4))
def test_fault_12_pieces_with_rejections_equal_one_forward(family: str, seed: int) -> None:
    rows = Rows(tiny.trunk(seed, family), 4, 24, seed)
    wanted = [rows.expected(row) for row in range(4)]
    rejected = 0
    while bool((rows.cache.lengths < 24).any()):
        queries = int(torch.randint(1, 7, (), generator=rows.rng))
        room = (24 - rows.cache.lengths).clamp(max=queries)
        right = [int(torch.randint(0, n + 1, (), generator=rows.rng)) for n in room.tolist()]
        before = rows.cache.lengths.tolist()
        if before != [0] * 4:
            poison(rows.cache)
        hidden = rows.feed(queries, right)
        for row, (at, count) in enumerate(zip(before, right)):
            torch.testing.assert_close(hidden[row, :count], wanted[row][at : at + count], **EXACT)
        rows.cache.commit(torch.tensor(right))
        rejected += sum(queries - n for n in right)
    assert rejected > 20 and rows.cache.capacity >= 24, "the case is one with rejections, and the cache has grown"


@torch.no_grad()
def test_rows_of_one_length_take_the_same_way_as_ragged_ones() -> None:
    rows = Rows(tiny.trunk(1), 3, 12, 1, capacity=2)
    wanted = [rows.expected(row) for row in range(3)]
    for at, queries in ((0, 5), (5, 1), (6, 6)):
        hidden = rows.feed(queries, [queries] * 3)
        assert rows.cache.start == at, "one place for all rows"
        for row in range(3):
            torch.testing.assert_close(hidden[row], wanted[row][at : at + queries], **EXACT)
        rows.cache.commit(torch.full((3,), queries))


@torch.no_grad()
def test_a_view_as_wide_as_the_longest_row_and_the_call() -> None:
    rows = Rows(tiny.trunk(0), 2, 12, 0)
    rows.feed(5, [5, 5])
    rows.cache.commit(torch.tensor([5, 2]))
    rows.feed(3, [3, 3])
    assert rows.cache.width == 8 and rows.cache.get_seq_length() == 5 and rows.cache.start is None
    assert rows.cache.places.tolist() == [[5, 6, 7], [2, 3, 4]]
    assert rows.cache.layers[0].get_mask_sizes(3) == (8, 0)
    assert rows.cache.capacity == 8, "doubled once from 4"
    rows.cache.commit(torch.tensor([0, 0]))
    assert rows.cache.lengths.tolist() == [5, 2], "nothing moves but by commits"


@torch.no_grad()
@pytest.mark.parametrize("family", tiny.TRUNKS)
def test_rows_are_selected_with_all_that_is_theirs(family: str) -> None:
    rows = Rows(tiny.trunk(2, family), 4, 16, 2)
    rows.feed(6, [6, 4, 6, 1])
    rows.cache.commit(torch.tensor([6, 4, 6, 1]))
    rows.select([3, 0, 1])
    assert rows.cache.lengths.tolist() == [1, 6, 4]
    hidden = rows.feed(5, [5, 5, 5])
    for row, at in enumerate([1, 6, 4]):
        torch.testing.assert_close(hidden[row], rows.expected(row)[at : at + 5], **EXACT)
    rows.cache.commit(torch.tensor([5, 5, 5]))
    rows.select([2])
    torch.testing.assert_close(rows.feed(3, [3])[0], rows.expected(0)[9:12], **EXACT)
    rows.cache.commit(torch.tensor([0]))
    rows.select([])
    assert rows.cache.lengths.tolist() == []


@torch.no_grad()
@pytest.mark.parametrize("family", tiny.TRUNKS)
@pytest.mark.parametrize("seed", range(4))
def test_fault_25_tree_nodes_equal_the_prefill_of_their_path(family: str, seed: int) -> None:
    """Every node sees its ancestors and no other node; the committed path then serves as a chain."""
    trunk, rng = tiny.trunk(seed, family), tiny.generator(seed)
    prompt = tiny.prompts(trunk, [3, 7, 5], seed)
    cache = RaggedCache(trunk.layers, 3, capacity=4)
    trunk.extend(prompt.embeddings, prompt.positions, None, cache)
    cache.commit(prompt.lengths)
    tokens, parent = tiny.random_tree(rng, 3, 9)
    tokens = tokens.where(tokens >= 0, 5)  # absent nodes are fed too; only their place in the draft is nobody's
    parents = parent.tolist()
    depth = torch.tensor([[len(tiny.path_to(row, node)) for node in range(9)] for row in parents])
    hidden = trunk.extend(trunk.embed(tokens), depth, ancestors_of(parent), cache).hidden
    for row in range(3):
        for node in range(9):
            path = [int(tokens[row, i]) for i in tiny.path_to(parents[row], node)]
            wanted = oracle.full_states(trunk, prompt.row(row), path)[-1]
            torch.testing.assert_close(hidden[row, node], wanted, **EXACT)
    leaves = [max(range(9), key=lambda node, row=row: len(tiny.path_to(row, node))) for row in parents]
    paths = [tiny.path_to(row, leaf) for row, leaf in zip(parents, leaves)]
    counts = torch.tensor([len(paths[0]), 0, len(paths[2])])
    size = max(len(path) for path in paths)
    cache.commit(counts, torch.tensor([path + [8] * (size - len(path)) for path in paths]))
    if bool((counts > 0).any()):
        poison(cache)
    after = trunk.extend(trunk.embed(torch.tensor([[4], [4], [4]])), (1 + counts)[:, None], None, cache).hidden
    for row in range(3):
        kept = [int(tokens[row, i]) for i in paths[row]][: int(counts[row])]
        wanted = oracle.full_states(trunk, prompt.row(row), [*kept, 4])[-1]
        torch.testing.assert_close(after[row, 0], wanted, **EXACT)


@torch.no_grad()
@pytest.mark.parametrize("lengths", [[3], [3, 7]])
def test_a_commit_moves_nothing_behind_the_count(lengths: list[int]) -> None:
    """What stands in a path behind its row's count is ignored, whatever it is, and those slots keep their entries."""
    trunk, rows = tiny.trunk(1), len(lengths)
    prompt = tiny.prompts(trunk, lengths, 1)
    cache = RaggedCache(trunk.layers, rows)
    trunk.extend(prompt.embeddings, prompt.positions, None, cache)
    cache.commit(prompt.lengths)
    tree = torch.full((rows, 5), -1)
    trunk.extend(trunk.embed(torch.arange(5).expand(rows, -1)), torch.ones_like(tree), ancestors_of(tree), cache)
    before = [keys.clone() for layer in cache.layers for keys in layer.view()]
    cache.commit([1] * rows, [[3, 99, -99]] * rows)
    for old, new in zip(before, (part for layer in cache.layers for part in layer.view())):
        for row, length in enumerate(lengths):
            assert torch.equal(new[row, :, length], old[row, :, length + 3]), "the one that is kept"
            assert torch.equal(new[row, :, length + 1 :], old[row, :, length + 1 :]), "and no other moves"


def test_a_wrong_count_is_named() -> None:
    with pytest.raises(ShapeError, match="cache: count of 3 rows, expected 2"):
        RaggedCache(2, 2).commit(torch.tensor([1, 1, 1]))
