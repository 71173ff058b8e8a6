"""The encoder of units that durations and hints are computed from. A unit's state depends on its own word, on what is
before it and on one word after it, so that speech can begin while the text is still being written."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from speechmtp.config import Count, Share, Size, check_fields
from speechmtp.errors import ConfigError

PLACES = 16  # places in a word that are told apart; later ones are as the last
WORDS_AHEAD = 1


@dataclass(frozen=True)
class UnitEncoderConfig:
    """Sizes of a unit encoder."""

    width: Size = 192
    layers: Count = 2
    heads: Count = 4
    ff_width: Size = 384
    dropout: Share = 0.1

    def __post_init__(self) -> None:
        check_fields(self, "units")
        if self.width % (2 * self.heads):
            raise ConfigError(f"units: width {self.width} must be an even multiple of heads {self.heads}")


class UnitEncoder(nn.Module):
    """Transformer layers over units. The first layer sees the words up to one after the unit's own, the others those up
    to its own, so that layers do not add up to more words ahead."""

    def __init__(self, config: UnitEncoderConfig, symbols: int) -> None:
        super().__init__()
        self.symbol = nn.Embedding(symbols, config.width)
        self.place = nn.Embedding(PLACES, config.width)
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(
                config.width, config.heads, config.ff_width, config.dropout, "gelu", batch_first=True, norm_first=True
            )
            for _ in range(config.layers)
        )
        self.norm = nn.LayerNorm(config.width)
        self._heads = config.heads

    def forward(self, ids: Tensor, words: Tensor) -> Tensor:
        """Return states [B, P, H] of units: `ids` and `words` (the index of each one's word) [B, P] int64, words -1 in
        padding behind."""
        x = self.symbol(ids) + self.place(places_in_words(words)) + _sinusoids(ids.shape[1], self.symbol.weight)
        for number, layer in enumerate(self.layers):
            ahead = WORDS_AHEAD if number == 0 else 0
            x = layer(x, src_mask=self._hidden(words, ahead))
        out: Tensor = self.norm(x)
        return out

    def _hidden(self, words: Tensor, ahead: int) -> Tensor:
        """Bool mask [B * heads, P, P], true where a unit must not look."""
        hidden = (words[:, None, :] > words[:, :, None] + ahead) | (words < 0)[:, None, :]
        hidden = hidden & ~torch.eye(words.shape[1], dtype=torch.bool, device=words.device)
        return hidden.repeat_interleave(self._heads, 0)


def places_in_words(words: Tensor) -> Tensor:
    """Return the place [B, P] of each unit in its word, at most `PLACES` - 1; `words` [B, P] never decrease."""
    steps = torch.arange(words.shape[1], device=words.device).expand_as(words)
    begins = torch.ones_like(words, dtype=torch.bool)
    begins[:, 1:] = words[:, 1:] != words[:, :-1]
    first = torch.where(begins, steps, 0).cummax(1).values
    return (steps - first).clamp_max(PLACES - 1)


def _sinusoids(size: int, like: Tensor) -> Tensor:
    """Return sinusoidal positions [size, H] in the dtype of `like` [.., H]."""
    half = like.shape[1] // 2
    rates = torch.exp(torch.arange(half, device=like.device) * (-math.log(10000.0) / half))
    angles = torch.arange(size, device=like.device)[:, None] * rates
    return torch.cat([angles.sin(), angles.cos()], 1).to(like.dtype)
