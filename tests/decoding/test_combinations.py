"""Any rule with any drafter: what is legal decodes, exact rules stay exact, and the rest is refused in one line."""

import re
from itertools import product
from pathlib import Path

import pytest
from engine_runs import RowSampling
from scenes import EXACT_RULES, Priced, make_scene

from speechmtp.decoding.draft_length import LENGTHS, ByCost, Running
from speechmtp.decoding.drafters import contract
from speechmtp.decoding.drafters.beams import BeamSample
from speechmtp.decoding.drafters.contract import Drafter, Silent
from speechmtp.decoding.drafters.ctc import CtcDraft, CtcHeads
from speechmtp.decoding.drafters.heads import HeadChain
from speechmtp.decoding.drafters.joint import Joint
from speechmtp.decoding.drafters.lookahead import Lookahead
from speechmtp.decoding.drafters.lookup import PromptLookup
from speechmtp.decoding.drafters.previous import PreviousPass
from speechmtp.decoding.drafters.recycle import Oracle
from speechmtp.decoding.drafters.suffix import Suffix
from speechmtp.decoding.drafters.tree import DynamicTree, HeadTree
from speechmtp.decoding.rules.block_verification import BlockVerification
from speechmtp.decoding.rules.contract import AcceptanceRule
from speechmtp.decoding.rules.ensemble import Ensemble
from speechmtp.decoding.rules.entropy_window import EntropyWindow
from speechmtp.decoding.rules.greedy_match import GreedyMatch
from speechmtp.decoding.rules.joint_ratio import JointRatio
from speechmtp.decoding.rules.k_seq import KSeq
from speechmtp.decoding.rules.keep_draft import KeepDraft
from speechmtp.decoding.rules.min_block import MinBlock
from speechmtp.decoding.rules.ratio import Ratio
from speechmtp.decoding.rules.table import RULES
from speechmtp.decoding.rules.threshold import Threshold
from speechmtp.decoding.rules.top_k import TopK
from speechmtp.decoding.rules.typical import Typical
from speechmtp.decoding.sampling import SamplingConfig
from speechmtp.decoding.strategies import Strategy, make_strategy, parse_strategy
from speechmtp.decoding.strategy_table import STRATEGIES, check_combination, rules_for
from speechmtp.errors import ConfigError

OPEN = [name for name, row in STRATEGIES.items() if row.takes_rule]
LEGAL = [(name, rule) for name in OPEN for rule in rules_for(STRATEGIES[name].drafter)]  # type: ignore[arg-type]
LOSSY = [(name, rule) for name, rule in LEGAL if rule not in EXACT_RULES]
SMALL = {"verify": "depth=2", "dynamic-tree": "depth=2,nodes=6", "tree": "paths=0.1.00", "jacobi": "window=3,ngram=3"}


def text_of(name: str, rule: str) -> str:
    """A strategy whose drafts heads of any depth can make."""
    return f"{name}:{','.join([*([SMALL[name]] if name in SMALL else []), f'rule={rule}'])}"


def test_the_tables_name_their_classes() -> None:
    for table in (RULES, LENGTHS):
        assert all(kind.name == name and name for name, kind in table.items())  # type: ignore[attr-defined]
    drafters = {type(row.drafter) for row in STRATEGIES.values() if row.drafter is not None}
    assert len({drafter.name for drafter in drafters}) == len(drafters), "every drafter has a name of its own"
    heading = re.compile(r"^class (\w+)\((?:ByModel|Drafter)\)", re.M)
    files = Path(str(contract.__file__)).parent.glob("*.py")
    defined = {name for file in files for name in heading.findall(file.read_text(encoding="utf-8"))}
    assert defined - {"ByModel"} == {drafter.__name__ for drafter in drafters}, "and a strategy"
    assert set(OPEN) >= {"verify", "tree", "ctc", "suffix", "jacobi"} and "ar" not in OPEN and "oracle" not in OPEN


def test_lossy_rules_go_with_most_drafters() -> None:
    assert {("ctc", "typical"), ("tree", "typical"), ("suffix", "top-k"), ("previous", "min-block")} <= set(LOSSY)
    assert len(LOSSY) > 60


@pytest.mark.parametrize(("name", "rule"), LOSSY)
def test_a_lossy_rule_decodes_with_every_drafter_that_it_may_have(name: str, rule: str) -> None:
    strategy = parse_strategy(text_of(name, rule))
    assert not strategy.exact and type(strategy.rule) is RULES[rule]
    seed = LOSSY.index((name, rule)) % 10
    scene = make_scene(seed, 3, 6)
    for config in (None, SamplingConfig(1.0, seed=seed)):
        if config is None and rule == "ensemble":  # which draws from a mixture
            continue
        sampling = None if config is None else RowSampling.of(config, range(len(scene.requests)))
        tokens, traces = scene.run([text_of(name, rule)], row_sampling=sampling)
        for request, said, trace in zip(scene.requests, tokens, traces, strict=True):
            assert 0 < len(said) <= (request.limit or 0) and trace.emitted == len(said)
            assert trace.finished or len(said) == request.limit


@pytest.mark.parametrize(("name", "rule"), [(name, rule) for name, rule in LEGAL if rule in EXACT_RULES])
def test_an_exact_rule_is_exact_with_every_drafter_that_it_may_have(name: str, rule: str) -> None:
    strategy = parse_strategy(text_of(name, rule))
    assert strategy.exact
    for seed in (1, 8):
        scene = make_scene(seed, 3, 8)
        assert scene.run([text_of(name, rule)])[0] == scene.tokens


MEANINGLESS: list[tuple[Drafter, AcceptanceRule, str]] = [
    (HeadTree("0.1"), BlockVerification(), "block: a tree of drafted tokens, expected a chain; use ratio for trees"),
    (DynamicTree(), EntropyWindow(), "window: a tree of drafted tokens, expected a chain; use typical for trees"),
    (CtcDraft("tree"), KSeq(), "k-seq: a tree of drafted tokens, expected a chain; use ratio for trees"),
    (PreviousPass(), BlockVerification(), "block: a tree of drafted tokens"),
    (CtcHeads(), EntropyWindow(), "window: a tree of drafted tokens"),
    (Lookahead(), BlockVerification(), "block: a tree of drafted tokens"),
    (PromptLookup(), JointRatio(), "joint-ratio with lookup: drafts without probabilities, expected a drafter that"),
    (Suffix(), Ensemble(), "ensemble with suffix: drafts without probabilities"),
    (Joint(), JointRatio(), "joint-ratio with joint: drafts without probabilities"),
    (Oracle(), KeepDraft(), "keep-draft with oracle: expected an exact rule, as the drafter leaves nothing to relax"),
    (Silent(), Typical(), "typical with silent: expected an exact rule"),
]


@pytest.mark.parametrize(("drafter", "rule", "message"), MEANINGLESS)
def test_what_means_nothing_is_refused_when_it_is_made(drafter: Drafter, rule: AcceptanceRule, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Strategy(drafter, rule)
    assert str(caught.value).startswith(message) and "\n" not in str(caught.value)
    assert rule.name not in rules_for(drafter) and "match" in rules_for(drafter)
    check_combination(drafter, GreedyMatch())


@pytest.mark.parametrize(
    "drafter",
    [HeadTree("0.00"), DynamicTree(width=1), CtcDraft("recycle"), PreviousPass(pointers=1), Lookahead(7, 2, 0)],
    ids=repr,
)  # fmt: skip
def test_drafters_whose_options_leave_chains_take_rules_for_chains(drafter: Drafter) -> None:
    assert not drafter.branches and {"block", "k-seq", "window"} <= set(rules_for(drafter))


def test_the_error_of_a_combination_names_the_strategy() -> None:
    with pytest.raises(ConfigError, match=r"^strategy tree: block: a tree of drafted tokens"):
        parse_strategy("tree:rule=block")
    with pytest.raises(ConfigError, match=r"^strategy suffix: ensemble with suffix: drafts without probabilities"):
        parse_strategy("suffix:rule=ensemble")


@pytest.mark.parametrize(
    ("text", "drafter", "rule", "label"),
    [
        ("ctc:rule=typical", CtcDraft(), Typical(), "ctc:rule=typical"),
        ("verify:epsilon=0.1,rule=typical", HeadChain(), Typical(epsilon=0.1),
         "verify:depth=7,rule=typical,epsilon=0.1"),
        ("suffix:rule=top-k,k=3", Suffix(), TopK(3), "suffix:depth=24,rule=top-k,k=3"),
        ("verify:rule=threshold,rule.theta=0.5,theta=0.3", HeadChain(theta=0.3), Threshold(0.5),
         "verify:depth=7,theta=0.3,rule=threshold,rule.theta=0.5"),
        ("verify:rule=threshold", HeadChain(), Threshold(), "verify:depth=7,rule=threshold"),
        ("ctc:rule=min-block,least=0.25,rule.least=2", CtcDraft(least=0.25), MinBlock(2),
         "ctc:least=0.25,rule=min-block,rule.least=2"),
        ("lookup:rule=threshold,theta=0.5", PromptLookup(), Threshold(0.5),
         "lookup:depth=10,rule=threshold,theta=0.5,measure=token"),
        ("verify:rule=keep-draft", HeadChain(), KeepDraft(), "verify:depth=7,rule=keep-draft"),
    ],
)  # fmt: skip
def test_options_belong_to_the_part_that_has_them(
    text: str, drafter: Drafter, rule: AcceptanceRule, label: str
) -> None:
    strategy = parse_strategy(text)
    assert (strategy.drafter, strategy.rule, strategy.label) == (drafter, rule, label)
    assert parse_strategy(label) == strategy


def test_options_of_lengths() -> None:
    strategy = parse_strategy("verify:length=running,decay=0.5,first=2")
    assert strategy.length == Running(0.5, 2.0)
    assert strategy.label == "verify:depth=7,length=running,decay=0.5,first=2.0"
    mixed = parse_strategy("verify:rule=ensemble,weight=0.5,length=cost,length.weight=8")
    assert (mixed.rule, mixed.length) == (Ensemble(0.5), ByCost(8.0))
    assert parse_strategy(mixed.label) == mixed
    costs = Priced(make_scene(0).trunk, {}).costs
    assert ByCost(8.0, 0.1).bind(costs).weight == 8.0 and Running().bind(costs) == Running()  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "verify:epsilon=0.1",
            "strategy verify: no option 'epsilon'; allowed: depth, theta, measure, heads, rule",
        ),
        ("verify:rule=typical,epsilon=2", "strategy verify: epsilon=2.0, expected a number above 0, at most 1"),
        ("verify:rule=threshold,rule.measure=sum", "strategy verify: measure='sum', expected token or product"),
        ("suffix:rule=top-k,k=no", "strategy suffix: k='no', expected 1 or more"),
        ("suffix:length=running", "strategy suffix: no option 'length'"),
        ("verify:length=cost,decay=1", "strategy verify: decay=1.0, expected 0 or more, below 1"),
        ("typical:rule=ratio", "strategy typical: no option 'rule'"),
    ],
)
def test_wrong_options_of_rules_and_lengths(text: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_strategy(text)
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(
    ("strategy", "label"),
    [
        (Strategy(drafter=HeadChain(depth=3), rule=Typical(epsilon=0.1)), "typical:depth=3,epsilon=0.1"),
        (Strategy(HeadChain(3, 0.5), Typical()), "verify:depth=3,theta=0.5,rule=typical"),
        (Strategy(HeadChain()), "verify:depth=7"),
        (Strategy(HeadChain(), heads="x", length=Running()), "verify:depth=7,heads=x,length=running"),
        (Strategy(HeadChain(theta=0.5, measure="token"), KeepDraft()), "threshold:depth=7,theta=0.5,measure=token"),
        (Strategy(HeadChain(), KeepDraft()), "verify:depth=7,rule=keep-draft"),
        (Strategy(HeadTree("0.1"), Typical()), "tree:paths=0.1,rule=typical"),
        (Strategy(Silent()), "ar"),
        (Strategy(None, None), "ctc-only"),
    ],
)
def test_a_strategy_made_in_python_has_the_label_that_makes_it(strategy: Strategy, label: str) -> None:
    assert strategy.label == label and parse_strategy(label) == strategy
    assert hash(parse_strategy(label)) == hash(strategy)


def test_parts_that_no_row_makes_are_named_by_their_classes() -> None:
    strategy = Strategy(BeamSample(depth=2), Ratio())
    assert strategy.name == "BeamSample+Ratio" and strategy.label.startswith("BeamSample+Ratio:")
    assert strategy.options["depth"] == 2 and strategy.needs == {"model"}
    with pytest.raises(ConfigError, match="a drafter without a rule, or a rule without a drafter"):
        Strategy(None, Ratio())


def test_a_strategy_made_in_python_decodes() -> None:
    scene = make_scene(3)
    runner = Priced(scene.trunk, {"own": scene.heads}, draft=scene.draft)
    for length in (None, Running(), ByCost()):
        tokens, _ = runner.run(scene.requests, [Strategy(HeadChain(depth=2), length=length)] * len(scene.requests))
        assert tokens == scene.tokens
    lossy = Strategy(drafter=HeadChain(depth=3), rule=Typical(epsilon=0.1))
    named = parse_strategy("typical:depth=3,epsilon=0.1")
    assert runner.run(scene.requests, [lossy] * len(scene.requests))[0] == scene.run([named.label])[0]
    assert runner.prepared(Strategy(HeadChain())).drafter == HeadChain(3), "a depth that nobody chose"


def test_values_need_not_be_text() -> None:
    for theta, depth in product((0.5, "0.5"), (3, "3")):
        assert make_strategy("verify", {"depth": depth, "theta": theta}).drafter == HeadChain(3, 0.5)
