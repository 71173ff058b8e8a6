"""Draft lengths: how many tokens to draft per row in this call, decided before any is sampled; and the measured costs
of calls and drafts on this machine: v(B, n) and delta(d) of a cost model of speculative decoding."""

import math
import time
from abc import abstractmethod
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from itertools import accumulate
from typing import Annotated, Any, ClassVar, Protocol

import torch
from torch import Tensor

from speechmtp.clock import clock
from speechmtp.config import Range, check_fields
from speechmtp.decoding.state import DecodeState
from speechmtp.errors import ConfigError
from speechmtp.heads.contract import HeadSet
from speechmtp.models.trunk import Trunk
from speechmtp.types import States, Trace

_BEHIND = 32  # committed entries in the cache that timed calls attend to
_MAX_REPEATS = 5


@dataclass(frozen=True)
class CostTable:
    """Measured seconds: `calls` [rows][widths] of a trunk call with that many rows and new entries per row, and
    `drafts` [rows][0..D] of drafting to each depth (0: the heads only read the call's states), empty if drafting costs
    next to nothing. ConfigError if the tables do not fit `rows` and `widths`, or if a call takes no time."""

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
        """The deepest draft that was measured; without `drafts`, the deepest that fits the widest call."""
        return len(self.drafts[0]) - 1 if self.drafts else self.widths[-1] - 1

    def call(self, rows: int, entries: float) -> float:
        """Seconds of a trunk call with `entries` entries per row, interpolated and extrapolated linearly."""
        return _between(self.rows, [_between(self.widths, row, entries) for row in self.calls], rows)

    def draft(self, rows: int, depth: int) -> float:
        """Seconds of drafting `depth` tokens per row."""
        if not self.drafts:
            return 0.0
        depths = range(len(self.drafts[0]))
        return _between(self.rows, [_between(depths, row, depth) for row in self.drafts], rows)

    def of(self, rows: int, drafting: int, depth: int) -> float:
        """v(B, d + 1) + delta(d) for a batch of `rows` rows, `drafting` of which draft `depth` tokens. The unit is the
        time of a call with one entry per row."""
        return (self.call(rows, depth + 1) + self.draft(drafting, depth)) / self.call(rows, 1)

    def to_dict(self) -> dict[str, Any]:
        """The table as plain values for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "CostTable":
        """The table from the values of `to_dict`, which may have gone through JSON; ConfigError if they are not a
        table."""
        try:
            tables = (tuple(tuple(map(float, row)) for row in values[name]) for name in ("calls", "drafts"))
            return cls(tuple(map(int, values["rows"])), tuple(map(int, values["widths"])), *tables)
        except (KeyError, TypeError, ValueError) as error:
            raise ConfigError(
                f"costs: {error!r}, expected rows, widths, calls and drafts; measure them again"
            ) from error


def _between(grid: Sequence[int], values: Sequence[float], at: float) -> float:
    """The value at `at` of a piecewise linear function; it is extrapolated beyond the last point and constant before
    the first."""
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
    """Measure trunk calls of every size, and drafting with `heads`, in about `seconds` seconds in total.

    Each time is the fastest of a few runs, and a wider call is assumed to cost no less. Entries are random, since their
    values do not change the time. ConfigError if `rows` or `widths` is empty or has numbers below 1.
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
    """The running maximum."""
    return tuple(accumulate(values, max))


class _Bench:
    """A trunk with a few entries in its cache, to time calls and drafts."""

    def __init__(self, trunk: Trunk, rows: int) -> None:
        self.trunk, self.rows, self.cache = trunk, rows, trunk.new_cache(rows)
        weight = trunk.unembedding().weight
        self.like = torch.randn(rows, _BEHIND, trunk.width, device=weight.device).to(weight.dtype)
        self._extend(_BEHIND)
        self.cache.commit(torch.full((rows,), _BEHIND, device=weight.device))

    def fastest(self, timed: Callable[[Any], list[float]], size: Any, seconds: float) -> list[float]:
        """The minimum of each time over a few runs, after one run to warm up."""
        began = time.perf_counter()
        timed(size)
        runs = [timed(size)]
        while len(runs) < _MAX_REPEATS and time.perf_counter() - began < seconds:
            runs.append(timed(size))
        return [min(times) for times in zip(*runs)]

    def call(self, width: int) -> list[float]:
        """Seconds of a call with `width` entries per row."""
        began = clock(self.like.device)
        hidden = self._extend(width)[0].hidden
        if self.trunk.choose(hidden) is None:
            self.trunk.unembed(hidden).argmax(-1)
        return [clock(self.like.device) - began]

    def draft(self, heads: HeadSet) -> list[float]:
        """Seconds of reading a call's states and drafting 0, 1, .. tokens."""
        state = heads.start(self.rows, self.trunk, memory=self.trunk.silence(self.rows))
        states, inputs, positions = self._extend(2, heads.taps)
        keep = torch.arange(2, device=positions.device).expand(self.rows, -1)
        began = clock(self.like.device)
        heads.advance(state, states, inputs, positions, keep, torch.full_like(positions[:, 0], 2))
        times = [clock(self.like.device) - began]
        tokens = parent = positions.new_zeros(self.rows, 1)
        began = clock(self.like.device)
        if heads.draft_chain(state, tokens[:, 0], heads.depth) is not None:  # each depth costs about the same
            spent = clock(self.like.device) - began
            return [times[0] + spent * d / heads.depth for d in range(heads.depth + 1)]
        began = clock(self.like.device) - times[0]
        if not heads.one_pass:
            for d in range(1, heads.depth + 1):
                logits = heads.logits(heads.expand(state, d, tokens, parent), d, state.unembed)
                tokens = heads.token_ids(logits.argmax(-1))
                times.append(clock(self.like.device) - began)
            return times
        features = heads.all_features(state)
        before = clock(self.like.device) - began
        for d in range(1, heads.depth + 1):  # one-pass heads compute all depths at once: time each depth by itself
            began = clock(self.like.device)
            heads.all_logits(features[:, :d], state.unembed).argmax(-1)
            times.append(before + clock(self.like.device) - began)
        return times

    def _extend(self, width: int, taps: tuple[int, ...] = ()) -> tuple[States, Tensor, Tensor]:
        reps = -(-width // _BEHIND)
        inputs = self.like.repeat(1, reps, 1)[:, :width]
        positions = (self.cache.longest + torch.arange(width, device=inputs.device)).expand(self.rows, -1)
        return self.trunk.extend(inputs, positions, None, self.cache, taps), inputs, positions


class DraftLength(Protocol):
    """How many tokens may be drafted; the interface that the engine calls. Its state is in `row.adapted`, for one row,
    and in `state.length_state`, for all rows of a strategy."""

    def start(self, state: DecodeState) -> Any:
        """Set `adapted` of new rows, and return the state for all of them together."""

    def limits(self, state: DecodeState) -> list[int]:
        """The most tokens to draft in this call, one number per live row."""

    def observe(self, state: DecodeState, emitted: list[list[int]]) -> None:
        """Take in the tokens that each live row has just emitted."""


class LengthConfig:
    """Base class of ways to adapt the length of drafts: a frozen dataclass whose fields are its options."""

    name: ClassVar[str] = ""

    def __post_init__(self) -> None:
        """Raise ConfigError for an option that is not allowed."""
        check_fields(self, self.name or type(self).__name__)

    @abstractmethod
    def bind(self, costs: Callable[[], CostTable]) -> DraftLength:
        """The draft length for a model; `costs` returns what its calls and drafts cost, which is measured when it is
        called."""


@dataclass
class _Adapted:
    """Statistics of a row: its trace's counts of drafts, drafted and accepted tokens at the last call of `last`, and
    the mean number of accepted tokens per draft."""

    known: tuple[int, int, int] = (0, 0, 0)
    mean: float = 0.0

    def last(self, trace: Trace) -> tuple[int, int] | None:
        """Tokens drafted and accepted since the last call of this method; None if there was no draft."""
        old, new = self.known, (trace.num_drafts, trace.num_draft_tokens, trace.num_accepted_tokens)
        self.known = new
        return (new[1] - old[1], new[2] - old[2]) if new[0] > old[0] else None


@dataclass(frozen=True)
class Running(LengthConfig):
    """Draft one token more than the row's drafts had accepted on average lately, so that drafts can grow again. The
    average is an exponential mean that starts at `first` and moves by `decay` per draft."""

    decay: Annotated[float, Range(0, 1, above=True)] = 0.2
    first: Annotated[float, Range(0)] = 4.0
    name: ClassVar[str] = "running"

    def bind(self, costs: Callable[[], CostTable]) -> DraftLength:
        """Return itself: it needs no costs."""
        return self

    def start(self, state: DecodeState) -> None:
        """Start the mean of every row at `first`."""
        for row in state.rows:
            row.adapted = _Adapted(mean=float(self.first))

    def limits(self, state: DecodeState) -> list[int]:
        """The mean rounded to the nearest whole number, plus one."""
        return [math.floor(row.adapted.mean + 1.5) for row in state.rows]

    def observe(self, state: DecodeState, emitted: list[list[int]]) -> None:
        """Update the means of the rows that drafted."""
        for row in state.rows:
            last = row.adapted.last(row.trace)
            if last is not None:
                row.adapted.mean += self.decay * (last[1] - row.adapted.mean)


@dataclass
class _CostedState:
    asked: list[float]  # decayed count of judged tokens at each position of a draft
    kept: list[float]  # decayed count of accepted ones
    limit: int = 0
    times: dict[tuple[int, int], list[float]] = field(default_factory=dict)


@dataclass(frozen=True)
class Costed:
    """Draft to the depth d with the most expected tokens per time, (1 + u_1 + .. + u_d) / (v(B, d + 1) + delta(d)).

    `costs` are measured on this machine. u_i is the product of the running acceptance rates of the positions up to i,
    each given that the positions before it were accepted, over all rows of the strategy. `prior` (one rate per
    position, the last one for all further positions) counts as `weight` observations. Observations fade by `decay` per
    call, so that depths that are no longer used are tried again. ConfigError for a value that is not allowed.
    """

    costs: CostTable
    prior: Sequence[float] = (0.8,)
    weight: Annotated[float, Range(0, above=True)] = 4.0
    decay: Annotated[float, Range(0, 1, below=True)] = 0.05

    def __post_init__(self) -> None:
        """Raise ConfigError for a value that is not allowed."""
        check_fields(self, "draft length")
        if not self.prior or not all(0 <= rate <= 1 for rate in self.prior):
            raise ConfigError(f"draft length: prior={list(self.prior)}, expected rates from 0 to 1")

    def start(self, state: DecodeState) -> _CostedState:
        """Start without observations."""
        for row in state.rows:
            row.adapted = _Adapted()
        zeros = [0.0] * self.costs.depth
        return _CostedState(zeros, zeros.copy())

    def limits(self, state: DecodeState) -> list[int]:
        """The same limit for all rows, since a call is as wide as its longest draft."""
        mine: _CostedState = state.length_state
        sizes = len(state.batch.rows), len(state.rows)
        times = mine.times.get(sizes)
        if times is None:
            times = mine.times[sizes] = [self.costs.of(*sizes, d) for d in range(self.costs.depth + 1)]
        reach = accumulate(self.rates(mine.asked, mine.kept), lambda u, rate: u * rate, initial=1.0)
        tokens = list(accumulate(reach))
        mine.limit = max(range(len(times)), key=lambda d: tokens[d] / times[d])
        return [mine.limit] * len(state.rows)

    def rates(self, asked: Sequence[float], kept: Sequence[float]) -> list[float]:
        """The acceptance rate at each position, given that those before it were accepted."""
        priors = (self.prior[min(i, len(self.prior) - 1)] for i in range(len(asked)))
        return [(k + self.weight * p) / (a + self.weight) for a, k, p in zip(asked, kept, priors)]

    def observe(self, state: DecodeState, emitted: list[list[int]]) -> None:
        """Count the positions of each row's draft up to and including the first refused token."""
        mine: _CostedState = state.length_state
        for counts in (mine.asked, mine.kept):
            counts[:] = [count * (1 - self.decay) for count in counts]
        for row in state.rows:
            last = row.adapted.last(row.trace)
            if last is None:
                continue
            drafted, accepted = last
            # Tokens after an end token were not judged.
            judged = accepted if row.trace.finished else min(accepted + 1, drafted, mine.limit)
            for position in range(min(judged, len(mine.asked))):
                mine.asked[position] += 1
                mine.kept[position] += position < accepted


@dataclass(frozen=True)
class ByCost(LengthConfig):
    """Draft to the depth that gives the most tokens per second (see `Costed`), from the acceptance seen so far and the
    time that calls and drafts of that width and that many rows take on this machine, which is measured at the first
    use."""

    weight: Annotated[float, Range(0, above=True)] = 4.0
    decay: Annotated[float, Range(0, 1, below=True)] = 0.05
    name: ClassVar[str] = "cost"

    def bind(self, costs: Callable[[], CostTable]) -> DraftLength:
        """Measure the costs and return the draft length that uses them."""
        return Costed(costs(), weight=self.weight, decay=self.decay)


LENGTHS: dict[str, type[LengthConfig]] = {length.name: length for length in (Running, ByCost)}
