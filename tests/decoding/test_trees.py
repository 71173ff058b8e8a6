"""Shapes of trees, and trees grown from measured acceptance."""

import itertools

import numpy as np
import oracle
import pytest
import tiny
import torch
from cases import make_case

from speechmtp.decoding.trees import TreeShape, grow
from speechmtp.errors import ConfigError, DataError
from speechmtp.evaluation.teacher_forced import teacher_forced
from speechmtp.evaluation.tree_calibration import calibrated_tree
from speechmtp.scoring.acceptance import Forced, rank_table


def random_table(seed: int, depth: int, ranks: int) -> list[list[float]]:
    """Acceptance that does not rise with the rank; a row sums to less than one."""
    rng = np.random.default_rng(seed)
    rows = np.sort(rng.random((depth, ranks)), axis=1)[:, ::-1]
    return (rows / rows.sum(1, keepdims=True) * rng.random((depth, 1))).tolist()


def value_of(table: list[list[float]], path: tuple[int, ...]) -> float:
    return float(np.prod([table[d][j] for d, j in enumerate(path)]))


def test_a_shape_is_read_in_any_order_and_written_level_by_level() -> None:
    shape = TreeShape.parse("0.00.000.1.01.10")
    assert shape.label == "0.1.00.01.10.000" and TreeShape.parse(shape.label) == shape
    assert shape.parents == (-1, -1, 0, 0, 1, 2) and shape.levels == ((0, 1), (2, 3, 4), (5,))
    assert (shape.depth, shape.width) == (3, 2)
    assert shape.cut(1).label == "0.1" and shape.cut(0).paths == () and shape.cut(3) is shape
    assert TreeShape.parse("9.90").width == 10


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "path ''"), ("0.1x", "path '1x'"), ("0,1", "path '0,1'"), ("0..1", "path ''"), ("0.-1", "path '-1'"),
        ("0.²", "path '²'"), ("00.0", "path 00 without 0 before it"), ("0.10.1", "path 10 without 1"),
        ("0.1.0", "path 0 twice"), (".".join("0" * n for n in range(1, 258)), "257 nodes, expected at most 256"),
    ],
)  # fmt: skip
def test_wrong_paths_are_named_in_one_line(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=r"^tree: ") as caught:
        TreeShape.parse(text)
    assert message in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("seed", range(8))
def test_growing_finds_the_best_closed_tree(seed: int) -> None:
    """Against all trees in which every node has its parent."""
    table = random_table(seed, 3, 2)
    every = [path for d in (1, 2, 3) for path in itertools.product(range(2), repeat=d)]
    for nodes in (1, 3, 5):
        closed = [
            tree for tree in itertools.combinations(every, nodes)
            if all(len(path) == 1 or path[:-1] in tree for path in tree)
        ]  # fmt: skip
        best = max(sum(value_of(table, path) for path in tree) for tree in closed)
        grown = grow(table, nodes)
        assert len(grown.paths) == nodes
        assert sum(value_of(table, path) for path in grown.paths) == pytest.approx(best, rel=1e-12)


def test_growing_stops_at_the_table_and_takes_functions() -> None:
    assert grow([[0.5, 0.0], [0.5]], 9).label == "0.00"
    assert grow([[0.0]], 9).paths == () == grow([], 9).paths
    assert grow(lambda d, j: 0.9 if j == 0 and d < 3 else 0.0, 9).label == "0.00.000"
    assert grow(lambda d, j: 0.05, 200).width == 10
    for nodes in (0, 257):
        with pytest.raises(ConfigError, match=f"{nodes} nodes, expected 1 to 256"):
            grow([[0.5]], nodes)


def test_growing_ends_where_a_node_costs_more_than_it_gains() -> None:
    table = [[0.6, 0.2, 0.1], [0.5, 0.2, 0.1]]  # values .6 .3 .2 .12 .1 .1 ...
    assert grow(table, 9, lambda n: 1.0) == grow(table, 9)
    tokens = 1.0
    for n, value in enumerate((0.6, 0.3, 0.2, 0.12)):
        price = value / tokens  # of one time unit, so that the node with this value just pays or just does not
        for slack, size in ((0.98, n + 1), (1.02, n)):
            grown = grow(table, 9, lambda k, n=n, p=price * slack: 1.0 if k <= n else (1.0 + p) * 1.9 ** (k - n - 1))  # type: ignore[misc]
            assert len(grown.paths) == size
        tokens += value


def test_growing_looks_past_a_step_in_the_cost() -> None:
    """A call of 2 to 8 nodes costs the same: one more node than 1 does not pay, but seven more do."""
    cost = {0: 1.0, 1: 1.0}
    assert len(grow(lambda d, j: 0.8 * (j == 0), 8, lambda n: cost.get(n, 1.5)).paths) == 8


def test_a_rank_table_counts_where_the_path_is_in_the_tree() -> None:
    rank = np.array([[0, 3], [1, 0], [12, 0], [0, 1]])
    nothing = np.zeros((4, 2))
    one = Forced(rank == 0, rank < 5, nothing, 5, rank)  # the last start has no second label
    table = rank_table([one])
    assert len(table) == 2 and all(len(row) == 10 for row in table)
    assert table[0][:3] == [0.5, 0.25, 0.0]
    assert table[1][:5] == [0.5, 0.0, 0.0, 0.5, 0.0], "the start whose first rank is 12 is not counted"
    assert rank_table([]) == []


def test_ranks_are_those_of_full_forwards() -> None:
    case = make_case(4, max_rows=5, most=9)
    heads = tiny.heads("latent", 3, 1)
    passes = teacher_forced(case.trunk, heads, [case.prompt.row(i) for i in range(len(case.tokens))], case.tokens)
    for plain, one in zip(case.plain, passes):
        logits = oracle.head_logits(heads, case.trunk, plain.hidden).detach()
        for k, d in zip(*np.nonzero(one.labelled)):
            label = plain.tokens[k + d + 1]
            assert one.rank[k, d] == int((logits[k, d] > logits[k, d, label]).sum())


def test_a_calibrated_tree_is_grown_from_the_heads_own_ranks() -> None:
    case = make_case(4, max_rows=16, most=11)
    heads = tiny.heads("hydra", 3, 1, shortlist=6)
    prompts = [case.prompt.row(i) for i in range(len(case.tokens))]
    passes = teacher_forced(case.trunk, heads, prompts, case.tokens)
    shape = calibrated_tree(case.trunk, heads, prompts, case.tokens, 12)
    assert 1 <= len(shape.paths) <= 12 and shape.depth <= 3 and shape.width <= 6
    assert TreeShape.parse(shape.label) == shape
    table = [np.minimum.accumulate(row).tolist() for row in rank_table(passes)]
    assert shape == grow(table, 12)
    outside = [tokens[k + d + 1] >= 6 for tokens, one in zip(case.tokens, passes) for k, d in np.argwhere(one.labelled)]
    assert outside == [one.rank[k, d] > 99 for one in passes for k, d in np.argwhere(one.labelled)] and any(outside)
    with pytest.raises(DataError, match="never right"):
        calibrated_tree(case.trunk, heads, prompts, [tokens[:1] for tokens in case.tokens], 12)
    with torch.no_grad():
        heads.start_from(case.trunk)
    assert calibrated_tree(case.trunk, heads, prompts, case.tokens, 12) != shape
