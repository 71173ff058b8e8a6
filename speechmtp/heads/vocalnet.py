"""VocalNet's heads (arXiv 2504.04060), as released: one layer per depth, chained on hidden states only.

z^d = Layer_d(z^{d-1}) in the same slot, z^0 the trunk's state before its final norm; logits of depth d are
U_d norm_d(z^d) + b_d. No depth sees a drafted token.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from speechmtp.heads.contract import FamilyConfig, TrainBatch, TrunkFace, Unembed
from speechmtp.heads.layer import LayerPerDepth, run_at
from speechmtp.heads.unembedding import OwnUnembedding
from speechmtp.models.masks import causal_mask
from speechmtp.models.rotary import rotary
from speechmtp.models.shape import TrunkShape


@dataclass(frozen=True)
class VocalnetHeadsConfig(FamilyConfig):
    """`unembedding`: one with a bias for each depth, or the trunk's. `checkpoint` recomputes each depth in the backward
    pass to save memory."""

    kind: Literal["vocalnet"] = "vocalnet"
    unembedding: Literal["own", "shared"] = "own"
    checkpoint: bool = True


class VocalnetHeads(LayerPerDepth):
    """D layers, each on the output of the one before."""

    chained = True

    def __init__(self, config: VocalnetHeadsConfig, shape: TrunkShape) -> None:
        super().__init__(config, shape)
        own = config.unembedding == "own"
        self.unembedding = OwnUnembedding(config.depth, self.vocab_size, shape.width, bias=True) if own else None

    def start_from(self, trunk: TrunkFace) -> None:
        """Initialise every depth so that it passes the trunk's state on and unembeds it as the trunk does."""
        super().start_from(trunk)
        if self.unembedding is not None:
            self.unembedding.start_from(trunk, self.shortlist)

    def train_depths(self, batch: TrainBatch) -> Iterator[Tensor]:
        """Compute one depth after another; with `checkpoint` each is recomputed in the backward pass."""
        if not self.depth:
            return
        z, seen = self.fused(batch.states), causal_mask(batch.segments)
        turn = rotary(batch.positions, self.shape, z.dtype)
        for d in range(1, self.depth + 1):
            module = self.at_depth(d)
            layer, index = module.layer, batch.anchors if d == self.depth else None
            memory = layer.remember(batch.memory, batch.memory_lengths)
            if self.config.checkpoint and torch.is_grad_enabled():
                z = checkpoint(run_at, layer, z, index, turn, seen, None, memory, use_reentrant=False)
            else:
                z = run_at(layer, z, index, turn, seen, None, memory)
            yield module.norm(z if d == self.depth else batch.at_anchors(z))

    def logits(self, features: Tensor, d: int, unembed: Unembed) -> Tensor:
        """Return the logits [..., V] of depth d."""
        return unembed(features) if self.unembedding is None else self.unembedding(features, d)

    def all_logits(self, features: Tensor, unembed: Unembed) -> Tensor:
        """Return the logits of all depths by one product."""
        return unembed(features) if self.unembedding is None else self.unembedding.all_depths(features)
