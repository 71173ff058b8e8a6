"""Greedy CTC labels: of a batch, or of one utterance with posteriors and with labels that may be missing."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from speechmtp.types import CtcLabels, CtcSource

MIN_GAP = 0.05  # labels whose posterior never exceeds this are left out of `gaps`


@dataclass(frozen=True)
class LabelRuns:
    """Runs of equal best classes: `starts` [R] are their first steps; `spoken` [R] is true for non-blank runs."""

    starts: NDArray[np.int64]
    spoken: NDArray[np.bool_]


def label_runs(best: NDArray[np.int64], blank: int) -> LabelRuns:
    """Find the runs in the best classes [T] of one utterance; T may be 0."""
    starts = np.flatnonzero(np.append(True, best[1:] != best[:-1])[: len(best)])
    return LabelRuns(starts, best[starts] != blank)


@dataclass(frozen=True, eq=False)
class CtcLogits(CtcSource):
    """Logits [T, V + 1] of one utterance, from which the labels with their posteriors are made when they are read."""

    logits: Tensor
    blank: int

    def read(self) -> CtcLabels:
        """Return the greedy labels."""
        return ctc_labels(self.logits, self.blank)


def greedy_labels(logits: Tensor, lengths: Tensor) -> list[list[int]]:
    """Return the labels of each row of logits [B, T, V + 1] within its length, `lengths` [B]; the blank is last.

    Runs of one label are merged first and blanks removed after (Graves et al. 2006).
    """
    blank = logits.shape[-1] - 1
    found = []
    for row, length in zip(logits.argmax(-1).cpu().numpy(), lengths.tolist()):
        best = row[:length]
        runs = label_runs(best, blank)
        found.append(best[runs.starts][runs.spoken].tolist())
    return found


def ctc_labels(logits: Tensor, blank: int) -> CtcLabels:
    """Return the greedy labels of logits [T, V + 1] of one utterance (Graves et al. 2006), each with its posterior
    averaged over its run.

    `gaps` are labels that the best path may have missed: second-best labels of steps between two labels, or at the edge
    of a label's run.
    """
    probs: NDArray[np.float32] = logits.float().softmax(-1).cpu().numpy()
    best: NDArray[np.int64] = logits.argmax(-1).cpu().numpy()
    if not len(best):
        return CtcLabels(())
    runs = label_runs(best, blank)
    starts, spoken = runs.starts, runs.spoken
    labels = best[starts][spoken]
    if not len(labels):
        return CtcLabels((), gaps=_gaps(probs, best, starts, spoken, blank))
    sizes = np.diff(np.append(starts, len(best)))
    mean = np.add.reduceat(probs, starts, 0)[spoken] / sizes[spoken, None]
    rows = np.arange(len(labels))
    confidence = mean[rows, labels]
    mean[rows, labels] = -1.0
    second = mean.argmax(1)
    return CtcLabels(
        tuple(labels.tolist()), tuple(confidence.tolist()), tuple(second.tolist()),
        tuple(mean[rows, second].tolist()), _gaps(probs, best, starts, spoken, blank),
    )  # fmt: skip


def _gaps(
    probs: NDArray[np.float32],
    best: NDArray[np.int64],
    starts: NDArray[np.int64],
    spoken: NDArray[np.bool_],
    blank: int,
) -> tuple[tuple[int, int, float], ...]:
    """Return (labels before it, label, highest posterior) of second-best labels that differ from both neighbours."""
    steps = np.arange(len(best))
    others = probs.copy()
    others[:, blank] = others[steps, best] = 0.0
    second = others.argmax(1)
    peaks = others[steps, second]
    labels, before = best[starts][spoken].tolist(), spoken.cumsum().tolist()
    runs = np.searchsorted(starts, steps, "right") - 1
    found: dict[tuple[int, int], float] = {}
    for t in np.flatnonzero(peaks > MIN_GAP).tolist():
        run, label, peak = runs[t], int(second[t]), float(peaks[t])
        places = {before[run]}
        if spoken[run]:  # before or after the run's own label, depending on the side of its peak
            end = starts[run + 1] if run + 1 < len(starts) else len(best)
            top = starts[run] + int(probs[starts[run] : end, best[t]].argmax())
            places = {before[run] - (t <= top), before[run] - (t < top)}
        for place in places:
            if label not in labels[max(place - 1, 0) : place + 1]:
                found[place, label] = max(found.get((place, label), 0.0), peak)
    return tuple((place, label, peak) for (place, label), peak in sorted(found.items()))
