"""Unembeddings per depth, for families that can have their own instead of sharing the trunk's."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from speechmtp.heads.contract import TrunkFace


class OwnUnembedding(nn.Module):
    """One unembedding per depth: `weight` [D, V, C] and optionally `bias` [D, V], over the V tokens to draft."""

    bias: Tensor | None

    def __init__(self, depth: int, vocab_size: int, width: int, bias: bool = False) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(depth, vocab_size, width))
        self.register_parameter("bias", nn.Parameter(torch.zeros(depth, vocab_size)) if bias else None)

    def start_from(self, trunk: TrunkFace, shortlist: Tensor | None) -> None:
        """Copy the trunk's rows (and bias, if both have one) of the tokens that can be drafted to each depth."""
        module = trunk.unembedding()
        with torch.no_grad():
            rows = module.weight.detach()
            self.weight.copy_((rows if shortlist is None else rows[shortlist]).expand_as(self.weight))
            if self.bias is not None:
                self.bias.zero_()
                if module.bias is not None:
                    own = module.bias.detach()
                    self.bias.copy_((own if shortlist is None else own[shortlist]).expand_as(self.bias))

    def forward(self, features: Tensor, d: int) -> Tensor:
        """Return logits [..., V] of depth d from features [..., C]."""
        return F.linear(features, self.weight[d - 1], None if self.bias is None else self.bias[d - 1])

    def all_depths(self, features: Tensor) -> Tensor:
        """Return logits [..., D', V] of features [..., D', C] of depths 1..D' by one product."""
        count = features.shape[-2]
        logits = torch.einsum("...dc,dvc->...dv", features, self.weight[:count])
        return logits if self.bias is None else logits + self.bias[:count]
