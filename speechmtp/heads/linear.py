"""Independent projections: logits of depth d are W_d h (Stern et al. 2018; Raj et al. 2024, arXiv 2409.08148)."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from speechmtp.heads.contract import FamilyConfig, HeadState, IndependentHeads, TrunkFace, Unembed
from speechmtp.models.shape import TrunkShape


@dataclass(frozen=True)
class LinearHeadsConfig(FamilyConfig):
    """One matrix V x C per depth."""

    kind: Literal["linear"] = "linear"


class LinearHeads(IndependentHeads):
    """D unembedding matrices, initialised as copies of the trunk's, with biases [D, V] if the trunk has one."""

    bias: Tensor | None

    def __init__(self, config: LinearHeadsConfig, shape: TrunkShape) -> None:
        super().__init__(config, shape)
        self.weight = nn.Parameter(torch.zeros(config.depth, self.vocab_size, shape.width))
        bias = nn.Parameter(torch.zeros(config.depth, self.vocab_size)) if shape.unembedding_bias else None
        self.register_parameter("bias", bias)

    def start_from(self, trunk: TrunkFace) -> None:
        """Copy the trunk's unembedding [V, C], and its bias [V], into every depth."""
        module, ids = trunk.unembedding(), slice(None) if self.shortlist is None else self.shortlist
        with torch.no_grad():
            self.weight.copy_(module.weight.detach()[ids].expand_as(self.weight))
            if self.bias is not None:
                self.bias.copy_(module.bias.detach()[ids].expand_as(self.bias))

    def depth_features(self, hidden: Tensor, d: int) -> Tensor:
        """Return the trunk state itself."""
        return hidden

    def all_features(self, state: HeadState) -> Tensor:
        """Return the trunk state [B, D', C], repeated for every depth."""
        assert state.hidden is not None
        return state.hidden[:, None].expand(-1, state.depth, -1)

    def logits(self, features: Tensor, d: int, unembed: Unembed) -> Tensor:
        """Return the logits [..., V] of depth d."""
        logits = features @ self.weight[d - 1].T
        return logits if self.bias is None else logits + self.bias[d - 1]

    def all_logits(self, features: Tensor, unembed: Unembed) -> Tensor:
        """Return the logits of all depths by one product."""
        count = features.shape[-2]
        logits = torch.einsum("...dc,dvc->...dv", features, self.weight[:count])
        return logits if self.bias is None else logits + self.bias[:count]
