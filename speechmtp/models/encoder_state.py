"""Streaming state of the encoder: a batch whose rows start, advance and end independently."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from speechmtp.errors import ShapeError

LEFT_PAD = 3  # zero frames before the first, so that step j sees frames 4j-3..4j+3


@dataclass(frozen=True)
class EncoderState:
    """The state of B streams, each at its own point. A state is immutable: a step returns a new one, and an old one can
    be continued again. Counts are kept on the host, so that no step waits for a device.

    `pending` [B, T, F] are normalised frames that are not encoded yet, with the left context of the subsampling; row b
    has `held[b]` of them. `steps[b]` is the number of encoder steps emitted; `ended[b]` says that no frames follow.
    `keys` and `values` [B, H, s, d] of each layer are aligned to the right: the newest entry is last, and those before
    a row's own entries are undefined. `convs` [B, E, kernel - 1] are the last inputs of each layer's convolution.
    """

    pending: Tensor
    held: tuple[int, ...]
    steps: tuple[int, ...]
    ended: tuple[bool, ...]
    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]
    convs: tuple[Tensor, ...]

    @property
    def rows(self) -> int:
        """Number of streams in the batch."""
        return len(self.held)

    def select(self, rows: Sequence[int]) -> "EncoderState":
        """Return a new state with these rows, in this order; a row may be given twice."""
        index = torch.tensor(list(rows), dtype=torch.long, device=self.pending.device)
        held, steps = (tuple(each[row] for row in rows) for each in (self.held, self.steps))
        ended = tuple(self.ended[row] for row in rows)
        keys, values, convs = (tuple(x[index] for x in each) for each in (self.keys, self.values, self.convs))
        return EncoderState(self.pending[index, : max(held, default=0)], held, steps, ended, keys, values, convs)

    def join(self, *others: "EncoderState") -> "EncoderState":
        """Return a new state with these rows, followed by those of other states of the same encoder."""
        states = (self, *others)
        layers = range(len(self.keys))
        return EncoderState(
            torch.cat([_wide(s.pending, max(o.pending.shape[1] for o in states)) for s in states]),
            tuple(count for s in states for count in s.held),
            tuple(count for s in states for count in s.steps),
            tuple(flag for s in states for flag in s.ended),
            tuple(_stacked([s.keys[n] for s in states]) for n in layers),
            tuple(_stacked([s.values[n] for s in states]) for n in layers),
            tuple(torch.cat([s.convs[n] for s in states]) for n in layers),
        )

    def reset(self, rows: Sequence[int]) -> "EncoderState":
        """Return a new state in which these rows are new streams."""
        again = set(rows)

        def chosen(old: Sequence[int], new: int) -> tuple[int, ...]:
            return tuple(new if row in again else count for row, count in enumerate(old))

        at = torch.tensor(sorted(again), dtype=torch.long, device=self.pending.device)
        return EncoderState(
            self.pending.index_fill(0, at, 0.0), chosen(self.held, LEFT_PAD), chosen(self.steps, 0),
            tuple(flag and row not in again for row, flag in enumerate(self.ended)),
            self.keys, self.values, tuple(conv.index_fill(0, at, 0.0) for conv in self.convs),
        )  # fmt: skip

    def fed(self, frames: Tensor, lengths: Sequence[int], last: Sequence[bool]) -> "EncoderState":
        """Return a new state with the first `lengths[b]` of normalised frames [B, T, F] appended to row b, which ends
        after them if `last[b]`. ShapeError for another number of rows, for lengths outside 0..T, and for frames of a
        row that has ended."""
        if not self.rows == len(frames) == len(lengths) == len(last):
            raise ShapeError(
                f"encoder: {len(frames)} rows of frames, {len(lengths)} lengths and {len(last)} ends, expected "
                f"{self.rows} of each"
            )
        for row, length in enumerate(lengths):
            if not 0 <= length <= frames.shape[1]:
                raise ShapeError(f"encoder: row {row}: {length} frames, expected 0 to {frames.shape[1]}")
            if self.ended[row] and length:
                raise ShapeError(f"encoder: row {row}: {length} frames behind the stream's end; reset the row first")
        if len(set(self.held)) <= 1 and all(length == frames.shape[1] for length in lengths):
            pending = torch.cat([self.pending[:, : max(self.held, default=0)], frames], 1)
        else:
            pending = torch.nn.utils.rnn.pad_sequence(
                [torch.cat([old[:n], new[:m]]) for old, n, new, m in zip(self.pending, self.held, frames, lengths)],
                batch_first=True,
            )
        held = tuple(n + m for n, m in zip(self.held, lengths))
        return replace(self, pending=pending, held=held, ended=tuple(a or b for a, b in zip(self.ended, last)))

    def without(self, used: Sequence[int]) -> "EncoderState":
        """Return a new state without the first `used[b]` pending frames of each row."""
        held = tuple(n - m for n, m in zip(self.held, used))
        if len(set(used)) <= 1:
            pending = self.pending[:, max(used, default=0) :]
        else:
            rows = [row[m:n] for row, n, m in zip(self.pending, self.held, used)]
            pending = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
        return replace(self, pending=pending, held=held)

    def grown(
        self, rows: Sequence[int], took: Sequence[int], keys: Sequence[Tensor], values: Sequence[Tensor],
        convs: Sequence[Tensor],
    ) -> "EncoderState":  # fmt: skip
        """Return a new state in which each of `rows` has emitted `took` more steps and has these caches."""
        steps = list(self.steps)
        for row, count in zip(rows, took):
            steps[row] += count
        if len(rows) == self.rows:
            return replace(self, steps=tuple(steps), keys=tuple(keys), values=tuple(values), convs=tuple(convs))
        at = torch.tensor(list(rows), dtype=torch.long, device=self.pending.device)

        def placed(old: Sequence[Tensor], new: Sequence[Tensor]) -> tuple[Tensor, ...]:
            widths = [max(a.shape[2], b.shape[2]) for a, b in zip(old, new)]
            return tuple(_late(a, n).index_copy(0, at, _late(b, n)) for a, b, n in zip(old, new, widths))

        return replace(
            self, steps=tuple(steps), keys=placed(self.keys, keys), values=placed(self.values, values),
            convs=tuple(old.index_copy(0, at, new) for old, new in zip(self.convs, convs)),
        )  # fmt: skip


def _wide(x: Tensor, size: int) -> Tensor:
    """Pad the frames of [B, n, F] with zeros at the end, up to `size` frames."""
    return x if x.shape[1] == size else F.pad(x, (0, 0, 0, size - x.shape[1]))


def _late(x: Tensor, size: int) -> Tensor:
    """Pad the entries of [B, H, s, d] with zeros in front, up to `size` entries."""
    return x if x.shape[2] == size else F.pad(x, (0, 0, size - x.shape[2], 0))


def _stacked(caches: Sequence[Tensor]) -> Tensor:
    size = max(cache.shape[2] for cache in caches)
    return torch.cat([_late(cache, size) for cache in caches])
