"""Segments, one per run of a CTC label, of whole utterances or of streams."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from speechmtp.errors import ShapeError

SEGMENT_FEATURES = 4  # log run length, top posterior, entropy, seconds of blank before


@dataclass(frozen=True)
class Segments:
    """Segments of a batch, one per run of a CTC label: `posterior` [B, M, V + 1], `states` [B, M, E] or None (without
    acoustics), `features` [B, M, 4], `labels` [B, M] (-1 past the lengths), `lengths` [B]."""

    posterior: Tensor
    states: Tensor | None
    features: Tensor
    labels: Tensor
    lengths: Tensor


@dataclass(frozen=True)
class SegmentState:
    """The segments of B streams so far, each at its own point; immutable, `heard` returns a new state.

    Sums over the steps of each run: `weight` [B, M, 1] of 1 - p(blank), `probs` [B, M, V + 1] and `acoustic` [B, M, E]
    weighted by it. For each run also its steps `run` [B, M, 1], the blank steps before it `gap` [B, M], and `labels`
    [B, M]. For each stream the numbers of runs `counts` [B] and of steps processed `steps` [B], the class of the newest
    step `last` [B] (-1: no step yet), and the number of steps up to the end of the newest run, `end` [B].
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
        """Return the state of `rows` streams without steps; dtypes, widths and device are those of `states` [.., E] and
        `logits` [.., V + 1]."""
        probs, zero = logits.new_zeros(rows, 1, logits.shape[-1], dtype=torch.float32), logits.new_zeros(rows).long()
        acoustic = states.new_zeros(rows, 1, states.shape[-1])
        number, label = probs.new_zeros(rows, 1, 1), zero.new_zeros(rows, 1)
        return cls(number, probs, acoustic, number, number[..., 0], label, zero, zero, zero - 1, zero)

    def heard(self, states: Tensor, logits: Tensor, lengths: Tensor) -> "SegmentState":
        """Return a new state with the first `lengths` [B] of these encoder steps appended: `states` [B, S, E] and
        `logits` [B, S, V + 1]. Sums are taken in the same order as over all steps at once. ShapeError for another
        number of rows."""
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
        target = torch.where(inside, index, size)  # one spare slot collects the steps that belong to no segment
        weight = torch.where(inside, 1 - probs[..., -1], torch.zeros_like(probs[..., -1])) + 1e-6 * inside

        def add(sums: Tensor, values: Tensor) -> Tensor:
            sums = F.pad(sums, (0, 0, 0, size + 1 - sums.shape[1]))
            return sums.scatter_add(1, target[..., None].expand_as(values), values)[:, :size]

        place = self.steps[:, None] + number + 1  # number of steps up to and including each one
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
        """Numbers [B] of segments that no further step can change: all but a run that reaches the newest step."""
        return self.counts - ((self.counts > 0) & (self.end == self.steps)).long()

    def segments(self, seconds_per_step: float = 0.04) -> Segments:
        """Return all segments so far; the first `final` of each row will not change."""
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
        """Return a new state with these rows, in this order; a row may be given twice."""
        index = torch.tensor(list(rows), dtype=torch.long, device=self.counts.device)
        return SegmentState(*(value[index] for value in vars(self).values()))

    def join(self, *others: "SegmentState") -> "SegmentState":
        """Return a new state with these rows, followed by those of other states."""
        states = (self, *others)
        size = max(state.run.shape[1] for state in states)
        columns = zip(*(vars(state).values() for state in states))
        return SegmentState(*(torch.cat([_wide(value, size) for value in column]) for column in columns))

    def reset(self, rows: Sequence[int]) -> "SegmentState":
        """Return a new state in which these rows are new streams, without steps."""
        again = torch.tensor(list(rows), dtype=torch.long, device=self.counts.device)
        cleared = SegmentState(*(value.index_fill(0, again, 0) for value in vars(self).values()))
        return SegmentState(**{**vars(cleared), "last": self.last.index_fill(0, again, -1)})


def _wide(value: Tensor, size: int) -> Tensor:
    """Pad the segments of [B, M, ..] with zeros at the end, up to `size`; return counts [B] unchanged."""
    if value.dim() == 1 or value.shape[1] == size:
        return value
    return torch.cat([value, value.new_zeros(len(value), size - value.shape[1], *value.shape[2:])], 1)


def merge_segments(states: Tensor, logits: Tensor, lengths: Tensor, seconds_per_step: float = 0.04) -> Segments:
    """Merge encoder steps into maximal runs of one non-blank label.

    Posteriors and states are means over a run, weighted by 1 - p(blank). Two equal labels split by a blank
    are two segments.
    """
    return SegmentState.start(len(logits), states, logits).heard(states, logits, lengths).segments(seconds_per_step)
