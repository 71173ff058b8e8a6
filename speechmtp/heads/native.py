"""Chained heads as the native library takes them."""

import ctypes

import torch
from torch import Tensor, nn

from speechmtp.heads.chain import ChainHeads
from speechmtp.heads.contract import HeadSet
from speechmtp.heads.decoder_layer import Attention as HeadAttention
from speechmtp.heads.decoder_layer import DecoderLayer
from speechmtp.kernels.cpu.chain import NativeChain
from speechmtp.kernels.cpu.decoder import RotaryTable
from speechmtp.kernels.cpu.int8_linear import Int8Linear
from speechmtp.kernels.cpu.library import native_library, native_reason
from speechmtp.kernels.cpu.structs import ACTIVATIONS, Attention, Builder, Chain, Layer, Linear, Reader, bind
from speechmtp.kernels.cpu.structs import Norm as CNorm
from speechmtp.models.agreement import Tail
from speechmtp.models.rotary import rotary
from speechmtp.models.trunk import Trunk


def use_native(heads: HeadSet, trunk: Trunk) -> None:
    """Let heads draft whole chains natively from now on, if they can; `heads.native_problem` says why they cannot.

    The weights are those of now: call it again after a change. ConfigError if `SPEECHMTP_KERNELS` is unknown, or asks
    for a library that cannot be had.
    """
    heads.native, heads.native_problem = None, _problem(heads, trunk)
    if heads.native_problem:
        return
    library = native_library()
    if library is None:
        heads.native_problem = native_reason()
        return
    assert isinstance(heads, ChainHeads)
    heads.native = _Parts(heads, trunk, bind(library)).made()


def _problem(heads: HeadSet, trunk: Trunk) -> str:
    """Why heads cannot draft natively; empty if they can."""
    if not isinstance(heads, ChainHeads) or heads.rolls or not heads.depth:
        return "only chained heads with one layer and attention ttt draft in one call"
    if heads.reads.count and heads.reads.mix != "linear":
        return "they read layers with one weight each"
    if any(not w.is_cpu or w.dtype != torch.float32 for w in _weights(heads, trunk)):
        return "they compute in another dtype than float32 or on another device than a CPU"
    if trunk.tail != Tail():
        return "the trunk changes the logits of its unembedding"
    if type(trunk._embedding) is not nn.Embedding:
        return "the trunk's embeddings are more than a table"
    return ""


def _weights(heads: HeadSet, trunk: Trunk) -> list[Tensor]:
    """What a draft is computed with."""
    return [*heads.parameters(), *trunk.unembedding().parameters(), *trunk._embedding.parameters()]


class _Parts:
    """Makes the struct of a head set."""

    def __init__(self, heads: ChainHeads, trunk: Trunk, library: ctypes.CDLL) -> None:
        self.heads, self.trunk, self.library, self.shape = heads, trunk, library, heads.shape
        self.builder = Builder(library.speechmtp_cpu_panel())

    def made(self) -> NativeChain:
        """Return the native form of the heads."""
        heads, builder, module = self.heads, self.builder, self.heads.at_depth(1)
        ids = heads.shortlist
        table = self.trunk._embedding.weight
        assert isinstance(table, Tensor)
        weights = _weights(heads, self.trunk)
        chain = Chain(
            self.shape.width, module.embedding_first, self.norm(module.enorm), self.norm(module.hnorm),
            self.norm(module.norm), builder.linear(module.eh_proj.weight), self.layer(module.layer),
            self.unembedding(), None if ids is None else builder.hold(ids.contiguous()),
            builder.pointer(table),
        )  # fmt: skip
        return NativeChain(self.library, chain, self.reader(), RotaryTable(self.angles), builder.kept, weights)

    def unembedding(self) -> Linear:
        """Return the struct of the unembedding for the tokens that can be drafted."""
        heads, output, ids = self.heads, self.trunk.unembedding(), self.heads.shortlist
        if heads.drafts_in_int8 and isinstance(narrow := heads.narrow(self.trunk), Int8Linear):
            return self.builder.integers(*narrow.parts())
        weight, bias = output.weight.detach(), None if output.bias is None else output.bias.detach()
        if ids is not None:
            weight, bias = weight[ids], None if bias is None else bias[ids]
        return self.builder.linear(weight, bias, heads.drafts_in_int8)

    def reader(self) -> Reader:
        """Return the struct of what reads the trunk's layers."""
        reads, width = self.heads.reads, self.shape.width
        made = Reader(width=width, count=reads.count)
        if reads.count:
            norms = (CNorm * reads.count)(*map(self.norm, reads.norms))
            self.builder.kept.append(norms)
            made.norms, made.mix = norms, self.builder.linear(reads.weight)
        return made

    def angles(self, positions: int) -> tuple[Tensor, Tensor]:
        """Return cosines and sines [positions, rotary dim / 2]."""
        every = torch.arange(positions, device="cpu")[None]
        cosines, sines = (x[0, 0] for x in rotary(every, self.shape, torch.float32))
        return cosines[:, : cosines.shape[1] // 2], sines[:, : sines.shape[1] // 2]

    def layer(self, layer: DecoderLayer) -> Layer:
        """Return the struct of a layer; gates stand behind the values."""
        builder, mlp = self.builder, layer.mlp
        made = Layer(activation=ACTIVATIONS["gated_silu"])
        made.self_ = self.attention(layer.self_attn, layer.input_layernorm, True)
        if self.shape.memory_width is not None:
            made.cross = self.attention(layer.encoder_attn, layer.encoder_attn_layernorm, False)
        made.norm = self.norm(layer.post_attention_layernorm)
        made.inner = self.joined(mlp.up_proj, mlp.gate_proj)
        made.outer = builder.linear(mlp.down_proj.weight)
        return made

    def attention(self, attention: HeadAttention, norm: nn.Module, own: bool) -> Attention:
        """Return the struct of an attention behind `norm`; `own`: of self-attention."""
        shape, builder = self.shape, self.builder
        parts = [attention.q_proj, *((attention.k_proj, attention.v_proj) if own else ())]
        none = builder.norm("none", shape.head_dim)
        inner = [getattr(attention, name, None) for name in ("q_norm", "k_norm")]
        turned = (shape.rotary_dim or shape.head_dim) if own else 0
        return Attention(
            self.norm(norm), *(none if one is None else self.norm(one) for one in inner),
            self.joined(*parts), builder.linear(attention.o_proj.weight),
            Linear() if own else self.joined(attention.k_proj, attention.v_proj), shape.heads, shape.kv_heads,
            shape.head_dim, turned, False, shape.head_dim**-0.5,
        )  # fmt: skip

    def joined(self, *parts: nn.Linear) -> Linear:
        """Return the struct of linear layers side by side, all with a bias or all without."""
        biases: list[Tensor] = [part.bias for part in parts if part.bias is not None]
        return self.builder.linear(torch.cat([part.weight for part in parts]), torch.cat(biases) if biases else None)

    def norm(self, module: nn.Module) -> CNorm:
        """Return the struct of one of our norms."""
        weight, bias = module.weight, getattr(module, "bias", None)
        assert isinstance(weight, Tensor)
        kind = "layer" if isinstance(module, nn.LayerNorm) else "rms"
        return self.builder.norm(kind, len(weight), weight, bias, float(module.eps))  # type: ignore[arg-type]
