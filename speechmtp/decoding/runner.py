"""Decode batches with strategies on one model: a trunk, its head sets and optionally a draft model."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from speechmtp.decoding.bound import BoundStrategy
from speechmtp.decoding.draft_length import CostTable, measure_costs
from speechmtp.decoding.engine import Engine, Limits, Recorded, generate
from speechmtp.decoding.presets import PRESETS, training_command
from speechmtp.decoding.rules.greedy_match import GreedyMatch
from speechmtp.decoding.sampling import RowSampling
from speechmtp.decoding.strategies import Strategy, make_strategy
from speechmtp.decoding.strategy_table import STRATEGIES
from speechmtp.errors import ConfigError
from speechmtp.heads.contract import HeadSet
from speechmtp.models.trunk import Trunk
from speechmtp.types import Request, Trace


@dataclass
class Runner:
    """Decodes requests with one model. `heads` are its head sets by name, the first is the default; `draft` is the
    trunk of a draft model; `name` is the model's name in error messages."""

    trunk: Trunk
    heads: Mapping[str, HeadSet]
    name: str = "MODEL"
    draft: Trunk | None = None
    limits: Limits = field(default_factory=Limits)
    _costs: dict[tuple[str, bool], CostTable] = field(default_factory=dict)

    def heads_named(self, name: str = "") -> HeadSet:
        """The head set of this name, or the default one for the empty name. ConfigError if it is not loaded."""
        found = self.heads.get(name) if name else next(iter(self.heads.values()), None)
        if found is None and not self.heads:
            raise ConfigError("heads: the model has no heads; load it with heads=, or choose another strategy")
        if found is None:
            raise ConfigError(
                f"heads={name!r}: not among those loaded, {', '.join(self.heads)}; name one, or load it with heads="
            )
        return found

    def prepared(self, strategy: Strategy) -> Strategy:
        """Adapt a strategy to this model: choose the head set of a preset, and cut draft depths that were not set
        explicitly to the depth of the heads. ConfigError if the model lacks what the strategy needs."""
        if "model" in strategy.needs and self.draft is None:
            raise ConfigError(f"strategy {strategy.name}: needs a draft model; load one with draft_model=")
        if "heads" not in strategy.needs:
            return strategy
        if strategy.preset is not None:
            return self._with_heads(strategy)
        try:
            heads = self.heads_named(strategy.heads)
        except ConfigError as error:
            raise ConfigError(f"strategy {strategy.name}: {error}") from None
        strategy = strategy.with_max_depth(heads.depth)
        depth = getattr(strategy.drafter, "depth", 0)
        if depth > heads.depth:
            found, mend = f"depth={depth}", f"depth={heads.depth}"
            if "paths" in strategy.options:
                found, mend = f"a tree of depth {depth}", "shorter paths"
            raise ConfigError(
                f"strategy {strategy.name}: {found}, expected at most {heads.depth}, the heads' depth; give {mend}"
            )
        return strategy

    def _with_heads(self, strategy: Strategy) -> Strategy:
        """A preset with a head set that fits it: the one named by `heads`, else one of the preset's name, else the
        first that fits."""
        preset = strategy.preset
        assert preset is not None
        own = [strategy.name] * (strategy.name in self.heads)
        wanted = [strategy.heads] if strategy.heads else [*own, *self.heads]
        for name in wanted:
            if preset.fits(self.heads_named(name).config):
                return make_strategy(strategy.name, {**strategy.given, "heads": name})
        kind = ", ".join(f"{key} {'given' if value is True else value}" for key, value in preset.heads.items())
        raise ConfigError(
            f"strategy {strategy.name}: needs heads of {kind}, depth {preset.options.get('depth', 1)} or more, and "
            f"{', '.join(wanted) or 'nothing'} is loaded; train them with: {training_command(strategy.name, self.name)}"
        )

    def usable(self, ctc: bool, drawn: bool = False) -> list[Strategy]:
        """All strategies and presets that this model can run, with default options; with `ctc` also those that need a
        CTC head.

        Unless tokens are sampled (`drawn`), lossy strategies are left out whose rule needs sampling or is greedy match
        at temperature 0. Strategies that draft a previous pass are left out too, as single requests have none.
        """
        found = []
        for name in (*STRATEGIES, *PRESETS):
            strategy = make_strategy(name, {})
            if (ctc or "ctc" not in strategy.needs) and "previous" not in strategy.needs:
                with suppress(ConfigError):
                    rule = strategy.rule if drawn or strategy.rule is None else strategy.rule.greedy()
                    if strategy.exact or type(rule) is not GreedyMatch:
                        found.append(self.prepared(strategy))
        return found

    def run(
        self, requests: Sequence[Request], strategies: Sequence[Strategy],
        row_sampling: RowSampling | Sequence[RowSampling] | None = None, recorded: Recorded | None = None,
    ) -> tuple[list[list[int]], list[Trace]]:  # fmt: skip
        """Decode every request with its own strategy; return tokens and traces. ConfigError for a strategy without a
        drafter, or one that this model cannot run."""
        chosen = [self.prepared(one) for one in strategies]
        bound = {one: self.bind(one) for one in dict.fromkeys(chosen)}
        return generate(self.trunk, requests, [bound[one] for one in chosen], row_sampling, self.limits, recorded)

    def engine(self, slots: int = 16, recorded: Recorded | None = None) -> Engine:
        """An engine on this trunk, which requests join and leave, each with its own strategy."""
        return Engine(self.trunk, slots, self.limits, recorded, bind=lambda one: self.bind(self.prepared(one)))

    def bind(self, strategy: Strategy) -> BoundStrategy:
        """Bind a prepared strategy to this model's heads and costs. ConfigError if the strategy calls no trunk."""
        if strategy.drafter is None or strategy.rule is None:
            raise ConfigError(f"strategy {strategy.name}: calls no trunk, expected one that does; choose another")
        heads = self.heads_named(strategy.heads) if strategy.drafter.heads else None
        length = None if strategy.length is None else strategy.length.bind(lambda: self.costs(strategy.heads, heads))
        return BoundStrategy(strategy.drafter, strategy.rule, heads, length)

    def costs(self, name: str = "", heads: HeadSet | None = None) -> CostTable:
        """The costs of calls and drafts on this machine, measured at the first use."""
        key = name, heads is not None
        if key not in self._costs:
            self._costs[key] = measure_costs(self.trunk, heads=heads)
        return self._costs[key]
