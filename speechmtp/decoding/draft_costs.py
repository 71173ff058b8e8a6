"""What calls and drafts cost on the machine at hand: v(B, n) and delta(d) of a cost model of speculative decoding."""

import time
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor

from speechmtp.errors import ConfigError
from speechmtp.heads.contract import HeadSet
from speechmtp.models.trunk import Trunk
from speechmtp.types import States

_BEHIND = 32  # committed entries that the calls see
_MOST_REPEATS = 5


@dataclass(frozen=True)
class CostTable:
    """Seconds of a trunk call [rows][widths] of so many rows and new entries, and of drafting [rows][0..D] to a depth
    (0: the heads only take in the call's states), empty where drafts cost next to nothing."""

    rows: tuple[int, ...]
    widths: tuple[int, ...]
    calls: tuple[tuple[float, ...], ...]
    drafts: tuple[tuple[float, ...], ...] = ()

    def __post_init__(self) -> None:
        grids = [(self.calls, len(self.widths)), *([(self.drafts, len(self.drafts[0]))] if self.drafts else [])]
        shaped = all(len(table) == len(self.rows) and all(len(row) == size for row in table) for table, size in grids)
        rising = all(list(axis) == sorted(set(axis)) and axis[0] > 0 for axis in (self.rows, self.widths) if axis)
        positive = all(value > 0 for row in self.calls for value in row)
        if not (self.rows and self.widths and shaped and rising and positive):
            raise ConfigError(
                "costs: table of another shape than its rows and widths, or not above 0; measure it again"
            )

    @property
    def depth(self) -> int:
        """The deepest draft that was measured."""
        return len(self.drafts[0]) - 1 if self.drafts else self.widths[-1] - 1

    def call(self, rows: int, entries: float) -> float:
        """Seconds of a trunk call; between and beyond what was measured in straight lines."""
        return _between(self.rows, [_between(self.widths, row, entries) for row in self.calls], rows)

    def draft(self, rows: int, depth: int) -> float:
        """Seconds of a draft of `depth` tokens a row."""
        if not self.drafts:
            return 0.0
        depths = range(len(self.drafts[0]))
        return _between(self.rows, [_between(depths, row, depth) for row in self.drafts], rows)

    def of(self, rows: int, drafting: int, depth: int) -> float:
        """v(B, d + 1) + delta(d) for a batch of `rows`, `drafting` of which draft `depth` tokens: 1 is the time of a
        call of one entry a row."""
        return (self.call(rows, depth + 1) + self.draft(drafting, depth)) / self.call(rows, 1)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "CostTable":
        """The table of `to_dict`, also out of JSON; ConfigError if it is none."""
        try:
            tables = (tuple(tuple(map(float, row)) for row in values[name]) for name in ("calls", "drafts"))
            return cls(tuple(map(int, values["rows"])), tuple(map(int, values["widths"])), *tables)
        except (KeyError, TypeError, ValueError) as error:
            raise ConfigError(
                f"costs: {error!r}, expected rows, widths, calls and drafts; measure them again"
            ) from error


def _between(grid: Sequence[int], values: Sequence[float], at: float) -> float:
    """The value at `at` of a line through points; the last piece goes on, the first does not."""
    if len(grid) == 1 or at <= grid[0]:
        return values[0]
    i = min(bisect_right(grid, at), len(grid) - 1)
    share = (at - grid[i - 1]) / (grid[i] - grid[i - 1])
    return values[i - 1] + share * (values[i] - values[i - 1])


@torch.inference_mode()
def measure_costs(
    trunk: Trunk, rows: Sequence[int] = (1, 4, 16), widths: Sequence[int] = (1, 2, 4, 8, 16),
    heads: HeadSet | None = None, seconds: float = 0.4,
) -> CostTable:  # fmt: skip
    """Time calls of every size in about `seconds`, the fastest of a few of each; a wider call is taken to cost no less.

    Entries are random: what they are does not change the time.
    """
    rows, widths = sorted(set(rows)), sorted(set(widths))
    if not rows or not widths or min(*rows, *widths) < 1:
        raise ConfigError(f"costs: rows {list(rows)} and widths {list(widths)}, expected numbers of 1 or more")
    share = seconds / (len(rows) * (len(widths) + (heads is not None)))
    calls, drafts = [], []
    for count in rows:
        bench = _Bench(trunk, count)
        times = [bench.fastest(bench.call, width, share) for width in widths]
        calls.append(_rising([one[0] for one in times]))
        if heads is not None and heads.depth:
            drafts.append(_rising(bench.fastest(bench.draft, heads, share)))
    return CostTable(tuple(rows), tuple(widths), tuple(calls), tuple(drafts))


def _rising(values: Sequence[float]) -> tuple[float, ...]:
    return tuple(accumulate(values, max))


class _Bench:
    """A trunk with a cache of some entries, and a clock."""

    def __init__(self, trunk: Trunk, rows: int) -> None:
        self.trunk, self.rows, self.cache = trunk, rows, trunk.new_cache(rows)
        weight = trunk.unembedding().weight
        self.like = torch.randn(rows, _BEHIND, trunk.width, device=weight.device).to(weight.dtype)
        self._extend(_BEHIND)
        self.cache.commit(torch.full((rows,), _BEHIND, device=weight.device))

    def fastest(self, timed: Callable[[Any], list[float]], size: Any, seconds: float) -> list[float]:
        """The least of each time over a few runs behind one that warms up."""
        began = time.perf_counter()
        timed(size)
        runs = [timed(size)]
        while len(runs) < _MOST_REPEATS and time.perf_counter() - began < seconds:
            runs.append(timed(size))
        return [min(times) for times in zip(*runs)]

    def call(self, width: int) -> list[float]:
        """Seconds of a call of `width` entries a row."""
        began = self._clock()
        self.trunk.unembed(self._extend(width)[0].hidden).argmax(-1)
        return [self._clock() - began]

    def draft(self, heads: HeadSet) -> list[float]:
        """Seconds of taking in a call's states and drafting 0, 1, .. tokens."""
        state = heads.start(self.rows, self.trunk, memory=self.trunk.silence(self.rows))
        states, inputs, positions = self._extend(2, heads.taps)
        keep = torch.arange(2, device=positions.device).expand(self.rows, -1)
        began = self._clock()
        heads.advance(state, states, inputs, positions, keep, torch.full_like(positions[:, 0], 2))
        times = [self._clock() - began]
        if not heads.one_pass:
            tokens = parent = positions.new_zeros(self.rows, 1)
            for d in range(1, heads.depth + 1):
                logits = heads.logits(heads.expand(state, d, tokens, parent), d, state.unembed)
                tokens = heads.token_ids(logits.argmax(-1))
                times.append(self._clock() - began)
            return times
        features = heads.all_features(state)
        before = self._clock() - began
        for d in range(1, heads.depth + 1):  # all depths are asked for at once
            began = self._clock()
            heads.all_logits(features[:, :d], state.unembed).argmax(-1)
            times.append(before + self._clock() - began)
        return times

    def _extend(self, width: int, taps: tuple[int, ...] = ()) -> tuple[States, Tensor, Tensor]:
        reps = -(-width // _BEHIND)
        inputs = self.like.repeat(1, reps, 1)[:, :width]
        positions = (self.cache.longest + torch.arange(width, device=inputs.device)).expand(self.rows, -1)
        return self.trunk.extend(inputs, positions, None, self.cache, taps), inputs, positions

    def _clock(self) -> float:
        if self.like.device.type == "cuda":
            torch.cuda.synchronize(self.like.device)
        return time.perf_counter()
