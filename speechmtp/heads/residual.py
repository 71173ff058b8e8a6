"""Residual heads (Medusa, arXiv 2401.10774): z = h, n times z <- z + SiLU(W z + b), logits of depth d are U_d z."""

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from speechmtp.config import Count
from speechmtp.heads.contract import FamilyConfig, HeadState, IndependentHeads, TrunkFace, Unembed
from speechmtp.heads.unembedding import OwnUnembedding
from speechmtp.models.shape import TrunkShape


@dataclass(frozen=True)
class ResidualHeadsConfig(FamilyConfig):
    """`blocks` residual blocks per depth; `unembedding`: the trunk's, or one for each depth."""

    kind: Literal["residual"] = "residual"
    blocks: Count = 1
    unembedding: Literal["shared", "own"] = "shared"


class ResidualHeads(IndependentHeads):
    """D stacks of n blocks: `weight` [D, n, C, C], `bias` [D, n, C]."""

    def __init__(self, config: ResidualHeadsConfig, shape: TrunkShape) -> None:
        super().__init__(config, shape)
        self.weight = nn.Parameter(torch.zeros(config.depth, config.blocks, shape.width, shape.width))
        self.bias = nn.Parameter(torch.zeros(config.depth, config.blocks, shape.width))
        own = config.unembedding == "own"
        self.unembedding = (
            OwnUnembedding(config.depth, self.vocab_size, shape.width, shape.unembedding_bias) if own else None
        )

    def start_from(self, trunk: TrunkFace) -> None:
        """Initialise the blocks so that they add nothing: weights and biases are zero."""
        with torch.no_grad():
            self.weight.zero_()
            self.bias.zero_()
        if self.unembedding is not None:
            self.unembedding.start_from(trunk, self.shortlist)

    def depth_features(self, hidden: Tensor, d: int) -> Tensor:
        """Return the state [..., C] after the blocks of depth d."""
        for weight, bias in zip(self.weight[d - 1], self.bias[d - 1]):
            hidden = hidden + F.silu(F.linear(hidden, weight, bias))
        return hidden

    def all_features(self, state: HeadState) -> Tensor:
        """Return the features of all depths, each block by one product over the depths."""
        if state.features is None:
            assert state.hidden is not None
            z = state.hidden[:, None].expand(-1, state.depth, -1)
            for i in range(self.config.blocks):
                z = z + F.silu(
                    torch.einsum("bdc,dec->bde", z, self.weight[: state.depth, i]) + self.bias[: state.depth, i]
                )
            state.features = z
        return state.features

    def logits(self, features: Tensor, d: int, unembed: Unembed) -> Tensor:
        """Return the logits [..., V] of depth d."""
        return unembed(features) if self.unembedding is None else self.unembedding(features, d)

    def all_logits(self, features: Tensor, unembed: Unembed) -> Tensor:
        """Return the logits of all depths by one product."""
        return unembed(features) if self.unembedding is None else self.unembedding.all_depths(features)
