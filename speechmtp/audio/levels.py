"""Levels of audio: channels that cancel, silence, and samples that are not scaled to [-1, 1]."""

import math
import warnings

import numpy as np

from speechmtp.errors import AudioWarning, DataError

CANCELLED = 10 ** (-15 / 20)  # level of a mean, to that of independent channels' mean, below which channels cancel
INAUDIBLE = 10 ** (-80 / 20)  # peak of silence: 3 steps of 16-bit samples
LOUDEST = 8.0  # larger floats are taken for unscaled integers


def mix(where: str, audio: np.ndarray) -> np.ndarray:
    """The mean of the channels of float32 samples [N, channels]: [N].

    If the channels cancel, as those of a balanced line that was recorded as stereo, it is the loudest channel, with an
    AudioWarning: if the mean is 15 dB quieter than that of independent channels with the same levels.
    """
    channels = audio.shape[1]
    if channels == 1:
        return audio[:, 0]
    with np.errstate(invalid="ignore"):  # samples that are not finite
        mean: np.ndarray = audio.mean(1, dtype=np.float32)
        power = _power(audio)
        left = _power(mean[:, None])[0]
    if not left < CANCELLED**2 * power.sum() / channels**2:
        return mean
    loudest = int(power.argmax())
    warnings.warn(
        f"{where}: its {channels} channels cancel each other in their mean; channel {loudest}, the loudest, is heard",
        AudioWarning,
        stacklevel=3,
    )
    return audio[:, loudest]


def _power(audio: np.ndarray) -> np.ndarray:
    """The power of each channel of samples [N, channels] without its mean; no float64 copy is made."""
    size = max(1, len(audio))
    squares = np.einsum("ij,ij->j", audio, audio, dtype=np.float64) / size
    power: np.ndarray = squares - (audio.sum(0, dtype=np.float64) / size) ** 2
    return power


def inaudible(audio: np.ndarray) -> bool:
    """Whether float samples [N], at least one, are silence: all within 80 dB below full scale of their mean."""
    middle = audio.mean(dtype=np.float64)
    return bool(max(audio.max() - middle, middle - audio.min()) < INAUDIBLE)


def check_floats(where: str, audio: np.ndarray) -> None:
    """DataError for float samples of any shape that look like integers: some are beyond 8, or some beyond 1 and all
    whole numbers."""
    peak = _peak(audio)
    if math.isfinite(peak) and (peak > LOUDEST or (peak > 1 and (audio == np.rint(audio)).all())):
        raise DataError(
            f"{where}: samples up to {peak:g}, expected floats in [-1, 1]; divide by 32768 where they were 16-bit"
        )


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
