"""The last seconds of a recording, by the number of its samples."""

import numpy as np


class History:
    """Samples [begin, end) of a recording that grows at its end and is forgotten at its beginning."""

    def __init__(self) -> None:
        self.begin = self.end = 0
        self._samples = np.zeros(1 << 14, np.float32)

    def append(self, samples: np.ndarray) -> None:
        """Add samples [n]."""
        size, count = self.end - self.begin, len(samples)
        if size + count > len(self._samples):
            grown = np.zeros(2 * (size + count), np.float32)
            grown[:size] = self._samples[:size]
            self._samples = grown
        self._samples[size : size + count] = samples
        self.end += count

    def cut(self, start: int, end: int) -> np.ndarray:
        """A copy of the samples [start, end), as far as they are there."""
        start, end = max(start, self.begin), min(end, self.end)
        return self._samples[start - self.begin : max(start, end) - self.begin].copy()

    def forget(self, before: int) -> None:
        """Drop the samples before `before`."""
        count = min(before, self.end) - self.begin
        if count <= 0:
            return
        size = self.end - self.begin
        self._samples[: size - count] = self._samples[count:size].copy()
        self.begin += count
        if len(self._samples) > 1 << 14 and size - count < len(self._samples) // 8:
            self._samples = self._samples[: len(self._samples) // 2].copy()
