"""The resampler in the page's worklet, run by node: length, pitch, level, and what would alias."""

import math
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from realtime_stand_in import PAGE

NODE = shutil.which("node")
RUNS = Path(__file__).with_name("resampler_runs.mjs")

pytestmark = pytest.mark.skipif(NODE is None, reason="needs node")


def resampled(samples: np.ndarray, rate: int, block: int = 128) -> np.ndarray:
    """Samples [M] of int16 at 16 kHz that the worklet makes."""
    assert NODE is not None
    command = [NODE, str(RUNS), str(PAGE / "worklet.js"), str(rate), str(block)]
    done = subprocess.run(command, input=samples.astype(np.float32).tobytes(), capture_output=True, check=True)
    return np.frombuffer(done.stdout, np.int16)


def sine(frequency: float, rate: int, seconds: float = 1.0) -> np.ndarray:
    """A sine of half the full scale."""
    return 0.5 * np.sin(2 * np.pi * frequency * np.arange(round(seconds * rate)) / rate)


@pytest.mark.parametrize("rate", [8000, 16000, 22050, 44100, 48000, 96000])
def test_a_tone_keeps_its_pitch_level_and_phase(rate: int) -> None:
    found = resampled(sine(1000, rate), rate)
    assert len(found) == math.ceil(16000 * rate / rate)
    expected = 32768 * 0.5 * np.sin(2 * np.pi * 1000 * np.arange(16000) / 16000)
    assert np.abs(found - expected)[400:-400].max() < 12  # of 16384: 0.07 %


def test_what_would_alias_is_taken_out() -> None:
    found = resampled(sine(10000, 48000), 48000)[400:-400]
    assert np.abs(found).max() < 16384 * 10 ** (-75 / 20)
    voice = resampled(sine(6500, 48000), 48000)[400:-400]
    assert np.abs(voice).max() > 16384 * 10 ** (-0.2 / 20)


def test_the_size_of_blocks_makes_no_difference() -> None:
    noise = 0.2 * np.random.default_rng(0).normal(size=44100)
    assert np.array_equal(resampled(noise, 44100, 128), resampled(noise, 44100, 1000))


def test_a_rate_of_no_simple_ratio_is_close() -> None:
    found = resampled(sine(1000, 44101), 44101)
    expected = 32768 * 0.5 * np.sin(2 * np.pi * 1000 * np.arange(len(found)) / 16000)
    assert len(found) == 16000 and np.abs(found - expected)[400:-400].max() < 16384 * 0.01
