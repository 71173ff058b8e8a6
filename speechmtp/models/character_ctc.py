"""A small character CTC head on the encoder of a pretrained recogniser; its output is used only for drafts.

It predicts characters since the recogniser has far more tokens than a small head can tell apart, and since the text
around one wrong letter still makes good drafts. Case and punctuation are those of the recogniser.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from speechmtp.config import Count, Share, Size, check_fields
from speechmtp.errors import ConfigError, ShapeError
from speechmtp.models.ctc_labels import ctc_labels
from speechmtp.models.encoder import ConformerBlock, EncoderConfig
from speechmtp.models.masks import chunk_mask, length_mask, padded_mask
from speechmtp.models.rotary import encoder_rotary
from speechmtp.models.shape import check_weights
from speechmtp.types import CtcCharacters, CtcSource, CtcText, TokenSpelling


@dataclass(frozen=True)
class CharacterCtcConfig:
    """Sizes, and the `characters` that the head can emit, in class order; the blank is the class after them. The layers
    run on stacks of `stride` encoder states; the logits are again one per state."""

    characters: str = ""
    memory_width: Size = 288
    width: Size = 192
    layers: Count = 3
    heads: Count = 4
    ff_width: Size = 384
    kernel: Count = 15
    stride: Count = 2
    dropout: Share = 0.1

    def __post_init__(self) -> None:
        """Raise ConfigError for a size out of range or a repeated character."""
        check_fields(self, "ctc")
        check_weights("ctc", self.layers, self.width, self.ff_width)
        twice = [c for c in self.characters if self.characters.count(c) > 1]
        if twice:
            raise ConfigError(f"ctc: characters has {twice[0]!r} twice, expected each once")


class CharacterCtcHead(nn.Module):
    """Conformer layers (arXiv 2005.08100) over encoder states, and a linear layer that gives logits per state."""

    def __init__(self, config: CharacterCtcConfig) -> None:
        super().__init__()
        self.config, self.blank = config, len(config.characters)
        sizes = EncoderConfig(
            width=config.width, heads=config.heads, ff_width=config.ff_width, kernel=config.kernel,
            dropout=config.dropout,
        )  # fmt: skip
        self.norm = nn.LayerNorm(config.memory_width)
        self.reduce = nn.Linear(config.stride * config.memory_width, config.width)
        self.blocks = nn.ModuleList(ConformerBlock(sizes) for _ in range(config.layers))
        self.out = nn.Linear(config.width, config.stride * (self.blank + 1))

    def forward(self, memory: Tensor, lengths: Tensor) -> Tensor:
        """Return logits [B, S', characters + 1], blank last, of padded encoder outputs `memory` [B, S, E] of `lengths`
        [B]. S' is S rounded up to a multiple of `stride`. A row's logits within its length do not depend on the
        padding. ShapeError for another rank or width."""
        stride, width = self.config.stride, self.config.memory_width
        if memory.dim() != 3 or memory.shape[2] != width:
            raise ShapeError(f"ctc: memory {list(memory.shape)}, expected [B, S, {width}]")
        inside = length_mask(lengths, memory.shape[1])
        x = F.pad(self.norm(memory) * inside[..., None], (0, 0, 0, -memory.shape[1] % stride))
        x = self.reduce(x.reshape(len(x), -1, stride * width))
        steps = x.shape[1]
        valid = length_mask(-(-lengths // stride), steps)
        mask = padded_mask(chunk_mask(steps, 0, -1, x.device), valid)
        rotary = encoder_rotary(lengths.new_zeros(1), steps, self.config.width // self.config.heads)
        for block in self.blocks:
            x = block(x, mask, rotary, valid)
        logits: Tensor = self.out(x)
        return logits.view(len(x), steps * stride, self.blank + 1)

    @torch.inference_mode()
    def spell(self, memory: Tensor) -> CtcText:
        """Return the greedy text of encoder outputs `memory` [1, S, E], with the mean posterior of each character."""
        size = memory.shape[1]
        logits = self(memory, torch.tensor([size], device=memory.device))[0, :size]
        found = ctc_labels(logits, self.blank)
        return CtcText("".join(self.config.characters[label] for label in found.labels), found.confidence)


@dataclass(frozen=True, eq=False)
class CharacterCtcSource(CtcSource):
    """A head and the encoder outputs `memory` [1, S, E] of one utterance; the head runs when it is read."""

    head: CharacterCtcHead
    memory: Tensor
    spelling: TokenSpelling

    def read(self) -> CtcCharacters:
        """Run the head."""
        return CtcCharacters(self.head.spell(self.memory), self.spelling)
