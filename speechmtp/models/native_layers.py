"""Decoder layers, those of trunks and those of heads, as the native library takes them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from speechmtp.kernels.cpu.structs import ACTIVATIONS, Attention, Builder, Layer, Linear, Norm
from speechmtp.models.norms import norm_parts
from speechmtp.models.shape import TrunkShape


@dataclass(frozen=True)
class LayerForm:
    """How a class of decoder layers names its parts, and what it computes. `norms` stand before self-attention,
    cross-attention (if any) and MLP; `gates` are behind the values in one matrix (`joined`), in one of their own
    (`own`), or none."""

    norms: tuple[str, ...]
    out: str = "o_proj"
    gates: Literal["joined", "own", "none"] = "own"
    rotary: Literal["halves", "neighbours", "none"] = "halves"
    activation: str = "silu"


class LayerParts:
    """Makes the structs of layers of one form; `turned` numbers of each head are rotated."""

    def __init__(self, builder: Builder, form: LayerForm, shape: TrunkShape, turned: int) -> None:
        self.builder, self.form, self.shape, self.turned = builder, form, shape, turned

    def layer(self, layer: Any) -> Layer:
        """Return the struct of a decoder layer."""
        form, norms = self.form, [getattr(layer, name) for name in self.form.norms]
        made = Layer(activation=ACTIVATIONS["gelu" if form.gates == "none" else "gated_silu"])
        made.self_ = self.attention(layer.self_attn, norms[0], True)
        if len(norms) == 3:
            made.cross = self.attention(layer.encoder_attn, norms[1], False)
        made.norm = self.norm(norms[-1], self.shape.width)
        made.inner, made.outer = self.mlp(layer)
        return made

    def attention(self, attention: Any, norm: nn.Module, own: bool) -> Attention:
        """Return the struct of an attention behind `norm`; `own`: of self-attention."""
        shape, form, builder = self.shape, self.form, self.builder
        parts = [attention.q_proj, *((attention.k_proj, attention.v_proj) if own else ())]
        out = getattr(attention, form.out)
        none = builder.norm("none", shape.head_dim)
        inner = [getattr(attention, name, None) for name in ("q_norm", "k_norm")]
        return Attention(
            self.norm(norm, shape.width), *(none if n is None else self.norm(n, shape.head_dim) for n in inner),
            self.joined(*parts), builder.linear(out.weight, out.bias),
            Linear() if own else self.joined(attention.k_proj, attention.v_proj),
            shape.heads, shape.kv_heads, shape.head_dim,
            self.turned if own else 0, form.rotary == "neighbours", shape.head_dim**-0.5,
        )  # fmt: skip

    def joined(self, *parts: Any) -> Linear:
        """Return the struct of linear layers side by side."""
        return self.builder.linear(torch.cat([part.weight for part in parts]), _biases(parts))

    def mlp(self, layer: Any) -> tuple[Linear, Linear]:
        """Return the structs of both matrices of an MLP; gates stand behind the values."""
        builder = self.builder
        if self.form.gates == "own":
            mlp = layer.mlp
            return self.joined(mlp.up_proj, mlp.gate_proj), builder.linear(mlp.down_proj.weight, mlp.down_proj.bias)
        mlp = layer.mlp if self.form.gates == "joined" else layer
        return builder.linear(mlp.fc1.weight, mlp.fc1.bias), builder.linear(mlp.fc2.weight, mlp.fc2.bias)

    def norm(self, module: nn.Module, size: int) -> Norm:
        """Return the struct of a norm over `size` numbers."""
        parts = norm_parts(module, size)
        return self.builder.norm(parts.kind, size, parts.weight, parts.bias, parts.eps)


def _biases(parts: Sequence[Any]) -> Tensor | None:
    """Return the biases of some linear layers side by side, zeros where one has none; None if none has."""
    if all(part.bias is None for part in parts):
        return None
    return torch.cat([part.weight.new_zeros(len(part.weight)) if part.bias is None else part.bias for part in parts])
