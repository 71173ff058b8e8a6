"""Rules that claim the trunk's distribution give it, over several rounds of drafts, by enumeration."""

import math

import enumerate as whole
import pytest
import torch
from enumerate import Distributions, Drafts, Node, Prefix, Verdict, distance, joint, outputs, random_distributions
from judge import ByRule, as_draft, kept

from speechmtp.decoding.rules.block_verification import BlockVerification
from speechmtp.decoding.rules.contract import AcceptanceRule, draw_outcome
from speechmtp.decoding.rules.greedy_match import GreedyMatch
from speechmtp.decoding.rules.k_seq import KSeq
from speechmtp.decoding.rules.ratio import Ratio
from speechmtp.decoding.rules.sample_match import SampleMatch
from speechmtp.decoding.rules.thresholds import Thresholds
from speechmtp.errors import ConfigError

CHAINS = ((-1, 0, 1), (-1,), (), (-1, 0))
BUSHES = ((-1, -1, 0, 0, 1), (-1, -1, -1), (-1, 0, 0))
NARROW = ((-1, -1, 0, 0), (-1, 0), (-1, -1))


EXACT = {
    "ratio, chains": (Ratio(), CHAINS, "with", True),
    "ratio, one-hot chains": (Ratio(), CHAINS, "top", True),
    "ratio, siblings drawn again and again": (Ratio(), BUSHES, "with", False),
    "ratio, siblings without replacement": (Ratio(), BUSHES, "without", False),
    "ratio, likeliest siblings": (Ratio(), BUSHES, "top", False),
    "sample match, chains": (SampleMatch(), CHAINS, "with", True),
    "sample match, likeliest siblings": (SampleMatch(), BUSHES, "top", False),
    "sample match, duplicates among siblings": (SampleMatch(), NARROW, "with", False),
    "block, chains": (BlockVerification(), CHAINS, "with", True),
    "block, one-hot chains": (BlockVerification(), CHAINS, "top", True),
    "k-seq, chains": (KSeq(), CHAINS, "with", True),
    "k-seq, siblings": (KSeq(), NARROW, "with", False),
    "k-seq, three siblings": (KSeq(), BUSHES[1:], "with", False),
    "both thresholds 1, likeliest siblings": (Thresholds(1.0, 1.0), BUSHES, "top", False),
    "both thresholds 1, duplicates among siblings": (Thresholds(1.0, 1.0), NARROW, "with", False),
}


@pytest.mark.parametrize("name", EXACT)
@pytest.mark.parametrize(("seed", "zeros"), [(0, 0.0), (1, 0.3)])
def test_the_output_distribution_is_the_trunks(name: str, seed: int, zeros: float) -> None:
    rule, shapes, how, chain = EXACT[name]
    assert rule.exact
    target, draft = random_distributions(seed, 3, zeros), random_distributions(100 + seed, 3, zeros)
    judge = ByRule(rule, how != "top" and rule.draws == "own", chain, absent=seed)
    found = outputs(judge, target, Drafts(draft, shapes, how), 4)
    assert distance(found, joint(target, 4)) < 1e-12


@pytest.mark.parametrize("rule", [Ratio(), BlockVerification(), SampleMatch()])
def test_rows_of_one_batch_whose_drafts_end_behind_a_token(rule: AcceptanceRule) -> None:
    """A draft may end behind a token that it keeps, whatever the token is: lengths then differ by row."""
    for seed in range(3):
        target, draft = random_distributions(seed, 3), random_distributions(50 + seed, 3)
        found = outputs(ByRule(rule, True, True), target, Drafts(draft, CHAINS, "with", end=seed), 4)
        assert distance(found, joint(target, 4)) < 1e-12


@pytest.mark.parametrize("rule", [pytest.param(Ratio(), marks=pytest.mark.slow), BlockVerification()])
def test_five_tokens_and_a_chain_of_three(rule: AcceptanceRule) -> None:
    target, draft = random_distributions(7, 5), random_distributions(8, 5)
    found = outputs(ByRule(rule, True, True), target, Drafts(draft, ((-1, 0, 1),)), 4)
    assert distance(found, joint(target, 4)) < 1e-12


@pytest.mark.parametrize("rule", [Ratio(), SampleMatch(), BlockVerification(), KSeq(), Thresholds(1.0, 1.0)])
def test_equal_distributions_and_certain_distributions(rule: AcceptanceRule) -> None:
    """p = q leaves nothing to draw a refused token from; certain distributions leave nothing else."""
    for target in (random_distributions(1, 3), random_distributions(1, 3, zeros=0.99)):
        judge = ByRule(rule, rule.draws == "own", True)
        found = outputs(judge, target, Drafts(target, CHAINS), 4)
        assert distance(found, joint(target, 4)) < 1e-12
        if rule.draws == "own":
            for _, nodes in Drafts(target, CHAINS).all((), 0):
                ((stop, _),) = judge(target, (), [nodes])
                assert stop[-1] == pytest.approx(1, abs=1e-12), "a draft from the trunk's own distribution stays whole"


def test_wrong_draft_distributions_are_seen() -> None:
    """The enumeration can fail: what public systems got wrong is far from the target."""
    target, distributions = random_distributions(3, 3), random_distributions(4, 3)

    def off(drafts: Drafts, drawn: bool, chain: bool, claimed: str = "") -> float:
        class Wrong(ByRule):
            """Claims another distribution than the tokens were drawn from."""

            def __call__(self, target: Distributions, prefix: Prefix, drafts: list[list[Node]]) -> list[Verdict]:
                if claimed:
                    drafts = [
                        [Node(n.token, distributions(self.above(prefix, d, n)), n.parent) for n in d] for d in drafts
                    ]
                return super().__call__(target, prefix, drafts)

            def above(self, prefix: Prefix, nodes: list[Node], node: Node) -> Prefix:
                return (*prefix, *(nodes[i].token for i in whole.path(nodes, node.parent)))

        return distance(outputs(Wrong(Ratio(), drawn, chain), target, drafts, 3), joint(target, 3))

    assert off(Drafts(distributions, CHAINS, "top"), True, True, "soft") > 0.1, "argmax with soft q"
    assert off(Drafts(distributions, BUSHES, "top"), True, False, "soft") > 0.1, "likeliest siblings with soft q"
    assert off(Drafts(distributions, BUSHES, "without"), True, False, "soft") > 0.003, "elder siblings left in q"
    assert off(Drafts(distributions, BUSHES, "without"), True, False) < 1e-12


PLAIN = {"ratio": (Ratio(), whole.ratio, BUSHES), "block": (BlockVerification(), whole.block, CHAINS)}


@pytest.mark.parametrize("name", PLAIN)
def test_distributions_equal_plain_loops(name: str) -> None:
    rule, loop, shapes = PLAIN[name]
    for seed, zeros in enumerate((0.0, 0.3, 0.0)):
        target, drafts = random_distributions(seed, 3, zeros), Drafts(random_distributions(20 + seed, 3, zeros), shapes)
        for turn in range(len(shapes)):
            made = [nodes for _, nodes in drafts.all((), turn)]
            for nodes, (stop, follow) in zip(made, ByRule(rule, True, name == "block")(target, (), made)):
                wanted, distributions = loop(whole.targets(target, (), nodes), nodes)
                assert stop == pytest.approx(wanted, abs=1e-12)
                for slot, chance in enumerate(wanted):
                    assert chance < 1e-12 or follow[slot] == pytest.approx(distributions[slot], abs=1e-10)


def test_block_verification_never_keeps_less() -> None:
    gains = []
    for seed in range(12):
        target, drafts = random_distributions(seed, 3), Drafts(random_distributions(30 + seed, 3), ((-1, 0, 1),))
        ratio, block = kept(Ratio(), target, drafts), kept(BlockVerification(), target, drafts)
        gains.append(block - ratio)
        certain = Drafts(random_distributions(30 + seed, 3), ((-1, 0, 1),), "top")
        assert kept(BlockVerification(), target, certain, False) == pytest.approx(
            kept(Ratio(), target, certain, False), abs=1e-12
        )
    assert min(gains) >= -1e-12 and max(gains) > 0.05


def test_the_example_of_the_block_verification_paper() -> None:
    """Two tokens, p = (1/3, 2/3), q = (2/3, 1/3), a draft of two: 10/9 against 11/9."""
    target, drafts = (lambda _: [1 / 3, 2 / 3]), Drafts(lambda _: [2 / 3, 1 / 3], ((-1, 0),))
    assert kept(Ratio(), target, drafts) == pytest.approx(10 / 9)
    assert kept(BlockVerification(), target, drafts) == pytest.approx(11 / 9)


def test_block_verification_wants_chains() -> None:
    made = [nodes for _, nodes in Drafts(random_distributions(0, 3), NARROW).all((), 0)]
    with pytest.raises(ConfigError, match="block: a tree"):
        ByRule(BlockVerification(), True, False)(random_distributions(1, 3), (), made)


def test_k_seq_wants_siblings_of_one_distribution() -> None:
    for how, drawn, word in (("without", True, "different distributions"), ("top", False, "not drawn")):
        made = [nodes for _, nodes in Drafts(random_distributions(0, 3), NARROW, how).all((), 0)]
        with pytest.raises(ConfigError, match=word):
            ByRule(KSeq(), drawn, False)(random_distributions(1, 3), (), made)


def test_k_seq_with_many_siblings_keeps_more_than_one() -> None:
    target, distributions = random_distributions(5, 3), random_distributions(6, 3)
    chances = []
    for count in (1, 2, 3, 4):
        weights, made = zip(*Drafts(distributions, ((-1,) * count,)).all((), 0))
        verdicts = ByRule(KSeq(), True, False)(target, (), list(made))
        chances.append(math.fsum(w * (1 - stop[0]) for w, (stop, _) in zip(weights, verdicts)))
    assert chances == sorted(chances) and chances[-1] > chances[0] + 0.05
    assert chances[0] == pytest.approx(sum(map(min, target(()), distributions(()))))


def test_exact_rules_compare_first_choices_where_nothing_is_drawn() -> None:
    for rule in (Ratio(), SampleMatch(), BlockVerification(), KSeq(), Thresholds(0.5, 0.5)):
        assert isinstance(rule.greedy(), GreedyMatch)
    target = random_distributions(2, 3)
    greedy: Prefix = ()
    while len(greedy) < 4:
        greedy = (*greedy, max(range(3), key=lambda v: target(greedy)[v]))

    def judge(target: Distributions, prefix: Prefix, drafts: list[list[Node]]) -> list[Verdict]:
        draft = as_draft(drafts, 3, False, False)
        distributions = [whole.targets(target, prefix, nodes) for nodes in drafts]
        logits = torch.tensor(distributions, dtype=torch.float64).log()
        accepted = draw_outcome(*GreedyMatch().distributions(logits, draft), draft)
        last = torch.where(accepted.count > 0, accepted.path.max(1).values + 1, 0) if draft.tokens.shape[1] else [0]
        return [
            whole.one_hot_verdict(int(slot), [whole.one_hot(int(token), 3)] * len(p))
            for slot, token, p in zip(last, accepted.next, distributions)
        ]

    for how in ("with", "top"):
        assert outputs(judge, target, Drafts(random_distributions(3, 3), BUSHES, how), 4) == {greedy: pytest.approx(1)}
