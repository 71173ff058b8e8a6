"""Calibrated draft trees, grown from the heads' accuracy on known outputs."""

from collections.abc import Callable, Sequence
from itertools import accumulate

from speechmtp.decoding.trees import TreeShape, grow
from speechmtp.errors import DataError
from speechmtp.evaluation.teacher_forced import teacher_forced
from speechmtp.heads.contract import HeadSet
from speechmtp.models.trunk import Trunk
from speechmtp.scoring.acceptance import rank_table
from speechmtp.types import Prompt

ROWS = 16  # outputs in one pass


def calibrated_tree(
    trunk: Trunk, heads: HeadSet, prompts: Sequence[Prompt], tokens: Sequence[Sequence[int]], nodes: int,
    cost: Callable[[int], float] | None = None,
) -> TreeShape:  # fmt: skip
    """The best tree of at most `nodes` nodes for these heads (see `grow`), from `tokens` that the trunk itself emits
    after single-row `prompts` of a development set. `cost` gives the time of a call by its number of nodes. DataError
    if no drafted token is ever right."""
    passes = []
    for start in range(0, len(tokens), ROWS):
        part = slice(start, start + ROWS)
        passes += teacher_forced(trunk, heads, prompts[part], tokens[part])
    # `grow` needs rates that do not rise with the rank; a rise in the sample is chance.
    shape = grow([list(accumulate(row, min)) for row in rank_table(passes)], nodes, cost)
    if not shape.paths and cost is None:
        raise DataError("tree: the heads are never right on these outputs; give more of them, or train the heads")
    return shape
