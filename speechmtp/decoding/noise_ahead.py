"""Noise made for many output indices at once: at batch size 1 a call of `Noise` takes as long for a hundred as for one.

Drafter and trunk ask for the same indices under seeded coupling, and the next call goes on where this one ended.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from speechmtp.decoding.noise import ACCEPT, DRAFT, Noise

_AHEAD = 64  # output indices
_NUMBERS = 1 << 14  # that many numbers cost little more than one


@dataclass(frozen=True)
class _Window:
    """Noise [B, W, ..] at `width` output indices from `origin` [B] on."""

    origin: Tensor
    begin: list[int]
    width: int
    values: Tensor

    def covers(self, first: list[int], last: list[int]) -> bool:
        return all(b <= f and e < b + self.width for b, f, e in zip(self.begin, first, last))


@dataclass(frozen=True)
class NoiseAhead(Noise):
    """The same numbers as `Noise`. On the CPU alone, as positions have to reach the host."""

    _windows: dict[tuple[int, int], _Window] = field(default_factory=dict, compare=False, repr=False)

    def select(self, rows: Tensor) -> "NoiseAhead":
        """The noise of some rows (indices or a mask), and what of it is made already."""
        kept = {}
        for key, one in self._windows.items():
            origin = one.origin[rows]
            kept[key] = _Window(origin, origin.tolist(), one.width, one.values[rows])
        return NoiseAhead(self.seeds[rows], self.streams[rows], kept)

    def uniform(self, position: Tensor, purpose: int = ACCEPT) -> Tensor:
        """As `Noise.uniform`."""
        whole = super().uniform
        wanted = position.view(len(position), -1)
        return self._read(wanted, 1, purpose, lambda p: whole(p, purpose)[..., None]).view(position.shape)

    def gumbel(self, position: Tensor, size: int, purpose: int, node: Tensor | None = None) -> Tensor:
        """As `Noise.gumbel`; what belongs to nodes is asked for once and made as it is asked for."""
        whole = super().gumbel
        if purpose == DRAFT:
            return whole(position, size, purpose, node)
        return self._read(position, size, purpose, lambda p: whole(p, size, purpose))

    def _read(self, position: Tensor, size: int, purpose: int, make: Callable[[Tensor], Tensor]) -> Tensor:
        """Noise [B, P, size] at output indices `position` [B, P], out of what is made or from more of it."""
        wanted = position.tolist()
        first, last = list(map(min, wanted)), list(map(max, wanted))
        found = self._windows.get((purpose, size))
        if found is None or not found.covers(first, last):
            # One more than asked for: behind a draft the trunk itself needs one.
            width = max(2 + max(e - f for f, e in zip(first, last)), min(_AHEAD, _NUMBERS // (size * len(first))))
            origin = torch.tensor(first)
            values = make(origin[:, None] + torch.arange(width))
            found = self._windows[purpose, size] = _Window(origin, first, width, values)
        index = position - found.origin[:, None]
        if len(index) == 1:
            return found.values.index_select(1, index[0])
        return found.values.gather(1, index[..., None].expand(-1, -1, size))
