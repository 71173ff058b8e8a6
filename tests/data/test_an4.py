"""AN4 from ready data directories and from the layout of CMU's archive."""

from __future__ import annotations

import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from corpus_layouts import write_archive
from small_sets import lines, write_tone

from speechmtp.data.corpora.an4 import ARCHIVE, An4
from speechmtp.data.kaldi import read_data_dir
from speechmtp.data.tables import read_table
from speechmtp.errors import DataError


@pytest.mark.parametrize("raw", [False, True])
def test_archive_layout(tmp_path: Path, run: Any, raw: bool) -> None:
    samples = write_archive(tmp_path / "down" / "an4", raw)
    code, printed = run("prepare", "an4", "--source", tmp_path / "down", "--out", tmp_path / "data")
    assert code == 0, printed
    assert read_table(tmp_path / "data" / "train_all" / "text") == {
        "fash-an253-b": "GO",
        "mcel-cen1-b": "C M U",
    }
    assert read_table(tmp_path / "data" / "train_all" / "spk2gender") == {"fash": "f", "mcel": "m"}
    assert read_table(tmp_path / "data" / "test" / "utt2dur") == {"fcaw-an407-b": "0.500"}
    loaded = read_data_dir(tmp_path / "data" / "test")["fcaw-an407-b"].load()
    np.testing.assert_array_equal(loaded, samples.astype(np.float32) / 32768)
    for name in ("train_all", "test"):
        assert run("validate", tmp_path / "data" / name, "--check-audio", "decode")[0] == 0


def test_packed_archive(tmp_path: Path) -> None:
    write_archive(tmp_path / "an4")
    with tarfile.open(tmp_path / ARCHIVE, "w:gz") as tar:
        tar.add(tmp_path / "an4", "an4")
    (tmp_path / "an4").rename(tmp_path / "gone")
    assert An4().prepare(tmp_path / ARCHIVE, tmp_path / "data") == {"train_all": 2, "test": 1}
    assert An4().prepare(tmp_path, tmp_path / "data") == {"train_all": 2, "test": 1}
    read_data_dir(tmp_path / "data" / "test")["fcaw-an407-b"].load()
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / ARCHIVE).write_bytes(b"no archive")
    with pytest.raises(DataError, match="cannot be unpacked"):
        An4().prepare(tmp_path / "bad", tmp_path / "other")


def test_ready_data_directories(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SPEECHMTP_CORPORA", raising=False)
    root = tmp_path / "corpora"
    for part, speaker in (("train", "fash"), ("test", "fcaw")):
        write_tone(root / "an4" / "audio" / part / "x.flac")
        (root / "an4" / part).mkdir()
        key = f"{speaker}-an1-b"
        lines(root / "an4" / part / "wav.scp", f"{key} an4/audio/{part}/x.flac")
        lines(root / "an4" / part / "text", f"{key} YES")
        lines(root / "an4" / part / "utt2spk", f"{key} {speaker}")
    for source in (root, root / "an4"):
        assert An4().prepare(source, tmp_path / "data") == {"train_all": 1, "test": 1}
        assert read_data_dir(tmp_path / "data" / "train_all")["fash-an1-b"].load().shape == (8000,)
    assert An4().is_there(root)


def test_what_is_missing_is_said(tmp_path: Path, run: Any) -> None:
    code, printed = run("prepare", "an4", "--source", tmp_path, "--out", tmp_path / "data")
    assert code == 2
    assert printed.startswith(f"speechmtp: error: --source {tmp_path}: no an4 here, expected an4/train/wav.scp, ")
    assert printed.endswith("add --download\n") and printed.count("\n") == 1
    with pytest.raises(DataError, match=r"no AN4 here, expected .*; give its folder as the source, or download it"):
        An4().prepare(tmp_path, tmp_path / "data")
    write_archive(tmp_path / "an4")
    (tmp_path / "an4" / "wav" / "an4_clstk" / "mcel" / "cen1-mcel-b.sph").unlink()
    code, printed = run("prepare", "an4", "--source", tmp_path, "--out", tmp_path / "data")
    assert code == 2
    assert f"{tmp_path}/an4/etc/an4_train.transcription:2: no audio" in printed


def test_download_offline_is_one_clear_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: Any) -> None:
    monkeypatch.setattr(An4, "url", "http://127.0.0.1:9/an4_sphere.tar.gz")
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    code, printed = run("prepare", "an4", "--source", tmp_path / "d", "--out", tmp_path / "data", "--download")
    assert code == 2
    assert printed.count("\n") == 1
    assert "not reachable" in printed
    assert "--source" in printed
    assert list((tmp_path / "d").iterdir()) == []


def test_download_fetches_and_checks_the_length(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "far").write_bytes(b"archive")
    monkeypatch.setattr(An4, "url", (tmp_path / "far").as_uri())
    assert An4().download(tmp_path / "near").read_bytes() == b"archive"
