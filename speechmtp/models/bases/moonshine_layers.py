"""The layers of Moonshine (arXiv 2410.15608) in plain PyTorch, under transformers' names of modules and weights.

They compute what transformers' own layers compute, in the same order of operations, without importing these.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from speechmtp.models.bases.moonshine_sizes import MoonshineSizes

# Cosines and sines [B, 1, Q, rotary dim], each number twice; and, unless there are gradients, the same as complex
# numbers [B, 1, Q, rotary dim / 2].
Turn = tuple[Tensor, Tensor, Tensor | None]
Kept = tuple[Tensor, Tensor]  # keys and values [B, H, S, d]


class RotaryEmbedding(nn.Module):
    """The rotary angles of positions."""

    inv_freq: Tensor

    def __init__(self, sizes: MoonshineSizes) -> None:
        super().__init__()
        assert sizes.rope_parameters is not None
        size = int(sizes.head_dim * sizes.rope_parameters["partial_rotary_factor"])
        with torch.device("cpu"):
            steps = torch.arange(0, size, 2, dtype=torch.float) / size
            frequencies = 1.0 / (sizes.rope_parameters["rope_theta"] ** steps)
        self.register_buffer("inv_freq", frequencies, persistent=False)

    def forward(self, x: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Return cosines and sines [B, Q, rotary dim] of positions [B, Q], in the dtype of x; all of them twice, one
        after the other, as transformers does."""
        angles = positions[..., None].float() * self.inv_freq.float()
        angles = torch.cat([angles, angles], -1)
        return angles.cos().to(x.dtype), angles.sin().to(x.dtype)

    def turn(self, x: Tensor, positions: Tensor) -> Turn:
        """Return the turn of positions [B, Q], in the dtype of x."""
        dtype, angles = x.dtype, positions[:, None, :, None].float() * self.inv_freq.float()
        cos, sin = angles.cos().to(dtype), angles.sin().to(dtype)
        plain = torch.is_grad_enabled() or dtype not in (torch.float32, torch.float64)
        whole = None if plain else torch.complex(cos, sin)
        return cos.repeat_interleave(2, -1), sin.repeat_interleave(2, -1), whole


def turned(x: Tensor, turn: Turn) -> Tensor:
    """Rotate neighbouring pairs of the first numbers of x [B, H, Q, d]; those past the angles' width are unchanged.
    Without gradients x itself is rotated, in one pass."""
    cos, sin, whole = turn
    size = cos.shape[-1]
    front = x[..., :size]
    if whole is not None and x.dtype == cos.dtype and not torch.is_grad_enabled() and x.shape[-1] % 2 == 0:
        torch.view_as_complex(front.unflatten(-1, (-1, 2))).mul_(whole)
        return x
    crossed = torch.stack((-front[..., 1::2], front[..., ::2]), -1).flatten(-2)
    front = front * cos + crossed * sin
    return front if size == x.shape[-1] else torch.cat([front, x[..., size:]], -1)


class Attention(nn.Module):
    """Attention to the entries themselves, or to encoder outputs."""

    num_key_value_groups = 1  # read by those who know transformers' layers

    def __init__(self, sizes: MoonshineSizes, layer: int) -> None:
        super().__init__()
        self.layer_idx, self.head_dim, self.scaling = layer, sizes.head_dim, sizes.head_dim**-0.5
        self.config = sizes
        width, wide = sizes.hidden_size, sizes.encoder_num_attention_heads * sizes.head_dim
        self.q_proj = nn.Linear(width, wide, bias=sizes.attention_bias)
        self.k_proj = nn.Linear(width, wide, bias=sizes.attention_bias)
        self.v_proj = nn.Linear(width, wide, bias=sizes.attention_bias)
        self.o_proj = nn.Linear(wide, width, bias=False)

    def _split(self, x: Tensor) -> Tensor:
        return x.view(*x.shape[:2], -1, self.head_dim).transpose(1, 2)

    def forward(
        self, x: Tensor, mask: Tensor | None = None, turn: Turn | None = None, cache: Any = None,
        memory: Tensor | None = None, kept: Kept | None = None,
    ) -> Tensor:  # fmt: skip
        """Return the mix [B, Q, C] for entries x [B, Q, C].

        With `turn` they attend to each other, and to what `cache` has of this layer; else to `memory` [B, S, C], or to
        its keys and values if they are `kept`. `mask` is additive and broadcasts to [B, H, Q, S].
        """
        query = self._split(self.q_proj(x))
        if kept is None:
            source = x if memory is None else memory
            key, value = self._split(self.k_proj(source)), self._split(self.v_proj(source))
        else:
            key, value = kept
        if turn is not None:
            query, key = turned(query, turn), turned(key, turn)
            if cache is not None:
                key, value = cache.layers[self.layer_idx].update(key, value)
        mixed = self._mix(query, key, value, mask)
        return self.o_proj(mixed.transpose(1, 2).flatten(2))

    def _mix(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
        if self.config._attn_implementation == "sdpa":
            return F.scaled_dot_product_attention(query, key, value, mask, scale=self.scaling)
        scores = torch.matmul(query, key.transpose(2, 3)) * self.scaling
        if mask is not None:
            scores = scores + mask
        # In float32 whatever the dtype, as in transformers.
        shares = F.softmax(scores, -1, dtype=torch.float32).to(query.dtype)
        return torch.matmul(shares, value)


class EncoderMLP(nn.Module):
    """Two matrices with a GELU between them."""

    def __init__(self, sizes: MoonshineSizes) -> None:
        super().__init__()
        self.fc1 = nn.Linear(sizes.hidden_size, sizes.intermediate_size)
        self.fc2 = nn.Linear(sizes.intermediate_size, sizes.hidden_size)

    def forward(self, x: Tensor) -> Tensor:
        """Map [..., C] to [..., C]."""
        return self.fc2(F.gelu(self.fc1(x)))


class DecoderMLP(nn.Module):
    """A gated MLP; the first matrix gives values, then gates."""

    def __init__(self, sizes: MoonshineSizes) -> None:
        super().__init__()
        self.fc1 = nn.Linear(sizes.hidden_size, 2 * sizes.intermediate_size)
        self.fc2 = nn.Linear(sizes.intermediate_size, sizes.hidden_size)

    def forward(self, x: Tensor) -> Tensor:
        """Map [..., C] to [..., C]."""
        values, gates = self.fc1(x).chunk(2, -1)
        return self.fc2(F.silu(gates) * values)


class MoonshineEncoderLayer(nn.Module):
    """Self-attention and an MLP, each behind a norm and added to its input."""

    def __init__(self, sizes: MoonshineSizes, layer: int) -> None:
        super().__init__()
        self.self_attn, self.mlp = Attention(sizes, layer), EncoderMLP(sizes)
        self.input_layernorm = nn.LayerNorm(sizes.hidden_size, bias=False)
        self.post_attention_layernorm = nn.LayerNorm(sizes.hidden_size, bias=False)

    def forward(self, x: Tensor, turn: Turn) -> Tensor:
        """Process x [B, S, C]; every step sees all."""
        x = x + self.self_attn(self.input_layernorm(x), None, turn)
        return x + self.mlp(self.post_attention_layernorm(x))


class MoonshineDecoderLayer(nn.Module):
    """Self-attention, attention to the encoder outputs and an MLP, each behind a norm and added to its input."""

    def __init__(self, sizes: MoonshineSizes, layer: int) -> None:
        super().__init__()
        self.self_attn, self.encoder_attn = Attention(sizes, layer), Attention(sizes, layer)
        self.mlp = DecoderMLP(sizes)
        norm: Callable[[], nn.LayerNorm] = lambda: nn.LayerNorm(sizes.hidden_size, bias=False)  # noqa: E731
        self.input_layernorm, self.post_attention_layernorm, self.final_layernorm = norm(), norm(), norm()

    def forward(
        self, x: Tensor, mask: Tensor | None, turn: Turn, cache: Any, memory: Tensor | None, kept: Kept | None,
        memory_mask: Tensor | None,
    ) -> Tensor:  # fmt: skip
        """Process x [B, Q, C]; see `Attention`."""
        x = x + self.self_attn(self.input_layernorm(x), mask, turn, cache)
        x = x + self.encoder_attn(self.post_attention_layernorm(x), memory_mask, None, None, memory, kept)
        return x + self.mlp(self.final_layernorm(x))
