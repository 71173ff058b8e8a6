"""Output distributions by enumeration, and acceptance rules in plain loops over one row: no code of the package in
either."""

import math
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache

Distribution = list[float]
Prefix = tuple[int, ...]
Distributions = Callable[[Prefix], Distribution]


def random_distributions(seed: int, vocab: int, zeros: float = 0.0, gain: float = 1.5) -> Distributions:
    """A distribution for every prefix, with some impossible tokens."""

    @cache
    def probs(prefix: Prefix) -> Distribution:
        rng = random.Random(f"{seed} {prefix}")
        weights = [0.0 if rng.random() < zeros else math.exp(gain * rng.gauss(0, 1)) for _ in range(vocab)]
        if not sum(weights):
            weights[rng.randrange(vocab)] = 1.0
        return norm(weights)

    return probs


def norm(weights: Distribution) -> Distribution:
    """Weights over their sum."""
    total = math.fsum(weights)
    return [weight / total for weight in weights]


def one_hot(token: int, vocab: int) -> Distribution:
    """All on one token."""
    return [float(v == token) for v in range(vocab)]


def surplus(p: Distribution, q: Distribution) -> Distribution:
    """norm(p - q)+, or p if nothing is left."""
    rest = [max(0.0, a - b) for a, b in zip(p, q)]
    return norm(rest) if sum(rest) > 0 else p


def joint(distributions: Distributions, total: int) -> dict[Prefix, float]:
    """The distribution of the first `total` tokens."""
    found: dict[Prefix, float] = {(): 1.0}
    for _ in range(total):
        found = {(*x, v): w * p for x, w in found.items() for v, p in enumerate(distributions(x)) if p > 0}
    return found


def distance(first: dict[Prefix, float], second: dict[Prefix, float]) -> float:
    """Total variation."""
    return 0.5 * math.fsum(abs(first.get(x, 0.0) - second.get(x, 0.0)) for x in first.keys() | second.keys())


@dataclass(frozen=True)
class Node:
    """A drafted token, the distribution it was drawn from, and its parent (-1: the base token)."""

    token: int
    q: Distribution
    parent: int


@dataclass(frozen=True)
class Drafts:
    """How drafts are made: `shapes` are the parents of a round's nodes, taken in turn; siblings are drawn `with` or
    `without` replacement or are the likeliest in turn (`top`). A draft may `end` behind a token that it keeps."""

    distributions: Distributions
    shapes: tuple[tuple[int, ...], ...]
    how: str = "with"
    end: int | None = None

    def all(self, prefix: Prefix, turn: int) -> Iterator[tuple[float, list[Node]]]:
        """Every draft behind `prefix` with its probability."""
        yield from self._grown(prefix, self.shapes[turn % len(self.shapes)], [])

    def _grown(self, prefix: Prefix, shape: tuple[int, ...], nodes: list[Node]) -> Iterator[tuple[float, list[Node]]]:
        if len(nodes) == len(shape) or (nodes and nodes[-1].token == self.end):
            yield 1.0, nodes
            return
        parent = shape[len(nodes)]
        probs = self.distributions((*prefix, *(nodes[i].token for i in path(nodes, parent))))
        taken = [node.token for node in nodes if node.parent == parent]
        if self.how == "top":
            best = max((v for v in range(len(probs)) if v not in taken), key=lambda v: probs[v])
            yield from self._grown(prefix, shape, [*nodes, Node(best, one_hot(best, len(probs)), parent)])
            return
        if self.how == "without" and taken:
            probs = [0.0 if v in taken else p for v, p in enumerate(probs)]
            if not sum(probs):  # nothing is left to draw: some token, which cannot have been drawn
                some = min(v for v in range(len(probs)) if v not in taken)
                yield from self._grown(prefix, shape, [*nodes, Node(some, probs, parent)])
                return
            probs = norm(probs)
        for token, chance in enumerate(probs):
            if chance > 0:
                for weight, draft in self._grown(prefix, shape, [*nodes, Node(token, probs, parent)]):
                    yield chance * weight, draft


def path(nodes: list[Node], node: int) -> list[int]:
    """Node numbers from the root to `node`."""
    found: list[int] = []
    while node >= 0:
        found.insert(0, node)
        node = nodes[node].parent
    return found


# A rule gives, for drafts behind a prefix, each one's `stop` [P + 1] and `follow` [P + 1][V].
Verdict = tuple[Distribution, list[Distribution]]
Judge = Callable[[Distributions, Prefix, list[list[Node]]], list[Verdict]]


def outputs(judge: Judge, target: Distributions, drafts: Drafts, total: int) -> dict[Prefix, float]:
    """The distribution of the first `total` tokens that rounds of drafting and judging give."""
    known: dict[tuple[Prefix, int], dict[Prefix, float]] = {}

    def rest(prefix: Prefix, turn: int) -> dict[Prefix, float]:
        if len(prefix) >= total:
            return {prefix[:total]: 1.0}
        turn %= len(drafts.shapes)
        if (prefix, turn) not in known:
            found: dict[Prefix, float] = {}
            weights, made = zip(*drafts.all(prefix, turn))
            for weight, nodes, (stop, follow) in zip(weights, made, judge(target, prefix, list(made))):
                for slot, chance in enumerate(stop):
                    if chance > 0:
                        kept = (*prefix, *(nodes[i].token for i in path(nodes, slot - 1)))
                        for token, p in enumerate(follow[slot]):
                            if p > 0:
                                for x, w in rest((*kept, token), turn + 1).items():
                                    found[x] = found.get(x, 0.0) + weight * chance * p * w
            known[prefix, turn] = found
        return known[prefix, turn]

    return rest((), 0)


def targets(target: Distributions, prefix: Prefix, nodes: list[Node]) -> list[Distribution]:
    """The trunk's distribution behind the base token and behind each node."""
    return [target((*prefix, *(nodes[i].token for i in path(nodes, node)))) for node in range(-1, len(nodes))]


def ratio(p: list[Distribution], nodes: list[Node]) -> Verdict:
    """Rejection sampling, siblings in turn."""
    left = [list(probs) for probs in p]
    stop = [0.0] * len(p)

    def visit(slot: int, reached: float) -> None:
        for i, node in enumerate(nodes):
            if node.parent == slot - 1:
                r = left[slot]
                if not node.q[node.token]:
                    continue
                chance = min(1.0, r[node.token] / node.q[node.token])
                left[slot] = surplus(r, node.q)
                visit(i + 1, reached * chance)
                reached *= 1 - chance
        stop[slot] = reached

    visit(0, 1.0)
    return stop, left


def block(p: list[Distribution], nodes: list[Node]) -> Verdict:
    """Block verification of a chain: the coins of all nodes, the deepest success."""
    n = len(nodes)
    product = [1.0]
    for i, node in enumerate(nodes):
        product.append(min(1.0, product[-1] * p[i][node.token] / node.q[node.token]))
    chance, follow = [1.0], []
    for i in range(n):
        follow.append(surplus([product[i] * x for x in p[i]], nodes[i].q) if product[i] > 0 else p[i])
    follow.append(p[n])
    for i in range(1, n):
        s = math.fsum(max(0.0, product[i] * a - b) for a, b in zip(p[i], nodes[i].q))
        chance.append(s / (s + 1 - product[i]) if s + 1 - product[i] > 0 else 1.0)
    chance.append(product[n])
    chance = chance[: n + 1] if n else [1.0]
    stop, none_behind = [0.0] * (n + 1), 1.0
    for i in range(n, -1, -1):
        stop[i] = chance[i] * none_behind
        none_behind *= 1 - chance[i]
    return stop, follow


def one_hot_verdict(slot: int, p: list[Distribution]) -> Verdict:
    """Stop at one slot for sure; the trunk's distribution follows."""
    return one_hot(slot, len(p)), p
