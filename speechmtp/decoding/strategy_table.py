"""The table of strategies: each name stands for a drafter and an acceptance rule, and the options that it offers.

A new strategy is one entry of `STRATEGIES`. Its options are the fields of its drafter, rule and draft length. The
annotations of the fields say which values are allowed, the objects in the entry hold the defaults.
"""

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal

from speechmtp.config import allowed_values, in_words
from speechmtp.decoding.draft_length import LENGTHS, LengthConfig
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
from speechmtp.decoding.rules.contract import AcceptanceRule, tree_refused
from speechmtp.decoding.rules.distance import Distance
from speechmtp.decoding.rules.ensemble import Ensemble
from speechmtp.decoding.rules.entropy_window import EntropyWindow
from speechmtp.decoding.rules.greedy_match import GreedyMatch
from speechmtp.decoding.rules.groups import AlikeGroups
from speechmtp.decoding.rules.joint_ratio import JointRatio
from speechmtp.decoding.rules.keep_draft import KeepDraft
from speechmtp.decoding.rules.min_block import MinBlock
from speechmtp.decoding.rules.table import RULES
from speechmtp.decoding.rules.threshold import Threshold
from speechmtp.decoding.rules.thresholds import Thresholds
from speechmtp.decoding.rules.top_k import TopK
from speechmtp.decoding.rules.typical import Typical
from speechmtp.errors import ConfigError


@dataclass(frozen=True)
class Option:
    """An option of a strategy: the `field` of its drafter, rule or draft length (of class `kind`), or one of the
    strategy itself: the `paths` of a tree, the name of the `heads`, the `rule` or the `length`."""

    part: Literal["drafter", "rule", "length", "paths", "strategy"]
    field: str
    kind: type | None = None
    default: Any = None

    @property
    def allowed(self) -> str:
        """The allowed values, in words."""
        if self.kind is not None:
            return allowed_values(self.kind, self.field)
        return {"rule": in_words(list(RULES)), "length": in_words(list(LENGTHS))}.get(self.field, "a name")


@dataclass(frozen=True)
class Row:
    """A named strategy: a summary, and its drafter and rule, whose field values are the defaults of its options.

    `closed` are fields of the drafter that are not offered as options. With `takes_paths` the option `paths` replaces
    the chain of heads by a tree. Strategies whose rule is greedy match offer the other rules too, and draft lengths if
    their drafter `adapts`.
    """

    summary: str
    drafter: Drafter | None
    rule: AcceptanceRule | None
    closed: tuple[str, ...] = ()
    takes_paths: bool = False

    @property
    def takes_rule(self) -> bool:
        """Whether another rule can be chosen with `rule=NAME`."""
        return type(self.rule) is GreedyMatch and self.drafter is not None and not self.drafter.exact_rules_only

    @property
    def takes_length(self) -> bool:
        """Whether a draft length can be chosen with `length=NAME`."""
        return self.takes_rule and self.drafter is not None and self.drafter.adapts

    @property
    def options(self) -> dict[str, Option]:
        """Its options with its own rule and without a draft length, in the order of labels."""
        return self.options_with(self.rule, None)

    def options_with(self, rule: AcceptanceRule | None, length: LengthConfig | None) -> dict[str, Option]:
        """Its options with the chosen rule and draft length. Where names clash, the drafter's option has the bare name,
        the rule's is `rule.NAME` and the length's `length.NAME`."""
        found: dict[str, Option] = {}
        _add_fields(found, "drafter", self.drafter, self.closed)
        if not self.takes_rule:
            _add_fields(found, "rule", self.rule)
        if self.takes_paths:
            found["paths"] = Option("paths", "paths", HeadTree)
        if self.drafter is not None and self.drafter.heads:
            found["heads"] = Option("strategy", "heads")
        if self.takes_rule:
            found["rule"] = Option("strategy", "rule")
            _add_fields(found, "rule", None if rule is None else type(rule)())
        if self.takes_length:
            found["length"] = Option("strategy", "length")
            _add_fields(found, "length", None if length is None else type(length)())
        return found

    def makes(self, drafter: Drafter | None, rule: AcceptanceRule | None, length: LengthConfig | None) -> bool:
        """Whether its options can express this drafter, rule and draft length."""
        if type(drafter) is not type(self.drafter) or (type(rule) is not type(self.rule) and not self.takes_rule):
            return False
        if RULES.get(getattr(rule, "name", "")) is not type(rule) and rule is not None:
            return False
        if length is not None and not (self.takes_length and LENGTHS.get(length.name) is type(length)):
            return False
        for name, default in _values(self.drafter).items():
            value = getattr(drafter, name)
            # Closed fields are fixed, and an option that has a default value cannot be set to None.
            if value != default and (name in self.closed or value is None):
                return False
        return True


def _add_fields(
    found: dict[str, Option], part: Literal["drafter", "rule", "length"], config: Any, closed: tuple[str, ...] = ()
) -> None:
    """Add the fields of a drafter, rule or length to the options in `found`."""
    for field, default in _values(config).items():
        if field not in closed:
            found[f"{part}.{field}" if field in found else field] = Option(part, field, type(config), default)


def _values(config: Any) -> dict[str, Any]:
    """The fields of a drafter, rule or length with their values."""
    return {} if config is None else {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}


def check_combination(drafter: Drafter, rule: AcceptanceRule) -> None:
    """Raise ConfigError if a rule cannot be used with a drafter, according to their class attributes."""
    if rule.instead_on_trees and drafter.branches:
        raise tree_refused(rule)
    found = f"{rule.name or type(rule).__name__} with {drafter.name or type(drafter).__name__}"
    if rule.needs_probabilities and not drafter.gives_probabilities:
        raise ConfigError(f"{found}: drafts without probabilities, expected a drafter that gives them; use match")
    if drafter.exact_rules_only and not rule.exact:
        raise ConfigError(f"{found}: expected an exact rule, as the drafter leaves nothing to relax; use match")


def rules_for(drafter: Drafter) -> list[str]:
    """Names of the rules that can be used with a drafter, each with its default options."""
    found = []
    for name, kind in RULES.items():
        try:
            check_combination(drafter, kind())
        except ConfigError:
            continue
        found.append(name)
    return found


_UNSURE = ("theta", "measure")  # the options by which a chain of heads stops at low confidence

STRATEGIES: dict[str, Row] = {
    "ar": Row(
        "plain decoding, one token a call",
        Silent(),
        GreedyMatch(),
    ),
    "verify": Row(
        "the heads draft, the trunk verifies; verification and the next draft come from one call",
        HeadChain(),
        GreedyMatch(),
    ),
    "tree": Row(
        "a tree of the heads' tokens of one shape, which development data can calibrate",
        HeadTree(),
        GreedyMatch(),
    ),
    "dynamic-tree": Row(
        "a tree that the heads' confidence grows anew at every call",
        DynamicTree(),
        GreedyMatch(),
    ),
    "draft-model": Row(
        "a small model drafts, the trunk verifies",
        DraftModel(),
        GreedyMatch(),
    ),
    "ctc": Row(
        "the CTC head drafts the transcript on the prompt's call; its rest is recycled after a mismatch",
        CtcDraft(),
        GreedyMatch(),
    ),
    "ctc-heads": Row(
        "the CTC head's transcript, and the heads' chain beside it where a label is unsure",
        CtcHeads(),
        GreedyMatch(),
    ),
    "previous": Row(
        "what the pass before said over an overlapping or growing window; its rest is recycled after a mismatch",
        PreviousPass(),
        GreedyMatch(),
        closed=("nodes",),
    ),
    "previous-heads": Row(
        "the pass before on the prompt's call, then the heads' chain beside what is left of it",
        PreviousHeads(),
        GreedyMatch(),
    ),
    "lookup": Row(
        "copies what followed the last place where the text's last tokens stood before",
        PromptLookup(),
        GreedyMatch(),
    ),
    "suffix": Row(
        "the likeliest counted continuation of the longest suffixes of the text so far",
        Suffix(),
        GreedyMatch(),
    ),
    "jacobi": Row(
        "the trunk's own parallel guesses, and n-grams pooled from them (ngram=2,guesses=0: the guesses alone)",
        Lookahead(),
        GreedyMatch(),
    ),
    "marginal": Row(
        "the trunk's own marginal distributions draft, at a call a token: a reference for heads",
        Marginal(),
        GreedyMatch(),
    ),
    "oracle": Row(
        "drafts what `ar` will say: the ceiling of a depth",
        Oracle(),
        GreedyMatch(),
    ),
    "threshold": Row(
        "the heads' tokens are kept while their confidence stays above theta; nothing is verified",
        HeadChain(theta=0.9, measure="token"),
        KeepDraft(),
    ),
    "typical": Row(
        "the heads' tokens stay if the trunk finds them typical",
        HeadChain(),
        Typical(),
        closed=_UNSURE,
        takes_paths=True,
    ),
    "relaxed": Row(
        "the heads' tokens stay while the trunk's probability of them stays above theta",
        HeadChain(),
        Threshold(),
        closed=_UNSURE,
    ),
    "top-k": Row(
        "the heads' tokens stay if they are among the trunk's k likeliest",
        HeadChain(),
        TopK(),
        closed=_UNSURE,
    ),
    "distance": Row(
        "the heads' tokens stay if their numbers are near the trunk's choice: for codes in an order",
        HeadChain(),
        Distance(),
        closed=_UNSURE,
    ),
    "min-block": Row(
        "the first tokens of a draft stay whatever they are, the others if they match",
        HeadChain(),
        MinBlock(),
        closed=_UNSURE,
    ),
    "groups": Row(
        "the heads' tokens stay if their embeddings are like that of the trunk's choice",
        HeadChain(),
        AlikeGroups(),
        closed=_UNSURE,
    ),
    "window": Row(
        "a refused token stays where the trunk is unsure, if the tokens behind it pass",
        HeadChain(),
        EntropyWindow(),
        closed=_UNSURE,
    ),
    "thresholds": Row(
        "SGLang's thresholds: the heads' tokens stay above a probability, or if one coin a node falls on them",
        HeadChain(),
        Thresholds(),
        closed=_UNSURE,
    ),
    "ensemble": Row(
        "draws from a mixture of trunk and heads; for temperatures above 0",
        HeadChain(),
        Ensemble(),
        closed=_UNSURE,
    ),
    "joint-ratio": Row(
        "the likeliest beam of a small model, its longest prefix with a joint ratio above tau",
        BeamSample(),
        JointRatio(),
    ),
    "mtjd": Row(
        "the likeliest continuation of several tokens under the trunk's joint distribution: a reference",
        Joint(),
        KeepDraft(),
    ),
    "ctc-only": Row(
        "the CTC head alone, no trunk: a reference",
        None,
        None,
    ),
}
