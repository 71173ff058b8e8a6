"""Unions of data directories."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from small_sets import lines, segments, write_set

from speechmtp.data.kaldi import read_data_dir


def test_combine(good: Path, tmp_path: Path, run: Any) -> None:
    run("subset", good, tmp_path / "x", "--first", 2, "--rest", tmp_path / "y")
    assert run("combine", tmp_path / "both", tmp_path / "y", tmp_path / "x")[0] == 0
    for name in ("text", "utt2spk", "spk2utt", "wav.scp", "utt2dur", "spk2gender"):
        assert (tmp_path / "both" / name).read_bytes() == (good / name).read_bytes(), name
    assert run("validate", tmp_path / "both")[0] == 0


def test_combine_refuses_an_id_twice(good: Path, tmp_path: Path, make_set: Any, run: Any) -> None:
    run("subset", good, tmp_path / "x", "--first", 3)
    code, printed = run("combine", tmp_path / "both", good, tmp_path / "x")
    assert code == 2
    assert "id 'a-1' is in another of the directories too" in printed
    assert not (tmp_path / "both").exists()


def test_combine_of_different_roots_and_segments(good: Path, tmp_path: Path, run: Any) -> None:
    other = write_set(tmp_path / "other")
    segments(other, "b-2 rec 1.2 -1")
    for name in ("text", "utt2spk"):
        rows = [line.replace("a-", "c-").replace("b-", "d-") for line in (other / name).read_text().splitlines()]
        lines(other / name, *(r.replace(" a", " c").replace(" b", " d") for r in rows))
    lines(other / "segments", "c-1 rec 0 0.4", "c-2 rec 0.4 0.8", "d-1 rec 0.8 1.2", "d-2 rec 1.2 -1")
    assert run("combine", tmp_path / "both", good, other)[0] == 0
    data = read_data_dir(tmp_path / "both")
    assert len(data) == 8
    assert data["a-1"].load().shape == (8000,)
    assert data["d-2"].load().shape == (12800,)
