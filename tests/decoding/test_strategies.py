"""The table of strategies as users write them."""

import pytest

from speechmtp.decoding.acceptance import GreedyMatch, KeepDraft
from speechmtp.decoding.drafters.contract import Silent
from speechmtp.decoding.drafters.ctc import CtcDraft
from speechmtp.decoding.drafters.heads import HeadChain
from speechmtp.decoding.drafters.recycle import Oracle
from speechmtp.decoding.strategies import STRATEGIES, make_strategy, parse_strategies, parse_strategy
from speechmtp.errors import ConfigError


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
    ],
)
def test_names_and_options(text: str, drafter: type, rule: type, label: str, exact: bool) -> None:
    strategy = parse_strategy(text)
    assert isinstance(strategy.drafter, drafter) and isinstance(strategy.rule, rule)
    assert strategy.label == label and strategy.exact is exact
    again = parse_strategy(strategy.label)
    assert again.label == label and again.options == strategy.options


@pytest.mark.parametrize("name", STRATEGIES)
def test_every_row_makes_its_strategy_and_says_what_it_does(name: str) -> None:
    strategy = make_strategy(name, {})
    given = {key: value for key, value in STRATEGIES[name].options.items() if value != ""}
    assert strategy.name == name and strategy.options == given and STRATEGIES[name].summary
    for key, value in given.items():
        assert getattr(strategy.drafter, key) == value, "an option reaches the drafter"


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        (
            "verfy",
            ["no strategy 'verfy'", "did you mean 'verify'?", "allowed: ar, verify, threshold, ctc, ctc-only, oracle"],
        ),
        ("", ["no strategy ''", "allowed: ar,"]),
        ("ar:depth=3", ["strategy ar: no option 'depth'; allowed: none"]),
        ("verify:dept=3", ["strategy verify: no option 'dept'; allowed: depth"]),
        ("threshold:tau=1", ["strategy threshold: no option 'tau'; allowed: depth, theta, measure"]),
        ("verify:depth=three", ["strategy verify: depth='three', expected int"]),
        ("verify:depth=-1", ["strategy verify: depth=-1, expected 0 or more"]),
        ("verify:depth", ["strategy verify: 'depth', expected key=value"]),
        ("threshold:theta=1.5", ["theta=1.5, expected a number from 0 to 1"]),
        ("threshold:theta=nan", ["theta=nan, expected a number from 0 to 1"]),
        ("threshold:measure=sum", ["measure='sum', expected token or product"]),
    ],
)
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
