"""A transformer layer for heads: pre-norm attention with rotary positions, a gated MLP, and cross-attention if the
trunk has it. Parameters are named as in transformers, so that a trunk's layer can be copied.

transformers' own layers are not used, since they take one sequence and one cache, while heads also need keys from
injected trunk states, other depths and their own drafts.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from speechmtp.models.masks import length_mask
from speechmtp.models.rotary import rotate
from speechmtp.models.shape import TrunkShape

Store = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]  # new keys and values -> all keys and values to read


class RmsNorm(nn.RMSNorm):
    """An RMS norm that also takes half-precision input with float32 weights, as under autocast."""

    def forward(self, x: Tensor) -> Tensor:
        """Return the normed x [..., C], in x's dtype."""
        return F.rms_norm(x, self.normalized_shape, self.weight.to(x.dtype), self.eps)


class LayerNorm(nn.LayerNorm):
    """A layer norm that also takes half-precision input with float32 weights."""

    def forward(self, x: Tensor) -> Tensor:
        """Return the normed x [..., C], in x's dtype."""
        bias = None if self.bias is None else self.bias.to(x.dtype)
        return F.layer_norm(x, self.normalized_shape, self.weight.to(x.dtype), bias, self.eps)


def norm_of(shape: TrunkShape) -> RmsNorm | LayerNorm:
    """Build a norm of the trunk's kind over its width."""
    if shape.norm == "rms":
        return RmsNorm(shape.width, shape.eps)
    return LayerNorm(shape.width, shape.eps, bias=shape.norm_bias)


def start_norm(norm: nn.Module, weights: Mapping[str, Tensor], name: str) -> None:
    """Copy the parameters of the trunk's norm `name` from `weights`, if they are there with the same shapes."""
    with torch.no_grad():
        for part, own in norm.named_parameters():
            found = weights.get(f"{name}.{part}")
            if found is not None and found.shape == own.shape:
                own.copy_(found)


@dataclass(frozen=True)
class Memory:
    """Cross-attention keys and values [B, H, S, head_dim] of a layer; `seen` bool [B, 1, 1, S] or None (no padding)."""

    keys: Tensor
    values: Tensor
    seen: Tensor | None


class Attention(nn.Module):
    """The projections of one attention: queries from [.., C], keys and values from [.., source]."""

    def __init__(self, shape: TrunkShape, source: int) -> None:
        super().__init__()
        self.shape = shape
        width, size, bias = shape.width, shape.head_dim, shape.attention_bias
        self.q_proj = nn.Linear(width, shape.heads * size, bias=bias)
        self.k_proj = nn.Linear(source, shape.kv_heads * size, bias=bias)
        self.v_proj = nn.Linear(source, shape.kv_heads * size, bias=bias)
        self.o_proj = nn.Linear(shape.heads * size, width, bias=False)
        if shape.qk_norm:
            self.q_norm = RmsNorm(size, shape.eps)
            self.k_norm = RmsNorm(size, shape.eps)

    def queries(self, x: Tensor, turn: tuple[Tensor, Tensor] | None) -> Tensor:
        """Return queries [B, H, Q, head_dim] of x [B, Q, C], rotated by `turn` if given."""
        q = self.q_proj(x).unflatten(-1, (self.shape.heads, -1))
        q = (self.q_norm(q) if self.shape.qk_norm else q).transpose(1, 2)
        return q if turn is None else rotate(q, turn)

    def keys_values(self, x: Tensor, turn: tuple[Tensor, Tensor] | None) -> tuple[Tensor, Tensor]:
        """Return keys and values [B, kv heads, S, head_dim] of x [B, S, source], keys rotated by `turn` if given."""
        k = self.k_proj(x).unflatten(-1, (self.shape.kv_heads, -1))
        k = (self.k_norm(k) if self.shape.qk_norm else k).transpose(1, 2)
        v = self.v_proj(x).unflatten(-1, (self.shape.kv_heads, -1)).transpose(1, 2)
        return (k if turn is None else rotate(k, turn)), v

    def attend(self, q: Tensor, k: Tensor, v: Tensor, seen: Tensor | None) -> Tensor:
        """Return the projected attention output [B, Q, C]; `seen` bool [B or 1, 1, Q, S] is the mask."""
        out = F.scaled_dot_product_attention(
            q, k.to(q.dtype), v.to(q.dtype), seen, enable_gqa=self.shape.kv_heads != self.shape.heads
        )
        mixed: Tensor = self.o_proj(out.transpose(1, 2).flatten(2))
        return mixed


class GatedMlp(nn.Module):
    """down(silu(gate x) * up x) (arXiv 2002.05202)."""

    def __init__(self, shape: TrunkShape) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(shape.width, shape.ff_width, bias=False)
        self.up_proj = nn.Linear(shape.width, shape.ff_width, bias=False)
        self.down_proj = nn.Linear(shape.ff_width, shape.width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the MLP to x [..., C]."""
        out: Tensor = self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))
        return out


class DecoderLayer(nn.Module):
    """Self-attention, cross-attention if the trunk has it, and MLP, each pre-normed with a residual connection."""

    def __init__(self, shape: TrunkShape) -> None:
        super().__init__()
        self.shape = shape
        self.self_attn = Attention(shape, shape.width)
        self.mlp = GatedMlp(shape)
        self.input_layernorm = norm_of(shape)
        self.post_attention_layernorm = norm_of(shape)
        if shape.memory_width is not None:
            self.encoder_attn = Attention(shape, shape.memory_width)
            self.encoder_attn_layernorm = norm_of(shape)

    def start_from(self, weights: Mapping[str, Tensor]) -> None:
        """Copy the trunk's layer where names and shapes agree, and zero the output projections, so that the layer is
        the identity at first."""
        own = dict(self.named_parameters())
        with torch.no_grad():
            for name, weight in weights.items():
                if name in own and own[name].shape == weight.shape:
                    own[name].copy_(weight)
            for name in own:
                if name.endswith(("o_proj.weight", "down_proj.weight")):
                    own[name].zero_()

    def forward(
        self, x: Tensor, turn: tuple[Tensor, Tensor], seen: Tensor | None, store: Store | None = None,
        memory: Memory | None = None,
    ) -> Tensor:  # fmt: skip
        """Return the output [B, Q, C] for x [B, Q, C]; `seen` bool [B or 1, Q, S] masks the keys from `store`."""
        normed = self.input_layernorm(x)
        k, v = self.self_attn.keys_values(normed, turn)
        if store is not None:
            k, v = store(k, v)
        q = self.self_attn.queries(normed, turn)
        return self.finish(x + self.self_attn.attend(q, k, v, None if seen is None else seen[:, None]), memory)

    def finish(self, x: Tensor, memory: Memory | None) -> Tensor:
        """Apply cross-attention and MLP to x [B, Q, C], the residual stream after self-attention."""
        if memory is not None:
            normed = self.encoder_attn_layernorm(x)
            attention = self.encoder_attn
            x = x + attention.attend(attention.queries(normed, None), memory.keys, memory.values, memory.seen)
        out: Tensor = x + self.mlp(self.post_attention_layernorm(x))
        return out

    def remember(self, memory: Tensor | None, lengths: Tensor | None) -> Memory | None:
        """Return the cross-attention keys and values of encoder outputs [B, S, E] with lengths [B]; None without."""
        if memory is None or self.shape.memory_width is None:
            return None
        seen = None
        if lengths is not None:
            seen = length_mask(lengths.to(memory.device), memory.shape[1])[:, None, None]
        return Memory(*self.encoder_attn.keys_values(memory, None), seen)
