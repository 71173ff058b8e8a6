"""Select the strategies of a comparison: listed ones, all that a model can run, and transformers' own modes."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from speechmtp.config import read_yaml
from speechmtp.decoding.runner import Runner
from speechmtp.decoding.sampling import SamplingConfig
from speechmtp.decoding.strategies import Strategy, parse_strategy, split_strategies
from speechmtp.errors import ConfigError

if TYPE_CHECKING:
    from speechmtp.evaluation.evaluation_sets import EvaluationSet

ALL, PEERS = "all", "transformers"


def prepare_strategies(
    strategies: Sequence[Strategy | str], runner: Runner, has_ctc: bool = True, with_references: bool = False,
    with_previous: bool = False,
) -> list[Strategy]:  # fmt: skip
    """Prepare strategies for a model: a depth that is not given becomes the heads' full depth, and a preset gets a
    fitting head set.

    ConfigError for what the model cannot run: a strategy that needs the output of `ar` without `with_references`, a CTC
    head without `has_ctc`, or a previous pass over the same audio without `with_previous`.
    """
    made = [parse_strategy(one) if isinstance(one, str) else one for one in strategies]
    for strategy in made:
        if "reference" in strategy.needs and not with_references:
            raise ConfigError(f"strategy {strategy.name}: needs `ar`'s output first; only a comparison has it")
        if "ctc" in strategy.needs and not has_ctc:
            raise ConfigError(f"strategy {strategy.name}: needs a CTC head, and the model has none; choose another")
        if "previous" in strategy.needs and not with_previous:
            raise ConfigError(f"strategy {strategy.name}: needs a pass before over the same audio; choose another")
    return [runner.prepared(strategy) for strategy in made]


@dataclass(frozen=True)
class StrategySelection:
    """Strategies selected by name; with `every` all that the model can run, with `peers` the modes of transformers' own
    `generate`. With `exact`, strategies that change the trunk's distribution are left out. `recommended` and
    `chosen_on` come from a file of strategies (see `tuning.write_tuning`)."""

    listed: Sequence[Strategy] = field(default=())
    every: bool = False
    peers: bool = False
    exact: bool = False
    recommended: str = ""
    chosen_on: str = ""

    @classmethod
    def parse(cls, text: str, exact: bool = False) -> "StrategySelection":
        """Parse `ar,verify:depth=3,...`, where the list may contain `all` and `transformers`, or `@FILE` with a YAML
        list `strategies`. ConfigError for an unknown name and for a file without the list."""
        recommended = chosen_on = ""
        if text.startswith("@"):
            found = read_yaml(text[1:])
            listed = found.get("strategies")
            if not isinstance(listed, list) or not listed:
                raise ConfigError(f"{text[1:]}: a list `strategies` is expected")
            parts = [str(item) for item in listed]
            recommended, chosen_on = str(found.get("recommended", "")), str(found.get("chosen_on", ""))
        else:
            parts = split_strategies(text)
        strategies = [parse_strategy(part) for part in parts if part not in (ALL, PEERS)]
        every, peers = ALL in parts, PEERS in parts or ALL in parts
        return cls([s for s in strategies if s.exact or not exact], every, peers, exact, recommended, chosen_on)

    def strategies(self, runner: Runner, has_ctc: bool, drawn: bool = False) -> list[Strategy]:
        """The listed strategies and, for `all`, those that the model can run; with `drawn` (sampling) also those that
        only make sense when tokens are sampled. ConfigError if the model cannot run a listed one."""
        found = prepare_strategies(self.listed, runner, has_ctc, with_references=True)
        found += [s for s in runner.usable(has_ctc, drawn) if s.exact or not self.exact] if self.every else []
        return list({strategy.label: strategy for strategy in found}.values())

    def peer_modes(
        self, evaluation_set: "EvaluationSet", batch_size: int, sampling: SamplingConfig
    ) -> tuple[list[str], list[str]]:
        """Modes of transformers' `generate` that can run beside our strategies, and a note on each that cannot."""
        if not self.peers:
            return [], []
        if batch_size > 1 or not sampling.plain:
            return [], ["transformers' own rows are run greedily at batch size 1 only"]
        from speechmtp.evaluation.peers import peer_modes  # only here, since it imports all of transformers

        modes = peer_modes(evaluation_set.runner.trunk, evaluation_set.embedded, evaluation_set.assistant)
        notes = [f"{PEERS}:{mode} is left out: {why}" for mode, why in modes.items() if why is not None]
        return [mode for mode, why in modes.items() if why is None], notes
