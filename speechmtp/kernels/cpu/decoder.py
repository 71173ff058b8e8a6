"""A decoder's step by one call of the native library (`csrc/step.c`): all layers over the new entries of each row, and
the unembedding."""

import ctypes
import threading
from collections.abc import Iterable, Sequence
from ctypes import byref, c_int32, c_int64
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor

from speechmtp.errors import ShapeError
from speechmtp.kernels.cpu.structs import Attention, Builder, Decoder, Entries, Layer, Linear, Norm, Rotary, Slots

SCREENED_FROM = 64  # choices
KEPT = 1 << 24  # floats of working memory that a thread keeps between calls
_VERSION = attrgetter("_version")
_HERE = threading.local()  # working memory per thread


def working(floats: int) -> int:
    """Return the address of this thread's working memory of at least so many floats, which the next call reuses, or
    frees if it is large and not needed any more."""
    found: Tensor | None = getattr(_HERE, "work", None)
    if found is None or not floats <= found.numel() <= max(floats, KEPT):
        found = _HERE.work = torch.empty(max(floats, 1 << 16), dtype=torch.float32, device="cpu")
    return found.data_ptr()


def fits(values: Tensor) -> bool:
    """Whether native calls can take these values: float32 on a CPU, and no gradients are asked for."""
    return values.dtype == torch.float32 and values.is_cpu and not torch.is_grad_enabled()


def slots_of(pairs: Sequence[tuple[Tensor, Tensor]], first: int) -> Any:
    """Return the slots of each layer's keys and values [R, H, S, d], from row `first` on; [H, S, d] is contiguous or
    cut along S."""
    found = (Slots * len(pairs))()
    for slots, (keys, values) in zip(found, pairs):
        row, head = keys.stride(0), keys.stride(1)
        offset = 4 * first * row
        slots.keys, slots.values = keys.data_ptr() + offset, values.data_ptr() + offset
        slots.row, slots.head = row, head
    return found


def remembered(
    library: ctypes.CDLL, attention: Attention, memory: Tensor, sizes: Sequence[int] | None = None
) -> tuple[Tensor, Tensor]:
    """Return the cross-attention keys and values [B, H, S, d] of encoder outputs [B, S, E]; behind the first `sizes`
    [B] of a row they are 0."""
    memory = memory.contiguous()
    rows, steps, _ = memory.shape
    keys, values = (memory.new_zeros(rows, attention.kv_heads, steps, attention.dim) for _ in range(2))
    work = working(library.speechmtp_cpu_remember_work(byref(attention)))
    library.speechmtp_cpu_remember(
        byref(attention), memory.data_ptr(), rows, steps, (c_int64 * rows)(*(sizes or [steps] * rows)),
        keys.data_ptr(), values.data_ptr(), work,
    )  # fmt: skip
    return keys, values


class NativeDecoder:
    """Layers, the norm behind them and the unembedding, on packed weights. Any number of threads may call it."""

    def __init__(
        self, library: ctypes.CDLL, layers: Sequence[Layer], norm: Norm, unembedding: Linear, builder: Builder,
        rotary: "RotaryTable | None", learned: Tensor | None, output: torch.nn.Linear,
        weights: Sequence[Tensor],
    ) -> None:  # fmt: skip
        self._library, self._builder, self._rotary, self._learned = library, builder, rotary, learned
        self._output, self._choices = output.weight, 0
        self._screened: Any = None
        self._weights, self._outputs = Watched(weights), Watched(output.parameters())
        self.width, self.layers = norm.size, len(layers)
        self.heads, self.dim = layers[0].self_.kv_heads, layers[0].self_.dim
        self._layers = (Layer * len(layers))(*layers)
        self._norm, self._unembedding = norm, unembedding
        self._decoder = self._described()

    def _described(self) -> Decoder:
        rotary = Rotary() if self._rotary is None else self._rotary.struct()
        return Decoder(self.width, self.layers, self._layers, self._norm, rotary)

    def __reduce__(self) -> tuple[Any, ...]:
        """Copies and pickles have None instead: packed weights belong to one process."""
        return type(None), ()

    def knows(self) -> bool:
        """Whether the layers' weights are still those that were packed (changes through `.data` go unseen)."""
        return self._weights.unchanged()

    def knows_output(self) -> bool:
        """The same of the unembedding's weights."""
        return self._outputs.unchanged()

    def extend(
        self, embeddings: Tensor, positions: Tensor, ancestors: Tensor | None, lengths: Tensor, longest: int,
        slots: Any, memory: Any, memory_lengths: Tensor | None, memory_longest: int, taps: tuple[int, ...],
        counts: Tensor | None = None,
    ) -> tuple[Tensor, Tensor | None]:  # fmt: skip
        """Run entries [B, Q, C] at `positions` [B, Q] behind `lengths` [B] committed ones, at most `longest`; return
        the final states [B, Q, C] and the outputs of the layers `taps` [B, Q, n, C]. `slots` and `memory` are
        `slots_of` the cache and of the memory, `ancestors` bool [B, Q, Q]. Only the first `counts` [B] entries of each
        row are computed; the states of others are 0."""
        rows, queries, width = embeddings.shape
        positions, given = positions.contiguous(), embeddings
        if self._learned is not None:
            embeddings = embeddings + self._learned[positions]
        embeddings = embeddings.contiguous()
        ancestors = None if ancestors is None else ancestors.contiguous()
        hidden = embeddings.new_empty(rows, queries, width)  # whatever the default dtype is
        tapped = embeddings.new_empty(rows, queries, len(taps), width) if taps else None
        entries = Entries(
            rows, queries, positions.data_ptr(), lengths.data_ptr(),
            None if memory_lengths is None else memory_lengths.data_ptr(),
            None if ancestors is None else ancestors.data_ptr(), None,
            None if counts is None else counts.data_ptr(),
        )  # fmt: skip
        decoder = self._decoder
        size = self._library.speechmtp_cpu_extend_work(
            byref(decoder), rows * queries, max(longest + queries, memory_longest)
        )
        asked = (
            byref(entries), slots, memory, embeddings.data_ptr(), hidden.data_ptr(), (c_int32 * len(taps))(*taps),
            len(taps), None if tapped is None else tapped.data_ptr(), working(size),
        )  # fmt: skip
        if self._library.speechmtp_cpu_extend(byref(decoder), *asked):
            assert self._rotary is not None
            self._rotary.reach(highest(positions))
            self._decoder = decoder = self._described()
            self._library.speechmtp_cpu_extend(byref(decoder), *asked)
        if tapped is not None and self._learned is not None and 0 in taps:  # heads read embeddings without positions
            tapped[:, :, [i for i, tap in enumerate(taps) if tap == 0]] = given[:, :, None]
        return hidden, tapped

    def remember(self, memory: Tensor, sizes: Sequence[int] | None = None) -> list[tuple[Tensor, Tensor]]:
        """Return every layer's cross-attention keys and values [B, H, S, d] of encoder outputs [B, S, E], of which rows
        have `sizes` [B]."""
        return [remembered(self._library, layer.cross, memory, sizes) for layer in self._layers]

    def unembed(self, hidden: Tensor) -> Tensor:
        """Return logits [..., V] of states [..., C]."""
        return run_linear(self._library, self._unembedding, hidden)

    def choose(self, hidden: Tensor, never: Tensor | None, counts: Tensor | None = None) -> Tensor:
        """Return the tokens [..., P] with the largest logits of states [..., P, C], the lowest of equals; `never` [n]
        are tokens that count as the least probable. Of each P states only the first `counts` [...] are asked for."""
        hidden = hidden.contiguous()
        best = torch.empty(hidden.shape[:-1], dtype=torch.long, device="cpu")
        weights, rows, count = byref(self._unembedding), best.numel(), 0 if never is None else len(never)
        work = working(self._library.speechmtp_cpu_choose_work(weights, rows))
        self._library.speechmtp_cpu_choose(
            weights, self._screen(), hidden.data_ptr(), rows, 1 if counts is None else best.shape[-1],
            None if counts is None else counts.data_ptr(), None if never is None else never.data_ptr(), count,
            best.data_ptr(), work,
        )  # fmt: skip
        return best

    def _screen(self) -> Any:
        """The screen of the unembedding, made once it has been called often enough to be worth it; None before."""
        if self._screened is None:
            self._choices += 1
            if self._choices >= SCREENED_FROM:  # two threads may both make it
                self._screened = byref(self._builder.screen(self._output))
        return self._screened


class Watched:
    """Weights of which something was packed. Inference tensors do not count their changes, and are not watched."""

    def __init__(self, weights: Iterable[Tensor]) -> None:
        self._weights = [weight for weight in weights if not weight.is_inference()]
        self._known = self._changes()

    def _changes(self) -> int:
        return sum(map(_VERSION, self._weights))

    def unchanged(self) -> bool:
        """Whether no weight was changed in place (changes through `.data` go unseen)."""
        return self._known == self._changes()


def highest(*positions: Tensor) -> int:
    """The highest of some positions; ShapeError for one below 0."""
    lowest = min(int(part.min()) for part in positions)
    if lowest < 0:
        raise ShapeError(f"trunk: position {lowest}, expected 0 or more")
    return max(int(part.max()) for part in positions)


def run_linear(library: ctypes.CDLL, weights: Linear, x: Tensor) -> Tensor:
    """Return `weights` applied to x [..., in], float32."""
    x = x.contiguous()
    out = x.new_empty(*x.shape[:-1], weights.outputs)
    library.speechmtp_cpu_linear(byref(weights), x.data_ptr(), x.numel() // weights.inputs, out.data_ptr())
    return out


class RotaryTable:
    """Cosines and sines of positions 0, 1, .., which `angles` gives as [positions, turned / 2] for a number of
    positions; longer when asked. Old tables stay, since other threads may read them."""

    def __init__(self, angles: Any, positions: int = 512) -> None:
        self._angles, self._lock = angles, threading.Lock()
        self._tables: list[tuple[Tensor, Tensor]] = []
        self._size = 0
        self.reach(positions - 1)

    def reach(self, position: int) -> None:
        """Let the table hold this position too."""
        with self._lock:
            if position >= self._size:
                size = max(position + 1, 2 * self._size)
                cosines, sines = self._angles(size)
                self._tables.append((cosines.float().contiguous(), sines.float().contiguous()))
                self._size = size

    def struct(self) -> Rotary:
        """Return the table for the library."""
        cosines, sines = self._tables[-1]
        return Rotary(cosines.data_ptr(), sines.data_ptr(), len(cosines))
