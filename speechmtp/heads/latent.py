"""Latent-space expansion: logits of depth d are U(A_d h), U the trunk's unembedding (arXiv 2409.08148)."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from speechmtp.heads.contract import IndependentHeads, Unembed


@dataclass(frozen=True)
class LatentHeadsConfig:
    """One matrix C x C a depth."""

    kind: Literal["latent"] = "latent"
    depth: int = 7


class LatentHeads(IndependentHeads):
    """D square matrices, started at identity, so that training begins at the base head."""

    def __init__(self, config: LatentHeadsConfig, width: int, vocab_size: int) -> None:
        super().__init__()
        self.config, self.depth = config, config.depth
        self.weight = nn.Parameter(torch.eye(width).repeat(config.depth, 1, 1))

    def start_from(self, unembedding: Tensor) -> None:
        """Nothing to copy: the unembedding is shared."""

    def all_features(self, hidden: Tensor) -> Tensor:
        """Expanded states [..., D, C]."""
        return torch.einsum("...c,dec->...de", hidden, self.weight)

    def all_logits(self, features: Tensor, unembed: Unembed) -> Tensor:
        """Logits [..., D, V]."""
        return unembed(features)

    def logits(self, features: Tensor, d: int, unembed: Unembed) -> Tensor:
        """Logits of depth d."""
        return unembed(features)
