"""What every head set reads: the trunk's last state, and a mix of other layers."""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from speechmtp.heads.decoder_layer import norm_of
from speechmtp.models.shape import TrunkShape


class FeatureReader(nn.Module):
    """The heads' input: the trunk's last state plus a learned mix of other layers, initialised to zero."""

    def __init__(self, count: int, mix: Literal["linear", "weighted"], dropout: float, shape: TrunkShape) -> None:
        super().__init__()
        self.count, self.mix = count, mix
        self.dropout = nn.Dropout(dropout)
        if self.count:
            self.norms = nn.ModuleList(norm_of(shape) for _ in range(count))
            size = shape.width * count if mix == "linear" else count
            self.weight = nn.Parameter(torch.zeros(shape.width, size) if mix == "linear" else torch.zeros(size))

    def forward(self, base: Tensor, taps: Tensor | None) -> Tensor:
        """Return [..., C] for the base state [..., C] and taps [..., n, C]."""
        if self.count:
            assert taps is not None
            read = [norm(taps[..., i, :]) for i, norm in enumerate(self.norms)]
            if self.mix == "linear":
                base = base + F.linear(torch.cat(read, -1), self.weight)
            else:
                base = base + (torch.stack(read, -2) * self.weight[:, None]).sum(-2)
        out: Tensor = self.dropout(base)
        return out
