"""Groups of alike tokens: exact on the groups, by enumeration, and found as connected components."""

import itertools

import enumerate as whole
import pytest
import tiny
import torch
from enumerate import Distributions, Drafts, Node, Prefix, distance, joint, outputs, random_distributions
from judge import ByRule, as_draft, kept

from speechmtp.decoding.rules.groups import GroupMatch, Groups, alike_groups
from speechmtp.decoding.rules.ratio import Ratio
from speechmtp.errors import ShapeError
from speechmtp.types import Draft

# Groups: tokens 0 and 3 are alike, 1 and 4, and 2 is alone.
GROUPS = (0, 1, 2, 0, 1)


def by_group(seed: int, shares: int) -> Distributions:
    """Distributions that depend on the groups of the prefix alone; members share a group's probability as `shares`
    says."""
    coarse = random_distributions(seed, 3)

    def probs(prefix: Prefix) -> whole.Distribution:
        place = tuple(GROUPS[token] for token in prefix)
        group, split = coarse(place), random_distributions(shares, 5)(place)
        total = [sum(s for s, g in zip(split, GROUPS) if g == number) for number in range(3)]
        return [group[g] * s / total[g] for s, g in zip(split, GROUPS)]

    return probs


def coarse(probs: dict[Prefix, float]) -> dict[Prefix, float]:
    """The same of groups."""
    found: dict[Prefix, float] = {}
    for tokens, chance in probs.items():
        place = tuple(GROUPS[token] for token in tokens)
        found[place] = found.get(place, 0.0) + chance
    return found


@pytest.mark.parametrize(("shapes", "how"), [(((-1, 0), (-1,)), "with"), (((-1, -1, 0),), "with"),
                                             (((-1, -1, 0),), "without"), (((-1, -1, 0),), "top")])  # fmt: skip
def test_groups_are_exact_on_groups(shapes: tuple[tuple[int, ...], ...], how: str) -> None:
    rule = Groups(torch.tensor(GROUPS))
    target, draft = by_group(5, 2), by_group(3, 7)
    chain = len(shapes) > 1
    found = outputs(ByRule(rule, how != "top", chain), target, Drafts(draft, shapes, how), 3)
    assert distance(coarse(found), coarse(joint(target, 3))) < 1e-12
    assert distance(found, joint(target, 3)) > 0.01 and not rule.exact, "which member is heard is the drafter's choice"
    if chain:
        ours, ratio = (kept(r, target, Drafts(draft, shapes)) for r in (rule, Ratio()))
        assert ours > ratio + 0.01


def test_groups_where_nothing_is_drawn() -> None:
    match = Groups(torch.tensor(GROUPS)).greedy()
    assert isinstance(match, GroupMatch)
    target = torch.tensor([[[0.0, 0, 0, 9, 0]] * 4])
    draft = Draft(torch.tensor([[0, 3, 1]]), torch.tensor([[-1, 0, 1]]))
    stop, follow = match.distributions(target, draft)
    assert stop.tolist() == [[0, 0, 1, 0]] and follow.argmax(-1).tolist() == [[3] * 4]


def test_alike_groups_are_connected_components() -> None:
    vectors = torch.randn(60, 3, generator=tiny.generator(0), dtype=torch.float64)
    vectors[7] = 0
    for similarity in (0.7, 0.9, 0.97):
        unit = [v / v.norm() if v.norm() > 0 else v for v in vectors]
        group = list(range(60))
        for i, j in itertools.combinations(range(60), 2):
            if float(unit[i] @ unit[j]) > similarity:
                old, new = max(group[i], group[j]), min(group[i], group[j])
                group = [new if g == old else g for g in group]
        numbers = {g: n for n, g in enumerate(sorted(set(group)))}
        found = alike_groups(vectors, similarity)
        assert found.tolist() == [numbers[g] for g in group] and found.dtype == torch.int64
        assert 1 < len(numbers) < 60
    centres = torch.eye(8)[torch.arange(2100) % 8] + 0.01 * torch.randn(2100, 8, generator=tiny.generator(1))
    assert alike_groups(centres, 0.9).tolist() == [i % 8 for i in range(2100)], "more than one part at a time"
    assert alike_groups(centres[:9], 1.0).tolist() == list(range(9))


def test_groups_of_another_vocabulary_are_refused() -> None:
    for rule in (Groups(torch.zeros(4).long()), GroupMatch(torch.zeros(4).long())):
        with pytest.raises(ShapeError, match="groups: of 4 tokens, expected 3"):
            rule.distributions(torch.zeros(1, 2, 3), as_draft([[Node(0, [], -1)]], 3, False, True))
    with pytest.raises(ShapeError, match="expected"):
        alike_groups(torch.zeros(3), 0.5)
