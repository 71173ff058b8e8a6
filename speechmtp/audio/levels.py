"""Levels of audio: channels that cancel, silence, and samples that are not scaled to [-1, 1]."""

import math
import warnings

import numpy as np

from speechmtp.errors import AudioWarning, DataError

CANCELLED = 10 ** (-15 / 20)  # level of a mean, to that of independent channels' mean, below which channels cancel
INAUDIBLE = 10 ** (-80 / 20)  # peak of silence: 3 steps of 16-bit samples
LOUDEST = 8.0  # larger floats are taken for unscaled integers


class Levels:
    """What samples that come in blocks are like as a whole: whether they look like integers, and how loud each channel
    and the mean of all are."""

    def __init__(self) -> None:
        self._peak, self._whole, self._size = 0.0, True, 0
        self._channels, self._mean = np.zeros((2, 1)), np.zeros((2, 1))  # sums of squares and of samples

    def add(self, audio: np.ndarray) -> None:
        """Count float samples of any shape."""
        peak = _peak(audio)
        self._whole = self._whole and bool((audio == np.rint(audio)).all())
        self._peak = max(self._peak, peak) if math.isfinite(peak) else math.inf

    def add_channels(self, audio: np.ndarray) -> np.ndarray:
        """Count the channels of float32 samples [n, channels] against each other; returns their mean [n]."""
        if audio.shape[1] == 1:
            return audio[:, 0]
        with np.errstate(invalid="ignore"):  # samples that are not finite
            mean: np.ndarray = audio.mean(1, dtype=np.float32)
            self._channels = self._channels + _moments(audio)
            self._mean = self._mean + _moments(mean[:, None])
        self._size += len(audio)
        return mean

    def check(self, where: str) -> None:
        """DataError if the samples look like integers: some are beyond 8, or some beyond 1 and all whole numbers."""
        peak = self._peak
        if math.isfinite(peak) and (peak > LOUDEST or (peak > 1 and self._whole)):
            raise DataError(
                f"{where}: samples up to {peak:g}, expected floats in [-1, 1]; divide by 32768 where they were 16-bit"
            )

    def loudest(self, where: str) -> int | None:
        """The channel to hear in place of the mean, with an AudioWarning, where channels cancel (see `mix`); None where
        the mean is heard."""
        channels = self._channels.shape[1]
        with np.errstate(invalid="ignore"):
            power, left = self._power(self._channels), self._power(self._mean)[0]
        if channels == 1 or not left < CANCELLED**2 * power.sum() / channels**2:
            return None
        loudest = int(power.argmax())
        warnings.warn(
            f"{where}: its {channels} channels cancel each other in their mean; channel {loudest}, the loudest, is "
            "heard",
            AudioWarning,
            stacklevel=4,
        )
        return loudest

    def _power(self, moments: np.ndarray) -> np.ndarray:
        """The power of each channel without its mean, of moments [2, channels]."""
        squares, sums = moments / max(1, self._size)
        power: np.ndarray = squares - sums**2
        return power


def mix(where: str, audio: np.ndarray) -> np.ndarray:
    """The mean of the channels of float32 samples [N, channels]: [N].

    If the channels cancel, as those of a balanced line that was recorded as stereo, it is the loudest channel, with an
    AudioWarning: if the mean is 15 dB quieter than that of independent channels with the same levels.
    """
    levels = Levels()
    mean = levels.add_channels(audio)
    loudest = levels.loudest(where)
    return mean if loudest is None else audio[:, loudest]


def _moments(audio: np.ndarray) -> np.ndarray:
    """Sums of squares and of samples of each channel of [n, channels]: [2, channels]; no float64 copy is made."""
    return np.stack([np.einsum("ij,ij->j", audio, audio, dtype=np.float64), audio.sum(0, dtype=np.float64)])


def inaudible(audio: np.ndarray) -> bool:
    """Whether float samples [N], at least one, are silence: all within 80 dB below full scale of their mean."""
    middle = audio.mean(dtype=np.float64)
    return bool(max(audio.max() - middle, middle - audio.min()) < INAUDIBLE)


def check_floats(where: str, audio: np.ndarray) -> None:
    """DataError for float samples of any shape that look like integers (see `Levels.check`)."""
    levels = Levels()
    levels.add(audio)
    levels.check(where)


def check_integers(where: str, audio: np.ndarray) -> None:
    """DataError for 32-bit samples of any shape that look like 16-bit ones: all below 2**15, some audible as 16-bit
    samples, and not all multiples of 256, as 24-bit ones would be."""
    peak = _peak(audio)
    if 2**15 * INAUDIBLE <= peak < 2**15 and (audio % 256).any():
        raise DataError(
            f"{where}: 32-bit samples up to {peak:g}, expected up to {2**31}; give them as int16 where they were 16-bit"
        )


def _peak(audio: np.ndarray) -> float:
    """The largest magnitude of the samples; 0 without any."""
    return max(float(audio.max()), -float(audio.min())) if audio.size else 0.0
