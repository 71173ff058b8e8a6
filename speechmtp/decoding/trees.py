"""Shapes of draft trees, and how to grow a shape from measured acceptance rates."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from heapq import heappop, heappush
from itertools import accumulate

from speechmtp.errors import ConfigError

MAX_NODES = 256
MAX_DRAFT = 1024  # tokens that a row may draft in one call
RANKS = 10  # a rank is written as one digit

Path = tuple[int, ...]
Acceptance = Sequence[Sequence[float]] | Callable[[int, int], float]


@dataclass(frozen=True)
class TreeShape:
    """A draft tree as paths of ranks: (0, 2) is the third choice after the first choice. Nodes are sorted by level,
    siblings by rank, so that parents come before their children and siblings in the order of sampling."""

    paths: tuple[Path, ...]

    @classmethod
    def parse(cls, text: str) -> "TreeShape":
        """Parse a shape from its `label`, such as `0.00.1`; parents must come before their children. ConfigError for a
        wrong path or too many nodes."""
        found: dict[str, Path] = {}
        for part in text.split("."):
            if not (part.isascii() and part.isdigit()):
                raise ConfigError(f"tree: path {part!r}, expected ranks from 0 to 9 as in 0.00.1")
            if part in found:
                raise ConfigError(f"tree: path {part} twice, expected each path once")
            if len(part) > 1 and part[:-1] not in found:
                raise ConfigError(
                    f"tree: path {part} without {part[:-1]} before it; list parents before their children"
                )
            found[part] = tuple(map(int, part))
        if len(found) > MAX_NODES:
            raise ConfigError(f"tree: {len(found)} nodes, expected at most {MAX_NODES}")
        return cls.of(found.values())

    @classmethod
    def of(cls, paths: Iterable[Path]) -> "TreeShape":
        """A shape of paths in any order; the parent of every path must be among them."""
        return cls(tuple(sorted(paths, key=lambda path: (len(path), path))))

    @property
    def label(self) -> str:
        """The shape as text, as the option `paths` of a strategy has it."""
        return ".".join("".join(map(str, path)) for path in self.paths)

    @property
    def depth(self) -> int:
        """The deepest level, counted from 1 directly after the base token; 0 without nodes."""
        return len(self.paths[-1]) if self.paths else 0

    @cached_property
    def width(self) -> int:
        """Number of ranks in use."""
        return 1 + max((path[-1] for path in self.paths), default=-1)

    @cached_property
    def parents(self) -> tuple[int, ...]:
        """The index of each node's parent, -1 for the base token."""
        index = {path: node for node, path in enumerate(self.paths)}
        return tuple(index.get(path[:-1], -1) for path in self.paths)

    @cached_property
    def chain(self) -> bool:
        """Whether the tree is a chain: every node's parent is the node before it."""
        return self.parents == tuple(range(-1, len(self.paths) - 1))

    @cached_property
    def levels(self) -> tuple[tuple[int, ...], ...]:
        """The node indices of each level."""
        found: list[list[int]] = [[] for _ in range(self.depth)]
        for node, path in enumerate(self.paths):
            found[len(path) - 1].append(node)
        return tuple(map(tuple, found))

    def cut(self, depth: int) -> "TreeShape":
        """The shape without nodes deeper than `depth`."""
        return self if depth >= self.depth else _cut(self, depth)


@lru_cache(maxsize=64)
def _cut(shape: TreeShape, depth: int) -> TreeShape:
    return TreeShape(tuple(path for path in shape.paths if len(path) <= depth))


def grow(acceptance: Acceptance, nodes: int, cost: Callable[[int], float] | None = None) -> TreeShape:
    """Grow the tree of at most `nodes` nodes with the most expected tokens (Medusa, arXiv 2401.10774, calibrated
    trees).

    `acceptance` gives for depth d and rank j, both from 0, how often that token is right if its path is right: a table
    [D][J], or a function that returns 0 beyond the deepest level. It must not rise with the rank. The value of a node
    is the product of these rates along its path. Nodes are added by value; the first child and the next sibling of an
    added node become candidates. With `cost`, the time of a call with n drafted nodes, the tree ends where the expected
    tokens per time are highest: if `cost` is convex, before the first node whose gain is below its cost. ConfigError if
    `nodes` is out of range.
    """
    if not 1 <= nodes <= MAX_NODES:
        raise ConfigError(f"tree: {nodes} nodes, expected 1 to {MAX_NODES}")
    rate = acceptance if callable(acceptance) else _from_table(acceptance)
    waiting: list[tuple[float, Path, float]] = []

    def offer(path: Path, above: float) -> None:
        value = above * rate(len(path) - 1, path[-1]) if path[-1] < RANKS else 0.0
        if value > 0:
            heappush(waiting, (-value, path, above))

    offer((0,), 1.0)
    paths: list[Path] = []
    values: list[float] = []
    while waiting and len(paths) < nodes:
        value, path, above = heappop(waiting)
        paths.append(path)
        values.append(-value)
        offer((*path, 0), -value)
        offer((*path[:-1], path[-1] + 1), above)
    if cost is not None:
        tokens = list(accumulate(values, initial=1.0))
        paths = paths[: max(range(len(tokens)), key=lambda n: tokens[n] / cost(n))]
    return TreeShape.of(paths)


def _from_table(table: Sequence[Sequence[float]]) -> Callable[[int, int], float]:
    return lambda d, j: float(table[d][j]) if d < len(table) and j < len(table[d]) else 0.0
