"""Block-parallel drafting: one pass over the known next token and D masks predicts D tokens.

DFlash (arXiv 2602.06036). The block [x_{t+1}, mask, ..., mask] has the positions of entries t + 1 to t + 1 + D. Slot d
of the block predicts its own token x_{t+1+d}, without a shift; its mask has the hint of that token, if there are hints.
In each draft layer the queries come only from the block; keys and values come from the trunk's states of entries up to
t, through the layer's own projections, and from the block. Revealed prefixes (D2SD, arXiv 2606.04446) put true tokens
into the first slots, so that the same head can draft again after a partly accepted block.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from speechmtp.config import Count, Share, Size
from speechmtp.heads.block_correction import GruCorrection
from speechmtp.heads.contract import (
    Ahead,
    FamilyConfig,
    HeadSet,
    TrainBatch,
    TrunkFace,
    Unembed,
    joined,
    picked,
)
from speechmtp.heads.decoder_layer import DecoderLayer, Memory, norm_of, start_norm
from speechmtp.heads.layered import LayeredState, take_fresh
from speechmtp.models.cache import RaggedCache
from speechmtp.models.hints import hinted
from speechmtp.models.masks import drafting_block_mask, training_block_mask
from speechmtp.models.rotary import rotary
from speechmtp.models.shape import TrunkShape
from speechmtp.types import States

KeysOf = Callable[[int, Tensor], tuple[Tensor, Tensor]]  # (layer, its normed input) -> all keys and values to read
INIT_STD = 0.02  # for weights without a counterpart in the trunk


@dataclass(frozen=True)
class BlockHeadsConfig(FamilyConfig):
    """`layers` draft layers; `inside` is the attention among the slots of a block; `correction` adds a recurrent head
    that reads the drafted tokens in order. In training, an anchor's block starts with 0 to D - 1 true tokens with
    probability `reveal`, and `chunk` anchors are computed at a time."""

    kind: Literal["block"] = "block"
    layers: Count = 1
    inside: Literal["bidirectional", "causal"] = "bidirectional"
    correction: Literal["none", "gru"] = "none"
    reveal: Share = 0.0
    chunk: Size = 64


@dataclass
class BlockState(LayeredState):
    """`features` [B, depth, C] of the last drafted block; `serial` [B, P, C], the correction's states of the nodes of
    the last `expand`; `position` [B] of each row's last committed entry."""

    serial: Tensor | None = None
    position: Tensor | None = None

    def pick(self, rows: Tensor) -> None:
        """Keep only these rows, in tensors that calls replace (not in caches, which calls write into)."""
        features = self.features
        super().pick(rows)
        self.features, self.serial = picked(features, rows), picked(self.serial, rows)
        self.position = picked(self.position, rows)

    def join(self, other: Any) -> None:
        """Append the rows of another state."""
        super().join(other)
        self.position, self.serial = joined(self.position, other.position), None

    def places_ahead(self, count: int) -> Tensor:
        """Return the positions [B, count] of the entries after each row's last committed one."""
        if self.ahead is not None or self.position is None:
            return super().places_ahead(count)
        return self.position[:, None] + torch.arange(1, count + 1, device=self.position.device)


class BlockHeads(HeadSet):
    """Heads that compute all depths in one pass over a block. They need the base token, so they draft by `expand`.

    `revealed_count` [B, A] is set when `train_depths` yields its first depth: the number of true tokens in each
    anchor's block, None if there were none. The loss leaves out depths d <= `revealed_count`, since they read their own
    label.
    """

    reads_raw = True

    def __init__(self, config: BlockHeadsConfig, shape: TrunkShape) -> None:
        super().__init__(config, shape)
        self.causal = config.inside == "causal"
        self.mask = nn.Parameter(INIT_STD * torch.randn(shape.width))
        self.context_norm = norm_of(shape)
        self.layers = nn.ModuleList(DecoderLayer(shape) for _ in range(config.layers if config.depth else 0))
        self.norm = norm_of(shape)
        self.correction = GruCorrection(shape) if config.correction == "gru" else None
        self.revealed_count: Tensor | None = None

    def at_layer(self, index: int) -> DecoderLayer:
        """Return draft layer `index`, counted from 0."""
        layer = self.layers[index]
        assert isinstance(layer, DecoderLayer)
        return layer

    def start_from(self, trunk: TrunkFace) -> None:
        """Copy the trunk's last layer into every layer, its norms, and the mean embedding into the mask.

        Unlike other families, this one cannot start with the trunk's own predictions: a mask carries no information
        until a layer has read the context. The layers therefore keep the trunk's output projections.
        """
        weights = trunk.last_layer()
        with torch.no_grad():
            for i in range(len(self.layers)):
                layer = self.at_layer(i)
                layer.start_from(weights)
                for name, weight in layer.named_parameters():
                    if name.endswith(("o_proj.weight", "down_proj.weight")):
                        given = weights.get(name)
                        if given is not None and given.shape == weight.shape:
                            weight.copy_(given)
                        else:
                            weight.normal_(std=INIT_STD)
            start_norm(self.context_norm, weights, "input_layernorm")
            start_norm(self.norm, weights, "final_norm")
            ids = torch.arange(self.shape.vocab_size, device=trunk.unembedding().weight.device)
            total = torch.stack([trunk.embed(part).sum(0) for part in ids.split(8192)]).sum(0)
            self.mask.copy_(total / len(ids))

    def logits(self, features: Tensor, d: int, unembed: Unembed) -> Tensor:
        """Return the logits [..., V] of depth d."""
        return unembed(features)

    def all_logits(self, features: Tensor, unembed: Unembed) -> Tensor:
        """Return the logits of all depths by one product."""
        return unembed(features)

    def _through(
        self, x: Tensor, turn: tuple[Tensor, Tensor], keys_of: KeysOf, seen: Tensor, memory: Sequence[Memory | None]
    ) -> Tensor:
        """Return the normed output [B, Q, C] of all layers for blocks [B, Q, C]; `seen` bool [B, Q, S] masks keys."""
        for i in range(len(self.layers)):
            layer = self.at_layer(i)
            normed = layer.input_layernorm(x)
            k, v = keys_of(i, normed)
            q = layer.self_attn.queries(normed, turn)
            x = layer.finish(x + layer.self_attn.attend(q, k, v, seen[:, None]), memory[i])
        out: Tensor = self.norm(x)
        return out

    # Training.

    def train_depths(self, batch: TrainBatch) -> Iterator[Tensor]:
        """Run one block per anchor, `chunk` anchors at a time; each chunk is recomputed in the backward pass."""
        self.revealed_count = None
        if not self.depth:
            return
        rows, size = batch.segments.shape
        anchors = batch.anchors
        if anchors is None:
            anchors = torch.arange(size, device=batch.segments.device).expand(rows, -1)
        self.revealed_count = self._draw_revealed(anchors)
        revealed = torch.zeros_like(anchors) if self.revealed_count is None else self.revealed_count
        context = self.context_norm(self.fused(batch.states))
        turn = rotary(batch.positions, self.shape, context.dtype)
        layers = [self.at_layer(i) for i in range(len(self.layers))]
        injected = [layer.self_attn.keys_values(context, turn) for layer in layers]
        memory = [layer.remember(batch.memory, batch.memory_lengths) for layer in layers]

        def run(anchors: Tensor, revealed: Tensor) -> Tensor:
            return self._train_chunk(batch, anchors, revealed, injected, memory)

        parts = []
        for chunk in zip(anchors.split(self.config.chunk, 1), revealed.split(self.config.chunk, 1)):
            parts.append(checkpoint(run, *chunk, use_reentrant=False) if torch.is_grad_enabled() else run(*chunk))
        yield from torch.cat(parts, 1).unbind(2)

    def _draw_revealed(self, anchors: Tensor) -> Tensor | None:
        """Sample how many true tokens [B, A] each anchor's block gets; None outside training or without `reveal`."""
        if not self.training or self.config.reveal == 0:
            return None
        told = torch.rand(anchors.shape, device=anchors.device) < self.config.reveal
        return torch.randint_like(anchors, self.depth) * told

    def _train_chunk(
        self, batch: TrainBatch, anchors: Tensor, revealed: Tensor, injected: Sequence[tuple[Tensor, Tensor]],
        memory: Sequence[Memory | None],
    ) -> Tensor:  # fmt: skip
        """Return features [B, A, D, C] of anchors [B, A] with `revealed` [B, A] true tokens; `injected` are the
        context's keys and values for each layer."""
        rows, size = batch.segments.shape
        places = torch.arange(self.depth + 1, device=anchors.device)
        index = (anchors[..., None] + 1 + places).clamp(max=size - 1)
        tokens = batch.inputs[torch.arange(rows, device=anchors.device)[:, None, None], index]
        known = (places <= revealed[..., None])[..., None]
        hints = batch.hints_behind(anchors, self.depth + 1)
        x = torch.where(known, tokens, self._masks(tokens, hints)).flatten(1, 2)
        positions = batch.positions_behind(anchors, self.depth + 1)
        turn = rotary(positions.flatten(1), self.shape, x.dtype)

        def keys_of(i: int, normed: Tensor) -> tuple[Tensor, Tensor]:
            k, v = self.at_layer(i).self_attn.keys_values(normed, turn)
            return torch.cat([injected[i][0], k], 2), torch.cat([injected[i][1], v], 2)

        seen = training_block_mask(batch.segments, anchors, self.depth + 1, self.causal)
        out = self._through(x, turn, keys_of, seen, memory)
        out = out.unflatten(1, (anchors.shape[1], self.depth + 1))
        features = out[:, :, 1:]
        if self.correction is not None:
            features = features + self.correction.teacher(tokens[:, :, :-1], out[:, :, 0])
        return features

    # Decoding.

    def start(
        self, rows: int, trunk: TrunkFace, depth: int | None = None, memory: Tensor | None = None,
        memory_lengths: Tensor | Sequence[int] | None = None, ahead: Ahead | None = None,
    ) -> BlockState:  # fmt: skip
        """Return a new state, with the cross-attention keys and values if there is a memory."""
        cache = RaggedCache(len(self.layers), rows, trunk.unembedding().weight.device)
        depth = self.depth if depth is None else depth
        state = BlockState(trunk.embed, self.narrow(trunk), depth, cache=cache, ahead=ahead)
        state.remember([self.at_layer(i) for i in range(len(self.layers))], memory, memory_lengths)
        return state

    def advance(
        self, state: BlockState, states: States, inputs: Tensor, positions: Tensor, keep: Tensor, count: Tensor,
        counts: Sequence[int] | None = None,
    ) -> None:  # fmt: skip
        """Commit the earlier fresh entries and take in these; their keys are written with the next draft."""
        if state.depth == 0:
            return
        if state.fresh is not None:
            if state.level == 0:  # no draft since
                state.cache.begin(state.fresh.hidden.shape[1])
                context = self.context_norm(state.fresh.hidden)
                turn = rotary(state.fresh.positions, self.shape, context.dtype)
                for i in range(len(self.layers)):
                    state.store(i)(*self.at_layer(i).self_attn.keys_values(context, turn))
            state.cache.commit(state.fresh.counts)
        fresh = take_fresh(self.fused, states, inputs, positions, keep, count, counts)
        last = fresh.positions.gather(1, fresh.last[:, None])[:, 0]
        state.position = last if state.position is None else last.where(count > 0, state.position)
        state.fresh, state.level, state.features, state.serial = fresh, 0, None, None

    def expand(self, state: BlockState, d: int, tokens: Tensor, parent: Tensor, given: Tensor | None = None) -> Tensor:
        """Return features [B, P, C] of level d. Level 1 runs the block for all levels; without a correction, all nodes
        of a level have the same features. `given` [B, R] at level 1 replaces the first masks, except where it is -1."""
        if d == 1:
            self._run_block(state, tokens[:, :1], given)
        assert state.features is not None
        nodes = tokens.shape[1]
        features = state.features[:, d - 1 : d].expand(-1, nodes, -1)
        if self.correction is None:
            return features
        assert state.serial is not None
        if d == 1:
            before = state.serial.expand(-1, nodes, -1)
        else:
            before = state.serial[torch.arange(len(parent), device=parent.device)[:, None], parent]
        state.serial = self.correction.step(state.embedded(tokens, d).to(features.dtype), before)
        added: Tensor = self.correction.out(state.serial)
        return features + added

    def _run_block(self, state: BlockState, anchor: Tensor, given: Tensor | None) -> None:
        """Compute the features of all levels after the base token `anchor` [B, 1]. Writes the fresh entries' keys into
        the cache, and after them the block's, which the next call overwrites."""
        fresh, cache = state.fresh, state.cache
        assert fresh is not None and state.position is not None
        # A bidirectional slot reads all others: a shorter block would give other predictions.
        width = (state.depth if self.causal else self.depth) + 1
        x = self._fill(state, anchor, given, width)
        places = torch.arange(width, device=x.device)
        slots = fresh.count[:, None] + places
        behind = state.places_ahead(width)
        context = F.pad(self.context_norm(fresh.hidden), (0, 0, 0, width))
        turn = rotary(F.pad(fresh.positions, (0, width)).scatter(1, slots, behind), self.shape, x.dtype)
        cache.begin(context.shape[1])

        def keys_of(i: int, normed: Tensor) -> tuple[Tensor, Tensor]:
            entries = context.scatter(1, slots[..., None].expand_as(normed), normed)
            return state.store(i)(*self.at_layer(i).self_attn.keys_values(entries, turn))

        seen = drafting_block_mask(cache, fresh.count, width, self.causal)
        out = self._through(x, rotary(behind, self.shape, x.dtype), keys_of, seen, state.memory)
        state.features, state.level = out[:, 1 : state.depth + 1], state.depth
        if self.correction is not None:
            state.serial = self.correction.begin(out[:, :1])

    def _fill(self, state: BlockState, anchor: Tensor, given: Tensor | None, width: int) -> Tensor:
        """Return the block [B, width, C]: anchor [B, 1], given tokens [B, R], masks."""
        assert state.fresh is not None
        ids = anchor if given is None else torch.cat([anchor, given], 1)
        ids = F.pad(ids[:, :width], (0, max(0, width - ids.shape[1])), value=-1)
        dtype, hints = state.fresh.hidden.dtype, state.hints_ahead(width)
        known = hinted(state.embed(ids.clamp_min(0)), hints).to(dtype)
        return torch.where(ids[..., None] >= 0, known, self._masks(known, hints))

    def _masks(self, like: Tensor, hints: Tensor | None) -> Tensor:
        """Return the masks [..., K, C] of blocks whose slots have the hints [..., K, C]: each has the hint that its
        token is predicted with, that of the slot before."""
        mask = self.mask.to(like.dtype)
        return mask if hints is None else mask + F.pad(hints[..., :-1, :], (0, 0, 1, 0)).to(like.dtype)
