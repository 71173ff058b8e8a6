"""Drafts of chained heads by one call of the native library (`csrc/chain.c`)."""

import ctypes
from collections.abc import Sequence
from ctypes import byref
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from speechmtp.kernels.cpu.decoder import RotaryTable, Watched, highest, remembered, working
from speechmtp.kernels.cpu.structs import Chain, Fresh, Reader


@dataclass(frozen=True)
class Drawn:
    """How a draft is drawn: `noise` [B, D, V] float32 is added to logits that are divided by `temperature` and of which
    the `top_k` largest stay (0: all)."""

    noise: Tensor
    temperature: float = 1.0
    top_k: int = 0


class NativeChain:
    """Chained heads with one shared layer, on packed weights. Any number of threads may call it."""

    def __init__(
        self, library: ctypes.CDLL, chain: Chain, reader: Reader, rotary: RotaryTable, kept: list[Any],
        weights: Sequence[Tensor],
    ) -> None:  # fmt: skip
        self._library, self._chain, self._rotary, self._kept = library, chain, rotary, kept
        self._weights = Watched(weights)
        self._reader = reader
        self._chain.rotary = rotary.struct()
        self.heads, self.dim = chain.layer.self_.kv_heads, chain.layer.self_.dim

    def __reduce__(self) -> tuple[Any, ...]:
        """Copies and pickles have None instead: packed weights belong to one process."""
        return type(None), ()

    def knows(self) -> bool:
        """Whether the weights are still those that were packed (changes through `.data` go unseen)."""
        return self._weights.unchanged()

    def remember(self, memory: Tensor) -> tuple[Tensor, Tensor]:
        """Return the layer's cross-attention keys and values [B, H, S, d] of encoder outputs [B, S, E]."""
        return remembered(self._library, self._chain.layer.cross, memory)

    def take(self, taps: Tensor, inputs: Tensor, keep: Tensor, taken: int) -> tuple[Tensor, Tensor]:
        """Return the fused states and the embeddings that follow, [B, taken, C], of the entries `keep` [B, K] of a
        call; `taps` [B, Q, n, C] end with the last layer's outputs, `inputs` [B, Q, C]."""
        taps, inputs = taps.contiguous(), inputs.contiguous()
        keep = keep.contiguous()
        rows, queries, width = inputs.shape
        hidden, nexts = (inputs.new_empty(rows, taken, width) for _ in range(2))
        size = rows * taken * self._reader.count * width
        self._library.speechmtp_cpu_fuse(
            byref(self._reader), rows, queries, taken, keep.data_ptr(), keep.shape[1], taps.data_ptr(),
            inputs.data_ptr(), hidden.data_ptr(), nexts.data_ptr(), working(size),
        )  # fmt: skip
        return hidden, nexts

    def draft(
        self, hidden: Tensor, nexts: Tensor, positions: Tensor, counts: Tensor, lengths: Tensor, longest: int,
        slots: Any, memory: Any, memory_lengths: Tensor | None, memory_longest: int, base: Tensor, ahead: Tensor,
        theta: float | None, product: bool, hints: Tensor | None = None, drawn: Drawn | None = None,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        """Draft behind `counts` [B] fresh entries of each row: `hidden` and `nexts` [B, A, C], `positions` [B, A],
        which follow `lengths` [B] committed ones. `base` [B] are the base tokens, `ahead` [B, D] the positions of what
        follows, `hints` [B, D, C] those of the base token and of what follows it. Return tokens and confidences
        [B, D'], of fewer depths than D where no row reaches `theta` any more."""
        rows, entries, _ = hidden.shape
        depth = ahead.shape[1]
        kept = [x.contiguous() for x in (hidden, nexts, positions, counts, lengths, base, ahead)]
        hidden, nexts, positions, counts, lengths, base, ahead = kept
        tokens = base.new_empty(rows, depth)
        confidence = hidden.new_empty(rows, depth)
        hints = None if hints is None else hints.to(hidden.dtype).contiguous()
        noise = None if drawn is None else drawn.noise.to(hidden.dtype).contiguous()
        fresh = Fresh(
            rows, entries, depth, hidden.data_ptr(), nexts.data_ptr(), positions.data_ptr(), counts.data_ptr(),
            lengths.data_ptr(), None if memory_lengths is None else memory_lengths.data_ptr(), base.data_ptr(),
            ahead.data_ptr(), None if hints is None else hints.data_ptr(), None if noise is None else noise.data_ptr(),
            0 if noise is None else noise.shape[2], 0 if drawn is None else drawn.top_k,
            1.0 if drawn is None else drawn.temperature, -1.0 if theta is None else theta, product,
        )  # fmt: skip
        chain = self._chain
        size = self._library.speechmtp_cpu_chain_work(
            byref(chain), rows, entries, max(longest + entries + depth, memory_longest)
        )
        asked = byref(fresh), slots, memory, tokens.data_ptr(), confidence.data_ptr(), working(size)
        drafted = self._library.speechmtp_cpu_chain(byref(chain), *asked)
        if drafted < 0:
            self._rotary.reach(highest(positions, ahead))
            chain = Chain.from_buffer_copy(chain)  # other threads may be reading the old one
            chain.rotary = self._rotary.struct()
            self._chain = chain
            drafted = self._library.speechmtp_cpu_chain(byref(chain), *asked)
        return tokens[:, :drafted], confidence[:, :drafted]
