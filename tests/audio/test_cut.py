"""Long recordings are cut in their quietest pauses, whole and without slivers."""

from itertools import pairwise

import numpy as np
import pytest

from speechmtp.audio.cut import cut_points
from speechmtp.errors import ConfigError, ShapeError

RATE = 1000


def noise(seconds: float, rate: int = RATE, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=round(seconds * rate)).astype(np.float32)


def seconds(samples: np.ndarray, rate: int = RATE, **limits: float) -> list[float]:
    """Lengths of the parts, which must cover the recording in order."""
    spans = cut_points(samples, rate, **limits)
    assert spans[0][0] == 0 and spans[-1][1] == len(samples)
    assert all(end == start for (_, end), (start, _) in pairwise(spans))
    return [(end - start) / rate for start, end in spans]


@pytest.mark.parametrize("length", [0.0, 0.001, 10.0, 25.0])
def test_a_short_recording_is_one_span(length: float) -> None:
    assert seconds(noise(length)) == [length]


@pytest.mark.parametrize("rate", [1000, 11025, 16000])
@pytest.mark.parametrize("length", [25.01, 26.0, 29.9, 47.3, 63.0, 121.7])
def test_every_part_is_15_to_25_seconds_and_the_last_no_sliver(length: float, rate: int) -> None:
    *parts, last = seconds(noise(length, rate, seed=round(length)), rate)
    assert parts and all(15 <= part <= 25 for part in parts)
    assert 4.9 < last <= 25


def test_the_cut_lies_inside_the_quietest_pause() -> None:
    samples = noise(60)
    for begin, end, level in ((8, 9, 0), (17, 17.6, 0.1), (21, 21.5, 0.02), (36.5, 36.9, 0.02), (44, 45, 0.3)):
        samples[round(begin * RATE) : round(end * RATE)] *= level
    first, second, *_ = (end / RATE for _, end in cut_points(samples, RATE))
    assert 21.1 < first < 21.4, "the pause at 8 s is out of reach, that at 17 s louder"
    assert 36.6 < second < 36.8


def test_a_click_of_silence_is_no_pause() -> None:
    samples = noise(30)
    samples[16 * RATE : 16 * RATE + 40] = 0  # as before a stop consonant
    samples[20 * RATE : 20 * RATE + 300] *= 0.3
    assert 20 <= seconds(samples)[0] <= 20.3


def test_of_equally_quiet_places_the_later_one() -> None:
    assert seconds(np.zeros(60 * RATE, np.float32)) == [25, 25, 10]
    samples = np.tile(noise(1), 60)  # the same in every second
    assert seconds(samples)[0] > 24


def test_other_limits_and_integers() -> None:
    samples = (1000 * noise(10)).astype(np.int16)
    *parts, last = seconds(samples, shortest=2.0, longest=3.0)
    assert all(2 <= part <= 3 for part in parts) and 0.4 < last <= 3


def test_an_offset_and_slow_drift_are_no_sound() -> None:
    samples = 0.1 * noise(120, seed=3)
    for begin in range(4, 118, 6):
        samples[begin * RATE : begin * RATE + 400] *= 0.1
    expected = cut_points(samples, RATE)
    assert [cut_points(samples + np.float32(offset), RATE) for offset in (0.4, -0.4)] == [expected] * 2
    drift = 0.3 * np.sin(2 * np.pi * 0.05 * np.arange(len(samples)) / RATE)
    cuts = [end / RATE for _, end in cut_points((samples + drift).astype(np.float32), RATE)]
    assert all(0.1 <= (cut - 4) % 6 <= 0.3 for cut in cuts[:-1]), "in the middles of pauses"


def test_what_is_no_recording_is_refused() -> None:
    with pytest.raises(ShapeError, match="one channel"):
        cut_points(np.zeros((2, 100), np.float32), RATE)
    with pytest.raises(ConfigError, match="15 to 15 s"):
        cut_points(noise(1), RATE, 15.0, 15.0)
