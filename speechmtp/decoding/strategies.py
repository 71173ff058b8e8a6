"""Strategies: a drafter, an acceptance rule and a draft length, made in Python or parsed from their names and
options."""

import dataclasses
import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from speechmtp.config import in_words, read_field
from speechmtp.decoding.draft_length import LENGTHS, LengthConfig
from speechmtp.decoding.drafters.contract import Drafter
from speechmtp.decoding.drafters.tree import HeadTree
from speechmtp.decoding.presets import PRESETS, Preset
from speechmtp.decoding.rules.contract import AcceptanceRule
from speechmtp.decoding.rules.greedy_match import GreedyMatch
from speechmtp.decoding.rules.table import RULES
from speechmtp.decoding.strategy_table import STRATEGIES, Option, Row, check_combination
from speechmtp.errors import ConfigError

_SHOWN = ("depth", "theta", "measure")  # always in labels; other options only if they differ from their defaults


@dataclass(frozen=True)
class Strategy:
    """A decoding strategy; configuration only. For example `Strategy(HeadChain(depth=3), Typical(epsilon=0.1))`.

    Without a drafter and a rule (`ctc-only`) the trunk is not called at all; with `length` None, drafts have a fixed
    length. `heads` names the head set that drafts, empty for the model's default. `name` is that of a row of
    `STRATEGIES` or of a preset, and `given` are the options that were set explicitly. If `name` is left out, it is
    found from the parts, and `given` are the options that differ from their defaults. `preset` is the published system
    that the strategy stands for. ConfigError if there is a drafter without a rule or a rule without a drafter, or if
    the two cannot be combined.
    """

    drafter: Drafter | None
    rule: AcceptanceRule | None = field(default_factory=GreedyMatch)
    length: LengthConfig | None = None
    heads: str = ""
    name: str = ""
    given: dict[str, Any] = field(default_factory=dict, compare=False)
    preset: Preset | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        if (self.drafter is None) != (self.rule is None):
            raise ConfigError("strategy: a drafter without a rule, or a rule without a drafter, expected both; add it")
        if self.drafter is not None and self.rule is not None:
            check_combination(self.drafter, self.rule)
        if not self.name:
            object.__setattr__(self, "name", self._found_name())
            defaults = {key: option.default for key, option in self._known.items()}
            chosen = {key: value for key, value in self.options.items() if value != defaults[key]}
            object.__setattr__(self, "given", chosen)

    @property
    def exact(self) -> bool:
        """Whether the output follows the trunk's own distribution."""
        return self.rule is not None and self.rule.exact

    @property
    def needs(self) -> set[str]:
        """What the strategy needs besides a trunk: `heads`, and names of request sources such as `ctc` or `model`."""
        if self.drafter is None:
            return {"ctc"}
        found = {self.drafter.source.name} if self.drafter.source else set()
        return found | ({"heads"} if self.drafter.heads else set())

    @cached_property
    def options(self) -> dict[str, Any]:
        """Its options by name; options without a value are left out."""
        values = {key: self._value(option) for key, option in self._known.items()}
        return {key: value for key, value in values.items() if value is not None}

    @cached_property
    def label(self) -> str:
        """Name and options as they are written on the command line; most options at their defaults are left out."""
        if self.preset is not None:
            parts = [f"{key}={value}" for key, value in self.given.items()]
        else:
            known = self._known
            parts = [f"{k}={v}" for k, v in self.options.items() if k in _SHOWN or v != known[k].default]
        return ":".join([self.name, *([",".join(parts)] if parts else [])])

    def with_max_depth(self, depth: int) -> "Strategy":
        """The strategy for heads of depth `depth`: a draft depth or a tree that was not set explicitly is cut to it.
        Presets are left as they are."""
        given, drafter = self.given, self.drafter
        if self.preset is not None or drafter is None:
            return self
        if isinstance(drafter, HeadTree) and "paths" not in given:
            shape = drafter.shape
            return self if shape.depth <= depth else replace(self, drafter=HeadTree(shape.cut(depth).label))
        if "depth" in given or self.options.get("depth", 0) <= depth:
            return self
        if "depth" in {field.name for field in dataclasses.fields(drafter)}:  # type: ignore[arg-type]
            drafter = replace(drafter, depth=depth)  # type: ignore[type-var]
        return replace(self, drafter=drafter, given={**given, "depth": depth})

    def _found_name(self) -> str:
        """The name of the table row that can make these parts, preferably a row with this rule; else the names of their
        classes."""
        parts = self.drafter, self.rule, self.length
        fitting = [name for name, row in STRATEGIES.items() if row.makes(*parts)]
        own = [name for name in fitting if type(STRATEGIES[name].rule) is type(self.rule)]
        return next(iter([*own, *fitting]), "+".join(type(part).__name__ for part in parts if part is not None))

    @property
    def _row(self) -> Row:
        """Its row of the table; a row of its own parts if there is none."""
        found = STRATEGIES.get(self.name if self.preset is None else self.preset.strategy)
        return found or Row("", self.drafter, self.rule)

    @cached_property
    def _known(self) -> dict[str, Option]:
        """The options that it can have, by name."""
        return self._row.options_with(self.rule, self.length)

    def _value(self, option: Option) -> Any:
        """The value of an option; None if it has none."""
        if option.part == "paths":
            return self.drafter.paths if isinstance(self.drafter, HeadTree) else None
        if option.part == "strategy":
            rule = None if self.rule is None or type(self.rule) is GreedyMatch else self.rule.name
            length = None if self.length is None else self.length.name
            return {"heads": self.heads or None, "rule": rule, "length": length}[option.field]
        if option.part == "drafter" and option.kind is not type(self.drafter):  # of the chain that a tree replaced
            chosen = {**(self.preset.options if self.preset else {}), **self.given}
            return int(chosen.get(option.field, option.default))
        parts = {"drafter": self.drafter, "rule": self.rule, "length": self.length}
        return getattr(parts[option.part], option.field)


def parse_strategy(text: str) -> Strategy:
    """Parse a strategy or preset from `name` or `name:key=value,key=value`. ConfigError for an unknown name, or for an
    option that is unknown or not allowed."""
    name, _, rest = text.strip().partition(":")
    if name not in STRATEGIES and name not in PRESETS:
        known = [*STRATEGIES, *PRESETS]
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise ConfigError(f"strategy: no strategy {name!r}; {hint}allowed: {', '.join(known)}")
    given: dict[str, str] = {}
    for item in filter(None, rest.split(",")):
        key, equals, value = item.partition("=")
        if not equals:
            raise ConfigError(f"strategy {name}: {item!r}, expected key=value")
        given[key.strip()] = value.strip()
    return make_strategy(name, given)


def make_strategy(name: str, given: Mapping[str, Any]) -> Strategy:
    """Make a strategy of the table or a preset with some options, given as text or as values; the others keep their
    defaults. `name` must be a known one. ConfigError for an option that is unknown or not allowed."""
    if name in PRESETS:
        return _make_preset(name, given)
    row, where = STRATEGIES[name], f"strategy {name}"
    rule, length = row.rule, None
    if row.takes_rule and (asked := given.get("rule", "")) != "":
        rule = _named(RULES, "rule", asked, where)()
    if row.takes_length and (asked := given.get("length", "")) != "":
        length = _named(LENGTHS, "length", asked, where)()
    values = _read(row.options_with(rule, length), given, where)
    drafter = row.drafter
    if paths := values["paths"].get("paths"):
        drafter, values["drafter"] = HeadTree(paths), {}
    try:
        parts = (_with(drafter, values["drafter"]), _with(rule, values["rule"]), _with(length, values["length"]))
        return Strategy(*parts, values["strategy"].get("heads", ""), name, dict(given))
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from None


def _make_preset(name: str, given: Mapping[str, Any]) -> Strategy:
    """The strategy of a published system; only its `free` options can be set."""
    preset = PRESETS[name]
    for key in given:
        if key not in preset.free:
            raise ConfigError(
                f"strategy {name}: no option {key!r}, a preset is fixed; allowed: {', '.join(preset.free) or 'none'}; "
                f"its row is {make_strategy(preset.strategy, dict(preset.options)).label}"
            )
    row = make_strategy(preset.strategy, {**preset.options, **given})
    return replace(row, name=name, given=dict(given), preset=preset)


def _named(table: Mapping[str, type], option: str, name: Any, where: str) -> Any:
    """Look up a class in a table; ConfigError if the name is not there."""
    if name not in table:
        several = "one of " if len(table) > 2 else ""
        raise ConfigError(f"{where}: {option}={name!r}, expected {several}{in_words(list(table))}")
    return table[name]


def _read(options: Mapping[str, Option], given: Mapping[str, Any], where: str) -> dict[str, dict[str, Any]]:
    """Convert and check the given option values; the result maps each part to its fields and their values."""
    found: dict[str, dict[str, Any]] = {part: {} for part in ("drafter", "rule", "length", "paths", "strategy")}
    for key, value in given.items():
        option = options.get(key)
        if option is None:
            raise ConfigError(f"{where}: no option {key!r}; allowed: {', '.join(options) or 'none'}")
        if value == "":
            if option.default is not None:
                raise ConfigError(f"{where}: {key} is empty, expected a value; its default is {option.default}")
        elif option.kind is not None:
            found[option.part][option.field] = read_field(option.kind, option.field, value, where)
        elif key == "heads" and "," in value:
            raise ConfigError(f"{where}: heads={value!r}, expected a name without commas; rename the folder")
        else:
            found[option.part][option.field] = str(value)
    return found


def _with(config: Any, values: Mapping[str, Any]) -> Any:
    """A copy of a drafter, rule or length with some fields changed."""
    return replace(config, **values) if values else config


def split_strategies(text: str) -> list[str]:
    """Split a list such as `ar,verify:depth=3,threshold:theta=0.9,depth=5`; ConfigError if it is empty.

    A comma starts a new strategy unless an option (`key=value`) follows it.
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
    return groups


def parse_strategies(text: str) -> list[Strategy]:
    """Parse a list of strategies, see `split_strategies`."""
    return [parse_strategy(part) for part in split_strategies(text)]
