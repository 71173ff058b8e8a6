"""Batches as a pure function of (utterances, seed, epoch), so that resuming needs only a step number."""

import bisect
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

import numpy as np

from speechmtp.errors import ConfigError, DataError

POOL = 16  # batches whose items are sampled together and sorted by size


@dataclass(frozen=True)
class BatchConfig:
    """Limits of a batch: `seconds` of padded audio and `rows` utterances; `speeds` are the speed factors, sampled per
    utterance."""

    seconds: float = 60.0
    rows: int = 32
    speeds: tuple[float, ...] = (0.9, 1.0, 1.1)

    def __post_init__(self) -> None:
        if self.seconds <= 0 or self.rows < 1 or not self.speeds or min(self.speeds) <= 0:
            raise ConfigError(f"batch: seconds, rows and speeds must be positive, found {self}")


Item = tuple[str, float]  # utterance id, speed factor


def seeded(*key: object) -> np.random.Generator:
    """A random generator that depends only on `key`."""
    digest = hashlib.sha256(repr(key).encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:8], "little"))


def pooled_rows(name: str, seed: int, number: int, sizes: Sequence[int], rows: int) -> list[int]:
    """Indices of the items in batch `number`: `rows` items of similar size, sampled without replacement within an
    epoch. Items that do not fill a batch are left out, different ones each epoch. Fewer items than `rows` are one
    batch."""
    rows = min(rows, len(sizes))
    epoch, place = divmod(number, len(sizes) // rows)
    order = seeded(name, seed, epoch).permutation(len(sizes))[: len(sizes) // rows * rows]
    pool = order[place // POOL * POOL * rows :][: POOL * rows].tolist()
    pool.sort(key=lambda i: (sizes[i], i))
    mixed = seeded(f"{name}-order", seed, epoch, place // POOL).permutation(len(pool) // rows)
    start = int(mixed[place % POOL]) * rows
    return pool[start : start + rows]


class BatchPlan:
    """The utterances and speeds of batch number n; epochs follow each other endlessly."""

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
        # Noise on the sort key varies the batches of each epoch at the cost of little padding.
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
        """The epoch of batch `number`."""
        while self._starts[-1] <= number:
            self._starts.append(self._starts[-1] + len(self._epoch(len(self._starts) - 1)))
        return bisect.bisect_right(self._starts, number) - 1


def feasible(frames: int, labels: list[int]) -> bool:
    """Whether CTC can emit `labels` in `frames` frames: repeated labels need a blank between them."""
    return frames >= len(labels) + sum(a == b for a, b in pairwise(labels))
