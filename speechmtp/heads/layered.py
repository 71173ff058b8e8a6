"""What families with layers of their own share while decoding: fresh entries, keys and values, ragged rows."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from speechmtp.heads.contract import HeadState
from speechmtp.heads.decoder_layer import DecoderLayer, Memory, Store
from speechmtp.models.cache import MemorySlots, RaggedCache, RaggedLayer
from speechmtp.types import States


@dataclass
class Fresh:
    """Committed entries whose keys are not final yet, `count` [B] a row, rubbish behind: fused trunk states
    `hidden` [B, A, C], embeddings `nexts` [B, A, C] of the entries that follow each (the last one's is known
    when the next base token is), `positions` [B, A]."""

    hidden: Tensor
    nexts: Tensor
    positions: Tensor
    count: Tensor
    counts: list[int]  # the same, on the host

    @cached_property
    def last(self) -> Tensor:
        """Index [B] of each row's last entry."""
        return (self.count - 1).clamp_min(0)

    def select(self, rows: Tensor) -> "Fresh":
        """These rows, in this order."""
        at, counts = rows.to(self.count.device), [self.counts[row] for row in rows.tolist()]
        return Fresh(self.hidden[at], self.nexts[at], self.positions[at], self.count[at], counts)

    def join(self, other: "Fresh") -> "Fresh":
        """Another's rows behind these."""
        size = max(self.hidden.shape[1], other.hidden.shape[1])
        pairs = zip((self.hidden, self.nexts, self.positions), (other.hidden, other.nexts, other.positions))
        hidden, nexts, positions = (torch.cat([_wide(a, size), _wide(b, size)]) for a, b in pairs)
        return Fresh(hidden, nexts, positions, torch.cat([self.count, other.count]), [*self.counts, *other.counts])


def _wide(values: Tensor, size: int) -> Tensor:
    """Values [B, A, ...] with zeros up to A = `size`."""
    room = (0, 0) * (values.dim() - 2) + (0, size - values.shape[1])
    return F.pad(values, room) if size > values.shape[1] else values


@dataclass
class LayeredState(HeadState):
    """Keys and values of committed entries, slot j for entry j of the trunk; `fresh` ones are written by the
    next draft and committed by the next `advance`."""

    cache: RaggedCache = field(default_factory=lambda: RaggedCache(0, 0))
    memory: list[Memory | None] = field(default_factory=list)  # a layer
    fresh: Fresh | None = None
    level: int = 0  # the deepest level asked for since `advance`
    audio: MemorySlots | None = None  # where `memory` lives

    def remember(self, layers: Sequence[DecoderLayer], memory: Tensor | None, lengths: Tensor | None) -> None:
        """Keys and values of each row's audio [B, S, E] for these layers, in slots of their own."""
        found = [layer.remember(memory, lengths) for layer in layers]
        states = [(part.keys, part.values) for part in found if part is not None]
        if memory is None or not states:
            self.memory = found
            return
        self.audio = MemorySlots(len(states))
        self.audio.join(states, [memory.shape[1]] * len(memory) if lengths is None else lengths.tolist())
        self._view()

    def _view(self) -> None:
        if self.audio is not None:
            views, seen = self.audio.of(0, len(self.audio.known))
            self.memory = [Memory(k, v, None if seen is None else seen[:, None, None]) for k, v in views]

    def select(self, rows: Tensor | Sequence[int]) -> None:
        """Keep these rows, in this order."""
        super().select(rows)
        self.cache.select(rows)
        if self.audio is not None:
            self.audio.select(rows.tolist() if isinstance(rows, Tensor) else rows)
            self._view()

    def take(self, rows: Sequence[int]) -> "LayeredState":
        """A state of copies of these rows."""
        other = super().take(rows)
        assert isinstance(other, LayeredState)
        other.cache = self.cache.take(rows)
        other.audio = None if self.audio is None else self.audio.take(rows)
        other._view()
        return other

    def pick(self, rows: Tensor) -> None:
        """Keep these rows of all that is replaced, not written into."""
        super().pick(rows)
        self.fresh = None if self.fresh is None else self.fresh.select(rows)

    def join(self, other: Any) -> None:
        """Another state's rows behind these."""
        super().join(other)
        self.cache.join(other.cache)
        self.fresh = None if self.fresh is None or other.fresh is None else self.fresh.join(other.fresh)
        if self.audio is not None and other.audio is not None:
            self.audio.add(other.audio)
            self._view()

    def places_ahead(self, count: int) -> Tensor:
        """Positions [B, count] of the entries behind each row's last committed one."""
        if self.ahead is not None:
            return self.ahead(count)
        assert self.fresh is not None
        last = self.fresh.positions.gather(1, self.fresh.last[:, None])
        return last + torch.arange(1, count + 1, device=last.device)

    def store(self, layer: int) -> Store:
        """Writes a layer's keys and values behind the committed ones (`cache.begin` has said where)."""
        slots = self.cache.layers[layer]
        assert isinstance(slots, RaggedLayer)
        update: Store = slots.update
        return update


def take_fresh(
    fuse: Callable[[States], Tensor], states: States, inputs: Tensor, positions: Tensor, keep: Tensor, count: Tensor,
    counts: Sequence[int] | None = None,
) -> Fresh:  # fmt: skip
    """The entries that a call committed (see `HeadSet.advance`)."""
    known = count.tolist() if counts is None else list(counts)
    index = keep[:, : max(1, *known)]
    rows = torch.arange(len(index), device=index.device)[:, None]
    taps = None if states.taps is None else states.taps[rows, index]
    hidden = fuse(States(states.hidden[rows, index], taps))
    embedded = inputs[rows, index]
    nexts = torch.cat([embedded[:, 1:], embedded[:, -1:]], 1)
    return Fresh(hidden, nexts, positions.gather(1, index), count, known)


def at(values: Tensor, index: Tensor) -> Tensor:
    """Rows [B, C] of values [B, A, C] at index [B]."""
    return values[torch.arange(len(values), device=values.device), index]
