"""Random shapes of trees, and drafters of them."""

import tiny
import torch
from families import D

from speechmtp.decoding.drafters.contract import Drafter
from speechmtp.decoding.drafters.tree import DynamicTree, HeadTree
from speechmtp.decoding.trees import TreeShape


def random_shape(seed: int, most: int = 64, depth: int = D, ranks: int = 7) -> str:
    """1 to `most` nodes, each behind one that is there already; siblings may be missing."""
    rng = tiny.generator(seed)
    paths: list[tuple[int, ...]] = []
    for _ in range(int(torch.randint(1, most + 1, (), generator=rng))):
        above = ((), *[path for path in paths if len(path) < depth])[
            int(torch.randint(0, 1 + sum(len(path) < depth for path in paths), (), generator=rng))
        ]
        path = (*above, int(torch.randint(0, ranks, (), generator=rng)))
        if path not in paths:
            paths.append(path)
    return TreeShape.of(paths).label


def trees(seed: int) -> tuple[Drafter, ...]:
    """One of each kind."""
    return HeadTree(random_shape(seed)), DynamicTree(1 + seed % D, 1 + seed % 5, 1 + 7 * seed % 64)
