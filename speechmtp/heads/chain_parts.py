"""Parts of chained heads: the module of a depth, the decoding state, and attention over a draft's own chain."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from speechmtp.heads.contract import TrunkFace, picked
from speechmtp.heads.decoder_layer import DecoderLayer, norm_of, start_norm
from speechmtp.heads.layered import LayeredState
from speechmtp.models.shape import TrunkShape


class ChainModule(nn.Module):
    """The module of one depth (or of all, if shared): norms, joining projection and decoder layer."""

    def __init__(self, embedding_first: bool, shape: TrunkShape) -> None:
        super().__init__()
        self.embedding_first = embedding_first
        self.enorm = norm_of(shape)
        self.hnorm = norm_of(shape)
        self.eh_proj = nn.Linear(2 * shape.width, shape.width, bias=False)
        self.layer = DecoderLayer(shape)
        self.norm = norm_of(shape)

    def join(self, nexts: Tensor, hidden: Tensor) -> Tensor:
        """Return the layer's input [..., C] for embeddings and states [..., C]."""
        halves = [self.enorm(nexts), self.hnorm(hidden)]
        out: Tensor = self.eh_proj(torch.cat(halves if self.embedding_first else halves[::-1], -1))
        return out

    def start_from(self, trunk: TrunkFace) -> None:
        """Initialise so that the state is passed on and normed as in the trunk."""
        weights = trunk.last_layer()
        self.layer.start_from(weights)
        width = self.norm.weight.shape[0]
        with torch.no_grad():
            self.eh_proj.weight.zero_()
            first = width if self.embedding_first else 0
            self.eh_proj.weight[:, first : first + width] = torch.eye(width)
        start_norm(self.norm, weights, "final_norm")


@dataclass
class ChainState(LayeredState):
    """`carry[d]` [B, C]: z^d in the last committed slot before the fresh ones; `known[d]` [B, A, C]: z^d in the fresh
    slots; `draft` [B, P, d, C] (roll: the last fresh slot, then the drafted ones) or [B, P, 1, C] (ttt): z^d of each
    node of the last level d; `drafted` [B, P, d - 1, C]: embeddings of the nodes' paths; `own`: keys and values of a
    ttt draft, one pair per level."""

    carry: dict[int, Tensor] = field(default_factory=dict)
    known: dict[int, Tensor] = field(default_factory=dict)
    draft: Tensor | None = None
    drafted: Tensor | None = None
    own: list[tuple[Tensor, Tensor]] = field(default_factory=list)

    def pick(self, rows: Tensor) -> None:
        """Keep only these rows, in tensors that calls replace (not in caches, which calls write into)."""
        super().pick(rows)
        at = rows if self.fresh is None else rows.to(self.fresh.count.device)
        self.carry = {d: z[at] for d, z in self.carry.items()}
        self.known = {d: z[at] for d, z in self.known.items()}
        self.draft, self.drafted = picked(self.draft, rows), picked(self.drafted, rows)
        self.own = [(k[at], v[at]) for k, v in self.own]

    def join(self, other: Any) -> None:
        """Append the rows of another state; a state that has committed nothing yet carries zeros."""
        if self.fresh is None or other.fresh is None:  # nothing has been drafted
            super().join(other)
            return
        sizes, like = (len(self.fresh.counts), len(other.fresh.counts)), self.fresh.hidden
        super().join(other)
        for d in {*self.carry, *other.carry}:
            parts = [state.carry.get(d) for state in (self, other)]
            whole = [like.new_zeros(n, like.shape[2]) if z is None else z for z, n in zip(parts, sizes)]
            self.carry[d] = torch.cat(whole)


def attend_with_chain(
    q: Tensor, keys: Tensor, values: Tensor, seen: Tensor, own_keys: Sequence[Tensor], own_values: Sequence[Tensor]
) -> Tensor:
    """Return the attention [B, A, H d] of queries [B, H, A, d] over shared keys [B, K, S, d], masked by `seen` bool
    [B, A, S], and over `own_keys` [B, K, A, d], of which each query sees only its own."""
    group = q.shape[1] // keys.shape[1]
    if q.shape[2] == 1:  # with one query all keys are its own
        k, v = (
            torch.cat([part.to(q.dtype) for part in parts], 2) for parts in ((keys, *own_keys), (values, *own_values))
        )
        mask = F.pad(seen[:, None], (0, len(own_keys)), value=True)
        alone = F.scaled_dot_product_attention(q, k, v, mask, enable_gqa=group > 1)
        return alone.transpose(1, 2).flatten(2)
    keys, values = keys.to(q.dtype), values.to(q.dtype)
    if group > 1:
        keys, values = keys.repeat_interleave(group, 1), values.repeat_interleave(group, 1)
        own_keys = [k.repeat_interleave(group, 1) for k in own_keys]
        own_values = [v.repeat_interleave(group, 1) for v in own_values]
    shared = (q @ keys.transpose(-1, -2)).masked_fill(~seen[:, None], torch.finfo(q.dtype).min)
    chain = torch.stack([(q * k).sum(-1) for k in own_keys], -1)
    weights = (torch.cat([shared, chain], -1) / q.shape[-1] ** 0.5).softmax(-1)
    size = keys.shape[2]
    out = weights[..., :size] @ values
    for i, v in enumerate(own_values):
        out = out + weights[..., size + i, None] * v
    return out.transpose(1, 2).flatten(2)
