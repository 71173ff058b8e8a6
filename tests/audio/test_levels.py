"""Channels that cancel, silence, and samples of another scale than they seem to have."""

import warnings
from pathlib import Path

import numpy as np
import pytest
import soundfile

from speechmtp.audio.inputs import read_input
from speechmtp.audio.io import read_audio
from speechmtp.audio.levels import inaudible, mix
from speechmtp.errors import AudioWarning, DataError

RATE = 16000


def noise(seed: int, level: float = 0.1, size: int = RATE) -> np.ndarray:
    return (level * np.random.default_rng(seed).normal(size=size)).astype(np.float32)


A, B = noise(0), noise(1)


@pytest.mark.parametrize(
    ("channels", "loudest"),
    [
        ((-0.9 * A, A), 1),
        ((A, -A), 0),
        ((A, -0.8 * A + 0.02 * B), 0),
        ((A + 0.3, -0.95 * A - 0.1), 0),  # offsets are no sound
        ((A, B - A, -B), 1),
        ((noise(0, 1e-6), -noise(0, 1e-6)), 0),
    ],
)
def test_of_channels_that_cancel_the_loudest_is_heard(channels: tuple[np.ndarray, ...], loudest: int) -> None:
    audio = np.stack(channels, 1).astype(np.float32)
    with pytest.warns(AudioWarning, match=f"^take 1: its {len(channels)} channels cancel .*; channel {loudest}, "):
        assert np.array_equal(mix("take 1", audio), audio[:, loudest])


@pytest.mark.parametrize(
    "channels",
    [
        (A, A),
        (A, B),
        (A, 0 * A),
        (0 * A, 0 * A),
        (A, 0.5 * B, 0 * A),
        (A, -0.5 * A),
        (A, *(0 * A for _ in range(15))),  # one of 16 microphones spoken into
        (A, *(noise(seed, 0.02) for seed in range(1, 12))),
    ],
)
def test_other_channels_are_averaged(channels: tuple[np.ndarray, ...]) -> None:
    audio = np.stack(channels, 1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.array_equal(mix("take 1", audio), audio.mean(1))


def test_files_and_arrays_that_cancel_are_told_once_each_and_a_chosen_channel_never(tmp_path: Path) -> None:
    audio = np.stack([A, -A], 1)
    for name in ("a", "b"):
        soundfile.write(tmp_path / f"{name}.wav", audio, RATE, subtype="FLOAT")
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("default")
        for name in ("a", "b", "a"):
            assert np.array_equal(read_audio(tmp_path / f"{name}.wav", end=0.5)[0], A[: RATE // 2])
        assert np.array_equal(read_audio(tmp_path / "a.wav", channel=1)[0], -A)
        assert np.array_equal(read_input(audio, RATE, RATE), A)
    assert [str(one.message).split(":")[0].split("/")[-1] for one in told] == ["a.wav", "b.wav", "audio"]


@pytest.mark.parametrize(
    ("audio", "silent"),
    [
        (np.zeros(100), True),
        (np.full(100, 0.25), True),
        (noise(0, 1e-5, 100), True),
        (np.random.default_rng(0).integers(-2, 3, 100) / 32768 - 0.01, True),  # a muted 16-bit channel with dither
        (1e-3 * A / np.abs(A).max(), False),  # at -60 dB
        (1.3e-4 * A / np.abs(A).max(), False),
        (np.eye(1, 1000, 500)[0] * 0.01, False),  # a click
    ],
)
def test_silence_is_80_db_below_full_scale(audio: np.ndarray, silent: bool) -> None:
    assert inaudible(audio.astype(np.float32)) is silent


WHOLE = np.array([0, 3, -5, 2, 1])


@pytest.mark.parametrize(
    ("audio", "message"),
    [
        (20000 * A, r"samples up to [\d.]+, expected floats in \[-1, 1\]; divide by 32768"),
        (np.stack([20000 * A, -20000 * A], 1), "samples up to"),  # their mean is silence
        (WHOLE.astype(np.float32), "samples up to 5, expected floats"),
        (WHOLE.astype(np.float64)[:, None], "samples up to 5, expected floats"),
        ((20000 * A).astype(np.int32), r"32-bit samples up to \d+, expected up to 2147483648; give them as int16"),
        (np.array([0, 4, -1], np.int32), "32-bit samples up to 4"),
    ],
)
def test_samples_of_another_scale_are_refused(audio: np.ndarray, message: str) -> None:
    with pytest.raises(DataError, match=f"^take 1: {message}") as caught:
        read_input(audio, RATE, RATE, "take 1")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("channel", [None, 1])
def test_float_files_of_another_scale_are_refused(tmp_path: Path, channel: int | None) -> None:
    soundfile.write(tmp_path / "a.wav", 20000 * np.stack([A, A], 1), RATE, subtype="FLOAT")
    with pytest.raises(DataError, match=r"a\.wav: samples up to .*; divide by 32768"):
        read_audio(tmp_path / "a.wav", channel=channel)


@pytest.mark.parametrize(
    "audio",
    [
        19 * A,  # mixed too hot, up to 7.6
        np.array([1, -1, 0], np.float32),
        np.array([0, 3, -2], np.int32),  # inaudible, whatever the scale
        np.array([0, 256, -32512], np.int32),  # the noise of a 24-bit converter
        np.array([2**15, -5], np.int32),
    ],
)
def test_samples_that_may_be_what_they_seem_are_taken(audio: np.ndarray) -> None:
    scale = 2**31 if audio.dtype == np.int32 else 1
    assert np.array_equal(read_input(audio, RATE, RATE), (audio / scale).astype(np.float32))
