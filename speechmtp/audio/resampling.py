"""Resample audio that comes in pieces."""

from typing import Any

import numpy as np

from speechmtp.errors import DataError, ShapeError

_PIECE = 0.01  # seconds that are resampled at a time: a call for every sample would be a hundred times slower


def resampled_length(samples: int, source_rate: float, target_rate: float) -> int:
    """The number of samples after resampling: N * target_rate / source_rate, rounded up."""
    # The small offset prevents rounding up a quotient that is whole except for rounding errors.
    return int(np.ceil(samples * target_rate / source_rate - 1e-6))


class StreamResampler:
    """Resamples float32 mono audio that comes in pieces of any size, to the same bits as `audio/io.py: resample` gives
    for all of it at once.

    >>> import numpy as np
    >>> resampler = StreamResampler(48000, 16000)
    >>> pieces = [resampler.push(np.zeros(700, np.float32)) for _ in range(10)]
    >>> sum(len(piece) for piece in [*pieces, resampler.finish()])  # a third of 7000, rounded up
    2334
    """

    def __init__(self, source_rate: float, target_rate: float) -> None:
        """From `source_rate` to `target_rate`, both in Hz. DataError for rates that are not positive."""
        if source_rate <= 0 or target_rate <= 0:
            raise DataError(f"resample: rates {source_rate} to {target_rate}, expected positive rates in Hz")
        self.source_rate, self.target_rate = source_rate, target_rate
        self._piece = max(1, round(source_rate * _PIECE))
        self.reset()

    def reset(self) -> None:
        """Forget all audio: what is pushed next begins a new recording."""
        self._stream: Any = None
        self._waiting: list[np.ndarray] = []
        self._held = self._taken = self._given = 0
        self._done = False

    def push(self, samples: np.ndarray) -> np.ndarray:
        """The resampled samples that are known after samples [N] more, which may be none: they lag by a few hundredths
        of a second. ShapeError for several channels, DataError after `finish`."""
        if samples.ndim != 1:
            raise ShapeError(f"resample: audio of shape {samples.shape}, expected [N]")
        if self._done:
            raise DataError("resample: samples after the end, expected none; reset it before another recording")
        samples = np.array(samples, dtype=np.float32)  # the caller may write into its own
        if self.source_rate == self.target_rate:
            return samples
        self._taken += len(samples)
        self._waiting.append(samples)
        self._held += len(samples)
        if self._held < self._piece:
            return np.zeros(0, np.float32)
        waiting = np.concatenate(self._waiting) if len(self._waiting) > 1 else self._waiting[0]
        whole = len(waiting) // self._piece * self._piece
        self._waiting, self._held = [waiting[whole:]], len(waiting) - whole
        return self._resampled(waiting[:whole], last=False)

    def finish(self) -> np.ndarray:
        """The samples that are still to come; all together are `resampled_length`."""
        self._done = True
        if not self._taken:
            return np.zeros(0, np.float32)
        rest = self._resampled(np.concatenate(self._waiting), last=True)
        self._waiting, self._stream = [], None
        missing = resampled_length(self._taken, self.source_rate, self.target_rate) - self._given
        return np.pad(rest, (0, missing)) if missing > 0 else rest[: len(rest) + missing]

    def _resampled(self, samples: np.ndarray, last: bool) -> np.ndarray:
        """What the filter gives for samples [N] more."""
        # soxr is what librosa's default resampler calls; importing librosa for it would cost a second.
        import soxr

        if self._stream is None:
            self._stream = soxr.ResampleStream(self.source_rate, self.target_rate, 1, dtype="float32", quality="HQ")
        found = np.asarray(self._stream.resample_chunk(np.ascontiguousarray(samples), last=last), dtype=np.float32)
        self._given += len(found)
        return found
