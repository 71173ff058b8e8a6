"""Every family: what is drafted with a cache is what teacher forcing says, whatever was accepted before."""

import pytest
import tiny
import torch
from families import NAMES, D, Rows, copies, heads_of, kind_of, trunk_of
from torch import Tensor

every = pytest.mark.parametrize("name", NAMES)
RIGHT = [[0, 1, 2], [1, 2, 3], [2, 3, 0], [3, 0, 1], [3, 3, 0]]  # acceptances of three rows, call by call


@torch.no_grad()
@every
def test_fault_15_cached_drafting_equals_uncached_after_every_acceptance(name: str) -> None:
    rows = Rows(trunk_of(name), heads_of(name), [5, 2, 1])
    assert all(set(column) == set(range(D + 1)) for column in zip(*RIGHT))
    for right in RIGHT:
        path = rows.path(right, D)
        rows.check(path, D)
        rows.accept(path, right)
    rows.check(rows.path([D] * 3, D), D)


@torch.no_grad()
@every
@pytest.mark.parametrize("size", [1, 2])
def test_fault_14_prompts_of_one_and_two_entries(name: str, size: int) -> None:
    """The start token alone, and one entry before it: nothing at position 0 is blanked out."""
    rows = Rows(trunk_of(name), heads_of(name), [size])
    for right in (0, 1, D):
        path = rows.path([right], D)
        rows.check(path, D)
        rows.accept(path, [right])
    rows.check(rows.path([D], D), D)


@torch.no_grad()
@every
def test_calls_without_a_draft_and_shallow_drafts_leave_the_cache_whole(name: str) -> None:
    rows = Rows(trunk_of(name), heads_of(name), [4, 1, 2])
    for depth, right in (
        (0, [1, 0, 2]),
        (0, [0, 2, 0]),
        (1, [0, 0, 0]),
        (D, [3, 0, 1]),
        (0, [2, 2, 2]),
        (2, [0, 1, 2]),
    ):
        path = rows.path(right, D)
        if depth:
            rows.check(path, depth)
        rows.accept(path, right)
    rows.check(rows.path([0, 0, 0], D), D)


@torch.no_grad()
@every
@pytest.mark.parametrize("moment", ["before", "after"])
def test_rows_are_selected_with_all_that_is_theirs(name: str, moment: str) -> None:
    """Rows leave before or after a draft; the others draft on as before."""
    rows = Rows(trunk_of(name), heads_of(name), [3, 5, 1, 2])
    for right, kept in (([1, 0, 2, 3], [3, 0, 1]), ([0, 3, 1], [2, 0]), ([2, 0], [1])):
        path = rows.path(right, D)
        rows.check(path, D)
        rows.accept(path, right)
        if moment == "after":
            rows.draft(rows.path([0] * len(right), D), D)
        rows.select(kept)
        if moment == "before":
            rows.check(rows.path([1] * len(kept), D), D)
    rows.accept(rows.path([0], 0), [0])
    rows.check(rows.path([D], D), D)


@torch.no_grad()
@every
@pytest.mark.parametrize("depth", range(1, D))
def test_a_state_of_fewer_levels_says_the_same(name: str, depth: int) -> None:
    rows = Rows(trunk_of(name), heads_of(name), [3, 1, 2], depth)
    for right in ([0, 1, depth], [depth, 0, 0], [1, 1, 1]):
        path = rows.path(right, depth)
        rows.check(path, depth)
        rows.accept(path, right)
    rows.check(rows.path([0, 0, 0], depth), depth)


@torch.no_grad()
@every
def test_all_features_of_one_pass_families_are_those_of_their_levels(name: str) -> None:
    heads = heads_of(name)
    rows = Rows(trunk_of(name), heads, [3, 1, 2])
    assert heads.one_pass == (kind_of(name) not in ("chain", "hydra", "joint", "block")), "those need tokens to go on"
    if not heads.one_pass:
        return
    together = heads.all_features(rows.state)
    torch.testing.assert_close(together, rows.draft(rows.path([0, 0, 0], D), D), rtol=0, atol=1e-12)
    unembed = heads.narrow(trunk_of(name))
    logits = heads.all_logits(together, unembed)
    for d in range(1, D + 1):
        torch.testing.assert_close(logits[:, d - 1], heads.logits(together[:, d - 1], d, unembed), rtol=0, atol=1e-12)


def tree(rng: torch.Generator, rows: int) -> list[tuple[Tensor, Tensor]]:
    """Random tokens and parents [rows, P] of the nodes of levels 1, ..., D - 1, more of them than one a parent."""
    levels, above = [], 1
    for size in (3, 5, 4)[: D - 1]:
        tokens = torch.randint(0, tiny.VOCAB, (rows, size), generator=rng)
        levels.append((tokens, torch.randint(0, above, (rows, size), generator=rng)))
        above = size
    return levels


def expand_tree(rows: Rows, base: Tensor, levels: list[tuple[Tensor, Tensor]]) -> None:
    """Expand level by level; every node's features are those of its path alone."""
    index = copies(len(base))[:, None]
    paths = torch.zeros(len(base), 1, 0, dtype=torch.long)
    for d, (tokens, parent) in enumerate([(base, torch.zeros_like(base)), *levels], 1):
        found = rows.heads.expand(rows.state, d, tokens, parent)
        paths = torch.cat([paths[index, parent], tokens[:, :, None]], 2)
        torch.testing.assert_close(found, rows.expected(paths)[:, :, d - 1], rtol=0, atol=1e-9)


@torch.no_grad()
@every
def test_fault_25_nodes_of_a_tree_are_their_paths_alone(name: str) -> None:
    """Siblings, cousins, and nodes whose order is not their parents'; then decoding goes on behind any path."""
    rng = tiny.generator(7)
    rows = Rows(trunk_of(name), heads_of(name), [4, 1, 2])
    for right in ([0, 2, 1], [3, 0, 0], [1, 1, 3]):
        path = rows.path(right, D)
        expand_tree(rows, path[:, :1], tree(rng, 3))
        rows.accept(path, right)
    rows.check(rows.path([0, 1, 2], D), D)
