"""Labels, defaults and promises of strategies are kept: configurations, tuned choices and figures are named by them."""

from typing import Any

import pytest
from pinned_strategies import DEFAULTS, LABELS

from speechmtp.decoding.presets import PRESETS
from speechmtp.decoding.strategies import parse_strategy
from speechmtp.decoding.strategy_table import STRATEGIES


def test_every_strategy_and_preset_is_pinned() -> None:
    assert [text for text, *_ in DEFAULTS] == [*STRATEGIES, *PRESETS]
    assert {text.partition(":")[0] for text, _ in LABELS if ":" in text} >= {
        name for name in STRATEGIES if parse_strategy(name).options
    }


@pytest.mark.parametrize(("text", "options", "exact", "needs"), DEFAULTS, ids=[text for text, *_ in DEFAULTS])
def test_defaults_are_kept(text: str, options: dict[str, Any], exact: bool, needs: list[str]) -> None:
    strategy = parse_strategy(text)
    assert (strategy.options, list(strategy.options)) == (options, list(options))
    assert (strategy.exact, sorted(strategy.needs)) == (exact, needs)


@pytest.mark.parametrize(("text", "label"), LABELS, ids=[text[:60] for text, _ in LABELS])
def test_labels_are_kept(text: str, label: str) -> None:
    strategy = parse_strategy(text)
    assert strategy.label == label
    assert parse_strategy(label).options == strategy.options
