"""Speech or not: as the package silero-vad says, however samples arrive."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import speechmtp
from speechmtp.audio.activity import FRAME, RATE, ActivityState, load_activity
from speechmtp.audio.io import read_audio
from speechmtp.errors import ShapeError

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "activity.json").read_text())  # tools/make_activity.py


@pytest.fixture(scope="module")
def recordings() -> dict[str, np.ndarray]:
    noise = 0.1 * np.random.default_rng(0).normal(size=2 * RATE)
    return {"reading": read_audio(str(speechmtp.example("reading")), RATE)[0], "noise": noise.astype(np.float32)}


def whole(samples: np.ndarray, frames: int | None = None) -> torch.Tensor:
    """A row of as many frames as there are."""
    return torch.from_numpy(samples[: (frames or len(samples) // FRAME) * FRAME])[None]


def apart(one: torch.Tensor, other: torch.Tensor) -> float:
    """The largest difference."""
    return float((one - other).abs().max())


@pytest.mark.parametrize("name", ["reading", "noise"])
def test_both_paths_say_what_the_package_says(name: str, recordings: dict[str, np.ndarray]) -> None:
    model, samples = load_activity(), recordings[name]
    together, _ = model(whole(samples), model.start(1))
    assert together[0].tolist() == pytest.approx(GOLDEN[name], abs=1e-5)
    assert model.stream().push(samples) == pytest.approx(GOLDEN[name], abs=1e-5)
    assert (max(GOLDEN[name]) > 0.99) == (name == "reading")


def test_the_state_carries_over(recordings: dict[str, np.ndarray]) -> None:
    model, samples = load_activity(), whole(recordings["reading"])
    expected, last = model(samples, model.start(1))
    state, found = model.start(1), []
    for frames in (1, 2, 0, 50, 100, 74):
        begin = FRAME * sum(one.shape[1] for one in found)
        probabilities, state = model(samples[:, begin : begin + FRAME * frames], state)
        found.append(probabilities)
    assert apart(torch.cat(found, 1), expected) < 1e-5
    for name in ("context", "hidden", "cell"):
        assert apart(getattr(state, name), getattr(last, name)) < 1e-3
    assert state.context.shape == (1, 64) and state.hidden.shape == state.cell.shape == (1, 128)


def test_rows_are_independent(recordings: dict[str, np.ndarray]) -> None:
    model = load_activity()
    rows = torch.cat([whole(recordings[name], 60) for name in ("reading", "noise")])
    rows = torch.cat([rows, torch.zeros(1, 60 * FRAME)])
    both, state = model(rows[:, : 40 * FRAME], model.start(3))
    # Rows change places between calls.
    order = torch.tensor([2, 0, 1])
    state = ActivityState(state.context[order], state.hidden[order], state.cell[order])
    rest, _ = model(rows[order, 40 * FRAME :], state)
    for row, place in ((0, 1), (1, 2), (2, 0)):
        alone, _ = model(rows[row : row + 1], model.start(1))
        assert apart(torch.cat([both[row], rest[place]]), alone[0]) < 1e-5


def test_a_stream_does_not_depend_on_pieces(recordings: dict[str, np.ndarray]) -> None:
    model, samples = load_activity(), recordings["reading"][: 20 * FRAME + 100]
    expected, other = model.stream().push(samples), model.stream()
    assert len(expected) == 20
    for sizes in ([1] * 1100 + [len(samples)], [511, 513, 5000] * 10, [20, 1280, 16000] * 9):
        stream, found, begin = model.stream(), [], 0
        for size in sizes:
            piece = samples[begin : begin + size].copy()
            found += stream.push(piece)
            piece[:] = 7  # the caller's array is the caller's
            begin += size
        other.push(-samples[:700])
        assert found == expected, sizes[:3]


def test_threads_do_not_change_a_bit(recordings: dict[str, np.ndarray]) -> None:
    model, samples = load_activity(), recordings["reading"][: 100 * FRAME]
    found, before = [], torch.get_num_threads()
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            found.append((model(whole(samples), model.start(1))[0].tolist(), model.stream().push(samples[: 9 * FRAME])))
    finally:
        torch.set_num_threads(before)
    assert found[0] == found[1]


def test_one_network_a_process_and_no_gradients() -> None:
    assert load_activity() is load_activity()
    assert not any(one.requires_grad for one in load_activity().parameters())


def test_what_is_no_frame_is_refused() -> None:
    model = load_activity()
    for shape in ((1, 511), (2, 512), (512,)):
        with pytest.raises(ShapeError, match="give whole frames"):
            model(torch.zeros(shape), model.start(1))
    with pytest.raises(ShapeError, match="one channel"):
        model.stream().push(np.zeros((2, 512), np.float32))
