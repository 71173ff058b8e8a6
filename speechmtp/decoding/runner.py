"""Batches decoded by strategies: one trunk, its head sets and perhaps a draft model, whatever the prompts are."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from speechmtp.decoding.acceptance import GreedyMatch
from speechmtp.decoding.draft_costs import CostTable, measure_costs
from speechmtp.decoding.draft_length import Costed, DraftLength, Running
from speechmtp.decoding.drafters.contract import Sources
from speechmtp.decoding.loop import Drawing, Limits, Plan, generate_mixed
from speechmtp.decoding.presets import PRESETS, training_command
from speechmtp.decoding.strategies import STRATEGIES, Strategy, make_strategy
from speechmtp.errors import ConfigError
from speechmtp.heads.contract import HeadSet
from speechmtp.models.draft_prompt import DraftPrompt
from speechmtp.models.trunk import Trunk
from speechmtp.types import CtcSource, PreviousPass, Reference, Request, S, Trace, stack_prompts


@dataclass
class Runner:
    """Decodes requests; `name` is what the user calls the model, `draft` the trunk of a draft model."""

    trunk: Trunk
    heads: Mapping[str, HeadSet]
    name: str = "MODEL"
    draft: Trunk | None = None
    limits: Limits = field(default_factory=Limits)
    _costs: dict[str, CostTable] = field(default_factory=dict)

    def heads_named(self, name: str = "") -> HeadSet:
        """A head set by name, the default one for the empty name; a ConfigError where there is none."""
        found = self.heads.get(name) if name else next(iter(self.heads.values()), None)
        if found is None and not self.heads:
            raise ConfigError("heads: the model has no heads; give a head folder with --heads, or another strategy")
        if found is None:
            raise ConfigError(
                f"heads {name!r}: not among those loaded, {', '.join(self.heads)}; name it or give its folder "
                f"with --heads"
            )
        return found

    def prepared(self, strategy: Strategy) -> Strategy:
        """The strategy for this model: a preset's head set found, draft lengths that nobody chose as long as the heads
        can. ConfigError for what the model cannot do."""
        if "model" in strategy.needs and self.draft is None:
            raise ConfigError(f"strategy {strategy.name}: needs a draft model; give one with --draft-model")
        if "heads" not in strategy.needs:
            return strategy
        if strategy.preset is not None:
            return self._with_heads(strategy)
        try:
            heads = self.heads_named(strategy.heads)
        except ConfigError as error:
            raise ConfigError(f"strategy {strategy.name}: {error}") from None
        strategy = strategy.fitted(heads.depth)
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
        """A preset with a head set of its kind: that named, that of its own name, or the first that fits."""
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
        """Every row of the table and every preset that this model can run, at its defaults; with `ctc`, those that need
        a CTC head too, and unless tokens are `drawn` not those that are made for drawing. Those that repeat a previous
        pass are for windows that overlap, not for requests of their own."""
        found = []
        for name in (*STRATEGIES, *PRESETS):
            strategy = make_strategy(name, {})
            if (ctc or "ctc" not in strategy.needs) and "previous" not in strategy.needs:
                with suppress(ConfigError):
                    rule = strategy.rule if drawn or strategy.rule is None else strategy.rule.undrawn()
                    if strategy.exact or type(rule) is not GreedyMatch:
                        found.append(self.prepared(strategy))
        return found

    def run(
        self, requests: Sequence[Request], strategies: Sequence[Strategy], drawing: Drawing | None = None,
        record_gaps: bool = False, overlap: bool = False, record_logprobs: bool = False,
    ) -> tuple[list[list[int]], list[Trace]]:  # fmt: skip
        """Tokens and traces of every request, each by its own strategy; none may be without a drafter."""
        chosen = [self.prepared(one) for one in strategies]
        labels = [one.label for one in chosen]
        plans = []
        for label, one in dict(zip(labels, chosen)).items():
            rows = [n for n, other in enumerate(labels) if other == label]
            plans.append(self._plan(one, [requests[n] for n in rows], rows))
        most = [self.limits.of(int(r.prompt.lengths[0])) if r.limit is None else r.limit for r in requests]
        return generate_mixed(
            self.trunk, stack_prompts([r.prompt for r in requests]), plans, requests[0].rules.eos, most, drawing,
            [r.ids for r in requests], record_gaps, overlap, record_logprobs,
        )  # fmt: skip

    def _plan(self, strategy: Strategy, requests: Sequence[Request], rows: list[int]) -> Plan:
        assert strategy.drafter is not None and strategy.rule is not None
        heads = self.heads_named(strategy.heads) if strategy.drafter.heads else None
        small, before = _all(requests, DraftPrompt), [r.source(PreviousPass) for r in requests]
        labels: list[Any] = _all(requests, CtcSource)
        sources = Sources(
            [one.tokens for one in _all(requests, Reference)], labels,
            (small[0].trunk, [one.prompt for one in small]) if small else None,
            [() if one is None else one.tokens for one in before],
        )  # fmt: skip
        return Plan(strategy.drafter, strategy.rule, heads, sources, self._length(strategy, heads), rows)

    def _length(self, strategy: Strategy, heads: HeadSet | None) -> DraftLength | None:
        if strategy.length == "running":
            return Running()
        if strategy.length == "cost":
            return Costed(self.costs(strategy.heads, heads))
        return None

    def costs(self, name: str = "", heads: HeadSet | None = None) -> CostTable:
        """What calls and drafts cost on this machine, measured at the first use."""
        if name not in self._costs:
            self._costs[name] = measure_costs(self.trunk, heads=heads)
        return self._costs[name]


def _all(requests: Sequence[Request], kind: type[S]) -> list[S]:
    """The sources of a class that there are."""
    return [one for request in requests if (one := request.source(kind)) is not None]
