"""Transformer-layer heads (Gloeckle et al., arXiv 2404.19737): depth d is a decoder layer of its own on the trunk's
state before the final norm; logits are U norm_d(Layer_d(h)), with the trunk's unembedding U.

`LayerPerDepth` is shared with other families that have one layer per depth and read no drafted tokens. All depths are
computed together over the last committed entries; the next `advance` commits their keys and values.
"""

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from speechmtp.heads.contract import Ahead, FamilyConfig, HeadSet, TrainBatch, TrunkFace, Unembed, picked
from speechmtp.heads.decoder_layer import DecoderLayer, Memory, Store, norm_of, start_norm
from speechmtp.heads.layered import LayeredState, take_fresh
from speechmtp.models.cache import RaggedCache
from speechmtp.models.masks import causal_mask, ragged_mask
from speechmtp.models.rotary import rotary
from speechmtp.models.shape import TrunkShape
from speechmtp.types import States


@dataclass(frozen=True)
class LayerHeadsConfig(FamilyConfig):
    """One decoder layer and one norm per depth."""

    kind: Literal["layer"] = "layer"


class LayerModule(nn.Module):
    """The layer and norm of one depth."""

    def __init__(self, shape: TrunkShape) -> None:
        super().__init__()
        self.layer = DecoderLayer(shape)
        self.norm = norm_of(shape)

    def start_from(self, trunk: TrunkFace) -> None:
        """Initialise to a layer that passes its input on, and the trunk's final norm."""
        weights = trunk.last_layer()
        self.layer.start_from(weights)
        start_norm(self.norm, weights, "final_norm")


@dataclass
class ParallelState(LayeredState):
    """`features` [B, D', C] are set once the keys and values of the fresh entries are written; `kept` are the features
    before the last `advance`, for rows that committed nothing in it."""

    kept: Tensor | None = None

    def pick(self, rows: Tensor) -> None:
        """Keep only these rows, in tensors that calls replace (not in caches, which calls write into)."""
        features = self.features
        super().pick(rows)
        self.features, self.kept = picked(features, rows), picked(self.kept, rows)

    def join(self, other: Any) -> None:
        """Append the rows of another state; both have just advanced, so that every row has fresh entries."""
        super().join(other)
        self.kept = None


class LayerPerDepth(HeadSet):
    """Base class with D layers and norms; a layer reads the one before it if `chained`, else the trunk's state."""

    one_pass = True
    reads_raw = True
    chained = False

    def __init__(self, config: FamilyConfig, shape: TrunkShape) -> None:
        super().__init__(config, shape)
        self.modules_ = nn.ModuleList(LayerModule(shape) for _ in range(config.depth))

    def at_depth(self, d: int) -> LayerModule:
        """Return the module of depth d."""
        module = self.modules_[d - 1]
        assert isinstance(module, LayerModule)
        return module

    def start_from(self, trunk: TrunkFace) -> None:
        """Initialise every depth so that it passes the trunk's state on and norms it as the trunk does."""
        for d in range(1, self.depth + 1):
            self.at_depth(d).start_from(trunk)

    def start(
        self, rows: int, trunk: TrunkFace, depth: int | None = None, memory: Tensor | None = None,
        memory_lengths: Tensor | Sequence[int] | None = None, ahead: Ahead | None = None,
    ) -> ParallelState:  # fmt: skip
        """Return a new state with one cache layer per depth, and cross-attention keys and values given a memory."""
        depth = self.depth if depth is None else depth
        cache = RaggedCache(depth, rows, trunk.unembedding().weight.device)
        state = ParallelState(trunk.embed, self.narrow(trunk), depth, cache=cache, ahead=ahead)
        state.remember([self.at_depth(d).layer for d in range(1, depth + 1)], memory, memory_lengths)
        return state

    def advance(
        self, state: ParallelState, states: States, inputs: Tensor, positions: Tensor, keep: Tensor, count: Tensor,
        counts: Sequence[int] | None = None,
    ) -> None:  # fmt: skip
        """Commit the earlier fresh entries (writing their keys if no draft has) and take in these."""
        if state.depth == 0:
            return
        if state.fresh is not None:
            state.kept = self.all_features(state)
            state.cache.commit(state.fresh.counts)
        state.fresh, state.features = take_fresh(self.fused, states, inputs, positions, keep, count, counts), None

    def all_features(self, state: ParallelState) -> Tensor:
        """Return features [B, D', C] of each row's last committed entry; write keys and values of the fresh ones."""
        if state.features is None:
            assert state.fresh is not None
            features = self._run_fresh(state)
            if state.kept is not None:
                features = features.where((state.fresh.count > 0)[:, None, None], state.kept)
            state.features = features
        return state.features

    def _run_fresh(self, state: ParallelState) -> Tensor:
        """Run all depths over the fresh entries; only the last entry's query where no later depth reads the others."""
        fresh = state.fresh
        assert fresh is not None
        last, z = fresh.last[:, None], fresh.hidden
        state.cache.begin(z.shape[1])
        seen = ragged_mask(state.cache, z.shape[1], None)
        turn = rotary(fresh.positions, self.shape, z.dtype)
        found = []
        for d in range(1, state.depth + 1):
            module, store, memory = self.at_depth(d), state.store(d - 1), state.memory[d - 1]
            if self.chained and d < state.depth:
                z = module.layer(z, turn, seen, store, memory)
                out = z.gather(1, last[..., None].expand(-1, -1, z.shape[-1]))
            else:
                out = run_at(module.layer, z, last, turn, seen, store, memory)
            found.append(module.norm(out))
        return torch.cat(found, 1)

    def expand(
        self, state: ParallelState, d: int, tokens: Tensor, parent: Tensor, given: Tensor | None = None
    ) -> Tensor:
        """Return features [B, P, C] of level d, the same for every node."""
        return self.all_features(state)[:, d - 1 : d].expand(-1, tokens.shape[1], -1)

    @abstractmethod
    def train_depths(self, batch: TrainBatch) -> Iterator[Tensor]:
        """Yield the teacher-forced features [B, A, C], depth by depth (see `HeadSet.train_depths`)."""


class LayerHeads(LayerPerDepth):
    """D independent layers."""

    independent = True

    def train_depths(self, batch: TrainBatch) -> Iterator[Tensor]:
        """Compute each depth separately from the trunk's states, so that its graph can be freed before the next."""
        seen = causal_mask(batch.segments)
        for d in range(1, self.depth + 1):
            module, hidden = self.at_depth(d), self.fused(batch.states)
            turn = rotary(batch.positions, self.shape, hidden.dtype)
            memory = module.layer.remember(batch.memory, batch.memory_lengths)
            yield module.norm(run_at(module.layer, hidden, batch.anchors, turn, seen, None, memory))

    def logits(self, features: Tensor, d: int, unembed: Unembed) -> Tensor:
        """Return the logits [..., V] of depth d."""
        return unembed(features)

    def all_logits(self, features: Tensor, unembed: Unembed) -> Tensor:
        """Return the logits of all depths by one product."""
        return unembed(features)


def run_at(
    layer: DecoderLayer, x: Tensor, index: Tensor | None, turn: tuple[Tensor, Tensor], seen: Tensor,
    store: Store | None, memory: Memory | None,
) -> Tensor:  # fmt: skip
    """Return the outputs [B, A, C] of a layer at entries `index` [B, A] of x [B, L, C] (None: all). Keys and values are
    computed for every entry, all else only at these."""
    if index is None:
        out: Tensor = layer(x, turn, seen, store, memory)
        return out
    rows = torch.arange(len(x), device=x.device)[:, None]
    normed = layer.input_layernorm(x)
    keys, values = layer.self_attn.keys_values(normed, turn)
    if store is not None:
        keys, values = store(keys, values)
    cos, sin = turn
    picked = (cos[:, 0][rows, index][:, None], sin[:, 0][rows, index][:, None])
    queries = layer.self_attn.queries(normed[rows, index], picked)
    seen = seen.expand(len(x), -1, -1)[rows, index][:, None]
    return layer.finish(x[rows, index] + layer.self_attn.attend(queries, keys, values, seen), memory)
