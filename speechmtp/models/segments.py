"""Runs of one CTC label as segments, of whole utterances or of streams that grow piece by piece."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from speechmtp.errors import ShapeError

SEGMENT_FEATURES = 4  # log run length, top posterior, entropy, seconds of blank before


@dataclass(frozen=True)
class Segments:
    """Runs of one CTC label: `posterior` [B, M, V + 1], `states` [B, M, E] or None (no acoustics known),
    `features` [B, M, 4], `labels` [B, M] (-1 past the lengths), `lengths` [B]."""

    posterior: Tensor
    states: Tensor | None
    features: Tensor
    labels: Tensor
    lengths: Tensor


@dataclass(frozen=True)
class SegmentState:
    """What B streams have said so far, each at its own place; it never changes, `heard` gives a new one.

    Sums over the steps of each run: `weight` [B, M, 1] of 1 - p(blank), `probs` [B, M, V + 1] and `acoustic` [B,
    M, E] weighted by it, `run` [B, M, 1] steps, `gap` [B, M] steps of blank before it, `labels` [B, M]. `counts` [B]
    runs; `steps` [B] heard, `last` [B] the newest label (-1: nothing was heard), `end` [B] steps up to the newest run's
    end.
    """

    weight: Tensor
    probs: Tensor
    acoustic: Tensor
    run: Tensor
    gap: Tensor
    labels: Tensor
    counts: Tensor
    steps: Tensor
    last: Tensor
    end: Tensor

    @classmethod
    def start(cls, rows: int, states: Tensor, logits: Tensor) -> "SegmentState":
        """`rows` streams that have heard nothing; dtypes, widths and device as of `states` [.., E] and `logits`
        [.., V + 1]."""
        probs, zero = logits.new_zeros(rows, 1, logits.shape[-1], dtype=torch.float32), logits.new_zeros(rows).long()
        acoustic = states.new_zeros(rows, 1, states.shape[-1])
        number, label = probs.new_zeros(rows, 1, 1), zero.new_zeros(rows, 1)
        return cls(number, probs, acoustic, number, number[..., 0], label, zero, zero, zero - 1, zero)

    def heard(self, states: Tensor, logits: Tensor, lengths: Tensor) -> "SegmentState":
        """With the first `lengths` [B] of these encoder steps, `states` [B, S, E] and `logits` [B, S, V + 1], behind
        what was heard before: the same sums, in the same order, as of all steps at once."""
        rows, steps, classes = logits.shape
        if rows != len(self.counts):
            raise ShapeError(f"segments: {rows} rows of steps, expected {len(self.counts)}")
        if steps == 0:
            return self
        blank = classes - 1
        probs = logits.float().softmax(-1)
        best = probs.argmax(-1)
        number = torch.arange(steps, device=logits.device)
        valid = number < lengths[:, None]
        inside = (best != blank) & valid
        before = torch.cat([self.last[:, None], best[:, :-1]], 1)
        start = inside & (best != before)
        index = self.counts[:, None] + start.cumsum(1) - 1
        counts = self.counts + start.sum(1)
        size = max(1, int(counts.max()) if rows else 0)
        target = torch.where(inside, index, size)  # one spare slot takes what belongs to no segment
        weight = torch.where(inside, 1 - probs[..., -1], torch.zeros_like(probs[..., -1])) + 1e-6 * inside

        def add(sums: Tensor, values: Tensor) -> Tensor:
            sums = F.pad(sums, (0, 0, 0, size + 1 - sums.shape[1]))
            return sums.scatter_add(1, target[..., None].expand_as(values), values)[:, :size]

        place = self.steps[:, None] + number + 1  # steps up to and with each one
        ends = torch.cat([self.end[:, None], torch.where(inside, place, 0)], 1).cummax(1).values
        gap = torch.where(start, place - 1 - ends[:, :-1], 0).float()
        newest = best.gather(1, (lengths - 1).clamp_min(0)[:, None])[:, 0]
        labels = F.pad(self.labels, (0, size + 1 - self.labels.shape[1]))
        return SegmentState(
            add(self.weight, weight[..., None]),
            add(self.probs, probs * weight[..., None]),
            add(self.acoustic, states * weight[..., None].to(states.dtype)),
            add(self.run, inside[..., None].float()),
            add(self.gap[..., None], gap[..., None])[..., 0],
            labels.scatter(1, target, best)[:, :size],
            counts,
            self.steps + lengths,
            torch.where(lengths > 0, newest, self.last),
            ends[:, -1],
        )

    @property
    def final(self) -> Tensor:
        """Segments [B] that no further step changes: all but a run that goes up to the newest step."""
        return self.counts - ((self.counts > 0) & (self.end == self.steps)).long()

    def segments(self, seconds_per_step: float = 0.04) -> Segments:
        """All segments so far; of them the first `final` of each row stay as they are."""
        total = self.weight.clamp_min(1e-6)
        posterior = self.probs / total
        acoustic = self.acoustic / total.to(self.acoustic.dtype)
        top = posterior.max(-1, keepdim=True).values
        entropy = -(posterior * posterior.clamp_min(1e-9).log()).sum(-1, keepdim=True)
        features = [self.run.clamp_min(1).log(), top, entropy, self.gap[..., None] * seconds_per_step]
        filled = torch.arange(self.run.shape[1], device=self.counts.device) < self.counts[:, None]
        return Segments(
            posterior * filled[..., None], acoustic * filled[..., None], torch.cat(features, -1) * filled[..., None],
            self.labels.masked_fill(~filled, -1), self.counts,
        )  # fmt: skip

    def select(self, rows: Sequence[int]) -> "SegmentState":
        """These rows in this order, as a state of their own; a row may come twice."""
        index = torch.tensor(list(rows), dtype=torch.long, device=self.counts.device)
        return SegmentState(*(value[index] for value in vars(self).values()))

    def join(self, *others: "SegmentState") -> "SegmentState":
        """One batch of these rows and those of other states behind them."""
        states = (self, *others)
        size = max(state.run.shape[1] for state in states)
        columns = zip(*(vars(state).values() for state in states))
        return SegmentState(*(torch.cat([_wide(value, size) for value in column]) for column in columns))

    def reset(self, rows: Sequence[int]) -> "SegmentState":
        """The same batch with new streams, that have heard nothing, at these rows."""
        again = torch.tensor(list(rows), dtype=torch.long, device=self.counts.device)
        cleared = SegmentState(*(value.index_fill(0, again, 0) for value in vars(self).values()))
        return SegmentState(**{**vars(cleared), "last": self.last.index_fill(0, again, -1)})


def _wide(value: Tensor, size: int) -> Tensor:
    """Zeros behind the segments of [B, M, ..], up to `size` of them; counts [B] as they are."""
    if value.dim() == 1 or value.shape[1] == size:
        return value
    return torch.cat([value, value.new_zeros(len(value), size - value.shape[1], *value.shape[2:])], 1)


def merge_segments(states: Tensor, logits: Tensor, lengths: Tensor, seconds_per_step: float = 0.04) -> Segments:
    """Merge encoder steps into maximal runs of one non-blank label.

    Posteriors and states are means over a run, weighted by 1 - p(blank). Two equal labels split by a blank
    are two segments.
    """
    return SegmentState.start(len(logits), states, logits).heard(states, logits, lengths).segments(seconds_per_step)
