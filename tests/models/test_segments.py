"""Segments of a growing utterance: after every piece, those of all that was heard so far."""

import pytest
import tiny
import torch
from torch import Tensor

from speechmtp.errors import ShapeError
from speechmtp.models.segments import Segments, SegmentState, merge_segments

CLASSES = 5  # of them blank last


def audio(sizes: list[int], seed: int) -> tuple[Tensor, Tensor]:
    """States [B, S, 3] and logits [B, S, 5] in float64, long runs of labels and of blank; rubbish past the sizes."""
    rng = tiny.generator(seed)
    logits = torch.randn(len(sizes), max(sizes), CLASSES, generator=rng, dtype=torch.float64)
    for step in range(1, max(sizes)):  # half of the steps are like the one before
        again = torch.rand(len(sizes), 1, generator=rng) < 0.5
        logits[:, step] = torch.where(again, logits[:, step - 1] + 0.05 * logits[:, step], 2 * logits[:, step])
    logits[..., -1] += 0.7
    return torch.randn(len(sizes), max(sizes), 3, generator=rng, dtype=torch.float64), logits


def same(got: Segments, row: int, want: Segments, count: int) -> None:
    """The first `count` segments of a row are those of the only row of `want`, bit for bit."""
    assert got.states is not None and want.states is not None
    for a, b in ((got.posterior, want.posterior), (got.states, want.states), (got.features, want.features)):
        assert torch.equal(a[row, :count], b[0, :count])
    assert got.labels[row, :count].tolist() == want.labels[0, :count].tolist()


@pytest.mark.parametrize("seed", range(6))
def test_every_piece_gives_what_the_offline_function_gives_so_far(seed: int) -> None:
    sizes = [40, 23, 31]
    states, logits = audio(sizes, seed)
    rng = tiny.generator(100 + seed)
    state, at = SegmentState.start(3, states, logits), [0, 0, 0]
    whole = [merge_segments(states[r : r + 1], logits[r : r + 1], torch.tensor([n])) for r, n in enumerate(sizes)]
    open_ends = 0
    while at != sizes:
        took = [min(int(torch.randint(0, 6, (1,), generator=rng)), n - a) for a, n in zip(at, sizes)]
        piece = [torch.full((3, max(took), x.shape[-1]), 7.0, dtype=torch.float64) for x in (states, logits)]
        for row, n in enumerate(took):
            for part, x in zip(piece, (states, logits)):
                part[row, :n] = x[row, at[row] : at[row] + n]
        state, at = state.heard(*piece, torch.tensor(took)), [a + n for a, n in zip(at, took)]
        got = state.segments()
        for row, heard in enumerate(at):
            want = merge_segments(states[row : row + 1], logits[row : row + 1], torch.tensor([heard]))
            count = int(want.lengths[0])
            assert int(got.lengths[row]) == count
            same(got, row, want, count)
            assert bool((got.labels[row, count:] == -1).all()) and not got.posterior[row, count:].any()
            final = int(state.final[row])
            inside = heard > 0 and int(logits[row, heard - 1].argmax()) != CLASSES - 1
            assert final == count - inside, "only a run up to the newest step may grow"
            same(got, row, whole[row], final)
            open_ends += inside
    assert open_ends > 10


def test_an_open_run_is_not_final_and_grows() -> None:
    states, logits = audio([6], 0)
    logits[0, :, :] = 0.0
    for step, label in enumerate([4, 1, 1, 1, 4, 1]):
        logits[0, step, label] = 5.0
    state = SegmentState.start(1, states, logits)
    seen = []
    for step in range(6):
        state = state.heard(states[:, step : step + 1], logits[:, step : step + 1], torch.tensor([1]))
        run = state.segments().features[0, :, 0].exp().round().tolist()[: int(state.counts[0])]
        seen.append((int(state.final[0]), run))
    assert seen == [(0, []), (0, [1]), (0, [2]), (0, [3]), (1, [3]), (1, [3, 1])]


@pytest.mark.parametrize("seed", range(3))
def test_streams_join_leave_and_are_reset(seed: int) -> None:
    states, logits = audio([30, 30, 30], seed)
    start = SegmentState.start(2, states, logits)

    def fed(state: SegmentState, rows: list[int], begin: int, end: int) -> SegmentState:
        return state.heard(states[rows, begin:end], logits[rows, begin:end], torch.tensor([end - begin] * len(rows)))

    state = fed(start, [0, 1], 0, 17)
    state = state.join(SegmentState.start(1, states, logits)).select([2, 1, 0])  # a new one in front
    state = fed(state, [2, 1, 0], 0, 9).heard(states[[2, 1, 0], 9:12], logits[[2, 1, 0], 9:12], torch.tensor([3, 0, 0]))
    for row, (pieces, whose) in enumerate([([(0, 12)], 2), ([(0, 17), (0, 9)], 1), ([(0, 17), (0, 9)], 0)]):
        x = [torch.cat([part[whose, a:b] for a, b in pieces])[None] for part in (states, logits)]
        want = merge_segments(*x, torch.tensor([x[0].shape[1]]))
        assert int(state.counts[row]) == int(want.lengths[0]) > 1
        same(state.segments(), row, want, int(want.lengths[0]))
    again = state.reset([0, 2])
    assert again.counts.tolist()[::2] == [0, 0] and again.final.tolist()[::2] == [0, 0]
    again = fed(again, [0, 1, 2], 5, 20)
    for row in (0, 2):
        want = merge_segments(states[row : row + 1, 5:20], logits[row : row + 1, 5:20], torch.tensor([15]))
        same(again.segments(), row, want, int(want.lengths[0]))
        assert int(again.counts[row]) == int(want.lengths[0])
    less = again.select([1])
    assert int(less.counts[0]) == int(again.counts[1])
    assert torch.equal(fed(less, [1], 20, 30).segments().features[0], fed(again, [1, 1, 1], 20, 30).select([1])
                       .segments().features[0, : int(fed(less, [1], 20, 30).counts[0])])  # fmt: skip


def test_gradients_flow_through_the_segments() -> None:
    states, logits = audio([12], 1)
    states.requires_grad_(), logits.requires_grad_()
    segments = merge_segments(states, logits, torch.tensor([12]))
    assert segments.states is not None
    (segments.states.sum() + segments.posterior[..., 0].sum()).backward()
    assert states.grad is not None and logits.grad is not None
    assert bool(states.grad.any()) and bool(logits.grad.any())


def test_a_batch_of_another_size_is_named() -> None:
    states, logits = audio([4, 4], 0)
    with pytest.raises(ShapeError, match="segments: 2 rows of steps, expected 3"):
        SegmentState.start(3, states, logits).heard(states, logits, torch.tensor([4, 4]))
