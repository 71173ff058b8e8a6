"""The best path of labels in their order over the steps of a recording, as of CTC (Graves et al. 2006)."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Placed:
    """The `first` and the `last` step [L] of each label."""

    first: NDArray[np.int64]
    last: NDArray[np.int64]


def place_labels(scores: NDArray[np.float32], labels: NDArray[np.int64]) -> Placed:
    """Return where labels [L] lie on the path with the largest sum of `scores` [T, classes], whose last class is the
    blank.

    Every label takes a step or more. Blanks may lie before, between and behind labels, and must between equal ones.
    Labels that T steps cannot hold are spread evenly. Takes 2 (2 L + 1) T bytes.
    """
    steps, count = len(scores), len(labels)
    if count == 0 or steps < count + int((labels[1:] == labels[:-1]).sum()):
        spread = np.arange(count) * steps // max(count, 1)
        return Placed(spread, spread)
    path = _best_path(scores, labels)
    spoken = np.flatnonzero(path % 2)
    placed = path[spoken] // 2
    places = np.arange(count)
    first, behind = np.searchsorted(placed, places), np.searchsorted(placed, places, "right")
    return Placed(spoken[first], spoken[behind - 1])


def _best_path(scores: NDArray[np.float32], labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the state of every step: label i is state 2 i + 1, the blanks around it are 2 i and 2 i + 2."""
    size, blank = 2 * len(labels) + 1, scores.shape[1] - 1
    classes = np.full(size, blank)
    classes[1::2] = labels
    jump = np.full(size, -np.inf, np.float32)  # what it costs to leave the blank before a state out
    jump[3::2] = np.where(classes[3::2] != classes[1:-2:2], 0.0, -np.inf)
    kept = np.full(size + 2, -np.inf, np.float32)  # best sum of each state, behind two that cannot be
    kept[2] = 0.0
    stay, step, skip = kept[2:], kept[1:-1], kept[:-2]
    stepped, skipped = np.empty((len(scores), size), np.bool_), np.empty((len(scores), size), np.bool_)
    best, other = np.empty(size, np.float32), np.empty(size, np.float32)
    for place, row in enumerate(scores):
        np.greater(step, stay, out=stepped[place])
        np.maximum(stay, step, out=best)
        np.add(skip, jump, out=other)
        np.greater(other, best, out=skipped[place])
        np.maximum(best, other, out=best)
        row.take(classes, out=other)
        np.add(best, other, out=stay)
    state = size - 1 if stay[-1] >= stay[-2] else size - 2
    path = np.empty(len(scores), np.int64)
    for place in range(len(scores) - 1, -1, -1):
        path[place] = state
        state -= 2 if skipped[place, state] else int(stepped[place, state])
    return path
