"""The ragged cache of decoders that attend to encoder outputs."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from speechmtp.models.cache import RaggedCache
from speechmtp.models.masks import additive_mask


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


class MemoryCache(RaggedCache):
    """A ragged cache with the cross-attention keys and values of each row; the decoder gets both as `pair`."""

    def __init__(self, layers: int, device: torch.device | str, slots: int = 0) -> None:
        self.memory = MemorySlots(layers)
        self.mask: Tensor | None = None  # additive [B, 1, 1, S]; None if no row has padding
        self.entries = 0  # S, the padded number of encoder steps of the rows in focus
        self.cross: list[tuple[Tensor, Tensor]] = []  # keys and values [B, H, S, d] of each layer, of the rows in focus
        super().__init__(layers, 0, device, slots=slots)

    @property
    def pair(self) -> Any:
        """What the decoder takes as its cache."""
        return self

    def focus(self, first: int, last: int) -> None:
        """Let the next calls run over the rows `first` to `last` - 1."""
        super().focus(first, last)
        views, seen = self.memory.of(first, last) if last <= len(self.memory.known) else ([], None)
        self.cross = views
        self.entries = views[0][0].shape[2] if views else 0
        self.mask = None if seen is None else additive_mask(seen[:, None], views[0][0].dtype)

    def select(self, rows: Tensor | Sequence[int]) -> None:
        """Keep only these rows, in this order."""
        self.memory.select(rows.tolist() if isinstance(rows, Tensor) else rows)
        super().select(rows)

    def take(self, rows: Sequence[int]) -> "MemoryCache":
        """Return a new cache with copies of these rows."""
        other = type(self)(len(self.layers), self.device)
        other.memory = self.memory.take(rows)
        other.add(len(rows))
        self._copy(other, rows)
        return other

    def join(self, other: RaggedCache) -> None:
        """Append copies of all rows of another cache."""
        assert isinstance(other, MemoryCache)
        self.memory.add(other.memory)
        super().join(other)
