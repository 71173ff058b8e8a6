"""Augmentation of waveforms (speed, noise, reverberation) and of features (SpecAugment).

All randomness comes from the generator that is passed in, so that a run can be repeated and resumed exactly.
"""

from dataclasses import dataclass
from typing import Annotated

import numpy as np
import torch
from torch import Tensor

from speechmtp.audio.io import resample
from speechmtp.config import Range, Share, check_fields
from speechmtp.errors import DataError, ShapeError


@dataclass(frozen=True)
class SpecAugmentConfig:
    """Masks of SpecAugment (Park et al. 2019): their numbers, widths and fill value.

    A frequency mask has 0 to `freq_width` bins, a time mask 0 to `time_fraction` of its row's frames.
    """

    freq_masks: Annotated[int, Range(0)] = 2
    freq_width: Annotated[int, Range(0)] = 27
    time_masks: Annotated[int, Range(0)] = 5
    time_fraction: Share = 0.05
    fill: float = 0.0

    def __post_init__(self) -> None:
        """Check the values; ConfigError names the first wrong one."""
        check_fields(self, "spec_augment")


def spec_augment(frames: Tensor, lengths: Tensor, config: SpecAugmentConfig, generator: torch.Generator) -> Tensor:
    """Mask random frequency bands and time spans of frames `[B, T, F]` with `config.fill`; the input is not changed.

    `lengths` `[B]` are frames per row. Each row has its own masks; none extends past its length, and frames beyond the
    length are not changed. ShapeError for other shapes.
    """
    if frames.ndim != 3 or lengths.shape != frames.shape[:1]:
        raise ShapeError(
            f"spec_augment: frames {list(frames.shape)} and lengths {list(lengths.shape)}, expected [B, T, F] and [B]"
        )
    batch, width, bins = frames.shape
    lengths = lengths.to(frames.device, torch.long)
    sizes = torch.full((batch,), bins, device=frames.device)
    limits = torch.full((batch,), min(config.freq_width, bins), device=frames.device)
    bands = _random_mask(bins, sizes, limits, config.freq_masks, generator)
    limits = (lengths * config.time_fraction).floor().long()
    spans = _random_mask(width, lengths, limits, config.time_masks, generator)
    inside = torch.arange(width, device=frames.device) < lengths[:, None]
    mask = (bands[:, None, :] | spans[:, :, None]) & inside[:, :, None]
    return frames.masked_fill(mask, config.fill)


def _random_mask(extent: int, sizes: Tensor, limits: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Mask `[B, extent]`, true in `count` random intervals of at most `limits` `[B]` positions within `sizes` `[B]`."""
    shape = (2, len(sizes), count)
    draws = torch.rand(shape, generator=generator, device=generator.device).to(sizes.device)
    # A random number just below 1 can round up when scaled, hence the minima.
    widths = torch.minimum((draws[0] * (limits[:, None] + 1)).long(), limits[:, None])
    rooms = sizes[:, None] - widths
    begins = torch.minimum((draws[1] * (rooms + 1)).long(), rooms)
    positions = torch.arange(extent, device=sizes.device)
    inside = (positions >= begins[:, :, None]) & (positions < (begins + widths)[:, :, None])
    return inside.any(dim=1)


def speed_perturb(audio: np.ndarray, rate: int, factor: float) -> np.ndarray:
    """Change the speed of audio `[N]` by `factor`, and its pitch with it: float32 `[ceil(N / factor)]`.

    As `speed` of Kaldi and sox: the samples are taken to be at `rate * factor` and resampled to `rate`. DataError for a
    factor that is not positive.
    """
    if factor <= 0:
        raise DataError(f"speed: factor {factor}, expected a positive number such as 0.9 or 1.1")
    return resample(audio, rate * factor, rate)


def add_noise(audio: np.ndarray, noise: np.ndarray, snr_db: float, generator: np.random.Generator) -> np.ndarray:
    """Add noise `[M]`, cut at a random position and scaled to `snr_db` over the whole audio `[N]`: float32 `[N]`.

    Noise shorter than the audio is repeated. Silent audio, or audio with silent noise, is returned unchanged.
    """
    _require_mono("add_noise", audio, noise)
    length = len(audio)
    if len(noise) > length:
        begin = int(generator.integers(len(noise) - length + 1))
        piece = noise[begin : begin + length]
    else:
        begin = int(generator.integers(len(noise)))
        piece = np.resize(np.roll(noise, -begin), length)
    signal_power = float(np.mean(np.square(audio, dtype=np.float64)))
    noise_power = float(np.mean(np.square(piece, dtype=np.float64)))
    if signal_power == 0.0 or noise_power == 0.0:
        return audio.astype(np.float32)
    gain = np.sqrt(signal_power / noise_power * 10.0 ** (-snr_db / 10.0))
    return np.asarray(audio + gain * piece, dtype=np.float32)


def reverberate(audio: np.ndarray, rir: np.ndarray) -> np.ndarray:
    """Convolve audio `[N]` with a room impulse response `[M]`: float32 `[N]` of the same energy.

    The response's strongest sample is time 0, so that alignments with the clean audio stay valid.
    """
    _require_mono("reverberate", audio, rir)
    direct = int(np.argmax(np.abs(rir)))
    size = len(audio) + len(rir) - 1
    padded = 1 << (size - 1).bit_length()
    spectrum = np.fft.rfft(audio, padded) * np.fft.rfft(rir, padded)
    wet = np.fft.irfft(spectrum, padded)[direct : direct + len(audio)]
    energy = float(np.sum(np.square(wet)))
    if energy == 0.0:
        return np.zeros(len(audio), dtype=np.float32)
    gain = np.sqrt(float(np.sum(np.square(audio, dtype=np.float64))) / energy)
    return np.asarray(wet * gain, dtype=np.float32)


def _require_mono(where: str, *signals: np.ndarray) -> None:
    """Raise a ShapeError unless every signal is `[N]` with N at least 1."""
    for signal in signals:
        if signal.ndim != 1 or len(signal) == 0:
            raise ShapeError(f"{where}: signal of shape {list(signal.shape)}, expected [N] with N > 0")
