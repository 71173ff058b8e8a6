"""The networks of `unit25`: features of units, and spectra from features of frames, quantum by quantum.

A decoder of frames would need the frames of the next third of a second. Here it reads windows: the frames of one
quantum and a few of the next, and on their left, at every layer, the last frames of the quantum before as they were
emitted. So a layer is computed once for every quantum, at one shape, and all quanta of an utterance may be computed
beside each other in training.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from speechmtp.codec.signal import BINS
from speechmtp.config import Count, Range, Size, check_fields

CURVES = 2  # features of a frame besides those of its unit and of learned digits: F0 and energy
REACH = 3  # frames on either side that a convolution of the decoder reads
PARTS = 5  # what the head gives for every bin, see `signal.spectra`


@dataclass(frozen=True)
class NetworkConfig:
    """Sizes of the networks. `passes` is how often the one attention layer of the unit encoder is applied, `digits` how
    many learned digits a frame has."""

    units: Size = 178
    unit_width: Size = 128
    unit_blocks: Count = 2
    heads: Count = 2
    passes: Count = 4
    width: Size = 256
    expansion: Annotated[int, Range(1, 8)] = 3
    blocks: Count = 8
    digits: Annotated[int, Range(0, 3)] = 0

    def __post_init__(self) -> None:
        check_fields(self, "codec.network")


class Block(nn.Module):
    """What follows the depthwise convolution of a ConvNeXt block, for [..., C]; the convolution's taps are here too."""

    def __init__(self, width: int, inner: int, kernel: int) -> None:
        super().__init__()
        self.taps = nn.Parameter(torch.randn(kernel, width) / kernel)
        self.taps_bias = nn.Parameter(torch.zeros(width))
        self.norm = nn.LayerNorm(width, eps=1e-5)
        self.pw1, self.pw2 = nn.Linear(width, inner), nn.Linear(inner, width)
        self.gamma = nn.Parameter(torch.full((width,), 0.1))

    def mix(self, padded: Tensor) -> Tensor:
        """The convolution along the axis before the last: [..., N + kernel - 1, C] to [..., N, C]."""
        size = padded.shape[-2] - len(self.taps) + 1
        total = torch.addcmul(self.taps_bias, padded.narrow(-2, 0, size), self.taps[0])
        for at in range(1, len(self.taps)):
            total = torch.addcmul(total, padded.narrow(-2, at, size), self.taps[at])
        return total

    def rest(self, mixed: Tensor) -> Tensor:
        """What is added to the block's input, from the convolution's output."""
        return self.gamma * self.pw2(F.gelu(self.pw1(self.norm(mixed))))


@dataclass(frozen=True)
class UnitView:
    """Who sees whom among the units of sentences: `ids` [B, S], `near` [B, S, 5], the places of the two units on either
    side and of the unit itself (S: none), and `seen` [B, S, S], True where a row may attend to a column. The features
    of a sentence's units are those at its first `size` places."""

    ids: Tensor
    near: Tensor
    seen: Tensor
    size: int


def sentence_view(ids: Sequence[int]) -> UnitView:
    """Every unit sees the whole sentence."""
    size = len(ids)
    near = torch.arange(size)[:, None] + torch.arange(-2, 3)
    near = near.masked_fill((near < 0) | (near >= size), size)
    return UnitView(torch.tensor(ids)[None], near[None], torch.ones(1, size, size, dtype=torch.bool), size)


def word_view(ids: Sequence[int], words: Sequence[int]) -> UnitView:
    """Every unit sees all units up to the end of the next word.

    Each unit stands twice. The first copy is the unit itself. The second is the unit as the word before sees it, to
    which nothing after its own word is known.
    """
    size, word = len(ids), torch.tensor(words)
    both = torch.cat([word, word])
    copy = torch.arange(2 * size) >= size
    reader = torch.where(copy, both - 1, both)  # the word for which a place is computed
    seen = torch.where(copy[None], both[None] == reader[:, None] + 1, both[None] <= reader[:, None])
    at = torch.arange(size).repeat(2)[:, None] + torch.arange(-2, 3)
    inside = (at >= 0) & (at < size)
    other = word[at.clamp(0, size - 1)]
    near = torch.where(other > reader[:, None], at + size, at)
    near = near.masked_fill(~inside | (other > reader[:, None] + 1), 2 * size)
    return UnitView(torch.tensor(list(ids) * 2)[None], near[None], seen[None], size)


class UnitEncoder(nn.Module):
    """Features of units from their ids: two convolutions, then one attention layer several times."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        width = config.unit_width
        self.emb = nn.Embedding(config.units, width)
        blocks = [Block(width, 2 * width, 5) for _ in range(config.unit_blocks)]
        self.convs = nn.ModuleList(blocks)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.norm1, self.norm2, self.norm = (nn.LayerNorm(width, eps=1e-5) for _ in range(3))
        self.linear1, self.linear2 = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)
        self.heads, self.passes = config.heads, config.passes

    def forward(self, view: UnitView) -> Tensor:
        """Features [B, P, C] of the units of a view."""
        hidden = self.emb(view.ids)
        rows, places, width = hidden.shape
        row = torch.arange(rows, device=hidden.device)[:, None, None]
        for block in self.convs.children():
            assert isinstance(block, Block)  # for mypy
            near = F.pad(hidden, (0, 0, 0, 1))[row, view.near]  # [B, S, 5, C]
            hidden = hidden + block.rest(block.mix(near).squeeze(2))
        for _ in range(self.passes):
            parts = self.qkv(self.norm1(hidden)).view(rows, places, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
            mixed = F.scaled_dot_product_attention(parts[0], parts[1], parts[2], view.seen[:, None])
            hidden = hidden + self.out(mixed.transpose(1, 2).reshape(rows, places, width))
            hidden = hidden + self.linear2(F.gelu(self.linear1(self.norm2(hidden))))
        return self.norm(hidden[:, : view.size])


class FrameDecoder(nn.Module):
    """Spectra of frames from features of frames, by windows of a quantum and some frames ahead."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.inputs, self.width = config.unit_width + CURVES + config.digits, config.width
        self.dec_in = nn.Linear((2 * REACH + 1) * self.inputs, config.width)
        inner = config.expansion * config.width
        self.dec = nn.ModuleList(Block(config.width, inner, 2 * REACH + 1) for _ in range(config.blocks))
        self.dec_norm = nn.LayerNorm(config.width, eps=1e-5)
        self.head = nn.Linear(config.width, PARTS * BINS)

    def start(self, rows: int = 1) -> list[Tensor]:
        """What lies before the first frame, for every convolution: zeros [B, 3, C]."""
        like = self.dec_in.weight
        return [like.new_zeros(rows, REACH, self.inputs)] + [
            like.new_zeros(rows, REACH, self.width) for _ in range(len(self.dec))
        ]

    def forward(
        self, features: Tensor, mask: Tensor, left: Sequence[Tensor], ahead: int
    ) -> tuple[Tensor, list[Tensor]]:
        """Windows [B, Q, W, C] of features, of which the last `ahead` frames are those of the next quantum, to what the
        head gives [B, Q, W - ahead, 5, bins]; `mask` [B, Q, W, 1] is 1 in the utterance and 0 behind it. `left` is what
        `start` gave, or this function for the quantum before; it returns it for the next."""
        kept = features.shape[2] - ahead
        padded, first = _padded(features * mask, left[0], kept)
        unfolded = padded.unfold(2, 2 * REACH + 1, 1).transpose(-1, -2).flatten(-2)  # taps x channels
        hidden, after = self.dec_in(unfolded), [first]
        for block, before in zip(self.dec.children(), left[1:]):
            assert isinstance(block, Block)  # for mypy
            padded, last = _padded(hidden * mask, before, kept)
            after.append(last)
            hidden = hidden + block.rest(block.mix(padded))
        hidden = self.head(self.dec_norm(hidden[:, :, :kept]))
        return hidden.unflatten(-1, (PARTS, BINS)), after


def _padded(windows: Tensor, left: Tensor, kept: int) -> tuple[Tensor, Tensor]:
    """Windows [B, Q, W, C] with 3 frames before them and zeros behind, and the last emitted frames of the last one."""
    ends = windows[:, :, kept - REACH : kept]
    before = torch.cat([left[:, None], ends[:, :-1]], 1)
    return torch.cat([before, windows, torch.zeros_like(before)], 2), ends[:, -1]
