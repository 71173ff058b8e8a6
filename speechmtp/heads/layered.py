"""What families with layers of their own share while decoding: fresh entries, keys and values, ragged rows."""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from speechmtp.heads.contract import HeadState
from speechmtp.heads.decoder_layer import Memory, Store
from speechmtp.models.cache import RaggedCache, RaggedLayer
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

    @property
    def last(self) -> Tensor:
        """Index [B] of each row's last entry."""
        return (self.count - 1).clamp_min(0)

    def select(self, rows: Tensor) -> "Fresh":
        """These rows, in this order."""
        return Fresh(self.hidden[rows], self.nexts[rows], self.positions[rows], self.count[rows])


@dataclass
class LayeredState(HeadState):
    """Keys and values of committed entries, slot j for entry j of the trunk; `fresh` ones are written by the
    next draft and committed by the next `advance`."""

    cache: RaggedCache = field(default_factory=lambda: RaggedCache(0, 0))
    memory: list[Memory | None] = field(default_factory=list)  # a layer
    fresh: Fresh | None = None
    level: int = 0  # the deepest level asked for since `advance`

    def select(self, rows: Tensor) -> None:
        """Keep these rows, in this order."""
        super().select(rows)
        self.cache.select(rows)
        self.fresh = None if self.fresh is None else self.fresh.select(rows)
        self.memory = [
            None if m is None else Memory(m.keys[rows], m.values[rows], None if m.seen is None else m.seen[rows])
            for m in self.memory
        ]

    def store(self, layer: int) -> Store:
        """Writes a layer's keys and values behind the committed ones (`cache.begin` has said where)."""
        slots = self.cache.layers[layer]
        assert isinstance(slots, RaggedLayer)
        update: Store = slots.update
        return update


def take_fresh(
    fuse: Callable[[States], Tensor], states: States, inputs: Tensor, positions: Tensor, keep: Tensor, count: Tensor
) -> Fresh:
    """The entries that a call committed (see `HeadSet.advance`)."""
    size = max(1, int(count.max()))
    index = keep[:, :size]
    rows = torch.arange(len(index), device=index.device)[:, None]
    taps = None if states.taps is None else states.taps[rows, index]
    hidden = fuse(States(states.hidden[rows, index], taps))
    embedded = inputs[rows, index]
    nexts = torch.cat([embedded[:, 1:], embedded[:, -1:]], 1)
    return Fresh(hidden, nexts, positions.gather(1, index), count)


def at(values: Tensor, index: Tensor) -> Tensor:
    """Rows [B, C] of values [B, A, C] at index [B]."""
    return values[torch.arange(len(values), device=values.device), index]
