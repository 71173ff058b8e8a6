"""Log mel filterbank features with Kaldi's arithmetic; streaming and offline results are equal bit for bit.

The front end is Kaldi's `compute-fbank-feats` with `snip_edges`: for each frame remove the mean, pre-emphasise, apply
the povey window, take the power spectrum and pool it with triangular mel filters.
"""

import math
from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor

from speechmtp.config import Range, Share, check_fields
from speechmtp.errors import ConfigError, DataError, ShapeError

# The rounding of a matrix product depends on its number of rows, so every product has exactly this many.
FRAMES_PER_BLOCK = 64
_FLOOR = torch.finfo(torch.float32).eps


@dataclass(frozen=True)
class FbankConfig:
    """Settings of the filterbank, with Kaldi's names and values.

    `high_hz` 0 is half the sample rate, a negative value is an offset from it. `scale` multiplies the audio first
    (32768: the range of 16-bit samples, which Kaldi uses). `dither` is the standard deviation of noise at that scale;
    it is only added if a generator is given.
    """

    sample_rate: Annotated[int, Range(1, 1 << 20)] = 16000
    num_mels: Annotated[int, Range(3, 1 << 10)] = 80
    frame_length_ms: Annotated[float, Range(0, 1000, above=True)] = 25.0
    frame_shift_ms: Annotated[float, Range(0, 1000, above=True)] = 10.0
    low_hz: float = 20.0
    high_hz: float = 0.0
    preemphasis: Share = 0.97
    dither: Annotated[float, Range(0)] = 0.0
    scale: Annotated[float, Range(0, 1 << 32, above=True)] = 32768.0

    def __post_init__(self) -> None:
        """Check the values; ConfigError names the first wrong one."""
        check_fields(self, "fbank")
        top = self.nyquist_hz if self.high_hz == 0 else self.high_edge_hz
        if not 0 <= self.low_hz < top <= self.nyquist_hz:
            raise ConfigError(
                f"fbank: low_hz {self.low_hz} and high_hz {self.high_hz}, expected 0 <= low < high <= {self.nyquist_hz}"
            )
        if not 1 < self.shift <= self.length:
            raise ConfigError(
                f"fbank: frames of {self.length} samples every {self.shift}, expected 1 < shift <= length"
            )

    @property
    def length(self) -> int:
        """Samples in a frame."""
        return int(self.sample_rate * self.frame_length_ms * 0.001)

    @property
    def shift(self) -> int:
        """Samples from one frame to the next."""
        return int(self.sample_rate * self.frame_shift_ms * 0.001)

    @property
    def fft_length(self) -> int:
        """Frame length rounded up to a power of two."""
        return 1 << (self.length - 1).bit_length()

    @property
    def nyquist_hz(self) -> float:
        """Half the sample rate."""
        return 0.5 * self.sample_rate

    @property
    def high_edge_hz(self) -> float:
        """Upper edge of the last filter in Hz."""
        return self.high_hz if self.high_hz > 0 else self.nyquist_hz + self.high_hz

    def num_frames(self, samples: int) -> int:
        """The number of full frames in `samples` samples."""
        return 0 if samples < self.length else 1 + (samples - self.length) // self.shift


@dataclass(frozen=True)
class FbankState:
    """The state of a stream: the samples `[n]` from the start of the next frame on, and whether the stream ended."""

    pending: Tensor
    ended: bool = False


class Fbank:
    """Computes filterbank features; holds its window and filters as tensors on one device.

    Frames are computed in blocks of a fixed number of frames, the last one filled up with zero frames. The bits of a
    frame therefore depend only on its own samples, not on how the audio was cut or batched.
    """

    def __init__(self, config: FbankConfig | None = None, device: torch.device | str = "cpu") -> None:
        self.config = config or FbankConfig()
        self.device = torch.device(device)
        self._window = povey_window(self.config.length).to(self.device)
        self._mels = mel_filters(self.config).to(self.device)

    def __call__(
        self, audio: Tensor, lengths: Tensor | None = None, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        """Features of a batch: audio `[B, N]` float in [-1, 1] to frames `[B, T, F]` float32 and lengths `[B]`.

        `lengths` are samples per row (None: all of them); frames past a row's length are zero. Dither is added if it is
        configured and a generator is given. ShapeError for other shapes, integers or lengths above N.
        """
        if audio.ndim != 2 or not audio.is_floating_point():
            raise ShapeError(f"fbank: audio of shape {list(audio.shape)}, {audio.dtype}, expected [B, N] of floats")
        config = self.config
        batch, samples = audio.shape
        if lengths is None:
            lengths = torch.full((batch,), samples, dtype=torch.long)
        if lengths.shape != (batch,) or (batch and int(lengths.max()) > samples):
            raise ShapeError(f"fbank: lengths {lengths.tolist()}, expected {batch} values up to {samples}")
        lengths = lengths.to(self.device, torch.long)
        counts = torch.where(lengths < config.length, 0, 1 + (lengths - config.length) // config.shift)
        width = int(counts.max()) if batch else 0
        output = torch.zeros(batch, width, config.num_mels, device=self.device)
        if width == 0:
            return output, counts
        audio = self._dithered(audio.to(self.device, torch.float32), generator)
        frames = audio.unfold(1, config.length, config.shift)
        rows, columns = (torch.arange(width, device=self.device) < counts[:, None]).nonzero(as_tuple=True)
        with torch.autocast(self.device.type, enabled=False):
            for begin in range(0, len(rows), FRAMES_PER_BLOCK):
                index = rows[begin : begin + FRAMES_PER_BLOCK], columns[begin : begin + FRAMES_PER_BLOCK]
                output[index] = self._features(frames[index])
        return output, counts

    def start(self) -> FbankState:
        """The state of a stream before its first sample."""
        return FbankState(torch.zeros(0, device=self.device))

    def step(self, samples: Tensor, state: FbankState, last: bool = False) -> tuple[Tensor, FbankState]:
        """Take the next samples `[n]` (n may be 0); return all frames `[t, F]` that they complete, and the new state.

        `last` ends the stream: samples that fill no frame are dropped, as offline. DataError for samples after that.
        """
        if state.ended:
            raise DataError("fbank: samples after the end of the stream, expected none; start a new state")
        if samples.ndim != 1 or not samples.is_floating_point():
            raise ShapeError(f"fbank: samples of shape {list(samples.shape)}, {samples.dtype}, expected [n] of floats")
        pending = torch.cat([state.pending, samples.to(self.device, torch.float32)])
        count = self.config.num_frames(len(pending))
        if count == 0:
            frames = torch.zeros(0, self.config.num_mels, device=self.device)
        else:
            frames = self(pending[None])[0][0]
        # A copy, so that the state does not keep all earlier samples in memory.
        rest = pending[:0] if last else pending[count * self.config.shift :]
        return frames, FbankState(rest.clone(), ended=last)

    def _dithered(self, audio: Tensor, generator: torch.Generator | None) -> Tensor:
        """Audio with Gaussian noise of the configured size, if a generator is given."""
        if self.config.dither == 0.0 or generator is None:
            return audio
        noise = torch.randn(audio.shape, generator=generator, device=generator.device).to(self.device)
        return audio + noise * (self.config.dither / self.config.scale)

    def _features(self, frames: Tensor) -> Tensor:
        """Features `[n, F]` of frames of samples `[n, length]`, at most one block."""
        count = len(frames)
        block = frames.new_zeros(FRAMES_PER_BLOCK, self.config.length)
        block[:count] = frames * self.config.scale
        block = block - block.mean(dim=1, keepdim=True)
        previous = torch.cat([block[:, :1], block[:, :-1]], dim=1)
        block = (block - self.config.preemphasis * previous) * self._window
        spectrum = torch.view_as_real(torch.fft.rfft(block, n=self.config.fft_length))
        power = spectrum.square().sum(dim=-1)
        return (power @ self._mels).clamp_min(_FLOOR).log()[:count]


def povey_window(length: int) -> Tensor:
    """Kaldi's window `[length]` float32: a symmetric Hann window to the power 0.85."""
    return torch.hann_window(length, periodic=False, dtype=torch.float32).pow(0.85)


def mel_filters(config: FbankConfig) -> Tensor:
    """Triangular filters `[fft_length / 2 + 1, num_mels]` float32 on the mel scale 1127 ln(1 + f/700).

    The weight of the Nyquist bin is zero, as in Kaldi. Computed in float32 in Kaldi's order of operations: where quiet
    bins are next to loud ones, different rounding of window or filters moves features by up to 1e-3.
    """
    low, high = mel_scale(config.low_hz), mel_scale(config.high_edge_hz)
    step = (high - low) / (config.num_mels + 1)
    index = torch.arange(config.num_mels, dtype=torch.float32)
    left, center, right = (low + (index + offset) * step for offset in (0.0, 1.0, 2.0))
    hz = torch.arange(config.fft_length // 2, dtype=torch.float32) * (config.sample_rate / config.fft_length)
    mels = (1127.0 * (1.0 + hz / 700.0).log())[:, None]
    weights = torch.minimum((mels - left) / (center - left), (right - mels) / (right - center)).clamp_min(0.0)
    return torch.nn.functional.pad(weights, (0, 0, 0, 1)).contiguous()


def mel_scale(hz: float) -> float:
    """The mel value of a frequency in Hz."""
    return 1127.0 * math.log(1.0 + hz / 700.0)
