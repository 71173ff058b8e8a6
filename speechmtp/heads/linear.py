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
    """D unembedding matrices, initialised as copies of the trunk's."""

    def __init__(self, config: LinearHeadsConfig, shape: TrunkShape) -> None:
        super().__init__(config, shape)
        self.weight = nn.Parameter(torch.zeros(config.depth, self.vocab_size, shape.width))

    def start_from(self, trunk: TrunkFace) -> None:
        """Copy the trunk's unembedding [V, C] into every depth."""
        rows = trunk.unembedding().weight.detach()
        with torch.no_grad():
            self.weight.copy_((rows if self.shortlist is None else rows[self.shortlist]).expand_as(self.weight))

    def depth_features(self, hidden: Tensor, d: int) -> Tensor:
        """Return the trunk state itself."""
        return hidden

    def all_features(self, state: HeadState) -> Tensor:
        """Return the trunk state [B, D', C], repeated for every depth."""
        assert state.hidden is not None
        return state.hidden[:, None].expand(-1, state.depth, -1)

    def logits(self, features: Tensor, d: int, unembed: Unembed) -> Tensor:
        """Return the logits [..., V] of depth d."""
        return features @ self.weight[d - 1].T

    def all_logits(self, features: Tensor, unembed: Unembed) -> Tensor:
        """Return the logits of all depths by one product."""
        return torch.einsum("...dc,dvc->...dv", features, self.weight[: features.shape[-2]])
