"""What a token of `unit25` says: a level of F0, a level of energy, and learned digits if there are any.

The id is `f0 + energy * F + digit_1 * F * E + ...` with F levels of F0 (level 0: unvoiced) and E levels of energy.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated

import numpy as np

from speechmtp.codec.contract import FRAME, RATE, TOKEN
from speechmtp.config import Range, check_fields
from speechmtp.errors import ConfigError, DataError

ENERGIES = (-9.3, -6.5, -3.5, -1.0, 1.0, 3.0, 4.5, 5.6, 6.5, 7.3, 8.1, 8.8)  # the first is silence
FRAMES_A_TOKEN = TOKEN / FRAME
PARTS = 4  # places in a token where its curves are read
Levels = Annotated[int, Range(2, 1 << 10)]
Digit = Annotated[int, Range(2, 64)]


@dataclass(frozen=True)
class LevelConfig:
    """The levels: `f0` counts unvoiced, and the others are evenly spaced in log F0 from `f0_low` to `f0_high` Hz, both
    included; `energy` are the log energies in nats, rising: wide steps where speech seldom is. `energy_read` are those
    that the decoder is given in their place, if it was trained on energies of another kind (none: the same). `digits`
    are the numbers of values of the learned digits, at most three."""

    f0: Levels = 17
    f0_low: Annotated[float, Range(20, 2000)] = 135.0
    f0_high: Annotated[float, Range(20, 2000)] = 310.0
    energy: tuple[float, ...] = ENERGIES
    energy_read: tuple[float, ...] = ()
    digits: tuple[Digit, ...] = ()

    def __post_init__(self) -> None:
        check_fields(self, "codec.levels")
        rising = len(self.energy) > 1 and all(a < b for a, b in pairwise(self.energy))
        if self.f0_low >= self.f0_high or not rising or len(self.digits) > 3:
            raise ConfigError(f"codec.levels: {self}; expected rising ranges and at most three digits")
        if len(self.energy_read) not in (0, len(self.energy)):
            found = f"{len(self.energy_read)} values of energy_read for {len(self.energy)} levels"
            raise ConfigError(f"codec.levels: {found}; expected none, or as many")

    @property
    def sizes(self) -> tuple[int, ...]:
        """The numbers of values of all digits, F0 first."""
        return (self.f0, len(self.energy), *self.digits)

    @property
    def size(self) -> int:
        """The number of token ids."""
        return math.prod(self.sizes)

    @property
    def f0_table(self) -> np.ndarray:
        """F0 in Hz of every level [F], float64; 0 for unvoiced."""
        voiced = np.geomspace(self.f0_low, self.f0_high, self.f0 - 1) if self.f0 > 2 else [self.f0_low]
        return np.concatenate([[0.0], voiced])

    @property
    def energy_table(self) -> np.ndarray:
        """Log energy of every level [E], float64."""
        return np.array(self.energy)

    @property
    def read_table(self) -> np.ndarray:
        """Log energy [E], float64, that the decoder is given for every level."""
        return np.array(self.energy_read or self.energy)

    def join(self, digits: Sequence[np.ndarray]) -> np.ndarray:
        """Ids [...] from the values of all digits, each [...], int64. DataError for values out of range."""
        ids, step = np.zeros(np.shape(digits[0]), np.int64), 1
        for values, size in zip(digits, self.sizes, strict=True):
            found = np.asarray(values, np.int64)
            if found.size and (found.min() < 0 or found.max() >= size):
                raise DataError(f"codec: digit {int(found.max())}, expected 0 to {size - 1}")
            ids += found * step
            step *= size
        return ids

    def split(self, ids: Sequence[int] | np.ndarray) -> list[np.ndarray]:
        """The values of all digits of ids [...], int64. DataError for ids out of range."""
        left = np.asarray(ids, np.int64)
        if left.size and (left.min() < 0 or left.max() >= self.size):
            bad = int(left.max()) if left.max() >= self.size else int(left.min())
            raise DataError(f"codec: token {bad}, expected 0 to {self.size - 1}; decode tokens of this codec")
        values = []
        for size in self.sizes:
            values.append(left % size)
            left = left // size
        return values

    def quantise_f0(self, hertz: np.ndarray) -> np.ndarray:
        """The levels nearest to F0 in Hz [...]; 0 stays unvoiced."""
        table = np.log(self.f0_table[1:])
        edges = (table[1:] + table[:-1]) / 2
        level = 1 + np.searchsorted(edges, np.log(np.maximum(hertz, 1.0)))
        return np.where(hertz > 0, level, 0).astype(np.int64)

    def quantise_energy(self, energy: np.ndarray) -> np.ndarray:
        """The levels nearest to log energies [...]."""
        table = self.energy_table
        return np.searchsorted((table[1:] + table[:-1]) / 2, energy).astype(np.int64)


def token_curves(
    f0: np.ndarray, f0_rate: float, energy: np.ndarray, energy_rate: float, tokens: int
) -> tuple[np.ndarray, np.ndarray]:
    """F0 in Hz (0: unvoiced) and log energy of every token [T] from curves whose value i is that at i / rate seconds.

    A token is voiced if at least half of it is. Its F0 is the mean log F0 of its voiced part, its energy the mean log
    energy. DataError for curves that are empty or not finite.
    """
    for name, curve in (("F0", f0), ("energy", energy)):
        if not len(curve) or not np.isfinite(curve).all():
            raise DataError(f"codec: {name} has {len(curve)} values, expected a curve of finite numbers")
    seconds = (np.arange(tokens)[:, None] + (np.arange(PARTS) + 0.5) / PARTS) * (TOKEN / RATE)
    mean_energy = np.interp(seconds * energy_rate, np.arange(len(energy)), energy).mean(1)
    known = np.flatnonzero(f0 > 0)
    if not len(known):
        return np.zeros(tokens), mean_energy
    at = seconds * f0_rate
    voiced = np.interp(at, np.arange(len(f0)), (np.asarray(f0) > 0).astype(float)) > 0.5
    log_f0 = np.interp(at, known, np.log(np.asarray(f0, float)[known]))
    share = voiced.mean(1)
    mean = (log_f0 * voiced).sum(1) / np.maximum(1, voiced.sum(1))
    return np.where(share >= 0.5, np.exp(mean), 0.0), mean_energy
