"""The table of strategies: drafter x rule x draft length. A new one is a drafter's file and one line here."""

import difflib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from speechmtp.decoding.acceptance import AcceptanceRule, GreedyMatch, KeepDraft
from speechmtp.decoding.drafters.contract import Drafter, Silent
from speechmtp.decoding.drafters.ctc import CtcDraft
from speechmtp.decoding.drafters.heads import HeadChain
from speechmtp.decoding.drafters.recycle import Oracle
from speechmtp.errors import ConfigError


@dataclass(frozen=True)
class Strategy:
    """A way to decode; configuration only. Without a drafter (`ctc-only`) the trunk is not called at all.
    `given` are the options that somebody chose, the others stand at their defaults."""

    name: str
    options: dict[str, Any]
    drafter: Drafter | None
    rule: AcceptanceRule | None
    given: dict[str, Any] = field(default_factory=dict, compare=False)

    @property
    def exact(self) -> bool:
        """Whether it follows the trunk's own law."""
        return self.rule is not None and self.rule.exact

    @property
    def heads(self) -> str:
        """Name of the head set that drafts, empty for the model's default."""
        return str(self.options.get("heads", ""))

    def fitted(self, depth: int) -> "Strategy":
        """The same for heads of `depth`: a draft length that nobody chose is lowered to theirs."""
        if "depth" in self.given or self.options["depth"] <= depth:
            return self
        return make_strategy(self.name, {**self.given, "depth": depth})

    @property
    def label(self) -> str:
        """Name and options as they are written on the command line."""
        parts = [f"{key}={value}" for key, value in self.options.items()]
        return ":".join([self.name, *([",".join(parts)] if parts else [])])


@dataclass(frozen=True)
class Row:
    """One line of the table: what the strategy does, its options with defaults, and how it is made.

    An option whose value is empty is not given: it stands in no label and does not reach `make`.
    """

    summary: str
    options: dict[str, Any]
    make: Callable[..., tuple[Drafter | None, AcceptanceRule | None]]


STRATEGIES: dict[str, Row] = {
    "ar": Row("plain decoding, one token a call", {}, lambda: (Silent(), GreedyMatch())),
    "verify": Row(
        "the heads draft, the trunk verifies; verification and the next draft come from one call",
        {"depth": 7, "heads": ""},
        lambda depth, heads="": (HeadChain(depth), GreedyMatch()),
    ),
    "threshold": Row(
        "the heads' tokens are kept while their confidence stays above theta; nothing is verified",
        {"depth": 7, "theta": 0.9, "measure": "token", "heads": ""},
        lambda depth, theta, measure, heads="": (HeadChain(depth, theta, measure), KeepDraft()),
    ),
    "ctc": Row(
        "the CTC head drafts the transcript on the prompt's call; its rest is recycled after a mismatch",
        {},
        lambda: (CtcDraft(), GreedyMatch()),
    ),
    "ctc-only": Row("the CTC head alone, no trunk: a reference", {}, lambda: (None, None)),
    "oracle": Row(
        "drafts what `ar` will say: the ceiling of a depth",
        {"depth": 7},
        lambda depth: (Oracle(depth), GreedyMatch()),
    ),
}
_MEASURES = ("token", "product")


def parse_strategy(text: str) -> Strategy:
    """A strategy from `name` or `name:key=value,key=value`."""
    name, _, rest = text.strip().partition(":")
    if name not in STRATEGIES:
        near = difflib.get_close_matches(name, STRATEGIES, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise ConfigError(f"strategy: no strategy {name!r}; {hint}allowed: {', '.join(STRATEGIES)}")
    given: dict[str, str] = {}
    for item in filter(None, rest.split(",")):
        key, equals, value = item.partition("=")
        if not equals:
            raise ConfigError(f"strategy {name}: {item!r}, expected key=value")
        given[key.strip()] = value.strip()
    return make_strategy(name, given)


def make_strategy(name: str, given: dict[str, Any]) -> Strategy:
    """A strategy of the table with some options; the others keep their defaults."""
    row = STRATEGIES[name]
    options = dict(row.options)
    for key, value in given.items():
        if key not in options:
            allowed = ", ".join(options) or "none"
            raise ConfigError(f"strategy {name}: no option {key!r}; allowed: {allowed}")
        options[key] = _read_option(name, key, value, type(options[key]))
    options = {key: value for key, value in options.items() if value != ""}
    return Strategy(name, options, *row.make(**options), dict(given))


def _read_option(strategy: str, key: str, value: Any, kind: type) -> Any:
    try:
        read = kind(value)
    except ValueError:
        raise ConfigError(f"strategy {strategy}: {key}={value!r}, expected {kind.__name__}") from None
    if key == "depth" and read < 0:
        raise ConfigError(f"strategy {strategy}: depth={read}, expected 0 or more")
    if key == "theta" and not 0 <= read <= 1:
        raise ConfigError(f"strategy {strategy}: theta={read}, expected a number from 0 to 1")
    if key == "heads" and "," in read:
        raise ConfigError(f"strategy {strategy}: heads={read!r}, expected a name without commas; rename the folder")
    if key == "measure" and read not in _MEASURES:
        raise ConfigError(f"strategy {strategy}: measure={read!r}, expected {' or '.join(_MEASURES)}")
    return read


def parse_strategies(text: str) -> list[Strategy]:
    """Strategies from a list such as `ar,verify:depth=3,threshold:theta=0.9,depth=5`.

    A comma starts a new strategy unless what follows is an option of the one before.
    """
    groups: list[str] = []
    for part in filter(None, (p.strip() for p in text.split(","))):
        head = part.partition(":")[0]
        if groups and "=" in head:
            groups[-1] += ("," if ":" in groups[-1] else ":") + part
        else:
            groups.append(part)
    if not groups:
        raise ConfigError("strategy: none given; name at least one")
    return [parse_strategy(group) for group in groups]
