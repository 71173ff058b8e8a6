"""Adapters: encoder output to the trunk's audio prompt."""

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from speechmtp.models.encoder import EncoderOutput
from speechmtp.models.segments import SEGMENT_FEATURES, Segments, merge_segments


@dataclass(frozen=True)
class StackConfig:
    """`frames` encoder steps are joined and projected; text positions follow the audio's."""

    kind: Literal["stack"] = "stack"
    frames: int = 4
    hidden: int = 512


@dataclass(frozen=True)
class CtcMergeConfig:
    """One segment per CTC label, on one position axis with the text.

    `absent` is the share of training utterances whose acoustic vectors are replaced by a learned one, so
    that text-only training stays in distribution.
    """

    kind: Literal["ctc_merge"] = "ctc_merge"
    acoustics: bool = True
    absent: float = 0.3


AdapterConfig = CtcMergeConfig | StackConfig


@dataclass(frozen=True)
class AudioPrompt:
    """Prompt entries for the audio: `embeddings` [B, P, C], `positions` [B, P], `lengths` [B]; the first text
    entry stands at `text_position` [B]."""

    embeddings: Tensor
    positions: Tensor
    lengths: Tensor
    text_position: Tensor


class Adapter(nn.Module):
    """What every adapter offers."""

    config: Any

    @abstractmethod
    def segments(self, out: EncoderOutput) -> Any:
        """What the adapter embeds: merged segments, or the encoder's output as it is."""

    @abstractmethod
    def forward(self, segments: Any, without: Tensor | None = None) -> AudioPrompt:
        """Prompt entries of the audio; rows in `without` [B] are heard without acoustics, if the kind can."""


class CtcMerge(Adapter):
    """Segments to prompt entries at the positions of their labels, with an end mark behind them."""

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
        """Segments of an encoded batch."""
        return merge_segments(out.states, out.logits, out.lengths)

    def forward(self, segments: Segments, without: Tensor | None = None) -> AudioPrompt:
        """Prompt entries; rows in `without` [B] bool get the learned vector instead of acoustics."""
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
    """k encoder steps joined, padded at the tail (never dropped), and projected."""

    def __init__(self, config: StackConfig, encoder_width: int, classes: int, width: int) -> None:
        super().__init__()
        self.config = config
        self.project = nn.Sequential(
            nn.Linear(encoder_width * config.frames, config.hidden), nn.ReLU(), nn.Linear(config.hidden, width)
        )

    def segments(self, out: EncoderOutput) -> EncoderOutput:
        """Nothing is merged."""
        return out

    def forward(self, out: EncoderOutput, without: Tensor | None = None) -> AudioPrompt:
        """Prompt entries of ceil(S / k) stacks a row."""
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
    """The adapter that a configuration names."""
    adapter: Adapter = ADAPTERS[type(config)](config, encoder_width, classes, width)
    return adapter
