"""Cut long recordings into parts, in the middle of pauses.

Speech or not is asked of a network (`audio/activity.py`). It hears each window in which a part may end on its own, from
`WARM_UP` seconds before it on, so that a cut depends on the samples around it alone.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch

from speechmtp.audio.activity import FRAME, RATE, load_activity
from speechmtp.audio.io import resample
from speechmtp.errors import ConfigError, ShapeError

SHORTEST, LONGEST = 10.0, 25.0  # seconds of a part that is not the last
WARM_UP = 2.0  # seconds that the network hears before a window
PAUSE = 0.35  # the probability of speech below which speech pauses, as in `ActivityConfig`


@dataclass(frozen=True)
class Part:
    """Samples [n] of a recording from sample `start` on."""

    start: int
    samples: np.ndarray

    @property
    def end(self) -> int:
        """The sample behind the last one."""
        return self.start + len(self.samples)


@dataclass(frozen=True)
class Limits:
    """Lengths of parts in samples at `rate` Hz."""

    rate: int
    shortest: int
    longest: int
    least: int  # of the last part

    @classmethod
    def of(cls, rate: int, shortest: float, longest: float) -> "Limits":
        """Of lengths in seconds. ConfigError unless 0.01 s < `shortest` < `longest` and the rate is positive."""
        if not (rate > 0 and 0.01 < shortest < longest):
            raise ConfigError(
                f"cut: parts of {shortest:g} to {longest:g} s at {rate} Hz, expected a shortest below the longest and "
                "a rate above 0"
            )
        least = min(shortest, longest - shortest) / 2
        return cls(rate, int(shortest * rate), int(longest * rate), int(least * rate))

    @property
    def ahead(self) -> int:
        """The samples from the start of a part on that say where it ends."""
        return self.longest + self.least + 1

    def part(self, ahead: np.ndarray) -> int:
        """Length in samples of the part that begins with `ahead` [n], which are the rest of the recording or the first
        `self.ahead` samples of it."""
        if len(ahead) <= self.longest:
            return len(ahead)
        first, last = self.shortest, min(self.longest, len(ahead) - self.least)
        begin = max(0, first - int(WARM_UP * self.rate))
        frame = FRAME * self.rate / RATE  # samples
        place = pause_place(speech(ahead[begin:last], self.rate), (first - begin) / frame, (last - begin) / frame)
        return min(max(first, begin + round(place * frame)), last)


class Cutter:
    """Cuts a recording that arrives in blocks of any size, at about 30 s of memory: `push` each block and take the
    parts that are complete, then `finish`. The parts do not depend on the blocks.

    A recording of at most `longest` seconds is one part. In a longer one, each part ends in the middle of the longest
    pause between `shortest` and `longest` seconds from its start or, without a pause, at the least likely speech. The
    last part has at least half of `shortest` seconds (or of `longest` - `shortest`, if that is less). ConfigError
    unless 0.01 s < `shortest` < `longest`.
    """

    def __init__(self, rate: int, shortest: float = SHORTEST, longest: float = LONGEST) -> None:
        self._limits = Limits.of(rate, shortest, longest)
        self._blocks: list[np.ndarray] = []
        self._held = 0
        self._start = 0

    def push(self, block: np.ndarray) -> list[Part]:
        """Take samples [n], float32, and return the parts that are complete. ShapeError for several channels."""
        _check(block)
        parts: list[Part] = []
        ahead = self._limits.ahead
        for begin in range(0, len(block), ahead):  # a large block is not copied again for each part
            self._blocks.append(np.array(block[begin : begin + ahead]))
            self._held += len(self._blocks[-1])
            while self._held >= ahead:
                held = self._joined()
                parts.append(self._take(held, self._limits.part(held[:ahead])))
        return parts

    def finish(self) -> list[Part]:
        """The rest of the parts; one empty part if nothing was pushed. The cutter is then as new."""
        parts: list[Part] = []
        held = self._joined()
        while len(held) or not (self._start or parts):
            parts.append(self._take(held, self._limits.part(held)))
            held = self._joined()
        self._start = 0
        return parts

    def _joined(self) -> np.ndarray:
        if len(self._blocks) != 1:
            self._blocks = [np.concatenate(self._blocks) if self._blocks else np.zeros(0, np.float32)]
        return self._blocks[0]

    def _take(self, held: np.ndarray, length: int) -> Part:
        part = Part(self._start, held[:length].copy())
        self._blocks, self._held, self._start = [held[length:].copy()], self._held - length, self._start + length
        return part


def cut_points(
    samples: np.ndarray, rate: int, shortest: float = SHORTEST, longest: float = LONGEST
) -> list[tuple[int, int]]:
    """Spans [start, end) of sample indices that cover samples [N], float32, in order: the parts of a `Cutter`.
    ShapeError for several channels, ConfigError unless 0.01 s < `shortest` < `longest`."""
    _check(samples)
    limits = Limits.of(rate, shortest, longest)
    spans = [(0, limits.part(samples[: limits.ahead]))]
    while (start := spans[-1][1]) < len(samples):
        spans.append((start, start + limits.part(samples[start : start + limits.ahead])))
    return spans


def speech(samples: np.ndarray, rate: int) -> np.ndarray:
    """Probabilities [T] of speech in the frames of 32 ms that samples [n] at `rate` Hz begin; the last one may be
    filled up with zeros."""
    heard = samples if rate == RATE else resample(samples, rate, RATE)
    padded = np.zeros(-(-len(heard) // FRAME) * FRAME, np.float32)
    padded[: len(heard)] = heard
    model = load_activity()
    return model(torch.from_numpy(padded)[None], model.start(1))[0][0].numpy()


def pause_place(probabilities: np.ndarray, first: float, last: float) -> float:
    """Where to cut between `first` and `last`, in frames, by the probabilities of speech [T]: in the middle of the
    longest pause (the latest of several) or, without one, of the frame that is speech least likely."""
    begin, end = int(first), min(len(probabilities), math.ceil(last))
    inside = probabilities[begin:end]
    if len(inside) == 0:
        return last
    quiet = np.concatenate([[False], inside < PAUSE, [False]])
    edges = np.flatnonzero(quiet[1:] != quiet[:-1])
    starts, ends = np.maximum(edges[::2] + begin, first), np.minimum(edges[1::2] + begin, last)
    if len(starts) == 0:
        return end - int(np.argmin(inside[::-1])) - 0.5
    longest = len(starts) - 1 - int(np.argmax((ends - starts)[::-1]))
    return float(starts[longest] + ends[longest]) / 2


def _check(samples: np.ndarray) -> None:
    if samples.ndim != 1:
        raise ShapeError(f"cut: samples of shape {samples.shape}, expected [N]; give one channel")
