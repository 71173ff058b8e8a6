"""Ragged key-value cache: rows of different lengths in preallocated slots, no padding, no copies.

A call writes its Q entries of row b from `lengths[b]` on; lengths move only on commit, so what was
rejected is overwritten by the next call.
"""

from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin

from speechmtp.errors import ShapeError


class RaggedLayer(CacheLayerMixin):
    """Slots [B, H, S, d] of one layer; where to write and how wide to read is the cache's to say."""

    is_sliding = False

    def __init__(self, cache: "RaggedCache") -> None:
        super().__init__()
        self._cache = cache

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Allocate the slots with the first keys and values."""
        rows, heads, _, width = key_states.shape
        self.keys = key_states.new_zeros(rows, heads, self._cache.capacity, width)
        self.values = value_states.new_zeros(rows, heads, self._cache.capacity, value_states.shape[-1])
        self.is_initialized = True

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Write [B, H, Q, d] behind every row's committed entries; a view of the width in use comes back."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        assert self.keys is not None and self.values is not None
        if self.keys.shape[2] < self._cache.capacity:
            self._grow(self._cache.capacity)
        start, width = self._cache.start, self._cache.width
        if start is not None:
            self.keys[:, :, start:width] = key_states
            self.values[:, :, start:width] = value_states
        else:
            rows, slots = self._cache.rows, self._cache.slots
            self.keys[rows, :, slots] = key_states.transpose(1, 2)
            self.values[rows, :, slots] = value_states.transpose(1, 2)
        return self.keys[:, :, :width], self.values[:, :, :width]

    def _grow(self, capacity: int) -> None:
        assert self.keys is not None and self.values is not None
        extra = capacity - self.keys.shape[2]
        self.keys = torch.nn.functional.pad(self.keys, (0, 0, 0, extra))
        self.values = torch.nn.functional.pad(self.values, (0, 0, 0, extra))

    def move(self, source: Tensor, target: Tensor) -> None:
        """Copy entries of slots `source` [B, A] to slots `target` [B, A]."""
        assert self.keys is not None and self.values is not None
        for states in (self.keys, self.values):
            if len(source) == 1:  # half the time
                states.index_copy_(2, target[0], states.index_select(2, source[0]))
            else:
                states[self._cache.rows, :, target] = states[self._cache.rows, :, source]

    def select(self, rows: Tensor) -> None:
        """Keep these rows, in this order."""
        if self.is_initialized:
            assert self.keys is not None and self.values is not None
            self.keys, self.values = self.keys.index_select(0, rows), self.values.index_select(0, rows)

    def get_mask_sizes(self, query_length: int | Tensor) -> tuple[int, int]:
        """Width and offset of a mask; the trunk always gets its mask ready-made."""
        return self._cache.width, 0

    def get_seq_length(self) -> int:
        """The longest committed length."""
        return self._cache.longest

    def get_query_offset(self) -> int:
        """The longest committed length; positions are always given."""
        return self._cache.longest

    def get_max_length(self) -> int:
        """No maximum: capacity doubles."""
        return -1

    def get_max_cache_shape(self) -> int:
        """The same under its older name."""
        return -1


class RaggedCache(Cache):
    """All layers of a trunk; `lengths` [B] are the committed entries of each row."""

    def __init__(self, layers: int, rows: int, device: torch.device | str = "cpu", capacity: int = 128) -> None:
        super().__init__(layers=[RaggedLayer(self) for _ in range(layers)])
        self.capacity = capacity
        self.lengths = torch.zeros(rows, dtype=torch.long, device=device)
        self.longest = 0
        self.width = 0
        self.start: int | None = 0  # where all rows write, if they write at one place
        self.rows = torch.arange(rows, device=device)[:, None]
        self.slots = self.rows[:, :0]  # [B, Q] where they write, if not

    def begin(self, queries: int) -> None:
        """Fix where the next call's `queries` entries of each row go."""
        lengths = self.lengths.tolist()  # the one place where lengths reach the host
        self.longest = max(lengths, default=0)
        self.start = self.longest if min(lengths, default=0) == self.longest else None
        self.width = self.longest + queries
        if self.start is None:
            self.slots = self.lengths[:, None] + torch.arange(queries, device=self.lengths.device)
        while self.capacity < self.width:
            self.capacity *= 2

    def commit(self, count: Tensor, path: Tensor | None = None) -> None:
        """Keep `count` [B] entries of the last call: the first ones, or those at `path` [B, A] (indices into
        the call, increasing along a row; anything past a row's count)."""
        if count.shape != self.lengths.shape:
            raise ShapeError(f"cache: count {tuple(count.shape)}, expected {tuple(self.lengths.shape)}")
        if path is not None:
            # Past a row's count the target is the source: nothing moves.
            width = path.shape[1]
            rows = [[*row[:kept], *range(kept, width)] for row, kept in zip(path.tolist(), count.tolist())]
            moved = [i for i in range(width) if any(row[i] != i for row in rows)]
            if moved:
                sources = [[row[i] for i in moved] for row in rows]
                source, target = (self.lengths[:, None] + count.new_tensor(one) for one in (sources, moved))
                for layer in self.layers:
                    assert isinstance(layer, RaggedLayer)
                    layer.move(source, target)
        self.lengths = self.lengths + count

    def select(self, rows: Tensor) -> None:
        """Keep these rows, in this order."""
        self.lengths, self.rows = self.lengths[rows], torch.arange(len(rows), device=rows.device)[:, None]
        for layer in self.layers:
            assert isinstance(layer, RaggedLayer)
            layer.select(rows)
