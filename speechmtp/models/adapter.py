"""Adapters: map the encoder output to the audio entries of the trunk's prompt."""

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from speechmtp.config import Count, Share, Size
from speechmtp.models.encoder import EncoderOutput
from speechmtp.models.segments import SEGMENT_FEATURES, Segments, merge_segments


@dataclass(frozen=True)
class StackConfig:
    """Stack `frames` encoder steps and project them; text positions continue after the audio's."""

    kind: Literal["stack"] = "stack"
    frames: Count = 4
    hidden: Size = 512


@dataclass(frozen=True)
class CtcMergeConfig:
    """Merge encoder steps into one entry per CTC label; audio and text positions both count from 0.

    `acoustics` adds the encoder states to the entries. `absent` is the share of training utterances whose acoustic
    vectors are replaced by a learned one, so that text-only training stays in distribution.
    """

    kind: Literal["ctc_merge"] = "ctc_merge"
    acoustics: bool = True
    absent: Share = 0.3


AdapterConfig = CtcMergeConfig | StackConfig


@dataclass(frozen=True)
class AudioPrompt:
    """Prompt entries of the audio: `embeddings` [B, P, C], `positions` [B, P], `lengths` [B]; `text_position` [B] is
    the position of the first text entry."""

    embeddings: Tensor
    positions: Tensor
    lengths: Tensor
    text_position: Tensor


class Adapter(nn.Module):
    """Base class of adapters."""

    config: Any

    @abstractmethod
    def segments(self, out: EncoderOutput) -> Any:
        """Return the input of `forward`: merged segments, or the encoder output unchanged."""

    @abstractmethod
    def forward(self, segments: Any, without: Tensor | None = None) -> AudioPrompt:
        """Return the prompt entries of the audio. Rows where `without` [B] bool is true use no acoustic vectors;
        adapters that cannot do without them ignore it."""


class CtcMerge(Adapter):
    """One prompt entry per segment, at positions 0, 1, .., followed by a learned end entry."""

    def __init__(self, config: CtcMergeConfig, encoder_width: int, classes: int, width: int) -> None:
        super().__init__()
        self.config = config
        self.posterior = nn.Linear(classes, width, bias=False)
        self.acoustic = nn.Linear(encoder_width, width, bias=False)
        self.features = nn.Linear(SEGMENT_FEATURES, width, bias=False)
        self.absent = nn.Parameter(torch.zeros(width))
        self.kind = nn.Parameter(torch.zeros(width))  # audio and text share position numbers
        self.end = nn.Parameter(torch.randn(width) * 0.02)
        nn.init.normal_(self.posterior.weight, std=0.3)
        nn.init.normal_(self.acoustic.weight, std=0.02)
        nn.init.normal_(self.features.weight, std=0.1)

    def segments(self, out: EncoderOutput) -> Segments:
        """Merge the steps of an encoded batch into segments."""
        return merge_segments(out.states, out.logits, out.lengths)

    def forward(self, segments: Segments, without: Tensor | None = None) -> AudioPrompt:
        """Return the prompt entries; rows in `without` [B] bool get the learned vector instead of acoustics."""
        x = self.posterior(segments.posterior.to(self.kind.dtype))
        x = x + self.features(segments.features.to(self.kind.dtype)) + self.kind
        absent = self.absent.expand_as(x)
        if segments.states is None or not self.config.acoustics:
            x = x + absent
        else:
            heard = self.acoustic(segments.states.to(self.kind.dtype))
            x = x + (heard if without is None else torch.where(without[:, None, None], absent, heard))
        rows, size, width = x.shape
        lengths = segments.lengths
        x = torch.cat([x, x.new_zeros(rows, 1, width)], 1)
        index = torch.arange(size + 1, device=x.device)
        end = (index == lengths[:, None])[..., None]
        x = torch.where(end, self.end, x * (index < lengths[:, None])[..., None])
        return AudioPrompt(x, index.expand(rows, -1), lengths + 1, torch.zeros_like(lengths))


class Stack(Adapter):
    """Stacks of `frames` encoder steps, zero-padded at the end (no step is dropped), then projected."""

    def __init__(self, config: StackConfig, encoder_width: int, classes: int, width: int) -> None:
        super().__init__()
        self.config = config
        self.project = nn.Sequential(
            nn.Linear(encoder_width * config.frames, config.hidden), nn.ReLU(), nn.Linear(config.hidden, width)
        )

    def segments(self, out: EncoderOutput) -> EncoderOutput:
        """Return the encoder output unchanged."""
        return out

    def forward(self, out: EncoderOutput, without: Tensor | None = None) -> AudioPrompt:
        """Return ceil(S / frames) prompt entries per row; `without` is ignored."""
        rows, steps, width = out.states.shape
        frames = self.config.frames
        valid = torch.arange(steps, device=out.states.device) < out.lengths[:, None]
        padded = F.pad(out.states * valid[..., None], (0, 0, 0, -steps % frames))
        x = self.project(padded.reshape(rows, -1, frames * width))
        lengths = -(-out.lengths // frames)
        x = x * (torch.arange(x.shape[1], device=x.device) < lengths[:, None])[..., None]
        return AudioPrompt(x, torch.arange(x.shape[1], device=x.device).expand(rows, -1), lengths, lengths)


ADAPTERS: dict[type, Any] = {CtcMergeConfig: CtcMerge, StackConfig: Stack}


def build_adapter(config: AdapterConfig, encoder_width: int, classes: int, width: int) -> Adapter:
    """Build the adapter that `config` selects."""
    adapter: Adapter = ADAPTERS[type(config)](config, encoder_width, classes, width)
    return adapter
