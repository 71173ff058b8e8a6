"""Chained heads as the native library takes them."""

import ctypes

import torch
from torch import Tensor, nn

from speechmtp.heads.chain import ChainHeads
from speechmtp.heads.contract import HeadSet
from speechmtp.kernels.cpu.chain import NativeChain
from speechmtp.kernels.cpu.decoder import RotaryTable
from speechmtp.kernels.cpu.int8_linear import Int8Linear
from speechmtp.kernels.cpu.library import native_library, native_reason
from speechmtp.kernels.cpu.structs import Builder, Chain, Linear, Norm, Reader, bind
from speechmtp.models.agreement import Tail
from speechmtp.models.native_layers import LayerForm, LayerParts
from speechmtp.models.rotary import rotary
from speechmtp.models.trunk import Trunk

WITHOUT_MEMORY = LayerForm(("input_layernorm", "post_attention_layernorm"))
WITH_MEMORY = LayerForm(("input_layernorm", "encoder_attn_layernorm", "post_attention_layernorm"))


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
        turned = heads.shape.rotary_dim or heads.shape.head_dim
        self.layers = LayerParts(self.builder, WITHOUT_MEMORY if heads.shape.memory_width is None else WITH_MEMORY,
                                 heads.shape, turned)  # fmt: skip

    def made(self) -> NativeChain:
        """Return the native form of the heads."""
        heads, builder, module = self.heads, self.builder, self.heads.at_depth(1)
        ids = heads.shortlist
        table = self.trunk._embedding.weight
        assert isinstance(table, Tensor)
        weights = _weights(heads, self.trunk)
        chain = Chain(
            self.shape.width, module.embedding_first, self.norm(module.enorm), self.norm(module.hnorm),
            self.norm(module.norm), builder.linear(module.eh_proj.weight), self.layers.layer(module.layer),
            self.unembedding(), None if ids is None else builder.hold(ids.contiguous()),
            builder.pointer(table),
        )  # fmt: skip
        return NativeChain(self.library, chain, self.reader(), RotaryTable(self.angles), builder.kept, weights)

    def norm(self, module: nn.Module) -> Norm:
        """Return the struct of a norm over the trunk's width."""
        return self.layers.norm(module, self.shape.width)

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
            norms = (Norm * reads.count)(*map(self.norm, reads.norms))
            self.builder.kept.append(norms)
            made.norms, made.mix = norms, self.builder.linear(reads.weight)
        return made

    def angles(self, positions: int) -> tuple[Tensor, Tensor]:
        """Return cosines and sines [positions, rotary dim / 2]."""
        every = torch.arange(positions, device="cpu")[None]
        cosines, sines = (x[0, 0] for x in rotary(every, self.shape, torch.float32))
        return cosines[:, : cosines.shape[1] // 2], sines[:, : sines.shape[1] // 2]
