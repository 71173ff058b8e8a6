"""How many tokens to draft this call, a row each, from what is known before they are drawn."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any, Protocol

from speechmtp.decoding.draft_costs import CostTable
from speechmtp.decoding.state import DecodeState
from speechmtp.errors import ConfigError
from speechmtp.types import Trace


class DraftLength(Protocol):
    """Holds configuration only; what changes is in `row.adapted` and, of the rows of a plan together, in
    `state.length_state`."""

    def start(self, state: DecodeState) -> Any:
        """Set `adapted` of new rows; what is kept of all of them together comes back."""

    def limits(self, state: DecodeState) -> list[int]:
        """Most tokens to draft, a live row each."""

    def observe(self, state: DecodeState, emitted: list[list[int]]) -> None:
        """Hear what each live row has just emitted."""


@dataclass
class _Adapted:
    """What is known of a row: its counts at the last look, and the mean of accepted tokens of a draft."""

    known: tuple[int, int, int] = (0, 0, 0)
    mean: float = 0.0

    def last(self, trace: Trace) -> tuple[int, int] | None:
        """Tokens drafted and accepted since the last look; None without a draft."""
        old, new = self.known, (trace.num_drafts, trace.num_draft_tokens, trace.num_accepted_tokens)
        self.known = new
        return (new[1] - old[1], new[2] - old[2]) if new[0] > old[0] else None


@dataclass(frozen=True)
class Running:
    """One token more than a row's drafts had accepted lately, so that a good spell is noticed: an exponential mean that
    begins at `first` and moves by `decay` a draft."""

    decay: float = 0.2
    first: float = 4.0

    def __post_init__(self) -> None:
        if not 0 < self.decay <= 1:
            raise ConfigError(f"draft length: decay {self.decay}, expected above 0, at most 1")
        if self.first < 0:
            raise ConfigError(f"draft length: first {self.first}, expected 0 or more")

    def start(self, state: DecodeState) -> None:
        """A mean of `first` for every row."""
        for row in state.rows:
            row.adapted = _Adapted(mean=float(self.first))

    def limits(self, state: DecodeState) -> list[int]:
        """The whole number nearest to the mean, and one."""
        return [math.floor(row.adapted.mean + 1.5) for row in state.rows]

    def observe(self, state: DecodeState, emitted: list[list[int]]) -> None:
        """Move the means of rows that drafted."""
        for row in state.rows:
            last = row.adapted.last(row.trace)
            if last is not None:
                row.adapted.mean += self.decay * (last[1] - row.adapted.mean)


@dataclass
class _CostedState:
    asked: list[float]  # how often a position's token was judged, lately
    kept: list[float]  # and accepted
    limit: int = 0
    times: dict[tuple[int, int], list[float]] = field(default_factory=dict)


@dataclass(frozen=True)
class Costed:
    """The depth d at which expected tokens over time, (1 + u_1 + .. + u_d) / (v(B, d + 1) + delta(d)), are highest.

    `costs` are measured on the machine at hand; u is the product of the rows' running rates of acceptance at each
    position where those before were accepted, which `prior` (a rate a position, the last for all further ones) counts
    as `weight` observations; older ones fade by `decay` a call, so that depths left aside are tried again.
    """

    costs: CostTable
    prior: Sequence[float] = (0.8,)
    weight: float = 4.0
    decay: float = 0.05

    def __post_init__(self) -> None:
        if not self.prior or not all(0 <= rate <= 1 for rate in self.prior):
            raise ConfigError(f"draft length: prior {list(self.prior)}, expected rates from 0 to 1")
        if self.weight <= 0 or not 0 <= self.decay < 1:
            raise ConfigError(
                f"draft length: weight {self.weight} and decay {self.decay}, expected a weight above 0 and a decay of "
                "at least 0, below 1"
            )

    def start(self, state: DecodeState) -> _CostedState:
        """No observations."""
        for row in state.rows:
            row.adapted = _Adapted()
        zeros = [0.0] * self.costs.depth
        return _CostedState(zeros, zeros.copy())

    def limits(self, state: DecodeState) -> list[int]:
        """The same for all rows: a call is as wide as its longest draft."""
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
        """Rate of acceptance at each position where those before were accepted."""
        priors = (self.prior[min(i, len(self.prior) - 1)] for i in range(len(asked)))
        return [(k + self.weight * p) / (a + self.weight) for a, k, p in zip(asked, kept, priors)]

    def observe(self, state: DecodeState, emitted: list[list[int]]) -> None:
        """Count the positions of each row's draft up to the first refused token."""
        mine: _CostedState = state.length_state
        for counts in (mine.asked, mine.kept):
            counts[:] = [count * (1 - self.decay) for count in counts]
        for row in state.rows:
            last = row.adapted.last(row.trace)
            if last is None:
                continue
            drafted, accepted = last
            # Behind an end token nothing was judged.
            judged = accepted if row.trace.finished else min(accepted + 1, drafted, mine.limit)
            for position in range(min(judged, len(mine.asked))):
                mine.asked[position] += 1
                mine.kept[position] += position < accepted
