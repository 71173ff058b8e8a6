"""Greedy CTC labels, their posteriors, and what they may have missed."""

import math

import numpy as np
import pytest
import tiny
import torch
from torch import Tensor

from speechmtp.models.ctc_labels import MIN_GAP, ctc_labels, greedy_labels, label_runs
from speechmtp.types import CtcLabels

BLANK = 3


def logits_of(*steps: dict[int, float]) -> Tensor:
    """Logits [T, 4] of distributions that name a few posteriors; what is left is shared out."""
    rows = []
    for step in steps:
        rest = (1 - sum(step.values())) / (4 - len(step))
        rows.append([math.log(step.get(token, rest)) for token in range(4)])
    return torch.tensor(rows, dtype=torch.float64)


def sure(token: int) -> dict[int, float]:
    """A step that leaves no doubt."""
    return {token: 0.97}


def by_hand(logits: Tensor, blank: int) -> CtcLabels:
    """Runs one step after another."""
    probs = logits.double().softmax(-1)
    runs: list[tuple[int, list[int]]] = []
    for step, token in enumerate(logits.argmax(-1).tolist()):
        if runs and runs[-1][0] == token:
            runs[-1][1].append(step)
        else:
            runs.append((token, [step]))
    labels, confidence, second, second_confidence = [], [], [], []
    for token, steps in runs:
        if token == blank:
            continue
        mean = probs[steps].mean(0).tolist()
        other = max((i for i in range(len(mean)) if i != token), key=lambda i: mean[i])
        labels.append(token)
        confidence.append(mean[token])
        second.append(other)
        second_confidence.append(mean[other])
    return CtcLabels(tuple(labels), tuple(confidence), tuple(second), tuple(second_confidence))


@pytest.mark.parametrize("seed", range(20))
def test_labels_and_their_posteriors_are_those_of_a_loop_over_the_steps(seed: int) -> None:
    rng = tiny.generator(seed)
    steps, classes = int(torch.randint(1, 40, (), generator=rng)), 2 + seed % 6
    logits = torch.randn(steps, classes, generator=rng) * 2
    blank = seed % classes
    found, wanted = ctc_labels(logits, blank), by_hand(logits, blank)
    assert (found.labels, found.runner_up) == (wanted.labels, wanted.runner_up)
    assert found.confidence == pytest.approx(wanted.confidence, abs=1e-6)
    assert found.runner_up_confidence == pytest.approx(wanted.runner_up_confidence, abs=1e-6)
    for before, token, peak in found.gaps:
        assert 0 <= before <= len(found.labels) and token != blank and MIN_GAP < peak <= 0.5
        assert token not in found.labels[max(before - 1, 0) : before + 1], "its neighbours account for it"
    assert all(isinstance(label, int) for label in found.labels)


def test_fault_11_runs_are_merged_before_blanks_leave() -> None:
    assert ctc_labels(logits_of(sure(0), sure(BLANK), sure(0)), BLANK).labels == (0, 0)
    assert ctc_labels(logits_of(sure(0), sure(0)), BLANK).labels == (0,)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_without_steps_or_labels_there_is_nothing(dtype: torch.dtype) -> None:
    assert ctc_labels(torch.zeros(0, 4, dtype=dtype), BLANK) == CtcLabels(())
    assert ctc_labels(logits_of(sure(BLANK), sure(BLANK)).to(dtype), BLANK) == CtcLabels(())


@pytest.mark.parametrize(
    ("steps", "gaps"),
    [
        ([sure(0), {BLANK: 0.6, 2: 0.38}, {BLANK: 0.7, 2: 0.2}, sure(1)], [(1, 2, 0.38)]),  # in the blanks, its peak
        ([{BLANK: 0.6, 2: 0.38}, sure(0)], [(0, 2, 0.38)]),  # before all labels
        ([{BLANK: 0.6, 2: 0.38}], [(0, 2, 0.38)]),  # without any
        ([sure(0), {BLANK: 0.6, 0: 0.38}, sure(1)], []),  # the edge of a neighbour
        ([{0: 0.6, 2: 0.38}, sure(0), sure(1)], [(0, 2, 0.38)]),  # on the way to a label's peak: before it
        ([sure(0), {0: 0.6, 2: 0.38}, sure(1)], [(1, 2, 0.38)]),  # past the peak: behind it
        ([sure(1), {0: 0.6, 2: 0.38}, sure(1)], [(1, 2, 0.38), (2, 2, 0.38)]),  # a single step: either side
        ([sure(0), {BLANK: 0.94, 2: 0.051}, sure(1)], [(1, 2, 0.051)]),  # just worth a mention
        ([sure(0), {BLANK: 0.95, 2: 0.049}, sure(1)], []),  # not worth a mention
    ],
)
def test_gaps_are_second_choices_that_no_neighbour_explains(
    steps: list[dict[int, float]], gaps: list[tuple[int, int, float]]
) -> None:
    found = ctc_labels(logits_of(*steps), BLANK).gaps
    assert [gap[:2] for gap in found] == [gap[:2] for gap in gaps]
    assert [gap[2] for gap in found] == pytest.approx([gap[2] for gap in gaps], abs=1e-6)


@pytest.mark.parametrize(
    ("best", "expected"),
    [
        ([3, 9, 3], [3, 3]),
        ([3, 3], [3]),
        ([9, 9], []),
        ([3, 3, 9, 9, 3, 4, 4, 9], [3, 3, 4]),
        ([9, 0, 9, 0, 0], [0, 0]),
    ],
)
def test_runs_are_merged_before_blanks_are_removed(best: list[int], expected: list[int]) -> None:
    logits = torch.nn.functional.one_hot(torch.tensor([best + [5] * 3]), 10).float()  # class 9 is the blank
    assert greedy_labels(logits, torch.tensor([len(best)])) == [expected]


@pytest.mark.parametrize("seed", range(6))
def test_rows_of_a_batch_have_the_labels_they_have_alone(seed: int) -> None:
    """Labels of a batch are those of each utterance within its length, whatever stands in the padding."""
    rng = tiny.generator(seed)
    logits = torch.randn(5, 12, 4, generator=rng) * 2
    lengths = torch.randint(0, 13, (5,), generator=rng)
    found = greedy_labels(logits, lengths)
    assert found == [list(ctc_labels(row[:n], BLANK).labels) for row, n in zip(logits, lengths.tolist())]
    assert found == [list(by_hand(row[:n], BLANK).labels) for row, n in zip(logits, lengths.tolist())]


def test_runs_tell_where_labels_begin() -> None:
    best = np.array([3, 3, 0, 0, 3, 0, 1])
    runs = label_runs(best, BLANK)
    assert runs.starts.tolist() == [0, 2, 4, 5, 6]
    assert runs.spoken.tolist() == [False, True, False, True, True]
    assert label_runs(best[:0], BLANK).starts.tolist() == []
