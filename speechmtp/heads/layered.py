"""Decoding state shared by families with layers: fresh entries, keys and values, ragged rows."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from speechmtp.heads.contract import HeadState
from speechmtp.heads.decoder_layer import DecoderLayer, Memory, Store
from speechmtp.kernels.cpu.chain import NativeChain
from speechmtp.models.cache import RaggedCache, RaggedLayer
from speechmtp.models.memory_cache import MemorySlots
from speechmtp.types import States


@dataclass
class Fresh:
    """Entries that the trunk has committed but the heads' cache has not: `count` [B] per row, undefined values after
    them. `hidden` [B, A, C] are fused trunk states, `nexts` [B, A, C] the embeddings of the entries after each (of the
    last one only once the next base token is known), `positions` [B, A]."""

    hidden: Tensor
    nexts: Tensor
    positions: Tensor
    count: Tensor
    counts: list[int]  # `count` on the host

    @cached_property
    def last(self) -> Tensor:
        """Index [B] of each row's last fresh entry (0 without any)."""
        return (self.count - 1).clamp_min(0)

    def select(self, rows: Tensor) -> "Fresh":
        """Return these rows, in this order."""
        at, counts = rows.to(self.count.device), [self.counts[row] for row in rows.tolist()]
        return Fresh(self.hidden[at], self.nexts[at], self.positions[at], self.count[at], counts)

    def join(self, other: "Fresh") -> "Fresh":
        """Return these rows, followed by another's."""
        size = max(self.hidden.shape[1], other.hidden.shape[1])
        pairs = zip((self.hidden, self.nexts, self.positions), (other.hidden, other.nexts, other.positions))
        hidden, nexts, positions = (torch.cat([_wide(a, size), _wide(b, size)]) for a, b in pairs)
        return Fresh(hidden, nexts, positions, torch.cat([self.count, other.count]), [*self.counts, *other.counts])


def _wide(values: Tensor, size: int) -> Tensor:
    """Pad values [B, A, ...] with zeros up to A = `size`."""
    room = (0, 0) * (values.dim() - 2) + (0, size - values.shape[1])
    return F.pad(values, room) if size > values.shape[1] else values


@dataclass
class LayeredState(HeadState):
    """Keys and values of committed entries, in slot j for entry j of the trunk. Those of `fresh` entries are written by
    the next draft and committed by the next `advance`."""

    cache: RaggedCache = field(default_factory=lambda: RaggedCache(0, 0))
    memory: list[Memory | None] = field(default_factory=list)  # for each layer
    fresh: Fresh | None = None
    level: int = 0  # the deepest level expanded since `advance`
    audio: MemorySlots | None = None  # the storage of which `memory` holds views

    def remember(
        self, layers: Sequence[DecoderLayer], memory: Tensor | None, lengths: Tensor | Sequence[int] | None,
        native: NativeChain | None = None,
    ) -> None:  # fmt: skip
        """Compute and keep these layers' cross-attention keys and values of the rows' encoder outputs [B, S, E], by
        `native` if given."""
        if native is not None and memory is not None and layers[0].shape.memory_width is not None:
            found: list[Memory | None] = [Memory(*native.remember(memory), None)]
        else:
            found = [layer.remember(memory, None) for layer in layers]
        states = [(part.keys, part.values) for part in found if part is not None]
        if memory is None or not states:
            self.memory = found
            return
        self.audio = MemorySlots(len(states))
        known = lengths.tolist() if isinstance(lengths, Tensor) else lengths
        self.audio.join(states, [memory.shape[1]] * len(memory) if known is None else list(known))
        self._view()

    def _view(self) -> None:
        if self.audio is not None:
            views, seen = self.audio.of(0, len(self.audio.known))
            self.memory = [Memory(k, v, None if seen is None else seen[:, None, None]) for k, v in views]

    def select(self, rows: Tensor | Sequence[int]) -> None:
        """Keep only these rows, in this order."""
        super().select(rows)
        self.cache.select(rows)
        if self.audio is not None:
            self.audio.select(rows.tolist() if isinstance(rows, Tensor) else rows)
            self._view()

    def take(self, rows: Sequence[int]) -> "LayeredState":
        """Return a new state with copies of these rows."""
        other = super().take(rows)
        assert isinstance(other, LayeredState)
        other.cache = self.cache.take(rows)
        other.audio = None if self.audio is None else self.audio.take(rows)
        other._view()
        return other

    def pick(self, rows: Tensor) -> None:
        """Keep only these rows, in tensors that calls replace (not in caches, which calls write into)."""
        super().pick(rows)
        self.fresh = None if self.fresh is None else self.fresh.select(rows)

    def join(self, other: Any) -> None:
        """Append the rows of another state."""
        super().join(other)
        self.cache.join(other.cache)
        self.fresh = None if self.fresh is None or other.fresh is None else self.fresh.join(other.fresh)
        if self.audio is not None and other.audio is not None:
            self.audio.add(other.audio)
            self._view()

    def places_ahead(self, count: int) -> Tensor:
        """Return the positions [B, count] of the entries after each row's last committed one."""
        if self.ahead is not None:
            return self.ahead(count)
        assert self.fresh is not None
        last = self.fresh.positions.gather(1, self.fresh.last[:, None])
        return last + torch.arange(1, count + 1, device=last.device)

    def store(self, layer: int) -> Store:
        """Return the function that writes a layer's keys and values to the slots that `cache.begin` chose."""
        slots = self.cache.layers[layer]
        assert isinstance(slots, RaggedLayer)
        update: Store = slots.update
        return update


def take_fresh(
    fuse: Callable[[States], Tensor], states: States, inputs: Tensor, positions: Tensor, keep: Tensor, count: Tensor,
    counts: Sequence[int] | None = None,
) -> Fresh:  # fmt: skip
    """Collect the entries that a call committed (arguments as in `HeadSet.advance`)."""
    known = count.tolist() if counts is None else list(counts)
    index = keep[:, : max(1, *known)]
    rows = torch.arange(len(index), device=index.device)[:, None]
    taps = None if states.taps is None else states.taps[rows, index]
    hidden = fuse(States(states.hidden[rows, index], taps))
    embedded = inputs[rows, index]
    nexts = torch.cat([embedded[:, 1:], embedded[:, -1:]], 1)
    return Fresh(hidden, nexts, positions.gather(1, index), count, known)


def at(values: Tensor, index: Tensor) -> Tensor:
    """Return values [B, C] at index [B] of values [B, A, C]."""
    return values[torch.arange(len(values), device=values.device), index]
