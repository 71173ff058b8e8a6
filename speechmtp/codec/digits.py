"""Learned digits of `unit25` tokens: what F0, energy and units leave open, rounded to a few values a dimension.

Finite scalar quantisation (arXiv 2309.15505): each dimension is bounded and rounded, and the gradient passes as if it
had not been. Always in float32.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from speechmtp.codec import signal
from speechmtp.codec.contract import TOKEN
from speechmtp.codec.network import Block

BANDS, WIDTH = 80, 128
SPECTRA = 4  # of a token
_EDGE = 1e-3


def quantise(values: Tensor, sizes: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Codes in [-1, 1] and digits (int64), both [..., D], of values [..., D]."""
    levels = torch.tensor(sizes, dtype=torch.float32, device=values.device)
    half = (levels - 1) / 2 * (1 + _EDGE)
    offset = (levels % 2 == 0) * 0.5
    shift = torch.atanh(offset / half)
    bounded = torch.tanh(values.float() + shift) * half - offset
    rounded = bounded.round()
    through = bounded + (rounded - bounded).detach()
    middle = torch.floor(levels / 2)
    return through / middle, (rounded + middle).long()


def codes_of(digit: Tensor, size: int) -> Tensor:
    """The codes of the digits of one dimension, as `quantise` gives them."""
    return (digit - size // 2) / (size // 2)


class DigitEncoder(nn.Module):
    """From samples to one vector for every token; it reads four tokens on either side."""

    filters: Tensor

    def __init__(self, sizes: Sequence[int]) -> None:
        super().__init__()
        self.sizes = tuple(sizes)
        self.inputs = nn.Linear(SPECTRA * BANDS, WIDTH)
        self.blocks = nn.ModuleList([Block(WIDTH, 2 * WIDTH, 5) for _ in range(2)])
        self.norm, self.output = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, len(sizes))
        self.register_buffer("filters", _filters(), persistent=False)

    def forward(self, samples: Tensor) -> tuple[Tensor, Tensor]:
        """Codes and digits [B, T, D] of samples [B, N], of which the last token may lack some."""
        tokens = -(-samples.shape[1] // TOKEN)
        behind = tokens * TOKEN - samples.shape[1]
        around = signal.WINDOW - TOKEN // SPECTRA  # so that a window is around its quarter of a token
        padded = nn.functional.pad(samples, (around // 2, around - around // 2 + behind))
        frames = padded.unfold(1, signal.WINDOW, TOKEN // SPECTRA)
        power = torch.fft.rfft(frames * signal.HANN.float().to(samples.device)).abs().square()
        bands = torch.log(1e-3 + power @ self.filters.T) / 5
        hidden = self.inputs(bands.unflatten(1, (tokens, SPECTRA)).flatten(2))
        for block in self.blocks.children():
            assert isinstance(block, Block)  # for mypy
            hidden = hidden + block.rest(block.mix(nn.functional.pad(hidden, (0, 0, 2, 2))))
        return quantise(self.output(self.norm(hidden)), self.sizes)


def _filters() -> Tensor:
    """Triangular filters [80, 601] on the mel scale up to 12 kHz, each with peak 1."""
    top = 2595 * math.log10(1 + signal.RATE / 2 / 700)
    points = 700 * (10 ** (torch.linspace(0, top, BANDS + 2) / 2595) - 1)
    bins = torch.linspace(0, signal.RATE / 2, signal.BINS)
    rising = (bins - points[:-2, None]) / points.diff()[:-1, None]
    falling = (points[2:, None] - bins) / points.diff()[1:, None]
    return torch.minimum(rising, falling).clamp_min(0)
