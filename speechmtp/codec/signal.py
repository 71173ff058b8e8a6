"""From spectra of frames to samples, and back: a pulse train through a filter, noise, and a free part.

A frame is 300 samples of 24 kHz, and the spectrum of frame i is that of the 1200 samples around sample 300 i. All of
this works on pieces of fixed size, so that streaming and decoding at once give the same bits.
"""

import math

import numpy as np
import torch
from torch import Tensor

RATE = 24000
HOP = 300
WINDOW = 1200
BINS = WINDOW // 2 + 1
OVERLAP = WINDOW // HOP
DELAY = WINDOW // 2  # samples that a spectrum adds before its own frame begins
TOP_HZ = 11000.0  # the highest harmonic
LOWEST_HZ = 40.0
LOUDEST = 7.0  # the largest log magnitude

HANN = 0.5 - 0.5 * torch.cos(2 * math.pi * torch.arange(WINDOW, dtype=torch.float64) / WINDOW)
_SYNTHESIS = HANN.float()
_ANALYSIS = (HANN / (WINDOW / 4)).float()  # a harmonic of amplitude 1 has magnitude 1
FULL = 1.5  # the sum of the squared windows over a sample


def to_samples(curve: Tensor) -> Tensor:
    """A curve with one value before its frames and one behind them [..., F + 2], at each sample [..., F x 300]: between
    the middles of frames, on a line."""
    at = (torch.arange(HOP, dtype=torch.float32, device=curve.device) + 0.5) / HOP - 0.5
    early, late = at[: HOP // 2] + 1, at[HOP // 2 :]
    before, here, after = curve[..., :-2, None], curve[..., 1:-1, None], curve[..., 2:, None]
    first = before * (1 - early) + here * early
    second = here * (1 - late) + after * late
    return torch.cat([first, second], -1).flatten(-2)


def pulse_train(hertz: Tensor, phase: Tensor) -> tuple[Tensor, Tensor]:
    """All harmonics below 11 kHz with amplitude 1, of F0 in Hz at samples [..., N], and silence where that is not above
    40 Hz; `phase` [..., 1] is the cycle before the first sample (float64, 0 to 1), and that of the last is returned."""
    voiced = hertz > LOWEST_HZ
    hertz = hertz.clamp_min(LOWEST_HZ)
    cycles = (phase + (hertz.double() / RATE).cumsum(-1)) % 1.0
    angle = (cycles * (2 * math.pi)).float()
    order = torch.floor(TOP_HZ / hertz) + 0.5
    below = 2 * torch.sin(angle * 0.5)
    at_peak = below.abs() <= 2e-3  # where the quotient has its limit
    train = torch.where(at_peak, order, torch.sin(order * angle) / below.masked_fill(at_peak, 1.0)) - 0.5
    return train * voiced, cycles[..., -1:]


def analyse(samples: Tensor) -> Tensor:
    """Spectra [..., F, 601] of samples [..., 300 (F + 3)], of which frame i reads 1200 from 300 i on."""
    return torch.fft.rfft(samples.unfold(-1, WINDOW, HOP) * _ANALYSIS.to(samples.device))


def spectra(parts: Tensor, source: Tensor, noise: Tensor) -> Tensor:
    """Complex spectra [..., F, 601] from what the network gives [..., F, 5, 601]: log magnitude and phase of the filter
    over the source's spectra, log magnitude of noise (complex, of variance 1 in each part), and log magnitude and phase
    of a free part."""
    size, angle, hiss, free, turn = parts.unbind(-2)
    size, hiss, free = (torch.exp(one.clamp_max(LOUDEST)) for one in (size, hiss, free))
    return source * torch.polar(size, math.pi * torch.tanh(angle)) + hiss * noise + torch.polar(free, turn)


def overlap_add(spectrum: Tensor, before: Tensor) -> tuple[Tensor, Tensor]:
    """Blocks of samples [..., F, 300] from spectra [..., F, 601] and the three blocks [..., 3, 300] begun by the frames
    before; and the three that the next frames complete. The first block lies two frames before the first spectrum."""
    frames = torch.fft.irfft(spectrum, WINDOW) * _SYNTHESIS.to(spectrum.device)
    blocks = frames.unflatten(-1, (OVERLAP, HOP))
    count = blocks.shape[-3]
    total = torch.cat([before, before.new_zeros((*before.shape[:-2], count, HOP))], -2)
    for shift in range(OVERLAP):
        total[..., shift : shift + count, :] += blocks[..., shift, :]
    return total[..., :count, :], total[..., count:, :]


def level(first: int, count: int, frames: int) -> Tensor:
    """What the samples of `count` blocks from frame `first` on are divided by, in an utterance of so many frames: the
    sum of the squared windows, which is smaller at both ends [count, 300]."""
    squares = (HANN * HANN).reshape(OVERLAP, HOP)
    total = torch.zeros(count, HOP, dtype=torch.float64)
    for block in range(count):
        for part in range(OVERLAP):
            if 0 <= first + block - part + OVERLAP // 2 < frames:
                total[block] += squares[part]
    return total.clamp_min(1e-11).float()


def gaussian(seed: int, quantum: int, frames: int) -> Tensor:
    """Complex noise [frames, 601] of a quantum: a function of the seed and of nothing else."""
    generator = np.random.Generator(np.random.Philox(key=np.array([seed % (1 << 64), quantum], dtype=np.uint64)))
    return torch.view_as_complex(torch.from_numpy(generator.standard_normal((frames, BINS, 2), dtype=np.float32)))
