"""The table of strategies: drafter x rule x draft length. A new one is a drafter's file and one line here."""

import difflib
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

from speechmtp.decoding.drafters.beams import BeamSample
from speechmtp.decoding.drafters.contract import Drafter, Silent
from speechmtp.decoding.drafters.ctc import CtcDraft, CtcHeads
from speechmtp.decoding.drafters.heads import HeadChain
from speechmtp.decoding.drafters.joint import Joint
from speechmtp.decoding.drafters.lookahead import Lookahead
from speechmtp.decoding.drafters.lookup import PromptLookup
from speechmtp.decoding.drafters.marginal import Marginal
from speechmtp.decoding.drafters.model import DraftModel
from speechmtp.decoding.drafters.previous import PreviousHeads, PreviousPass
from speechmtp.decoding.drafters.recycle import Oracle
from speechmtp.decoding.drafters.suffix import Suffix
from speechmtp.decoding.drafters.tree import DynamicTree, HeadTree
from speechmtp.decoding.rules.contract import AcceptanceRule, GreedyMatch, KeepDraft
from speechmtp.decoding.rules.groups import AlikeGroups
from speechmtp.decoding.rules.rejection import BlockVerification, Ratio, SampleMatch
from speechmtp.decoding.rules.relaxed import (
    Distance,
    Ensemble,
    EntropyWindow,
    JointRatio,
    MinBlock,
    Threshold,
    Thresholds,
    TopK,
    Typical,
)
from speechmtp.decoding.trees import TreeShape
from speechmtp.errors import ConfigError

if TYPE_CHECKING:
    from speechmtp.decoding.presets import Preset

LENGTHS = ("", "running", "cost")
# Exact rules that a drafting strategy can be given; they differ where tokens are drawn.
RULES: dict[str, Callable[[], AcceptanceRule]] = {
    "": GreedyMatch, "ratio": Ratio, "block": BlockVerification, "sample": SampleMatch,
}  # fmt: skip
_SHOWN = ("depth", "theta", "measure")  # stand in every label, the others where they are not at their defaults


@dataclass(frozen=True)
class Strategy:
    """A way to decode; configuration only. Without a drafter (`ctc-only`) the trunk is not called at all.
    `given` are the options that somebody chose, the others stand at their defaults. `preset` is the published system
    that it stands for."""

    name: str
    options: dict[str, Any]
    drafter: Drafter | None
    rule: AcceptanceRule | None
    given: dict[str, Any] = field(default_factory=dict, compare=False)
    preset: "Preset | None" = None

    @property
    def exact(self) -> bool:
        """Whether it follows the trunk's own distribution."""
        return self.rule is not None and self.rule.exact

    @property
    def heads(self) -> str:
        """Name of the head set that drafts, empty for the model's default."""
        return str(self.options.get("heads", ""))

    @property
    def length(self) -> Literal["", "running", "cost"]:
        """How the length of drafts adapts; empty where it is fixed."""
        found: Literal["", "running", "cost"] = self.options.get("length", "")
        return found

    @property
    def needs(self) -> set[str]:
        """What it needs besides a trunk: `heads`, and the names of sources of requests."""
        found = {self.drafter.source.name} if self.drafter is not None and self.drafter.source else set()
        if self.name == "ctc-only":
            found = {"ctc"}
        return found | ({"heads"} if self.drafter is not None and self.drafter.heads else set())

    def fitted(self, depth: int) -> "Strategy":
        """The same for heads of `depth`: a draft length that nobody chose is lowered to theirs."""
        if self.preset is not None:
            return self
        if "paths" in self.options and "paths" not in self.given:
            shape = TreeShape.parse(self.options["paths"])
            if shape.depth <= depth:
                return self
            options = self.options | {"paths": shape.cut(depth).label}
            return replace(self, options=options, drafter=HeadTree(options["paths"]))
        if "depth" in self.given or self.options.get("depth", 0) <= depth:
            return self
        return make_strategy(self.name, {**self.given, "depth": depth})

    @property
    def label(self) -> str:
        """Name and options as they are written on the command line; those at their defaults are left out."""
        if self.preset is not None:
            given = [f"{key}={value}" for key, value in self.given.items()]
            return ":".join([self.name, *([",".join(given)] if given else [])])
        default = STRATEGIES[self.name].options
        parts = [f"{k}={v}" for k, v in self.options.items() if k in _SHOWN or v != default[k]]
        return ":".join([self.name, *([",".join(parts)] if parts else [])])


@dataclass(frozen=True)
class Row:
    """One line of the table: what the strategy does, its options with defaults, and how it is made.

    An option whose value is empty is not given: it stands in no label and does not reach `make`. `rule` and `length`
    are options of rows that draft and match, see `RULES` and `LENGTHS`.
    """

    summary: str
    options: dict[str, Any]
    make: Callable[..., tuple[Drafter | None, AcceptanceRule | None]]


_ADAPTS = {"rule": "", "length": ""}
_BY_HEADS = {"heads": ""}


def _matched(drafter: Callable[..., Drafter], *optional: str) -> Callable[..., tuple[Drafter, AcceptanceRule]]:
    """A drafter of the options, and the trunk's own choice (or another exact rule) as the judge; `optional` ones are
    numbers that may be empty."""

    def make(rule: str = "", length: str = "", heads: str = "", **options: Any) -> tuple[Drafter, AcceptanceRule]:
        return drafter(**{k: float(v) if k in optional else v for k, v in options.items()}), RULES[rule]()

    return make


def _judged(rule: Callable[..., AcceptanceRule]) -> Callable[..., tuple[Drafter, AcceptanceRule]]:
    """A chain of the heads, or a tree where `paths` are given, under a rule of the other options."""

    def make(depth: int, heads: str = "", paths: str = "", **options: Any) -> tuple[Drafter, AcceptanceRule]:
        return HeadTree(paths) if paths else HeadChain(depth), rule(**options)

    return make


_PATHS = "0.1.2.00.01.02.10.000.001.010.100.0000.0001.0010.0100.1000.00000.000000.0000000"

STRATEGIES: dict[str, Row] = {
    "ar": Row("plain decoding, one token a call", {}, lambda: (Silent(), GreedyMatch())),
    "verify": Row(
        "the heads draft, the trunk verifies; verification and the next draft come from one call",
        {"depth": 7, "theta": "", "measure": "", **_BY_HEADS, **_ADAPTS},
        _matched(HeadChain, "theta"),
    ),
    "tree": Row(
        "a tree of the heads' tokens of one shape, which development data can calibrate",
        {"paths": _PATHS, **_BY_HEADS, **_ADAPTS},
        _matched(HeadTree),
    ),
    "dynamic-tree": Row(
        "a tree that the heads' confidence grows anew at every call",
        {"depth": 7, "width": 4, "nodes": 24, **_BY_HEADS, **_ADAPTS},
        _matched(DynamicTree),
    ),
    "draft-model": Row(
        "a small model drafts, the trunk verifies", {"depth": 4, "theta": "", **_ADAPTS}, _matched(DraftModel, "theta")
    ),
    "ctc": Row(
        "the CTC head drafts the transcript on the prompt's call; its rest is recycled after a mismatch",
        {"mode": "recycle", "depth": "", "pointers": 3, "alternatives": 2, "nodes": 96, "least": 0.5, "rule": ""},
        _matched(CtcDraft),
    ),
    "ctc-heads": Row(
        "the CTC head's transcript, and the heads' chain beside it where a label is unsure",
        {
            "depth": 7,
            "theta": 0.9,
            "mode": "tree",
            "labels": "",
            "pointers": 3,
            "alternatives": 2,
            **_BY_HEADS,
            "rule": "",
        },
        lambda depth, theta, labels=None, heads="", rule="", **ctc: (
            CtcHeads(depth, theta, CtcDraft(depth=labels, **ctc)),
            RULES[rule](),
        ),
    ),
    "previous": Row(
        "what the pass before said over an overlapping or growing window; its rest is recycled after a mismatch",
        {"depth": "", "pointers": 3, "rule": ""},
        _matched(PreviousPass),
    ),
    "previous-heads": Row(
        "the pass before on the prompt's call, then the heads' chain beside what is left of it",
        {"depth": 7, "pointers": 3, **_BY_HEADS, "rule": ""},
        lambda depth, pointers, heads="", rule="": (PreviousHeads(depth, PreviousPass(pointers)), RULES[rule]()),
    ),
    "lookup": Row(
        "copies what followed the last place where the text's last tokens stood before",
        {"depth": 10, "longest": 3, "shortest": 1, "match": "last", **_ADAPTS},
        _matched(PromptLookup),
    ),
    "suffix": Row(
        "the likeliest counted continuation of the longest suffixes of the text so far",
        {"depth": 24, "factor": 1.0, "least": 0.1, "rule": ""},
        _matched(Suffix),
    ),
    "jacobi": Row(
        "the trunk's own parallel guesses, and n-grams pooled from them (ngram=2,guesses=0: the guesses alone)",
        {"window": 7, "ngram": 5, "guesses": 7, "rule": ""},
        _matched(Lookahead),
    ),
    "marginal": Row(
        "the trunk's own marginal distributions draft, at a call a token: a reference for heads",
        {"depth": 2, "top": 8, "rule": ""},
        _matched(Marginal),
    ),
    "oracle": Row(
        "drafts what `ar` will say: the ceiling of a depth",
        {"depth": 7},
        lambda depth: (Oracle(depth), GreedyMatch()),
    ),
    "threshold": Row(
        "the heads' tokens are kept while their confidence stays above theta; nothing is verified",
        {"depth": 7, "theta": 0.9, "measure": "token", **_BY_HEADS},
        lambda depth, theta, measure, heads="": (HeadChain(depth, theta, measure), KeepDraft()),
    ),
    "typical": Row(
        "the heads' tokens stay if the trunk finds them typical",
        {"depth": 7, "epsilon": 0.09, "delta": 0.3, "paths": "", **_BY_HEADS},
        _judged(Typical),
    ),
    "relaxed": Row(
        "the heads' tokens stay while the trunk's probability of them stays above theta",
        {"depth": 7, "theta": 0.2, "measure": "token", **_BY_HEADS},
        _judged(Threshold),
    ),
    "top-k": Row(
        "the heads' tokens stay if they are among the trunk's k likeliest",
        {"depth": 7, "k": 2, **_BY_HEADS},
        _judged(TopK),
    ),
    "distance": Row(
        "the heads' tokens stay if their numbers are near the trunk's choice: for codes in an order",
        {"depth": 7, "most": 1, **_BY_HEADS},
        _judged(Distance),
    ),
    "min-block": Row(
        "the first tokens of a draft stay whatever they are, the others if they match",
        {"depth": 7, "least": 1, **_BY_HEADS},
        _judged(MinBlock),
    ),
    "groups": Row(
        "the heads' tokens stay if their embeddings are like that of the trunk's choice",
        {"depth": 7, "similarity": 0.6, **_BY_HEADS},
        _judged(AlikeGroups),
    ),
    "window": Row(
        "a refused token stays where the trunk is unsure, if the tokens behind it pass",
        {"depth": 7, "size": 3, "entropy": 0.3, **_BY_HEADS},
        _judged(EntropyWindow),
    ),
    "thresholds": Row(
        "SGLang's thresholds: the heads' tokens stay above a probability, or if one coin a node falls on them",
        {"depth": 7, "single": 0.5, "acc": 0.5, **_BY_HEADS},
        _judged(Thresholds),
    ),
    "ensemble": Row(
        "draws from a mixture of trunk and heads; for temperatures above 0",
        {"depth": 7, "weight": 0.8, **_BY_HEADS},
        _judged(Ensemble),
    ),
    "joint-ratio": Row(
        "the likeliest beam of a small model, its longest prefix with a joint ratio above tau",
        {"depth": 4, "width": 4, "top_k": 10, "top_p": 0.9, "tau": 0.5},
        lambda tau, **beams: (BeamSample(**beams), JointRatio(tau)),
    ),
    "mtjd": Row(
        "the likeliest continuation of several tokens under the trunk's joint distribution: a reference",
        {"depth": 2, "top": 8},
        lambda depth, top: (Joint(depth, top), KeepDraft()),
    ),
    "ctc-only": Row("the CTC head alone, no trunk: a reference", {}, lambda: (None, None)),
}
_NUMBERS = {"theta": float, "depth": int, "labels": int}  # options that may be empty, and what they are if not
_CHOICES = {"measure": ("token", "product"), "length": LENGTHS[1:], "rule": ("match", *list(RULES)[1:])}


def parse_strategy(text: str) -> Strategy:
    """A strategy or preset from `name` or `name:key=value,key=value`."""
    from speechmtp.decoding.presets import PRESETS

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


def make_strategy(name: str, given: dict[str, Any]) -> Strategy:
    """A strategy of the table, or a preset, with some options; the others keep their defaults."""
    if name not in STRATEGIES:
        from speechmtp.decoding.presets import make_preset

        return make_preset(name, given)
    row = STRATEGIES[name]
    options = dict(row.options)
    for key, value in given.items():
        if key not in options:
            allowed = ", ".join(options) or "none"
            raise ConfigError(f"strategy {name}: no option {key!r}; allowed: {allowed}")
        options[key] = _read_option(name, key, value, row.options[key])
    options = {key: value for key, value in options.items() if value != ""}
    try:
        return Strategy(name, options, *row.make(**options), dict(given))
    except ConfigError as error:
        raise ConfigError(f"strategy {name}: {error}") from None


def _read_option(strategy: str, key: str, value: Any, default: Any) -> Any:
    if value == "":
        if default != "":
            raise ConfigError(f"strategy {strategy}: {key} is empty, expected a value; its default is {default}")
        return value
    kind: type = _NUMBERS[key] if key in _NUMBERS else type(default)
    try:
        read = kind(value)
    except ValueError:
        raise ConfigError(f"strategy {strategy}: {key}={value!r}, expected {kind.__name__}") from None
    if key in ("depth", "labels") and read < 0:
        raise ConfigError(f"strategy {strategy}: {key}={read}, expected 0 or more")
    if key == "theta" and not 0 <= read <= 1:
        raise ConfigError(f"strategy {strategy}: theta={read}, expected a number from 0 to 1")
    if key == "heads" and "," in read:
        raise ConfigError(f"strategy {strategy}: heads={read!r}, expected a name without commas; rename the folder")
    if key in _CHOICES and read not in _CHOICES[key]:
        raise ConfigError(f"strategy {strategy}: {key}={read!r}, expected {' or '.join(_CHOICES[key])}")
    return "" if (key, read) == ("rule", "match") else read


def split_strategies(text: str) -> list[str]:
    """The parts of a list such as `ar,verify:depth=3,threshold:theta=0.9,depth=5`.

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
    return groups


def parse_strategies(text: str) -> list[Strategy]:
    """The strategies of a list, see `split_strategies`."""
    return [parse_strategy(part) for part in split_strategies(text)]
