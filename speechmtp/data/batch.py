"""Batches as a pure function of (utterances, seed, epoch): resuming needs nothing but a step number."""

import bisect
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

import numpy as np

from speechmtp.errors import ConfigError, DataError

POOL = 16  # batches whose rows are drawn together and sorted by size


@dataclass(frozen=True)
class BatchConfig:
    """Limits of a batch: `seconds` of padded audio, `rows` utterances; `speeds` are drawn per utterance."""

    seconds: float = 60.0
    rows: int = 32
    speeds: tuple[float, ...] = (0.9, 1.0, 1.1)

    def __post_init__(self) -> None:
        if self.seconds <= 0 or self.rows < 1 or not self.speeds or min(self.speeds) <= 0:
            raise ConfigError(f"batch: seconds, rows and speeds must be positive, found {self}")


Item = tuple[str, float]  # utterance id, speed factor


def seeded(*key: object) -> np.random.Generator:
    """A generator that depends on nothing but `key`."""
    digest = hashlib.sha256(repr(key).encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:8], "little"))


def pooled_rows(name: str, seed: int, number: int, sizes: Sequence[int], rows: int) -> list[int]:
    """Which items of these `sizes` are batch `number`: `rows` of about one size, drawn without replacement over an
    epoch; what does not fill a batch is left out, other items each time. Fewer items than rows are one batch."""
    rows = min(rows, len(sizes))
    epoch, place = divmod(number, len(sizes) // rows)
    order = seeded(name, seed, epoch).permutation(len(sizes))[: len(sizes) // rows * rows]
    pool = order[place // POOL * POOL * rows :][: POOL * rows].tolist()
    pool.sort(key=lambda i: (sizes[i], i))
    mixed = seeded(f"{name}-order", seed, epoch, place // POOL).permutation(len(pool) // rows)
    start = int(mixed[place % POOL]) * rows
    return pool[start : start + rows]


class BatchPlan:
    """Which utterances, at which speed, make batch number `n`; epochs follow one another without end."""

    def __init__(self, durations: Mapping[str, float], config: BatchConfig, seed: int) -> None:
        if not durations:
            raise DataError("batches: no utterance to train on; check the data directory and its filters")
        self._ids = sorted(durations)
        self._durations = durations
        self._config, self._seed = config, seed
        self._starts = [0]
        self._epoch = lru_cache(maxsize=2)(self._make_epoch)

    def _make_epoch(self, epoch: int) -> tuple[tuple[Item, ...], ...]:
        random = seeded("batches", self._seed, epoch)
        speeds = random.choice(np.array(self._config.speeds), len(self._ids))
        seconds = np.array([self._durations[i] for i in self._ids]) / speeds
        # Noise on the sort key gives other neighbours each epoch at little padding.
        order = np.argsort(seconds * np.exp(random.uniform(-0.1, 0.1, len(seconds))), kind="stable")
        batches: list[tuple[Item, ...]] = []
        rows: list[Item] = []
        longest = 0.0
        for index in order:
            longer = max(longest, float(seconds[index]))
            if rows and (longer * (len(rows) + 1) > self._config.seconds or len(rows) >= self._config.rows):
                batches.append(tuple(rows))
                rows, longer = [], float(seconds[index])
            rows.append((self._ids[index], float(speeds[index])))
            longest = longer
        batches.append(tuple(rows))
        return tuple(batches[i] for i in random.permutation(len(batches)))

    def batch(self, number: int) -> tuple[Item, ...]:
        """Batch `number`, counted from 0 over all epochs."""
        epoch = self.epoch_of(number)
        return self._epoch(epoch)[number - self._starts[epoch]]

    def epoch_of(self, number: int) -> int:
        """The epoch that batch `number` belongs to."""
        while self._starts[-1] <= number:
            self._starts.append(self._starts[-1] + len(self._epoch(len(self._starts) - 1)))
        return bisect.bisect_right(self._starts, number) - 1


def feasible(frames: int, labels: list[int]) -> bool:
    """Whether CTC can emit `labels` in `frames` steps: a repeat needs a blank between."""
    return frames >= len(labels) + sum(a == b for a, b in pairwise(labels))
