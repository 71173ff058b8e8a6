"""Cut a long recording into parts at its quietest pauses."""

import numpy as np

from speechmtp.errors import ConfigError, ShapeError

SHORTEST, LONGEST = 15.0, 25.0  # seconds of a part that is not the last
HOP, SMOOTHING = 0.01, 25  # seconds, hops: long enough to ignore the short closure before a stop consonant


def cut_points(
    samples: np.ndarray, rate: int, shortest: float = SHORTEST, longest: float = LONGEST
) -> list[tuple[int, int]]:
    """Spans [start, end) of sample indices that cover samples [N] in order.

    A recording of at most `longest` seconds is one span. A longer one is cut where its energy, smoothed over a quarter
    of a second, is lowest between `shortest` and `longest` seconds from the span's start (the latest of equal minima).
    The rest after a cut is at least half of `longest` - `shortest`. ShapeError for several channels, ConfigError unless
    0.01 s < `shortest` < `longest`.
    """
    if samples.ndim != 1:
        raise ShapeError(f"cut: samples of shape {samples.shape}, expected [N]; give one channel")
    if not HOP < shortest < longest:
        raise ConfigError(f"cut: parts of {shortest:g} to {longest:g} s, expected a shortest below the longest")
    size, max_samples = len(samples), longest * rate
    if size <= max_samples:
        return [(0, size)]
    hop = max(1, round(rate * HOP))
    energy = _energy(samples, hop)
    min_rest = (longest - shortest) / 2 * rate
    spans, start = [], 0
    while size - start > max_samples:
        first = -int(-(start + shortest * rate) // hop)
        last = int(min(start + max_samples, size - min_rest) // hop)  # cuts are at the beginning of a hop
        place = last - int(np.argmin(energy[first : last + 1][::-1]))
        spans.append((start, place * hop))
        start = place * hop
    return [*spans, (start, size)]


def _energy(samples: np.ndarray, hop: int) -> np.ndarray:
    """Mean energy of a hop around the beginning of every hop of samples [N], over `SMOOTHING` hops, without that of
    their mean: [N // hop]. A constant or slow drift is no sound."""
    hops = np.asarray(samples[: len(samples) // hop * hop]).reshape(-1, hop)
    energy = _smoothed(np.einsum("ij,ij->i", hops, hops, dtype=np.float64))
    mean = _smoothed(hops.sum(1, dtype=np.float64)) / hop
    return energy - hop * mean**2


def _smoothed(values: np.ndarray) -> np.ndarray:
    """The mean of the `SMOOTHING` values around each one: the shape of `values` [N]."""
    before = SMOOTHING // 2
    padded = np.pad(values, (before, SMOOTHING - 1 - before), mode="edge")
    return np.lib.stride_tricks.sliding_window_view(padded, SMOOTHING).mean(-1)
