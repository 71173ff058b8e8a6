"""Rules that leave the trunk's distribution: each is what its paper says, in a plain loop, and says that it is not
exact."""

import math
from collections.abc import Callable

import enumerate as whole
import pytest
import tiny
import torch
from enumerate import Distribution, Drafts, Node, Verdict, distance, joint, outputs, random_distributions
from judge import ByRule, as_draft

from speechmtp.decoding.noise import Noise
from speechmtp.decoding.rules.contract import AcceptanceRule, draw_outcome
from speechmtp.decoding.rules.distance import Distance
from speechmtp.decoding.rules.ensemble import Ensemble
from speechmtp.decoding.rules.entropy_window import EntropyWindow
from speechmtp.decoding.rules.groups import GroupMatch, Groups, alike_groups
from speechmtp.decoding.rules.joint_ratio import JointRatio
from speechmtp.decoding.rules.keep_draft import KeepDraft
from speechmtp.decoding.rules.min_block import MinBlock
from speechmtp.decoding.rules.ratio import Ratio
from speechmtp.decoding.rules.threshold import Threshold
from speechmtp.decoding.rules.thresholds import Thresholds
from speechmtp.decoding.rules.top_k import TopK
from speechmtp.decoding.rules.typical import Typical
from speechmtp.errors import ConfigError

CHAIN = (-1, 0, 1, 2)
TREE = (-1, -1, 0, 0, 1, 3)

Stays = Callable[[list[Distribution], list[Node], int], bool]


def best(probs: Distribution) -> int:
    """The likeliest token."""
    return max(range(len(probs)), key=lambda v: probs[v])


def typical(epsilon: float, delta: float) -> Stays:
    """Medusa's criterion."""

    def stays(p: list[Distribution], nodes: list[Node], i: int) -> bool:
        probs = p[nodes[i].parent + 1]
        uncertainty = -sum(x * math.log(x) for x in probs if x > 0)
        return probs[nodes[i].token] > min(epsilon, delta * math.exp(-uncertainty))

    return stays


def product(p: list[Distribution], nodes: list[Node], i: int) -> float:
    """The trunk's probability of all from the root to a node."""
    return math.prod(p[nodes[j].parent + 1][nodes[j].token] for j in whole.path(nodes, i))


def among(k: int) -> Stays:
    """In the trunk's best k."""

    def stays(p: list[Distribution], nodes: list[Node], i: int) -> bool:
        probs = p[nodes[i].parent + 1]
        return probs[nodes[i].token] > 0 and sum(x > probs[nodes[i].token] for x in probs) < k

    return stays


def near(most: int) -> Stays:
    """At most so far from the trunk's choice."""
    return lambda p, nodes, i: abs(nodes[i].token - best(p[nodes[i].parent + 1])) <= most


def early(least: int) -> Stays:
    """Among the first, or the trunk's choice."""
    return lambda p, nodes, i: len(whole.path(nodes, i)) <= least or near(0)(p, nodes, i)


def deepest(stays: Stays) -> Callable[[list[Distribution], list[Node]], Verdict]:
    """The deepest path on which all stays, the first of equally deep ones."""

    def verdict(p: list[Distribution], nodes: list[Node]) -> Verdict:
        slot, depth = 0, 0
        for i in range(len(nodes)):
            path = whole.path(nodes, i)
            if len(path) > depth and all(stays(p, nodes, j) for j in path):
                slot, depth = i + 1, len(path)
        return whole.one_hot_verdict(slot, p)

    return verdict


KEEPING: dict[str, tuple[AcceptanceRule, Stays]] = {
    "typical": (Typical(), typical(0.09, 0.3)),
    "typical, strict": (Typical(epsilon=0.5, delta=0.9), typical(0.5, 0.9)),
    "threshold": (Threshold(0.3), lambda p, n, i: p[n[i].parent + 1][n[i].token] >= 0.3),
    "threshold, product": (Threshold(0.15, "product"), lambda p, n, i: product(p, n, i) >= 0.15),
    "top-k 1": (TopK(1), among(1)),
    "top-k 2": (TopK(2), among(2)),
    "top-k of more than there are": (TopK(9), among(9)),
    "distance": (Distance(1), near(1)),
    "min-block": (MinBlock(2), early(2)),
}  # fmt: skip


@pytest.mark.parametrize("shape", [CHAIN, TREE])
@pytest.mark.parametrize("name", KEEPING)
def test_fault_07_rules_that_keep_equal_plain_loops(name: str, shape: tuple[int, ...]) -> None:
    """Typical acceptance with its two parameters, on chains and on trees, drawn and not drawn, is called here."""
    rule, stays = KEEPING[name]
    assert not rule.exact and rule.greedy() is rule
    depths = set()
    for seed, zeros in enumerate((0.0, 0.0, 0.3)):
        target, drafts = (
            random_distributions(seed, 4, zeros, gain=1.0),
            Drafts(random_distributions(9 + seed, 4), (shape,)),
        )
        made = [nodes for _, nodes in drafts.all((), 0)][:: 11 if shape == TREE else 1]
        verdicts = ByRule(rule, False, shape == CHAIN, absent=seed)(target, (), made)
        for nodes, (stop, follow) in zip(made, verdicts):
            wanted, _ = deepest(stays)(whole.targets(target, (), nodes), nodes)
            assert stop == wanted
            slot = wanted.index(1)
            probs = whole.targets(target, (), nodes)[slot]
            chosen = whole.one_hot(best(probs), 4) if rule.draws == "shared" else probs
            assert follow[slot] == pytest.approx(chosen, abs=1e-12)
            depths.add(len(whole.path(nodes, slot - 1)))
    assert len(depths) >= 2, "instances that tell rules apart"


@pytest.mark.parametrize("rule", [rule for rule, _ in KEEPING.values()])
def test_fault_07_drawn_and_undrawn_branches_agree_on_what_is_kept(rule: AcceptanceRule) -> None:
    target, distributions = random_distributions(2, 4), Drafts(random_distributions(3, 4), (TREE,))
    made = [nodes for _, nodes in distributions.all((), 0)][::50]
    draft = as_draft(made, 4, False, False)
    logits = torch.tensor([whole.targets(target, (), nodes) for nodes in made]).log()
    noise = Noise(torch.zeros(len(made)).long(), torch.arange(len(made)))
    drawn = rule.accept(logits, draft, noise, torch.zeros(len(made)).long())
    plain = rule.accept(logits, draft, None, None)
    settled = draw_outcome(*rule.distributions(logits, draft), draft)
    assert torch.equal(drawn.path, plain.path) and torch.equal(plain.path, settled.path)
    assert torch.equal(plain.next, settled.next)


def test_fault_07_typical_takes_its_parameters_by_name_only() -> None:
    with pytest.raises(TypeError):
        Typical(0.09, 0.3)  # type: ignore[misc]
    assert (Typical().epsilon, Typical().delta) == (0.09, 0.3)
    assert Typical(epsilon=0.3, delta=0.09) != Typical(delta=0.3, epsilon=0.09)


@pytest.mark.parametrize("rule", [Typical(), Threshold(0.1), TopK(2), Distance(1), MinBlock(1), JointRatio(0.5)])
def test_lossy_rules_are_far_from_the_trunks_distribution(rule: AcceptanceRule) -> None:
    target = random_distributions(0, 3)
    found = outputs(ByRule(rule, True, True), target, Drafts(random_distributions(1, 3), ((-1, 0, 1), (-1,))), 4)
    assert math.fsum(found.values()) == pytest.approx(1, abs=1e-12)
    assert distance(found, joint(target, 4)) > 0.05 and not rule.exact


def joint_ratio(tau: float) -> Callable[[list[Distribution], list[Node]], Verdict]:
    """Deepest level on which a path beats the drafter's likeliest path of that level; there the trunk's likeliest."""

    def verdict(p: list[Distribution], nodes: list[Node]) -> Verdict:
        paths = [whole.path(nodes, i) for i in range(len(nodes))]
        ours = [product(p, nodes, i) for i in range(len(nodes))]
        theirs = [math.prod(nodes[j].q[nodes[j].token] for j in path) for path in paths]
        for depth in range(max(map(len, paths)), 0, -1):
            level = [i for i, path in enumerate(paths) if len(path) == depth]
            most = max(theirs[i] for i in level)
            passed = [i for i in level if ours[i] > tau * most]
            if passed:
                return whole.one_hot_verdict(max(passed, key=lambda i: ours[i]) + 1, p)
        return whole.one_hot_verdict(0, p)

    return verdict


@pytest.mark.parametrize("tau", [0.2, 0.5, 1.0])
@pytest.mark.parametrize("shape", [CHAIN, TREE])
def test_joint_ratio_equals_a_plain_loop(tau: float, shape: tuple[int, ...]) -> None:
    target, drafts = random_distributions(5, 3, zeros=0.1), Drafts(random_distributions(6, 3), (shape,))
    made = [nodes for _, nodes in drafts.all((), 0)]
    slots = set()
    for nodes, (stop, _) in zip(made, ByRule(JointRatio(tau), True, shape == CHAIN, absent=1)(target, (), made)):
        assert stop == joint_ratio(tau)(whole.targets(target, (), nodes), nodes)[0]
        slots.add(stop.index(1))
    assert len(slots) > 3


def test_joint_ratio_keeps_a_prefix_behind_one_that_fails() -> None:
    target = [[0.3, 0.7], [0.9, 0.1], [0.5, 0.5]]
    nodes = [Node(0, [0.7, 0.3], -1), Node(0, [0.2, 0.8], 0)]
    draft = as_draft([nodes], 2, True, True)
    logits = torch.tensor([target]).log()
    assert JointRatio(0.5).distributions(logits, draft)[0].tolist() == [[0, 0, 1]], (
        "0.27 > 0.5 x 0.14, though 0.3 < 0.5 x 0.7"
    )
    assert JointRatio().greedy() == JointRatio()
    with pytest.raises(ConfigError, match="drafter without probabilities"):
        JointRatio().distributions(logits, as_draft([nodes], 2, False, True))
    empty = as_draft([[]], 2, False, True)
    assert JointRatio().distributions(logits[:, :1], empty)[0].tolist() == [[1]]


BAD: list[tuple[Callable[[], object], str]] = [
    (lambda: Typical(epsilon=0.0), "typical: epsilon=0.0, expected a number above 0, at most 1"),
    (lambda: Typical(delta=-1.0), "typical: delta=-1.0, expected a number above 0"),
    (lambda: Threshold(1.5), "threshold: theta=1.5, expected a number from 0 to 1"),
    (lambda: Threshold(float("nan")), "threshold: theta=nan, expected a number from 0 to 1"),
    (lambda: Threshold(0.5, "sum"), "threshold: measure='sum', expected token or product"),  # type: ignore[arg-type]
    (lambda: TopK(0), "top-k: k=0, expected 1 or more"),
    (lambda: Distance(-1), "distance: most=-1, expected 0 to"),
    (lambda: MinBlock(0), "min-block: least=0, expected 1 to"),
    (lambda: JointRatio(0.0), "joint-ratio: tau=0.0, expected a number above 0"),
    (lambda: Ensemble(1.1), "ensemble: weight=1.1, expected a number from 0 to 1"),
    (lambda: EntropyWindow(0, 0.3), "window: size=0, expected 1 to"),
    (lambda: EntropyWindow(3, -0.1), "window: entropy=-0.1, expected 0 or more"),
    (lambda: Thresholds(0.0, 1.0), "thresholds: single=0.0, expected a number above 0, at most 1"),
    (lambda: Thresholds(1.0, 2.0), "thresholds: acc=2.0, expected a number above 0, at most 1"),
    (lambda: Ensemble(0.5).greedy(), "ensemble: temperature 0, expected one above 0"),
    (lambda: Groups(torch.tensor([0, -1])), "groups: .* expected int64 .V. of 0 or more"),
    (lambda: GroupMatch(torch.tensor([0.0, 1.0])), "groups: .* expected int64 .V. of 0 or more"),
    (lambda: alike_groups(torch.zeros(3, 2), 2.0), "groups: similarity=2.0, expected a number from -1 to 1"),
]


@pytest.mark.parametrize(("make", "words"), BAD)
def test_bad_options_get_one_line(make: Callable[[], object], words: str) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        make()
    assert "\n" not in str(caught.value)


def test_rules_without_a_draft_follow_the_trunk() -> None:
    logits = torch.randn(2, 1, 5, generator=tiny.generator(4), dtype=torch.float64)
    every = [rule for rule, _ in KEEPING.values()]
    every += [Ratio(), KeepDraft(), JointRatio(), Ensemble(0.5), EntropyWindow(2, 0.1), Thresholds(0.5, 0.5)]
    every += [Groups(torch.zeros(5).long()), GroupMatch(torch.zeros(5).long())]
    for rule in every:
        stop, follow = rule.distributions(logits, as_draft([[], []], 5, False, True))
        assert stop.tolist() == [[1], [1]]
        probs = (
            torch.nn.functional.one_hot(logits.argmax(-1), 5).double() if rule.draws == "shared" else logits.softmax(-1)
        )
        assert torch.allclose(follow, probs, atol=1e-12, rtol=0)
