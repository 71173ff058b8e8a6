"""The best path of labels over steps, against all paths."""

from itertools import product

import numpy as np
import pytest

from speechmtp.words.monotone import place_labels


def best_by_hand(scores: np.ndarray, labels: list[int]) -> tuple[float, list[int], list[int]]:
    """Try every sequence of classes."""
    blank, found = scores.shape[1] - 1, []
    for classes in product(range(blank + 1), repeat=len(scores)):
        runs = [n for n, one in enumerate(classes) if n == 0 or classes[n - 1] != one]
        spoken = [n for n in runs if classes[n] != blank]
        if [classes[n] for n in spoken] == labels:
            ends = [next((m for m in range(n, len(classes)) if classes[m] != classes[n]), len(classes)) for n in spoken]
            found.append((float(sum(scores[n, one] for n, one in enumerate(classes))), spoken, [n - 1 for n in ends]))
    return max(found)


@pytest.mark.parametrize("labels", [[0], [0, 1], [0, 0], [1, 0, 1], [1, 1, 0]])
def test_the_best_of_all_paths(labels: list[int]) -> None:
    rng = np.random.default_rng(len(labels))
    for _ in range(10):
        scores = rng.normal(size=(6, 3)).astype(np.float32)
        placed = place_labels(scores, np.array(labels))
        _, first, last = best_by_hand(scores, labels)
        assert (placed.first.tolist(), placed.last.tolist()) == (first, last)


def test_labels_that_do_not_fit_are_spread() -> None:
    scores = np.zeros((4, 2), np.float32)
    placed = place_labels(scores, np.zeros(3, np.int64))  # three equal labels need five steps
    assert placed.first.tolist() == placed.last.tolist() == [0, 1, 2]
    assert place_labels(scores, np.zeros(8, np.int64)).first.tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    assert len(place_labels(scores, np.zeros(0, np.int64)).first) == 0
    assert place_labels(np.zeros((0, 2), np.float32), np.zeros(2, np.int64)).first.tolist() == [0, 0]
