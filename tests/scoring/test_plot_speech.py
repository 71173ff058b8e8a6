"""The picture of speech: a tone is bright where it sounds, words stand at their times, and errors are one line."""

from pathlib import Path

import numpy as np
import pytest

from speechmtp.errors import DataError
from speechmtp.scoring import plot_speech as module
from speechmtp.scoring.plot_speech import plot_speech

RATE = 24000


def tone(seconds: float, hertz: float) -> np.ndarray:
    """A tone behind as long a silence."""
    time = np.arange(int(seconds * RATE)) / RATE
    return np.concatenate([np.zeros(len(time)), np.sin(2 * np.pi * hertz * time)]).astype(np.float32)


def test_a_tone_is_loud_at_its_pitch_and_time_alone() -> None:
    power = module._decibels(tone(0.5, 1500))
    frames, bin_ = power.shape[1], round(1500 * module.WINDOW / RATE)
    assert power[bin_, 3 * frames // 4] > -3
    assert power[bin_, frames // 4] < -60 and power[bin_ + 40, 3 * frames // 4] < -40


def test_a_picture_is_written_in_the_format_of_its_name(tmp_path: Path) -> None:
    words = [("hello", 0.5, 0.7), ("you", 0.7, 0.95)]
    for name, head in (("a.png", b"\x89PNG"), ("a.svg", b"<?xml")):
        plot_speech(tone(0.5, 800), RATE, words, tmp_path / name, "a tone")
        assert (tmp_path / name).read_bytes().startswith(head)


def test_less_than_a_window_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="plot: 10 samples, expected 1024 or more"):
        plot_speech(np.zeros(10, np.float32), RATE, [], tmp_path / "a.png")
