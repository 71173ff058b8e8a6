"""Strategies that name the head set which drafts."""

import pytest

from speechmtp.decoding.strategies import make_strategy, parse_strategies, parse_strategy
from speechmtp.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "label", "heads", "options"),
    [
        ("verify", "verify:depth=7", "", {"depth": 7}),
        ("verify:heads=chain", "verify:depth=7,heads=chain", "chain", {"depth": 7, "heads": "chain"}),
        ("verify:heads=chain,depth=3", "verify:depth=3,heads=chain", "chain", {"depth": 3, "heads": "chain"}),
        ("verify: heads = chain-3.b ", "verify:depth=7,heads=chain-3.b", "chain-3.b", None),
        ("verify:heads=", "verify:depth=7", "", {"depth": 7}),
        ("verify:heads=a=b:c", "verify:depth=7,heads=a=b:c", "a=b:c", None),
        ("threshold:theta=0.5,heads=latent", "threshold:depth=7,theta=0.5,measure=token,heads=latent", "latent", None),
        ("oracle", "oracle:depth=7", "", {"depth": 7}),
    ],
)
def test_labels_name_the_heads_only_when_given(text: str, label: str, heads: str, options: dict | None) -> None:
    strategy = parse_strategy(text)
    assert (strategy.label, strategy.heads) == (label, heads)
    assert options is None or strategy.options == options
    again = parse_strategy(strategy.label)
    assert (again.label, again.options, again.drafter) == (label, strategy.options, strategy.drafter)
    assert make_strategy(strategy.name, strategy.options).label == label


def test_the_drafter_is_the_same_whichever_heads_draft() -> None:
    assert parse_strategy("verify:depth=3,heads=x").drafter == parse_strategy("verify:depth=3").drafter


def test_lists_keep_heads_with_their_strategy_and_round_trip() -> None:
    text = "ar,verify:depth=3,heads=chain,verify:heads=latent,threshold:theta=0.9,heads=b,depth=2,ctc"
    labels = [s.label for s in parse_strategies(text)]
    assert labels == ["ar", "verify:depth=3,heads=chain", "verify:depth=7,heads=latent",
                      "threshold:depth=2,theta=0.9,measure=token,heads=b", "ctc"]  # fmt: skip
    assert [s.label for s in parse_strategies(",".join(labels))] == labels
    assert [s.heads for s in parse_strategies("verify,heads=a,verify")] == ["a", ""]


@pytest.mark.parametrize("name", ["ar", "ctc", "ctc-only", "oracle"])
def test_strategies_without_heads_take_none(name: str) -> None:
    with pytest.raises(ConfigError, match="no option 'heads'"):
        parse_strategy(f"{name}:heads=chain")


def test_a_name_that_a_list_could_not_hold_is_refused() -> None:
    with pytest.raises(ConfigError, match="without commas"):
        make_strategy("verify", {"heads": "a,b"})


@pytest.mark.parametrize("name", ["verify", "threshold"])
def test_only_a_depth_that_nobody_chose_is_fitted_to_the_heads(name):
    strategy = parse_strategy(f"{name}:heads=x")
    fitted = strategy.fitted(3)
    assert fitted.options == strategy.options | {"depth": 3} and fitted.drafter.depth == 3
    assert fitted.label.startswith(f"{name}:depth=3")
    assert strategy.fitted(7) is strategy is strategy.fitted(9)
    for depth in (0, 5, 7):
        chosen = parse_strategy(f"{name}:depth={depth}")
        assert chosen.fitted(3) is chosen
    assert make_strategy(name, strategy.given | {"depth": 7}).fitted(3).options["depth"] == 7
