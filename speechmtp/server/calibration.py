"""What passes cost on this machine: measured at the start, so that an engine takes no more sessions than it can carry.

Windows of several lengths are decoded as they are live: behind the words that are committed by then, with the last
words of the pass before as a draft. From their times follows what a second of speech costs, for any step.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

WINDOWS = (2.0, 6.0, 12.0, 20.0)  # seconds
STEPS = (0.5, 1.0, 2.0)
SEGMENT = 12.0  # seconds of speech that a segment has, in the reckoning
TAIL = 6  # tokens that are not committed when a window is decoded again
MOST = 2.0  # seconds after which no window is measured a second time

# Decode samples [n] behind these tokens, the next ones being these in the pass before; the tokens that follow.
DecodeWindow = Callable[[np.ndarray, Sequence[int], Sequence[int]], Sequence[int]]


@dataclass(frozen=True)
class PassTimes:
    """Seconds of a pass by the length of its window in seconds, and of a second of audio in which only speech is looked
    for."""

    passes: Mapping[float, float]
    listening: float = 0.0

    def at(self, length: float) -> float:
        """Seconds of a pass over a window, between those that were measured and beyond them in a straight line."""
        lengths = sorted(self.passes)
        if len(lengths) == 1:
            return self.passes[lengths[0]]
        place = min(max(int(np.searchsorted(lengths, length)), 1), len(lengths) - 1)
        low, high = lengths[place - 1], lengths[place]
        slope = (self.passes[high] - self.passes[low]) / (high - low)
        return max(0.0, self.passes[low] + slope * (length - low))

    def cost(self, step: float, segment: float = SEGMENT) -> float:
        """Seconds of work for each second of speech in segments of `segment` seconds, decoded every `step` and at their
        end."""
        growing = sum(self.at(number * step) for number in range(1, int(segment / step) + 1) if number * step < segment)
        return (growing + self.at(segment)) / segment + self.listening

    @property
    def costs(self) -> dict[str, float]:
        """The costs at `STEPS`, by the step as text."""
        return {str(step): round(self.cost(step), 5) for step in STEPS}

    @property
    def final_seconds(self) -> float:
        """What the last pass of a segment takes."""
        return round(self.at(SEGMENT), 5)


def measure(
    decode: DecodeWindow, samples: np.ndarray, rate: int, longest: float, listen: Callable[[np.ndarray], object],
    now: Callable[[], float] = time.perf_counter,
) -> PassTimes:  # fmt: skip
    """Measure a model on speech [n] at `rate` Hz, repeated; it takes windows of up to `longest` seconds. `listen` looks
    for speech in samples. Every window is decoded once before it is measured, and measured twice, if there is time."""
    lengths = [length for length in WINDOWS if length <= longest] or [longest]
    audio = np.resize(samples, round(max(lengths) * rate))
    began, passes = now(), dict[float, float]()
    for length in lengths:
        window = audio[: round(length * rate)]
        said = list(decode(window, (), ()))
        known = max(0, len(said) - TAIL)
        passes[length] = _least(lambda: decode(window, said[:known], said[known:]), now, began + MOST)  # noqa: B023
    second = audio[:rate]
    listen(second)
    return PassTimes(passes, _least(lambda: listen(second), now, began + MOST) * rate / len(second))


def _least(run: Callable[[], object], now: Callable[[], float], until: float) -> float:
    """The least seconds of two runs, of one if it is late."""
    found = list[float]()
    while not found or (len(found) < 2 and now() < until):
        began = now()
        run()
        found.append(now() - began)
    return min(found)


def describe(times: PassTimes, name: str) -> str:
    """A line for the log."""
    passes = ", ".join(f"{length:g} s {1000 * seconds:.0f} ms" for length, seconds in sorted(times.passes.items()))
    costs = ", ".join(f"{step} s {float(cost):.3f}" for step, cost in times.costs.items())
    return f"{name}: passes over {passes}; seconds of work a second of speech by step: {costs}"
