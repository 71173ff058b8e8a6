"""Long recordings are cut in the middle of their longest pauses, whole, without slivers, and in blocks of any size."""

from itertools import pairwise

import numpy as np
import pytest

import speechmtp
from speechmtp.audio import cut
from speechmtp.audio.cut import Cutter, cut_points, pause_place
from speechmtp.audio.io import read_audio
from speechmtp.errors import ConfigError, ShapeError

RATE = 1000


@pytest.fixture
def levels(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """In place of the network: a frame is as likely speech as its samples are large. The lengths that were heard."""
    heard = []

    def speech(samples: np.ndarray, rate: int) -> np.ndarray:
        heard.append(len(samples))
        edges = np.arange(0, len(samples), 0.032 * rate).astype(int)
        return np.add.reduceat(np.abs(samples), edges) / np.diff([*edges, len(samples)])

    monkeypatch.setattr(cut, "speech", speech)
    return heard


@pytest.fixture(scope="module")
def reading() -> np.ndarray:
    """Real speech of 7.3 s at 16 kHz."""
    return read_audio(str(speechmtp.example("reading")), 16000)[0]


def noise(seconds: float, rate: int = RATE, seed: int = 0) -> np.ndarray:
    """Speech all over, for `levels`."""
    return (0.6 + 0.1 * np.random.default_rng(seed).normal(size=round(seconds * rate))).astype(np.float32)


def seconds(samples: np.ndarray, rate: int = RATE, **limits: float) -> list[float]:
    """Lengths of the parts, which must cover the recording in order."""
    spans = cut_points(samples, rate, **limits)
    assert spans[0][0] == 0 and spans[-1][1] == len(samples)
    assert all(end == start for (_, end), (start, _) in pairwise(spans))
    return [(end - start) / rate for start, end in spans]


@pytest.mark.parametrize("length", [0.0, 0.001, 10.0, 25.0])
def test_a_short_recording_is_one_part_and_unheard(length: float, levels: list[int]) -> None:
    assert seconds(noise(length)) == [length] and levels == []
    cutter = Cutter(RATE)
    assert cutter.push(noise(length)) == []
    [part] = cutter.finish()
    assert part.start == 0 and part.end == len(noise(length)) and (part.samples == noise(length)).all()


@pytest.mark.parametrize("rate", [1000, 11025, 16000])
@pytest.mark.parametrize("length", [25.01, 26.0, 29.9, 30.1, 47.3, 63.0, 121.7])
def test_parts_are_10_to_25_seconds_and_the_last_at_least_5(length: float, rate: int, levels: list[int]) -> None:
    *parts, last = seconds(noise(length, rate, seed=round(length)), rate)
    assert parts and all(10 <= part <= 25 for part in parts)
    assert 5 <= last <= 25
    assert all(count <= 17.01 * rate for count in levels), "only where a part may end, and 2 s before"


def test_the_cut_lies_in_the_middle_of_the_longest_pause(levels: list[int]) -> None:
    samples = noise(60)
    for begin, end in ((8, 9.5), (12, 12.64), (17, 17.32), (21, 21.5), (36.5, 36.9), (44, 45)):
        samples[round(begin * RATE) : round(end * RATE)] = 0.1
    first, second, *_ = (end / RATE for _, end in cut_points(samples, RATE))
    assert first == pytest.approx(12.32, abs=0.04), "the pause at 8 s is out of reach"
    assert second == pytest.approx(36.7, abs=0.04), "that at 44 s too"


def test_of_equal_pauses_the_later_one(levels: list[int]) -> None:
    samples = noise(40)
    for begin in (11, 16, 21):
        samples[round(begin * 1.024 * RATE) : round((begin * 1.024 + 0.32) * RATE)] = 0
    assert seconds(samples)[0] == pytest.approx(21 * 1.024 + 0.16, abs=0.04)
    assert seconds(np.zeros(60 * RATE, np.float32)) == [17.5, 17.5, 25], "all of it is one pause"


def test_without_a_pause_at_the_least_likely_speech(levels: list[int]) -> None:
    samples = np.full(30 * RATE, 0.9, np.float32)
    samples[14 * RATE : 14 * RATE + 64] = 0.6
    assert seconds(samples)[0] == pytest.approx(14.03, abs=0.04)
    assert seconds(np.full(27 * RATE, 0.9, np.float32))[0] == pytest.approx(22, abs=0.04), "the last has 5 s"


def test_the_place_by_probabilities() -> None:
    speech = np.array([0.9] * 10)
    assert pause_place(speech, 2.0, 8.0) == 7.5
    speech[[3, 6, 7]] = 0.0
    assert pause_place(speech, 2.0, 9.0) == 7.0
    assert pause_place(speech, 2.0, 6.5) == 3.5, "what is beyond the window does not count"
    assert pause_place(speech, 6.5, 9.0) == 7.25
    assert pause_place(speech, 10.0, 10.0) == 10.0


def test_other_limits(levels: list[int]) -> None:
    *parts, last = seconds(noise(10), shortest=2.0, longest=3.0)
    assert all(2 <= part <= 3 for part in parts) and 0.5 <= last <= 3
    *parts, last = seconds(noise(3), shortest=0.05, longest=0.1)
    assert all(0.05 <= part <= 0.1 for part in parts) and 0.025 <= last <= 0.1


@pytest.mark.parametrize("sizes", [[13], [320], [16000], [999_999], [1, 50_000, 7]])
def test_blocks_of_any_size_give_the_same_parts(sizes: list[int], levels: list[int]) -> None:
    samples = noise(80, seed=5)
    for begin in range(3, 80, 7):
        samples[begin * RATE : begin * RATE + 100 + begin] = 0
    cutter = Cutter(RATE)
    for _ in range(2):  # it is as new after `finish`
        parts, begin, number, held = [], 0, 0, 0
        while begin < len(samples):
            block = samples[begin : begin + sizes[number % len(sizes)]].copy()
            parts += cutter.push(block)
            block[:] = 9  # the caller's array is the caller's
            begin, number = begin + len(block), number + 1
            held = max(held, begin - (parts[-1].end if parts else 0) - len(block))
        parts += cutter.finish()
        assert [(part.start, part.end) for part in parts] == cut_points(samples, RATE)
        assert (np.concatenate([part.samples for part in parts]) == samples).all()
        assert held <= 30.001 * RATE
    assert [len(part.samples) for part in Cutter(RATE).finish()] == [0], "no samples are one part too"


def test_real_speech_is_cut_where_nobody_speaks(reading: np.ndarray) -> None:
    pause = np.zeros(16000, np.float32)
    samples = np.concatenate([reading, pause] * 8)
    turn = len(reading) + len(pause)
    *cuts, end = (end for _, end in cut_points(samples, 16000))
    assert len(cuts) >= 2 and end == len(samples)
    assert all(abs(place % turn - (turn - 8000)) < 4000 for place in cuts)


def test_an_offset_and_other_rates_change_little(reading: np.ndarray) -> None:
    samples = np.tile(reading, 8)
    expected = [end / 16000 for _, end in cut_points(samples, 16000)]
    for changed in (samples + np.float32(0.1), 0.3 * samples):
        assert [end / 16000 for _, end in cut_points(changed, 16000)] == pytest.approx(expected, abs=0.2)
    assert [end / 8000 for _, end in cut_points(samples[::2].copy(), 8000)] == pytest.approx(expected, abs=0.2)


def test_blocks_of_real_speech_give_the_same_parts(reading: np.ndarray) -> None:
    samples = np.tile(reading, 8)
    for size in (4801, len(samples)):
        cutter = Cutter(16000)
        parts = [part for begin in range(0, len(samples), size) for part in cutter.push(samples[begin : begin + size])]
        assert [(part.start, part.end) for part in [*parts, *cutter.finish()]] == cut_points(samples, 16000)


def test_what_is_no_recording_is_refused() -> None:
    for take in (lambda samples: cut_points(samples, RATE), Cutter(RATE).push):
        with pytest.raises(ShapeError, match="one channel"):
            take(np.zeros((2, 100), np.float32))
    with pytest.raises(ConfigError, match="15 to 15 s"):
        cut_points(noise(1), RATE, 15.0, 15.0)
    with pytest.raises(ConfigError, match="at 0 Hz"):
        Cutter(0)
