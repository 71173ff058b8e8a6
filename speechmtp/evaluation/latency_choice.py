"""Streams to try and the choice among them on a development set."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Annotated, Any

from speechmtp.config import Range, check_fields, from_dict, to_dict, with_overrides
from speechmtp.decoding.strategies import parse_strategy
from speechmtp.errors import ConfigError
from speechmtp.streaming.config import StreamConfig


@dataclass(frozen=True)
class DelayLimits:
    """The most seconds that committed words may be late: in the mean, and nine words of ten."""

    mean: Annotated[float, Range(0, above=True)] = 1.0
    p90: Annotated[float, Range(0, above=True)] = 1.4

    def __post_init__(self) -> None:
        """Raise ConfigError for a value out of range."""
        check_fields(self, "limits")

    def hold(self, row: Mapping[str, Any]) -> bool:
        """Whether a row of `run_latency` is within them."""
        mean, p90 = row["delay_mean"], row["delay_p90"]
        return mean is not None and p90 is not None and mean <= self.mean and p90 <= self.p90


def stream_grid(
    base: StreamConfig, steps: Sequence[float] = (), grid: Mapping[str, Any] | None = None, where: str = "grid"
) -> dict[str, StreamConfig]:
    """Configurations like `base` with every one of `steps` (none: its own) and of the values that `grid` lists by key,
    in every combination, by their labels. `where` names the grid in errors. ConfigError for an unknown key, a value out
    of range, an unknown strategy, no list of values, and two that are the same."""
    lists = {"step": list(steps) or [base.step]} | dict(grid or {})
    for key, values in lists.items():
        if not isinstance(values, list) or not values:
            raise ConfigError(f"{where}: {key}: a list of values is expected, found {values!r}")
    found: dict[str, StreamConfig] = {}
    for values in product(*lists.values()):
        items = [f"{key}={value}" for key, value in zip(lists, values)]
        config = from_dict(StreamConfig, with_overrides(to_dict(base), items), where)
        if config.strategy:
            parse_strategy(config.strategy)  # a wrong one is an error before anything is loaded
        label = ", ".join([f"step {config.step:g} s", *items[1:]] if "step" not in (grid or {}) else items)
        if label in found:
            raise ConfigError(f"{where}: {label}: given twice, expected once")
        found[label] = config
    return found


def choose_stream(
    rows: Sequence[Mapping[str, Any]], configs: Mapping[str, StreamConfig], limits: DelayLimits
) -> tuple[str, StreamConfig]:
    """The label and configuration of the row with the fewest word errors among those within the limits; of several the
    one with the smallest mean delay. ConfigError if none is."""
    live = [row for row in rows if row["label"] in configs]
    allowed = [row for row in live if limits.hold(row)]
    if not allowed:
        known = [row["delay_mean"] for row in live if row["delay_mean"] is not None]
        best = f"the least mean is {min(known):.2f} s" if known else "there are no delays"
        raise ConfigError(
            f"no stream has delays of at most {limits.mean:g} s in the mean and {limits.p90:g} s for nine words of "
            f"ten, {best}; allow more, or try a shorter step"
        )
    best_row = min(allowed, key=lambda row: (row["wer"], row["delay_mean"]))
    return best_row["label"], configs[best_row["label"]]
