"""Curves of audio: energy against a plain formula, F0 of tones, and what is said without librosa."""

import sys

import numpy as np
import pytest

from speechmtp.codec.curves import energy, measure
from speechmtp.errors import DataError


def test_energy_is_the_norm_of_the_mel_powers() -> None:
    """A golden value: a tone of 1 kHz and amplitude 0.1 lies between two filters, whose shares of its peak add up to
    one; and silence has 80 bands of 1e-5."""
    tone = 0.1 * np.sin(2 * np.pi * 1000 * np.arange(24000) / 24000)
    found = energy(tone.astype(np.float32))
    assert found.shape == (81,) and found.dtype == np.float32
    peak = (0.1 * 600 / 2) ** 2  # of the power, by a Hann window of 1200
    assert np.log(peak / 2) < found[40] < np.log(4 * peak)
    assert energy(np.zeros(3000, np.float32)) == pytest.approx(np.log(1e-5 * np.sqrt(80)), abs=1e-4)
    louder = energy((2 * tone).astype(np.float32))
    assert louder[40] - found[40] == pytest.approx(np.log(4), abs=1e-3)


def test_energy_of_a_click_is_where_it_is() -> None:
    for sample in (3000, 6150, 9299):
        audio = np.zeros(12000, np.float32)
        audio[sample] = 1.0
        assert abs(int(energy(audio).argmax()) - sample / 300) <= 0.51


@pytest.mark.slow  # librosa compiles its search at the first call
def test_f0_of_a_voice_like_tone() -> None:
    pytest.importorskip("librosa")
    seconds = np.arange(12000) / 24000
    audio = sum(np.sin(2 * np.pi * 180 * order * seconds) / order for order in range(1, 9)) * 0.2
    audio = np.concatenate([np.zeros(6000), audio]).astype(np.float32)
    curves = measure(audio)
    assert len(curves.f0) == 31 and len(curves.energy) == 61
    assert curves.f0[14:28] == pytest.approx(180, rel=0.02) and not curves.f0[:6].any()


def test_without_librosa_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "librosa", None)
    with pytest.raises(DataError, match=r"needs librosa.*pip install 'speechmtp\[train\]'"):
        measure(np.zeros(24000, np.float32))


@pytest.mark.parametrize("audio", [np.zeros(0, np.float32), np.array([0.0, np.nan], np.float32)])
def test_audio_that_is_none_is_refused(audio: np.ndarray) -> None:
    with pytest.raises(DataError, match="expected audio of finite numbers"):
        measure(audio)
