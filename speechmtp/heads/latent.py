"""Latent-space expansion: logits of depth d are U(A_d h), U the trunk's unembedding (arXiv 2409.08148)."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from speechmtp.heads.contract import FamilyConfig, HeadState, IndependentHeads, TrunkFace, Unembed
from speechmtp.models.shape import TrunkShape


@dataclass(frozen=True)
class LatentHeadsConfig(FamilyConfig):
    """One matrix C x C per depth."""

    kind: Literal["latent"] = "latent"


class LatentHeads(IndependentHeads):
    """D square matrices, initialised to the identity, so that every depth starts with the trunk's prediction."""

    def __init__(self, config: LatentHeadsConfig, shape: TrunkShape) -> None:
        super().__init__(config, shape)
        self.weight = nn.Parameter(torch.eye(shape.width).repeat(config.depth, 1, 1))

    def start_from(self, trunk: TrunkFace) -> None:
        """Copy nothing: the unembedding is shared."""

    def depth_features(self, hidden: Tensor, d: int) -> Tensor:
        """Return A_d h [..., C]."""
        return hidden @ self.weight[d - 1].T

    def all_features(self, state: HeadState) -> Tensor:
        """Return the features of all depths by one product."""
        if state.features is None:
            assert state.hidden is not None
            state.features = torch.einsum("bc,dec->bde", state.hidden, self.weight[: state.depth])
        return state.features

    def logits(self, features: Tensor, d: int, unembed: Unembed) -> Tensor:
        """Return the logits [..., V] of depth d."""
        return unembed(features)

    def all_logits(self, features: Tensor, unembed: Unembed) -> Tensor:
        """Return the logits of all depths by one product."""
        return unembed(features)
