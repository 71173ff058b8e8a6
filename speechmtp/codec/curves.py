"""F0 and energy of audio, as tokens of `unit25` are made from them.

Energy is the log of the norm of the mel powers at 80 Hz; F0 is that of `librosa.pyin` at 40 Hz.
"""

import math
from dataclasses import dataclass
from functools import cache

import numpy as np
import soxr

from speechmtp.codec.contract import FRAME, RATE
from speechmtp.errors import DataError

ENERGY_RATE = RATE / FRAME
F0_RATE = ENERGY_RATE / 2
LOWEST_HZ, HIGHEST_HZ = 60.0, 600.0
_FFT, _WINDOW, _MELS = 2048, 1200, 80
_HALF = RATE // 2  # the rate at which F0 is searched


@dataclass(frozen=True)
class Curves:
    """F0 in Hz (0: unvoiced) and log energy of audio; value i is that at i / rate seconds."""

    f0: np.ndarray
    energy: np.ndarray
    f0_rate: float = F0_RATE
    energy_rate: float = ENERGY_RATE


def measure(samples: np.ndarray) -> Curves:
    """The curves of 24 kHz samples [N]. DataError if librosa is not installed, or for audio that is not finite."""
    if not len(samples) or not np.isfinite(samples).all():
        raise DataError(f"codec: {len(samples)} samples, expected audio of finite numbers; check the recording")
    return Curves(_f0(samples), energy(samples))


def _f0(samples: np.ndarray) -> np.ndarray:
    try:
        import librosa
    except ImportError as error:
        raise DataError(
            "codec: encoding needs librosa, which is not installed; pip install 'speechmtp[train]'"
        ) from error
    half = soxr.resample(samples.astype(np.float32), RATE, _HALF)
    f0, _, _ = librosa.pyin(
        half, fmin=LOWEST_HZ, fmax=HIGHEST_HZ, sr=_HALF, frame_length=1024, hop_length=round(_HALF / F0_RATE)
    )
    return np.nan_to_num(f0).astype(np.float32)


def energy(samples: np.ndarray) -> np.ndarray:
    """Log energy of 24 kHz samples [N] at 80 Hz [N / 300 + 1], float32."""
    padded = np.pad(samples.astype(np.float32), _FFT // 2, mode="reflect" if len(samples) > _FFT // 2 else "constant")
    frames = np.lib.stride_tricks.sliding_window_view(padded, _FFT)[::FRAME]
    window = np.zeros(_FFT, np.float32)
    first = (_FFT - _WINDOW) // 2
    window[first : first + _WINDOW] = 0.5 - 0.5 * np.cos(2 * math.pi * np.arange(_WINDOW) / _WINDOW)
    power = np.abs(np.fft.rfft(frames * window)) ** 2
    mels = 1e-5 + power @ _filters().T
    return np.log(np.sqrt((mels**2).sum(1)) + 1e-9).astype(np.float32)


@cache
def _filters() -> np.ndarray:
    """Triangular filters [80, 1025] on HTK's mel scale, each with peak 1."""
    top = 2595 * math.log10(1 + RATE / 2 / 700)
    points = 700 * (10 ** (np.linspace(0, top, _MELS + 2) / 2595) - 1)
    bins = np.linspace(0, RATE / 2, _FFT // 2 + 1)
    rising = (bins - points[:-2, None]) / np.diff(points)[:-1, None]
    falling = (points[2:, None] - bins) / np.diff(points)[1:, None]
    return np.maximum(0, np.minimum(rising, falling))
