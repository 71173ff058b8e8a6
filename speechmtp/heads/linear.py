"""Independent projections: logits of depth d are W_d h (Stern et al. 2018; Raj et al. 2024, arXiv 2409.08148)."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from speechmtp.heads.contract import IndependentHeads, Unembed


@dataclass(frozen=True)
class LinearHeadsConfig:
    """One matrix V x C a depth."""

    kind: Literal["linear"] = "linear"
    depth: int = 7


class LinearHeads(IndependentHeads):
    """D unembeddings of their own, started as copies of the trunk's."""

    def __init__(self, config: LinearHeadsConfig, width: int, vocab_size: int) -> None:
        super().__init__()
        self.config, self.depth = config, config.depth
        self.weight = nn.Parameter(torch.zeros(config.depth, vocab_size, width))

    def start_from(self, unembedding: Tensor) -> None:
        """Copy the trunk's unembedding [V, C] into every depth."""
        with torch.no_grad():
            self.weight.copy_(unembedding.expand_as(self.weight))

    def all_features(self, hidden: Tensor) -> Tensor:
        """The trunk state itself, for every depth."""
        return hidden[..., None, :].expand(*hidden.shape[:-1], self.depth, hidden.shape[-1])

    def all_logits(self, features: Tensor, unembed: Unembed) -> Tensor:
        """Logits [..., D, V]."""
        return torch.einsum("...dc,dvc->...dv", features, self.weight)

    def logits(self, features: Tensor, d: int, unembed: Unembed) -> Tensor:
        """Logits of depth d."""
        return features @ self.weight[d - 1].T
