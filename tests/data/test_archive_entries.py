"""wav.scp with entries of Kaldi archives: read, cut, measured, validated and never dropped."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_sets import lines, segments

from speechmtp.audio.io import read_audio
from speechmtp.data.kaldi import read_data_dir
from speechmtp.data.stats import data_stats
from speechmtp.data.subset import subset
from speechmtp.errors import DataError


@pytest.fixture
def packed(good: Path) -> Path:
    """The sound data directory with its WAV files in an archive."""
    return pack(good)


def pack(folder: Path) -> Path:
    """Put the files of a data directory into the archive data.ark."""
    content, scp = b"", []
    for line in (folder / "wav.scp").read_text().splitlines():
        key, file = line.split()
        content += f"{key} ".encode()
        scp.append(f"{key} data.ark:{len(content)}")
        content += (folder / file).read_bytes()
    (folder / "data.ark").write_bytes(content)
    lines(folder / "wav.scp", *scp)
    return folder


def test_entries_are_utterances(packed: Path) -> None:
    for utterance in read_data_dir(packed).utterances:
        wanted, _ = read_audio(packed / "wav" / f"{utterance.id}.wav")
        np.testing.assert_array_equal(utterance.load(), wanted)
    assert data_stats(packed)["hours"] == pytest.approx(4 * 0.5 / 3600)


def test_segments_cut_entries(good: Path, run: Any) -> None:
    segments(good, "b-2 rec 1.2 -1")
    wanted = [utterance.load() for utterance in read_data_dir(good).utterances]
    pack(good)
    for utterance, samples in zip(read_data_dir(good).utterances, wanted):
        np.testing.assert_array_equal(utterance.load(), samples)
    assert run("validate", good)[0] == 0
    (good / "utt2dur").touch()
    segments(good, "b-2 rec 1.2 3.0")
    pack(good)
    code, printed = run("validate", good)
    assert code == 1 and "E24 segment 'b-2' ends 1.000 s after its recording (2.000 s)" in printed


def test_sets_of_entries_are_cut_joined_and_found_below_their_root(packed: Path, tmp_path: Path, run: Any) -> None:
    moved = tmp_path / "corpus"
    moved.mkdir()
    shutil.move(packed / "data.ark", moved)
    assert run("validate", packed, "--root", moved)[0] == 0
    subset(packed, tmp_path / "first", "first", 1, rest=tmp_path / "rest", root=moved)
    assert run("combine", tmp_path / "both", tmp_path / "first", tmp_path / "rest")[0] == 0
    assert run("split", tmp_path / "both", 2, "--out", tmp_path / "parts")[0] == 0
    for found in ("both", "parts/1", "rest"):
        for utterance in read_data_dir(tmp_path / found).utterances:
            wanted, _ = read_audio(packed / "wav" / f"{utterance.id}.wav")
            np.testing.assert_array_equal(utterance.load(), wanted)


def test_validation_measures_entries(packed: Path, run: Any) -> None:
    assert run("validate", packed, "--check-audio", "decode")[0] == 0
    lines(packed / "utt2dur", "a-1 0.5", "a-2 0.9", "b-1 0.5", "b-2 0.5")
    code, printed = run("validate", packed, "--fix-drop")
    assert code == 0 and "mended 1 of E33" in printed
    assert "a-2 0.500" in (packed / "utt2dur").read_text()


@pytest.mark.parametrize(
    ("entry", "code", "words"),
    [
        ("none.ark:5", "E28", "no archive for the entry 'none.ark:5'"),
        ("data.ark:9999999", "E29", "expected an entry at 9999999"),
        ("data.ark:1", "E29", "an archive entry that begins with"),
        ("matrix.ark:4", "E29", "a Kaldi matrix or vector (FM)"),
        ("data.ark:4[0:100]", "E28", "a part of an archive entry"),
    ],
)
def test_no_fix_drops_an_entry(packed: Path, entry: str, code: str, words: str, put: Any, run: Any) -> None:
    (packed / "matrix.ark").write_bytes(b"a-2 \0BFM \4\1\0\0\0\4\1\0\0\0\0\0\0\0")
    put(packed / "wav.scp", 2, f"a-2 {entry}")
    before = (packed / "wav.scp").read_bytes()
    exit_code, printed = run("validate", packed, "--fix-drop")
    assert exit_code == 1
    [line] = [line for line in printed.splitlines() if "wav.scp:2:" in line]
    assert code in line and words in line
    assert (packed / "wav.scp").read_bytes() == before
    with pytest.raises(DataError, match=r"^[^\n]*$"):
        read_data_dir(packed)["a-2"].load()


def test_shared_entries_are_found(packed: Path, make_set: Any, tmp_path: Path, run: Any) -> None:
    files = make_set(tmp_path / "files")
    code, printed = run("validate", packed, "--against", files)
    assert code == 1 and f"{packed}/wav.scp:2: E41 same audio as 'a-2'" in printed
    lines(files / "wav.scp", "z-1 none.ark:4", "z-2 none.wav")
    assert "E41 same audio" not in run("validate", packed, "--against", files)[1]
