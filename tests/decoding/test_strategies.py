"""The table of strategies as users write them."""

from typing import Any

import pytest

from speechmtp.decoding.draft_length import LENGTHS
from speechmtp.decoding.drafters.contract import Silent
from speechmtp.decoding.drafters.ctc import CtcDraft
from speechmtp.decoding.drafters.heads import HeadChain
from speechmtp.decoding.drafters.lookup import PromptLookup
from speechmtp.decoding.drafters.model import DraftModel
from speechmtp.decoding.drafters.recycle import Oracle
from speechmtp.decoding.drafters.tree import DynamicTree, HeadTree
from speechmtp.decoding.presets import PRESETS
from speechmtp.decoding.rules.greedy_match import GreedyMatch
from speechmtp.decoding.rules.keep_draft import KeepDraft
from speechmtp.decoding.rules.ratio import Ratio
from speechmtp.decoding.rules.table import RULES
from speechmtp.decoding.rules.thresholds import Thresholds
from speechmtp.decoding.rules.typical import Typical
from speechmtp.decoding.strategies import Strategy, make_strategy, parse_strategies, parse_strategy
from speechmtp.decoding.strategy_table import STRATEGIES, rules_for
from speechmtp.errors import ConfigError

OTHERS = {
    "measure": "product",
    "mode": "whole",
    "match": "first",
    "paths": "0.1.00",
    "theta": 0.25,
    "depth": 3,
    "labels": 5,
}


@pytest.mark.parametrize(
    ("text", "drafter", "rule", "label", "exact"),
    [
        ("ar", Silent, GreedyMatch, "ar", True),
        ("verify", HeadChain, GreedyMatch, "verify:depth=7", True),
        (" verify: depth = 3 ", HeadChain, GreedyMatch, "verify:depth=3", True),
        ("threshold:theta=0.5", HeadChain, KeepDraft, "threshold:depth=7,theta=0.5,measure=token", False),
        ("ctc", CtcDraft, GreedyMatch, "ctc", True),
        ("ctc-only", type(None), type(None), "ctc-only", False),
        ("oracle:depth=0", Oracle, GreedyMatch, "oracle:depth=0", True),
        (
            "verify:theta=0.5,measure=token,rule=match,length=",
            HeadChain,
            GreedyMatch,
            "verify:depth=7,theta=0.5,measure=token",
            True,
        ),
        ("dynamic-tree:width=4,nodes=16", DynamicTree, GreedyMatch, "dynamic-tree:depth=7,nodes=16", True),
        ("draft-model:rule=ratio,length=cost", DraftModel, Ratio, "draft-model:depth=4,rule=ratio,length=cost", True),
        ("ctc:mode=tree,pointers=5", CtcDraft, GreedyMatch, "ctc:mode=tree,pointers=5", True),
        ("thresholds:single=1,acc=1", HeadChain, Thresholds, "thresholds:depth=7,single=1.0,acc=1.0", True),
        ("thresholds", HeadChain, Thresholds, "thresholds:depth=7", False),
        ("typical:paths=0.1", HeadTree, Typical, "typical:depth=7,paths=0.1", False),
        ("prompt-lookup", PromptLookup, GreedyMatch, "prompt-lookup", True),
    ],
)
def test_names_and_options(text: str, drafter: type, rule: type, label: str, exact: bool) -> None:
    strategy = parse_strategy(text)
    assert isinstance(strategy.drafter, drafter) and isinstance(strategy.rule, rule)
    assert strategy.label == label and strategy.exact is exact
    again = parse_strategy(strategy.label)
    assert again.label == label and again.options == strategy.options


def same(first: Strategy, second: Strategy) -> bool:
    """Whether two strategies do the same."""
    parts = [(s.label, s.options, s.drafter, type(s.rule), s.exact) for s in (first, second)]
    return parts[0] == parts[1]


def holds(strategy: Strategy, key: str, value: Any) -> bool:
    """Whether an option stands where it works: in the drafter, in one that it asks, or in the rule."""
    places = (strategy.drafter, getattr(strategy.drafter, "draft", None), strategy.rule)
    return any(getattr(place, key, None) == value for place in places)


@pytest.mark.parametrize("name", STRATEGIES)
def test_every_row_makes_its_strategy_and_says_what_it_does(name: str) -> None:
    strategy, row = make_strategy(name, {}), STRATEGIES[name]
    given = {key: option.default for key, option in row.options.items() if option.default is not None}
    assert strategy.name == name and strategy.options == given and row.summary
    assert strategy.label == name + "".join(f":{shown}" for shown in [",".join(
        f"{key}={value}" for key, value in given.items() if key in ("depth", "theta", "measure")
    )] if shown)  # fmt: skip
    for key, value in given.items():
        assert holds(strategy, key, value), "an option reaches drafter or rule"
        other = OTHERS[key] if isinstance(value, str) else value + 1 if isinstance(value, int) else value / 2
        changed = parse_strategy(f"{name}:{key}={other}")
        assert holds(changed, key, other) and changed.options == given | {key: other}
        assert f"{key}={other}" in changed.label and same(parse_strategy(changed.label), changed)


@pytest.mark.parametrize("name", STRATEGIES)
def test_options_that_are_empty_by_default_stand_in_no_label(name: str) -> None:
    row = STRATEGIES[name]
    for key in (key for key, option in row.options.items() if option.default is None):
        rules = [] if row.drafter is None else [rule for rule in rules_for(row.drafter) if rule != "match"]
        for value in {"rule": rules, "length": [*LENGTHS], "heads": ["x"]}.get(key) or [OTHERS[key]]:
            strategy = parse_strategy(f"{name}:{key}={value}")
            assert strategy.options.items() >= (make_strategy(name, {}).options | {key: value}).items()
            assert f"{key}={value}" in strategy.label and same(parse_strategy(strategy.label), strategy)
            if key == "rule":
                assert type(strategy.rule) is RULES[value]
            if key == "length":
                assert type(strategy.length) is LENGTHS[value]
        assert same(parse_strategy(f"{name}:{key}="), make_strategy(name, {}))
    if "rule" in STRATEGIES[name].options:
        assert same(parse_strategy(f"{name}:rule=match"), make_strategy(name, {}))


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_is_a_row_with_fixed_options(name: str) -> None:
    preset = PRESETS[name]
    row = make_strategy(preset.strategy, dict(preset.options))
    strategy = parse_strategy(name)
    assert (strategy.drafter, strategy.options, strategy.exact) == (row.drafter, row.options, row.exact)
    assert type(strategy.rule) is type(row.rule) and strategy.label == name and strategy.preset is preset
    assert preset.summary and preset.differs and preset.paper and bool(preset.heads) == bool(preset.training)
    for key in STRATEGIES[preset.strategy].options:
        if key not in preset.free:
            with pytest.raises(ConfigError, match=f"strategy {name}: no option '{key}', a preset is fixed"):
                parse_strategy(f"{name}:{key}=1")


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("verfy", ["no strategy 'verfy'", "did you mean 'verify'?", f"allowed: {', '.join([*STRATEGIES, *PRESETS])}"]),
        ("medussa", ["no strategy 'medussa'", "did you mean 'medusa'?"]),
        ("", ["no strategy ''", "allowed: ar,"]),
        ("ar:depth=3", ["strategy ar: no option 'depth'; allowed: none"]),
        ("verify:dept=3", ["strategy verify: no option 'dept'; allowed: depth, theta, measure, heads, rule, length"]),
        ("threshold:tau=1", ["strategy threshold: no option 'tau'; allowed: depth, theta, measure, heads"]),
        ("verify:depth=three", ["strategy verify: depth='three', expected 0 to 1024"]),
        ("verify:depth=-1", ["strategy verify: depth=-1, expected 0 to 1024"]),
        ("ctc-heads:labels=-1", ["strategy ctc-heads: labels=-1, expected 0 to 1024"]),
        ("verify:depth", ["strategy verify: 'depth', expected key=value"]),
        ("threshold:theta=1.5", ["strategy threshold: theta=1.5, expected a number from 0 to 1"]),
        ("verify:theta=-0.1", ["strategy verify: theta=-0.1, expected a number from 0 to 1"]),
        ("ctc-heads:theta=nan", ["strategy ctc-heads: theta=nan, expected a number from 0 to 1"]),
        ("draft-model:theta=high", ["strategy draft-model: theta='high', expected a number from 0 to 1"]),
        ("threshold:measure=", ["strategy threshold: measure is empty, expected a value; its default is token"]),
        ("tree:paths=", ["strategy tree: paths is empty, expected a value; its default is 0.1.2."]),
        ("threshold:measure=sum", ["measure='sum', expected token or product"]),
        ("verify:rule=exact", ["rule='exact', expected one of match, ratio, block, sample, k-seq,"]),
        ("tree:length=long", ["length='long', expected running or cost"]),
        ("ctc:mode=some", ["mode='some', expected one of whole, resume, recycle, tree"]),
        ("lookup:match=best", ["match='best', expected last or first"]),
        ("tree:paths=0.11", ["path 11 without 1 before it"]),
        ("dynamic-tree:nodes=1000", ["nodes=1000, expected 1 to 256"]),
        ("suffix:depth=1", ["strategy suffix", "depth=1, expected 2 to 1024"]),
        ("eagle:depth=3", ["no option 'depth', a preset is fixed; allowed: heads; its row is dynamic-tree:depth"]),
        ("medusa:rule=ratio", ["no option 'rule'", "allowed: heads, paths; its row is typical:depth=4,"]),
        ("mtad:tau=0.1", ["strategy mtad: no option 'tau'", "allowed: none; its row is joint-ratio:depth=4"]),
        ("speech-llama:theta=2", ["theta=2.0, expected a number from 0 to 1"]),
    ],
)  # fmt: skip
def test_errors_name_what_is_allowed(text: str, parts: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_strategy(text)
    for part in parts:
        assert part in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "labels"),
    [
        ("ar", ["ar"]),
        ("ar,verify,ctc", ["ar", "verify:depth=7", "ctc"]),
        ("ar, verify:depth=3 ,threshold:theta=0.5,depth=2,ctc",
         ["ar", "verify:depth=3", "threshold:depth=2,theta=0.5,measure=token", "ctc"]),
        ("threshold:theta=0.8,measure=product,depth=5,verify:depth=1",
         ["threshold:depth=5,theta=0.8,measure=product", "verify:depth=1"]),
        ("verify:depth=1,verify:depth=2,", ["verify:depth=1", "verify:depth=2"]),
    ],
)  # fmt: skip
def test_lists_are_split_at_strategies_not_at_options(text: str, labels: list[str]) -> None:
    assert [strategy.label for strategy in parse_strategies(text)] == labels


@pytest.mark.parametrize(
    ("text", "message"),
    [("", "none given"), (" , ", "none given"), ("ar,nope", "no strategy 'nope'"), ("ar,verify:x=1", "no option 'x'"),
     ("depth=3,ar", "no strategy 'depth=3'")],
)  # fmt: skip
def test_a_wrong_list_is_one_clear_line(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_strategies(text)
