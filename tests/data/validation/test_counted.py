"""Data directories go by the counted length of audio, not by what a header or a guess says."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from small_sets import lines

from speechmtp.data.kaldi import read_data_dir
from speechmtp.data.stats import utterance_durations
from speechmtp.errors import DataError

RATE = 16000


def streamed_mp3(path: Path) -> None:
    """An MP3 file of 6 s without a Xing header, whose loud beginning lets libsndfile take it for shorter."""
    level = np.repeat([0.3, 0.003], [2 * RATE, 4 * RATE])
    stream = io.BytesIO()
    noise = level * np.random.default_rng(0).standard_normal(6 * RATE)
    soundfile.write(stream, noise, RATE, format="MP3", bitrate_mode="VARIABLE", compression_level=0.9)
    data = stream.getvalue()
    path.write_bytes(data[data.index(data[:2], 4) :])
    assert soundfile.info(path).duration < 5


@pytest.fixture
def streamed(tmp_path: Path) -> Path:
    """A directory whose recording is such a file, with a segment at its end."""
    directory = tmp_path / "set"
    directory.mkdir()
    streamed_mp3(directory / "rec.mp3")
    lines(directory / "wav.scp", "rec rec.mp3")
    lines(directory / "segments", "s-1 rec 0.0 2.0", "s-2 rec 5.0 6.0")
    lines(directory / "text", "s-1 HELLO ONE", "s-2 HELLO TWO")
    lines(directory / "utt2spk", "s-1 s", "s-2 s")
    lines(directory / "spk2utt", "s s-1 s-2")
    return directory


def test_segments_of_a_file_whose_length_is_guessed_short(streamed: Path, run: Any) -> None:
    loaded = {key: utterance.load() for key, utterance in read_data_dir(streamed).items()}
    assert {key: len(samples) for key, samples in loaded.items()} == {"s-1": 2 * RATE, "s-2": RATE}
    assert loaded["s-2"].std() < 0.01 < loaded["s-1"].std()
    for level in ("header", "decode"):
        code, printed = run("validate", streamed, "--check-audio", level)
        assert code == 0 and "E24" not in printed and "E32" not in printed
    code, printed = run("validate", streamed, "--fix-drop")
    assert code == 0 and (streamed / "segments").read_text().count("\n") == 2


def test_durations_are_those_that_are_heard(streamed: Path) -> None:
    (streamed / "segments").unlink()
    for name in ("text", "utt2spk"):
        lines(streamed / name, "rec HELLO")
    assert utterance_durations(read_data_dir(streamed))["rec"] == pytest.approx(6.0, abs=0.2)


def test_a_cut_file_is_a_defect_with_both_lengths(good: Path, run: Any) -> None:
    path = good / "wav" / "a-2.wav"
    path.write_bytes(path.read_bytes()[: 44 + 8000])
    for level in ("header", "decode"):
        code, printed = run("validate", good, "--check-audio", level)
        assert code != 0
        assert "wav.scp:2: E29 audio unreadable" in printed
        assert "0.25 s of audio, 0.50 s expected by its header" in printed
    with pytest.raises(DataError, match="cut short"):
        read_data_dir(good)["a-2"].load()
