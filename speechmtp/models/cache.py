"""Ragged key-value cache: rows of different lengths in preallocated slots, without padding.

A call writes its Q entries of row b from `lengths[b]` on. Lengths change only on commit, so rejected entries are
overwritten by the next call. Rows can be appended, removed, and copied into a cache of their own. The host keeps its
own count of the lengths, so that no call waits for a device tensor.
"""

import weakref
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from speechmtp.errors import ShapeError


class RaggedLayer:
    """Key and value slots [R, H, S, d] of one layer; the owning cache decides which rows and slots a call uses."""

    is_sliding = False

    def __init__(self, cache: "RaggedCache") -> None:
        self.keys: Tensor | None = None
        self.values: Tensor | None = None
        self.is_initialized = False
        self._owner = weakref.ref(cache)  # weak, so that no reference cycle delays the freeing of a cache

    @property
    def _cache(self) -> "RaggedCache":
        owner = self._owner()
        assert owner is not None
        return owner

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Allocate the slots when the first keys and values arrive."""
        _, heads, _, width = key_states.shape
        self.keys = key_states.new_zeros(self._cache.slots, heads, self._cache.capacity, width)
        self.values = value_states.new_zeros(self._cache.slots, heads, self._cache.capacity, value_states.shape[-1])
        self.is_initialized = True

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Write keys and values [B, H, Q, d] after each row's committed entries; return views of the width in use."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        cache = self._cache
        self.reserve(cache.slots, cache.capacity)
        keys, values = self.keys, self.values
        assert keys is not None and values is not None
        first, last, start, width = cache.first, cache.last, cache.start, cache.width
        if start is not None:
            keys[first:last, :, start:width] = key_states
            values[first:last, :, start:width] = value_states
        else:
            keys[cache.rows, :, cache.places] = key_states.transpose(1, 2)
            values[cache.rows, :, cache.places] = value_states.transpose(1, 2)
        return keys[first:last, :, :width], values[first:last, :, :width]

    def room(self, like: Tensor, heads: int, dim: int) -> tuple[Tensor, Tensor]:
        """Return keys and values [R, H, S, d] of all slots, with room for the call that `begin` chose; they are
        allocated like `like`."""
        if not self.is_initialized:
            self.lazy_initialization(*[like.new_empty(1, heads, 1, dim)] * 2)
        self.reserve(self._cache.slots, self._cache.capacity)
        assert self.keys is not None and self.values is not None
        if self.keys.dtype != like.dtype or self.values.dtype != like.dtype:  # modules wrote them under autocast
            self.keys, self.values = self.keys.to(like.dtype), self.values.to(like.dtype)
        return self.keys, self.values

    def view(self) -> tuple[Tensor, Tensor]:
        """Return keys and values [B, H, width, d] of the rows in focus, as the last `update` did."""
        assert self.keys is not None and self.values is not None
        rows, width = slice(self._cache.first, self._cache.last), self._cache.width
        return self.keys[rows, :, :width], self.values[rows, :, :width]

    def reserve(self, slots: int, capacity: int) -> None:
        """Grow to at least `slots` rows of `capacity` entries."""
        assert self.keys is not None and self.values is not None
        more, longer = max(0, slots - self.keys.shape[0]), max(0, capacity - self.keys.shape[2])
        if more or longer:
            room = (0, 0, 0, longer, 0, 0, 0, more)
            self.keys = torch.nn.functional.pad(self.keys, room)
            self.values = torch.nn.functional.pad(self.values, room)

    def move(self, source: Tensor, target: Tensor) -> None:
        """Copy the entries at slots `source` [B, A] to slots `target` [B, A]."""
        assert self.keys is not None and self.values is not None
        cache = self._cache
        for states in (self.keys, self.values):
            if len(source) == 1:  # takes half the time of the general case
                row = states[cache.first : cache.last]
                row.index_copy_(2, target[0], row.index_select(2, source[0]))
            else:
                states[cache.rows, :, target] = states[cache.rows, :, source]

    def copied(self, rows: Tensor, width: int) -> tuple[Tensor, Tensor] | None:
        """Return keys and values [n, H, width, d] of the given rows; None before the first call."""
        if not self.is_initialized:
            return None
        self.reserve(self._cache.slots, self._cache.capacity)  # appended rows may have written nothing yet
        assert self.keys is not None and self.values is not None
        return self.keys[rows, :, :width], self.values[rows, :, :width]

    def put(self, first: int, states: tuple[Tensor, Tensor] | None) -> None:
        """Write keys and values [n, H, W, d] into the rows from `first` on; None writes nothing."""
        if states is None:
            return
        rows, _, width, _ = states[0].shape
        cache = self._cache
        cache.fit(width)
        if not self.is_initialized:
            self.lazy_initialization(*states)
        self.reserve(cache.slots, cache.capacity)
        assert self.keys is not None and self.values is not None
        self.keys[first : first + rows, :, :width] = states[0]
        self.values[first : first + rows, :, :width] = states[1]

    def clear(self, first: int, last: int) -> None:
        """Zero the rows `first` to `last` - 1. The mask hides the values of an earlier row, but not NaN or infinity."""
        if self.is_initialized and self.keys is not None and self.values is not None:
            self.keys[first:last] = 0
            self.values[first:last] = 0

    def release(self) -> None:
        """Free all slots."""
        self.keys = self.values = None
        self.is_initialized = False

    def get_mask_sizes(self, query_length: int | Tensor) -> tuple[int, int]:
        """Return width and offset of a mask, for transformers; the trunk always passes a complete mask."""
        return self._cache.width, 0

    def get_seq_length(self) -> int:
        """Return the longest committed length."""
        return self._cache.longest

    def get_query_offset(self) -> int:
        """Return the longest committed length, for transformers; the trunk always passes positions."""
        return self._cache.longest

    def get_max_length(self) -> int:
        """Return -1: there is no maximum, since the capacity doubles as needed."""
        return -1

    def get_max_cache_shape(self) -> int:
        """Return the same as `get_max_length`, under the older name."""
        return -1


class RaggedCache:
    """The cache of all layers of a trunk; trunks of transformers' models make a `HubCache` (models/hub_cache.py).

    `known` are the numbers of committed entries of each row, on the host. A call runs over the rows in focus, `first`
    to `last` - 1 (all rows at first); `lengths` [B] are their committed lengths as a tensor.
    """

    layer_type: ClassVar[type[RaggedLayer]] = RaggedLayer

    def __init__(
        self, layers: int, rows: int, device: torch.device | str = "cpu", capacity: int = 128, slots: int = 0
    ) -> None:
        self.layers: list[Any] = [self.layer_type(self) for _ in range(layers)]
        self._min_capacity = self.capacity = capacity
        self.slots = max(slots, rows)
        self.device = torch.device(device)
        self.known = [0] * rows
        self.longest = 0
        self.width = 0
        self.start: int | None = 0  # the slot at which all rows write; None if it differs between rows
        self.places = torch.empty(0, dtype=torch.long)  # [B, Q] slots to write, if `start` is None
        self.focus(0, rows)

    def focus(self, first: int, last: int) -> None:
        """Let the next calls run over the rows `first` to `last` - 1."""
        self.first, self.last = first, last
        self._lengths: Tensor | None = None
        self._rows: Tensor | None = None

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *_: Any, **__: Any
    ) -> tuple[Tensor, Tensor]:
        """Write keys and values of a layer, as `RaggedLayer.update` does."""
        written: tuple[Tensor, Tensor] = self.layers[layer_idx].update(key_states, value_states)
        return written

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Return the longest committed length, for transformers; the trunk always passes positions."""
        return self.longest

    @property
    def lengths(self) -> Tensor:
        """Numbers of committed entries [B] of the rows in focus."""
        if self._lengths is None:
            self._lengths = torch.tensor(self.known[self.first : self.last], dtype=torch.long, device=self.device)
        return self._lengths

    @property
    def count(self) -> int:
        """Number of rows in focus."""
        return self.last - self.first

    @property
    def rows(self) -> Tensor:
        """Indices [B, 1] of the rows in focus."""
        if self._rows is None:
            self._rows = torch.arange(self.first, self.last, device=self.device)[:, None]
        return self._rows

    def begin(self, queries: int) -> None:
        """Choose the slots for the `queries` entries per row of the next call."""
        lengths = self.known[self.first : self.last]
        self.longest = max(lengths, default=0)
        self.start = self.longest if min(lengths, default=0) == self.longest else None
        self.width = self.longest + queries
        if self.start is None:
            self.places = self.lengths[:, None] + torch.arange(queries, device=self.device)
        self.fit(self.width)

    def room(self, like: Tensor, heads: int, dim: int) -> list[tuple[Tensor, Tensor]]:
        """Return keys and values [R, H, S, d] of every layer, with room for the call that `begin` chose."""
        return [layer.room(like, heads, dim) for layer in self._each()]

    def fit(self, width: int) -> None:
        """Double the capacity until a row has room for `width` entries."""
        while self.capacity < width:
            self.capacity *= 2

    def commit(self, count: Tensor | Sequence[int], path: Tensor | Sequence[Sequence[int]] | None = None) -> None:
        """Commit `count` [B] entries per row of the last call: the first ones, or those at `path` [B, A].

        `path` are indices into the call, increasing along a row; values past a row's count are ignored. Plain numbers
        avoid a read from the device. ShapeError if `count` does not have one number per row in focus.
        """
        counts = count.tolist() if isinstance(count, Tensor) else list(count)
        if len(counts) != self.count:
            raise ShapeError(f"cache: count of {len(counts)} rows, expected {self.count}")
        if path is not None:
            self._gather(counts, path.tolist() if isinstance(path, Tensor) else path)
        for row, kept in enumerate(counts, self.first):
            self.known[row] += kept
        self._lengths = None

    def _gather(self, counts: Sequence[int], path: Sequence[Sequence[int]]) -> None:
        """Move each row's kept entries to the first slots that the call wrote."""
        # Past a row's count the target is the source: nothing moves.
        width = max(map(len, path), default=0)
        rows = [[*row[:kept], *range(kept, width)] for row, kept in zip(path, counts)]
        moved = [i for i in range(width) if any(row[i] != i for row in rows)]
        if not moved:
            return
        sources = torch.tensor([[row[i] for i in moved] for row in rows], device=self.device)
        source, target = (self.lengths[:, None] + at for at in (sources, torch.tensor(moved, device=self.device)))
        for layer in self._each():
            layer.move(source, target)

    def rewind(self, lengths: Sequence[int]) -> None:
        """Set the committed lengths of the rows in focus, which drops the entries past them."""
        self.known[self.first : self.last] = lengths
        self._lengths = None

    def add(self, rows: int) -> None:
        """Append `rows` empty rows and focus on them."""
        first = len(self.known)
        for layer in self._each():
            layer.clear(first, first + rows)
        self.known += [0] * rows
        while self.slots < len(self.known):
            self.slots = max(2 * self.slots, 1)
        self.focus(first, len(self.known))

    def select(self, rows: Tensor | Sequence[int]) -> None:
        """Keep only these rows, in this order, and focus on all of them. An empty selection frees all memory."""
        kept = rows.tolist() if isinstance(rows, Tensor) else list(rows)
        same = next((i for i, row in enumerate(kept) if row != i), len(kept))  # those before it do not move
        index = torch.tensor(kept[same:], dtype=torch.long, device=self.device)
        for layer in self._each() if len(index) else ():
            layer.put(same, layer.copied(index, self._used))
        self.known = [self.known[row] for row in kept]
        if not kept:
            self.width, self.capacity = 0, self._min_capacity
            for layer in self._each():
                layer.release()
        self.focus(0, len(kept))

    def take(self, rows: Sequence[int]) -> "RaggedCache":
        """Return a new cache with copies of these rows."""
        other = type(self)(len(self.layers), len(rows), self.device, self.capacity)
        self._copy(other, rows)
        return other

    def _copy(self, other: "RaggedCache", rows: Sequence[int]) -> None:
        index = torch.tensor(list(rows), dtype=torch.long, device=self.device)
        other.known, other.width = [self.known[row] for row in rows], self._used
        for mine, theirs in zip(self._each(), other._each()):
            theirs.put(0, mine.copied(index, self._used))

    def join(self, other: "RaggedCache") -> None:
        """Append copies of all rows of another cache of the same layers; focus on all rows."""
        first, width = len(self.known), other._used
        self.capacity = max(self.capacity, other.capacity)
        self.add(len(other.known))
        self.known[first:] = other.known
        index = torch.arange(len(other.known), device=self.device)
        for mine, theirs in zip(self._each(), other._each()):
            mine.put(first, theirs.copied(index, width))
        self.focus(0, len(self.known))

    @property
    def _used(self) -> int:
        """Number of slots in use: committed entries and those that the last call wrote."""
        return max([self.width, *self.known])

    def _each(self) -> list[RaggedLayer]:
        found = []
        for layer in self.layers:
            assert isinstance(layer, RaggedLayer)
            found.append(layer)
        return found
