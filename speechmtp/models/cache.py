"""Ragged key-value cache: rows of different lengths in preallocated slots, without padding.

A call writes its Q entries of row b from `lengths[b]` on. Lengths change only on commit, so rejected entries are
overwritten by the next call. Rows can be appended, removed, and copied into a cache of their own. The host keeps its
own count of the lengths, so that no call waits for a device tensor.
"""

import weakref
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin

from speechmtp.errors import ShapeError


class RaggedLayer(CacheLayerMixin):
    """Key and value slots [R, H, S, d] of one layer; the owning cache decides which rows and slots a call uses."""

    is_sliding = False

    def __init__(self, cache: "RaggedCache") -> None:
        super().__init__()
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


class RaggedCache(Cache):
    """The cache of all layers of a trunk.

    `known` are the numbers of committed entries of each row, on the host. A call runs over the rows in focus, `first`
    to `last` - 1 (all rows at first); `lengths` [B] are their committed lengths as a tensor.
    """

    def __init__(
        self, layers: int, rows: int, device: torch.device | str = "cpu", capacity: int = 128, slots: int = 0
    ) -> None:
        super().__init__(layers=[RaggedLayer(self) for _ in range(layers)])
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
        other = RaggedCache(len(self.layers), len(rows), self.device, self.capacity)
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


class MemorySlots:
    """Cross-attention keys and values [R, H, S, d] per layer of each row's encoder outputs, and the rows' lengths. They
    are computed once per row and do not change."""

    def __init__(self, layers: int) -> None:
        self.known: list[int] = []  # encoder steps of each row
        self._states: list[tuple[Tensor, Tensor] | None] = [None] * layers
        self._views: dict[tuple[int, int], tuple[list[tuple[Tensor, Tensor]], Tensor | None]] = {}

    def __len__(self) -> int:
        return len(self._states)

    @property
    def lengths(self) -> Tensor:
        """Encoder steps [R] of each row."""
        return torch.tensor(self.known, dtype=torch.long, device="cpu")

    def join(self, states: Sequence[tuple[Tensor, Tensor]], lengths: Sequence[int]) -> None:
        """Append rows: keys and values [n, H, S, d] of every layer; values past `lengths` may be anything."""
        first, last = len(self.known), len(self.known) + len(lengths)
        self.known += lengths
        for layer, new in enumerate(states):
            old, size = self._states[layer], max(lengths)
            if old is None:  # every call reads them: contiguous memory is faster
                self._states[layer] = new[0].contiguous(), new[1].contiguous()
                continue
            more, longer = max(0, last - len(old[0])), max(0, size - old[0].shape[2])
            if more or longer:  # the row capacity doubles, so that appending rows one by one copies little
                room = (0, 0, 0, longer, 0, 0, 0, max(more, len(old[0])) if more else 0)
                old = torch.nn.functional.pad(old[0], room), torch.nn.functional.pad(old[1], room)
            for mine, theirs in zip(old, new):
                mine[first:last] = 0  # values of an earlier row may not be finite
                mine[first:last, :, :size] = theirs[:, :, :size]
            self._states[layer] = old
        self._views = {}

    def select(self, rows: Sequence[int]) -> None:
        """Keep only these rows, in this order."""
        same = next((i for i, row in enumerate(rows) if row != i), len(rows))
        self.known = [self.known[row] for row in rows]
        width = max(self.known, default=0)
        for layer, states in enumerate(self._states):
            if not rows:
                self._states[layer] = None
            if states is None or same == len(rows):
                continue
            index = torch.tensor(list(rows[same:]), device=states[0].device)
            if len(rows) * 4 < len(states[0]):  # few rows are left: free the memory of the others
                whole = torch.tensor(list(rows), device=index.device)
                self._states[layer] = states[0][whole, :, :width], states[1][whole, :, :width]
                continue
            for part in states:
                part[same : len(rows), :, :width] = part[index, :, :width]
        self._views = {}

    def take(self, rows: Sequence[int]) -> "MemorySlots":
        """Return a new object with copies of these rows."""
        other = MemorySlots(len(self._states))
        other.known = [self.known[row] for row in rows]
        width = max(other.known, default=0)
        for layer, states in enumerate(self._states):
            if states is not None:
                index = torch.tensor(list(rows), device=states[0].device)
                other._states[layer] = states[0][index, :, :width], states[1][index, :, :width]
        return other

    def add(self, other: "MemorySlots") -> None:
        """Append all rows of another object."""
        states = [pair for pair in other._states if pair is not None]
        count = len(other.known)
        self.join([(keys[:count], values[:count]) for keys, values in states], other.known)

    @property
    def states(self) -> list[tuple[Tensor, Tensor]]:
        """Keys and values [R, H, S, d] of every layer, with room behind the rows and their lengths."""
        return [pair for pair in self._states if pair is not None]

    def of(self, first: int, last: int) -> tuple[list[tuple[Tensor, Tensor]], Tensor | None]:
        """Return views of keys and values [n, H, S, d] of every layer for the rows `first` to `last` - 1, and a bool
        mask [n, S] of the valid entries; None if all are valid."""
        found = self._views.get((first, last))
        if found is None:
            lengths = self.known[first:last]
            size = max(lengths, default=0)
            views = [(k[first:last, :, :size], v[first:last, :, :size]) for k, v in filter(None, self._states)]
            seen = None
            if min(lengths, default=0) < size and views:
                device = views[0][0].device
                seen = torch.arange(size, device=device) < torch.tensor(lengths, device=device)[:, None]
            found = self._views[first, last] = views, seen
        return found
