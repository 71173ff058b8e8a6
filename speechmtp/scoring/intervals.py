"""Confidence intervals and significance of error rates: bootstrap, paired bootstrap and matched pairs test.

Bootstrap: Bisani & Ney, ICASSP 2004. Matched pairs: Gillick & Cox, ICASSP 1989. Rates are percent.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from speechmtp.errors import DataError

DRAWS = 10_000
MIN_SPEAKERS = 10  # with fewer, utterances are resampled instead of speakers
MIN_UNITS = 30  # with fewer, an interval is marked as unreliable


@dataclass(frozen=True)
class Interval:
    """A 95 % percentile interval in percent, its standard deviation, and how it was bootstrapped.

    `low`, `high` and `sd` are None when the references have no word.
    """

    low: float | None
    high: float | None
    sd: float | None
    unit: str  # "utterance" or "speaker"
    units: int
    draws: int
    seed: int

    @property
    def reliable(self) -> bool:
        """Whether there were at least 30 units to resample."""
        return self.units >= MIN_UNITS


@dataclass(frozen=True)
class PairedInterval:
    """The error rate of system 1 minus that of system 2, in percentage points, over the same bootstrap draws.

    `improvement` is the share of draws in which system 2 is strictly better, `ties` the share in which both are equal.
    """

    delta: float | None
    low: float | None
    high: float | None
    improvement: float
    ties: float
    unit: str
    units: int
    draws: int
    seed: int


@dataclass(frozen=True)
class MatchedPairs:
    """Z and two-sided p of the mean error difference per segment; None where the test is undefined."""

    z: float | None
    p: float | None
    segments: int


def group_units(utterances: Sequence[str], speakers: Mapping[str, str] | None) -> tuple[str, np.ndarray, int]:
    """The unit of resampling: ("speaker" or "utterance", the unit index of each utterance [U], the number of units).

    Whole speakers are resampled if there are at least 10, since the errors of one speaker are correlated. DataError for
    an utterance without a speaker.
    """
    if speakers is not None:
        for utterance in utterances:
            if utterance not in speakers:
                raise DataError(f"utt2spk: no speaker for utterance {utterance}, one expected; add the line")
        names = sorted({speakers[utterance] for utterance in utterances})
        if len(names) >= MIN_SPEAKERS:
            index = {name: position for position, name in enumerate(names)}
            return "speaker", np.array([index[speakers[u]] for u in utterances]), len(names)
    return "utterance", np.arange(len(utterances)), len(utterances)


def bootstrap_interval(
    errors: Sequence[int],
    words: Sequence[int],
    seed: int = 0,
    *,
    unit: tuple[str, np.ndarray, int] | None = None,
    draws: int = DRAWS,
) -> Interval:
    """The 95 % interval of 100 * sum(errors) / sum(words), from counts per utterance [U]; `unit` is that of
    `group_units` (default: utterances)."""
    name, units, number = unit or ("utterance", np.arange(len(errors)), len(errors))
    sums = _unit_sums(units, number, errors, words)
    rates = np.concatenate([_rates(drawn[0], drawn[1]) for drawn in _draw(sums, seed, draws)])
    rates = rates[np.isfinite(rates)]
    low, high = _percentiles(rates)
    spread = float(np.std(rates)) if len(rates) else None
    return Interval(low, high, spread, name, number, draws, seed)


def paired_bootstrap(
    errors_1: Sequence[int],
    errors_2: Sequence[int],
    words: Sequence[int],
    seed: int = 0,
    *,
    unit: tuple[str, np.ndarray, int] | None = None,
    draws: int = DRAWS,
) -> PairedInterval:
    """The difference of two systems on the same utterances [U]; positive when system 2 makes fewer errors."""
    name, units, number = unit or ("utterance", np.arange(len(words)), len(words))
    difference = np.asarray(errors_1, dtype=np.int64) - np.asarray(errors_2, dtype=np.int64)
    sums = _unit_sums(units, number, difference, words)
    drawn = np.concatenate(list(_draw(sums, seed, draws)), axis=1)  # [2, draws]
    rates = _rates(drawn[0], drawn[1])
    low, high = _percentiles(rates[np.isfinite(rates)])
    spoken = int(np.sum(words))
    return PairedInterval(
        delta=100.0 * int(difference.sum()) / spoken if spoken else None,
        low=low,
        high=high,
        improvement=float(np.mean(drawn[0] > 0)),
        ties=float(np.mean(drawn[0] == 0)),
        unit=name,
        units=number,
        draws=draws,
        seed=seed,
    )


def matched_pairs(errors_1: Sequence[int], errors_2: Sequence[int]) -> MatchedPairs:
    """The matched pairs test over m utterances: Z = mean / (sd / sqrt(m)), p = erfc(|Z| / sqrt 2).

    Equal errors everywhere give p = 1. A constant difference other than 0, or one segment, leaves Z and p
    undefined: None, never 0.
    """
    difference = np.asarray(errors_1, dtype=np.float64) - np.asarray(errors_2, dtype=np.float64)
    segments = len(difference)
    if not np.any(difference):
        return MatchedPairs(0.0, 1.0, segments)
    spread = float(np.std(difference, ddof=1)) if segments > 1 else 0.0
    if spread == 0.0:
        return MatchedPairs(None, None, segments)
    z = float(difference.mean()) / (spread / math.sqrt(segments))
    return MatchedPairs(z, math.erfc(abs(z) / math.sqrt(2.0)), segments)


def _unit_sums(units: np.ndarray, number: int, errors: Sequence[int] | np.ndarray, words: Sequence[int]) -> np.ndarray:
    """Errors and words summed over each unit, int64 [2, units]."""
    sums = np.zeros((2, number), dtype=np.int64)
    np.add.at(sums[0], units, np.asarray(errors, dtype=np.int64))
    np.add.at(sums[1], units, np.asarray(words, dtype=np.int64))
    return sums


def _draw(sums: np.ndarray, seed: int, draws: int) -> Iterator[np.ndarray]:
    """Bootstrap totals of errors and words, int64 [2, some draws] at a time, `draws` in total.

    Pieces bound the memory; their size depends only on the number of units, so a seed determines all draws.
    """
    units = sums.shape[1]
    generator = np.random.default_rng(seed)
    piece = max(1, 4_000_000 // max(units, 1))
    for start in range(0, draws, piece):
        picks = generator.integers(0, units, size=(min(piece, draws - start), units), dtype=np.int32)
        yield sums[:, picks].sum(axis=2)


def _rates(errors: np.ndarray, words: np.ndarray) -> np.ndarray:
    """Rates in percent; NaN for a draw in which all references are empty."""
    return np.where(words > 0, 100.0 * errors / np.maximum(words, 1), np.nan)


def _percentiles(rates: np.ndarray) -> tuple[float | None, float | None]:
    """The 2.5th and 97.5th percentiles; None without a rate."""
    if not len(rates):
        return None, None
    low, high = np.percentile(rates, [2.5, 97.5])
    return float(low), float(high)
