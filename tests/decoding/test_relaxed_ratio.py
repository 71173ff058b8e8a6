"""Ratio rules that leave the trunk's distribution: mixtures, excused refusals, thresholds; against plain loops."""

import itertools
import math
from collections.abc import Callable

import enumerate as whole
import pytest
import torch
from enumerate import Distribution, Drafts, Node, Prefix, Verdict, distance, joint, outputs, random_distributions
from judge import ByRule, as_draft

from speechmtp.decoding.rules.ensemble import Ensemble
from speechmtp.decoding.rules.entropy_window import EntropyWindow, GreedyEntropyWindow
from speechmtp.decoding.rules.greedy_match import GreedyMatch
from speechmtp.decoding.rules.thresholds import Thresholds
from speechmtp.errors import ConfigError

CHAIN = (-1, 0, 1, 2)
TREE = (-1, -1, 0, 0, 1, 3)


@pytest.mark.parametrize("how", ["with", "without"])
@pytest.mark.parametrize(("shape", "total"), [((-1, 0, 1), 3), ((-1, -1, 0, 1), 2)])
@pytest.mark.parametrize("weight", [0.0, 0.4, 1.0])
def test_ensemble_draws_from_the_mixture(weight: float, shape: tuple[int, ...], total: int, how: str) -> None:
    """Every token of the output was drafted for: a draft is as long as what is looked at."""
    target, distributions = random_distributions(1, 3, zeros=0.2), random_distributions(2, 3)

    def mixed(prefix: Prefix) -> Distribution:
        return [weight * p + (1 - weight) * q for p, q in zip(target(prefix), distributions(prefix))]

    found = outputs(ByRule(Ensemble(weight), True, total == 3), target, Drafts(distributions, (shape,), how), total)
    assert distance(found, joint(mixed, total)) < 1e-12
    first = joint(mixed, 1)
    ours, theirs = joint(target, 1), joint(distributions, 1)
    assert distance(first, ours) == pytest.approx((1 - weight) * distance(theirs, ours))


def window(size: int, least: float) -> Callable[[list[Distribution], list[Node]], Verdict]:
    """Throw the coins of all nodes; walk until a refused token that nothing excuses."""

    def verdict(p: list[Distribution], nodes: list[Node]) -> Verdict:
        n = len(nodes)
        chances = [min(1.0, p[i][node.token] / node.q[node.token]) for i, node in enumerate(nodes)]
        unsure = [-sum(x * math.log(x) for x in sorted(probs)[-3:] if x > 0) >= least for probs in p]
        stop = [0.0] * (n + 1)
        for coins in itertools.product((True, False), repeat=n):
            at = 0
            while at < n and (coins[at] or (unsure[at] and at + size < n and all(coins[at + 1 : at + 1 + size]))):
                at += 1
            stop[at] += math.prod(c if coin else 1 - c for c, coin in zip(chances, coins))
        return stop, [whole.surplus(p[i], nodes[i].q) for i in range(n)] + [p[n]]

    return verdict


@pytest.mark.parametrize(("size", "least"), [(1, 0.0), (2, 0.6), (1, 0.8), (3, 0.0), (4, 0.0)])
def test_window_equals_throwing_all_coins(size: int, least: float) -> None:
    target, drafts = random_distributions(1, 4), Drafts(random_distributions(2, 4), (CHAIN,))
    made = [nodes for _, nodes in drafts.all((), 0)][::5]
    longer = 0.0
    for nodes, (stop, follow) in zip(made, ByRule(EntropyWindow(size, least), True, True, absent=2)(target, (), made)):
        p = whole.targets(target, (), nodes)
        wanted, distributions = window(size, least)(p, nodes)
        assert stop == pytest.approx(wanted, abs=1e-12)
        for slot, chance in enumerate(wanted):
            assert chance < 1e-9 or follow[slot] == pytest.approx(distributions[slot], abs=1e-9)
        longer += sum(n * (a - b) for n, (a, b) in enumerate(zip(stop, whole.ratio(p, nodes)[0])))
    assert longer > 0.01 if size < 4 else abs(longer) < 1e-9, "a window that no draft fills is the exact rule"


def test_window_where_nothing_is_drawn() -> None:
    rule = EntropyWindow(1, 0.5).greedy()
    assert isinstance(rule, GreedyEntropyWindow)
    unsure, sure = [0.5, 0.4, 0.1], [0.98, 0.01, 0.01]
    for distributions, tokens, slot in (
        ([unsure, sure, sure, sure], [1, 0, 0], 3), ([sure, sure, sure, sure], [1, 0, 0], 0),
        ([unsure, unsure, sure, sure], [1, 1, 0], 0), ([sure, unsure, unsure, sure], [0, 0, 1], 2),
    ):  # fmt: skip
        nodes = [Node(token, [], i - 1) for i, token in enumerate(tokens)]
        stop, follow = rule.distributions(torch.tensor([distributions]).log(), as_draft([nodes], 3, False, True))
        assert stop.argmax(1).tolist() == [slot] and stop.sum() == 1 and follow[0, slot].argmax() == 0
    with pytest.raises(ConfigError, match="window: a tree"):
        rule.distributions(torch.zeros(1, 1, 3), as_draft([[]], 3, False, False))


def thresholds(single: float, acc: float) -> Callable[[list[Distribution], list[Node]], Verdict]:
    """One coin a node, tried in the middle of every interval in which nothing changes."""

    def verdict(p: list[Distribution], nodes: list[Node]) -> Verdict:
        stop, follow = [0.0] * len(p), [list(probs) for probs in p]

        def visit(slot: int, reached: float) -> None:
            children = [i for i, node in enumerate(nodes) if node.parent == slot - 1]
            sums = [sum(p[slot][nodes[j].token] for j in children[: k + 1]) for k in range(len(children))]
            edges = sorted({0.0, 1.0, *(min(1.0, s / acc) for s in sums)})
            for low, high in itertools.pairwise(edges):
                coin = (low + high) / 2
                chosen = next((i for i, s in zip(children, sums)
                               if coin <= s / acc or p[slot][nodes[i].token] >= single), None)  # fmt: skip
                if chosen is None:
                    stop[slot] += reached * (high - low)
                else:
                    visit(chosen + 1, reached * (high - low))
            for i in children:
                follow[slot][nodes[i].token] = 0.0
            follow[slot] = whole.norm(follow[slot]) if sum(follow[slot]) else p[slot]

        visit(0, 1.0)
        return stop, follow

    return verdict


@pytest.mark.parametrize(("single", "acc"), [(1.0, 1.0), (0.4, 1.0), (1.0, 0.6), (0.5, 0.7)])
@pytest.mark.parametrize("shape", [CHAIN, TREE])
def test_thresholds_equal_a_plain_loop(single: float, acc: float, shape: tuple[int, ...]) -> None:
    rule = Thresholds(single, acc)
    assert rule.exact == (single == acc == 1) and isinstance(rule.greedy(), GreedyMatch)
    target, drafts = random_distributions(3, 4, gain=1.0), Drafts(random_distributions(4, 4), (shape,), "without")
    made = [nodes for _, nodes in drafts.all((), 0)][:: 29 if shape == TREE else 1]
    for nodes, (stop, follow) in zip(made, ByRule(rule, False, shape == CHAIN, absent=1)(target, (), made)):
        wanted, distributions = thresholds(single, acc)(whole.targets(target, (), nodes), nodes)
        assert stop == pytest.approx(wanted, abs=1e-12)
        for slot, chance in enumerate(wanted):
            assert chance < 1e-9 or follow[slot] == pytest.approx(distributions[slot], abs=1e-9)
    probs = outputs(ByRule(rule, False, shape == CHAIN), target, Drafts(random_distributions(4, 4), (shape,), "top"), 3)
    assert (distance(probs, joint(target, 3)) < 1e-12) == rule.exact
