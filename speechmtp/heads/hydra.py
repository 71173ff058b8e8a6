"""Hydra heads (arXiv 2402.05109): depth d is an MLP over the trunk state and the embeddings of the d tokens after it,
MLP_d([h_t; E x_{t+1}; ...; E x_{t+d}]). Its first block maps (d + 1) C to C with a projected residual; the others are
residual SiLU blocks.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from speechmtp.config import Count
from speechmtp.heads.contract import FamilyConfig, HeadState, OneStateHeads, TrainBatch, TrunkFace, Unembed, picked
from speechmtp.heads.unembedding import OwnUnembedding
from speechmtp.models.shape import TrunkShape


@dataclass(frozen=True)
class HydraHeadsConfig(FamilyConfig):
    """`blocks` per depth, the first (joining) one included; `unembedding`: the trunk's, or one for each depth."""

    kind: Literal["hydra"] = "hydra"
    blocks: Count = 1
    unembedding: Literal["shared", "own"] = "shared"


class HydraModule(nn.Module):
    """The MLP of depth d."""

    def __init__(self, d: int, width: int, blocks: int) -> None:
        super().__init__()
        self.residual = nn.Linear((d + 1) * width, width)
        self.join = nn.Linear((d + 1) * width, width)
        self.blocks = nn.ModuleList(nn.Linear(width, width) for _ in range(blocks - 1))
        self.start()

    def start(self) -> None:
        """Initialise so that the trunk's state is passed on and nothing is added."""
        with torch.no_grad():
            for weight in self.parameters():
                weight.zero_()
            width = len(self.residual.weight)
            self.residual.weight[:, :width] = torch.eye(width)

    def forward(self, joined: Tensor) -> Tensor:
        """Return [..., C] for the concatenated state and path embeddings [..., (d + 1) C]."""
        z: Tensor = self.residual(joined) + F.silu(self.join(joined))
        for block in self.blocks:
            z = z + F.silu(block(z))
        return z


@dataclass
class HydraState(HeadState):
    """`paths` [B, P, d, C]: embeddings of the tokens from the base token to each node of level d - 1."""

    paths: Tensor | None = None

    def pick(self, rows: Tensor) -> None:
        """Keep only these rows."""
        super().pick(rows)
        self.paths = picked(self.paths, rows)

    def join(self, other: Any) -> None:
        """Append the rows of another state."""
        super().join(other)
        self.paths = None  # belongs to a finished draft


class HydraHeads(OneStateHeads):
    """D token-conditioned MLPs, without keys and values."""

    state_type = HydraState

    def __init__(self, config: HydraHeadsConfig, shape: TrunkShape) -> None:
        super().__init__(config, shape)
        self.modules_ = nn.ModuleList(HydraModule(d, shape.width, config.blocks) for d in range(1, config.depth + 1))
        own = config.unembedding == "own"
        self.unembedding = (
            OwnUnembedding(config.depth, self.vocab_size, shape.width, shape.unembedding_bias) if own else None
        )

    def start_from(self, trunk: TrunkFace) -> None:
        """Initialise every depth so that it passes the trunk's state on."""
        for module in self.modules_:
            assert isinstance(module, HydraModule)
            module.start()
        if self.unembedding is not None:
            self.unembedding.start_from(trunk, self.shortlist)

    def train_depths(self, batch: TrainBatch) -> Iterator[Tensor]:
        """Compute each depth separately, from the trunk's states and the true tokens."""
        path: list[Tensor] = []
        for d, module in enumerate(self.modules_, 1):
            path.append(batch.at_anchors(batch.ahead(batch.inputs, d)))
            yield module(torch.cat([batch.at_anchors(self.fused(batch.states)), *path], -1))

    def expand(self, state: HydraState, d: int, tokens: Tensor, parent: Tensor, given: Tensor | None = None) -> Tensor:
        """Return features [B, P, C] of level d, one for each node's path."""
        assert state.hidden is not None
        rows, nodes = tokens.shape
        path = state.embedded(tokens, d).to(state.hidden.dtype)[:, :, None]
        if d > 1:
            assert state.paths is not None
            index = torch.arange(rows, device=tokens.device)[:, None]
            path = torch.cat([state.paths[index, parent], path], 2)
        state.paths = path
        hidden = state.hidden[:, None].expand(-1, nodes, -1)
        features: Tensor = self.modules_[d - 1](torch.cat([hidden, path.flatten(2)], -1))
        return features

    def logits(self, features: Tensor, d: int, unembed: Unembed) -> Tensor:
        """Return the logits [..., V] of depth d."""
        return unembed(features) if self.unembedding is None else self.unembedding(features, d)

    def all_logits(self, features: Tensor, unembed: Unembed) -> Tensor:
        """Return the logits of all depths by one product."""
        return unembed(features) if self.unembedding is None else self.unembedding.all_depths(features)
