"""`transcribe` and `decode`: many files, long ones, unreadable ones, and texts that were stopped."""

import io
import json
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import soundfile
import tiny

from speechmtp import progress
from speechmtp.audio.io import read_audio, write_audio
from speechmtp.cli import warnings
from speechmtp.cli.main import main
from speechmtp.progress import Told

RATE = 16000


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Moonshine that says whatever comes to it, up to a token a second and two more."""
    return tiny.write_brief(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Noise of 4, 28 and 2 seconds, by name; in the order in which they are given to commands."""
    folder = tmp_path_factory.mktemp("audio")
    for seed, (name, seconds) in enumerate((("b", 4), ("long", 28), ("a", 2))):
        audio = 0.1 * np.random.default_rng(seed).normal(size=seconds * RATE)
        write_audio(folder / f"{name}.wav", audio.astype(np.float32), RATE)
    return {name: str(folder / f"{name}.wav") for name in ("b", "long", "a")}


@pytest.fixture(scope="module")
def data(files: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same as a data directory."""
    folder = tmp_path_factory.mktemp("data")
    (folder / "wav.scp").write_text("".join(f"{name} {files[name]}\n" for name in sorted(files)))
    (folder / "utt2spk").write_text("".join(f"{name} {name}\n" for name in sorted(files)))
    return folder


def test_files_come_out_in_the_order_given_whatever_the_batch(
    model: Path, files: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    outputs = []
    for batch in ("1", "2", "16"):
        assert main(["transcribe", *files.values(), "--model", str(model), "--batch", batch]) == 0
        outputs.append(capsys.readouterr().out)
    assert outputs[0] == outputs[1] == outputs[2]
    assert [line.split(":")[0] for line in outputs[0].splitlines()] == list(files.values())


def test_json_has_the_segments(model: Path, files: dict[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["transcribe", files["a"], files["long"], "--model", str(model), "--json"]) == 0
    short, long = map(json.loads, capsys.readouterr().out.splitlines())
    assert short["strategy"] == "ar"
    [only] = short["segments"]
    assert (only["start"], only["end"], only["text"]) == (0, 2, short["text"])
    first, second = long["segments"]
    assert first["start"] == 0 and 15 <= first["end"] <= 23 and second["end"] == 28
    assert first["end"] == second["start"]
    assert long["text"] == f"{first['text'].strip()} {second['text'].strip()}"


def test_unreadable_files_are_a_line_each_and_the_others_are_transcribed(
    model: Path, files: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken, short = tmp_path / "broken.wav", tmp_path / "short.wav"
    broken.write_bytes(b"no audio")
    write_audio(short, np.zeros(100, np.float32), RATE)
    given = [str(broken), files["b"], str(tmp_path / "none.wav"), files["a"], str(short)]
    assert main(["transcribe", *given, "--model", str(model)]) == 2
    out, err = capsys.readouterr()
    assert [line.split(":")[0] for line in out.splitlines()] == [files["b"], files["a"]]
    errors = [line for line in err.splitlines() if line.startswith("speechmtp: error: ")]
    assert len(errors) == 3 and all(path in line for path, line in zip(given[::2], errors))


def test_standard_input_is_given_once(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["transcribe", "-", "a.wav", "-", "--model", str(model)]) == 2
    assert "-: given 2 times, expected once; standard input can be read once" in capsys.readouterr().err


def test_channels_that_cancel_are_told_in_a_line_a_file(
    model: Path, files: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    audio, _ = read_audio(files["long"])
    names = [str(tmp_path / f"{name}.wav") for name in "ab"]
    for name in names:
        soundfile.write(name, np.stack([audio, -audio], 1), RATE)
    assert main(["transcribe", *names, files["long"], "--model", str(model)]) == 0
    shown = capsys.readouterr()
    told = [line for line in shown.err.splitlines() if "channels cancel" in line]
    assert [line.split(": ")[:3] for line in told] == [["speechmtp", "warning", name] for name in names]
    texts = {line.split(": ")[1] for line in shown.out.splitlines()}
    assert len(texts) == 1, "what one channel says"


def test_the_bar_is_closed_before_warnings(model: Path, files: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    happened: list[str] = []

    @contextmanager
    def bar(label: str) -> Iterator[Told]:
        yield lambda done, total: None
        happened.append("closed")

    monkeypatch.setattr(progress, "counter", bar)
    monkeypatch.setattr(warnings, "warn_of", lambda flags, what: happened.append("warned"))
    assert main(["transcribe", *files.values(), "--model", str(model)]) == 0
    assert happened == ["closed", "warned"]


def test_texts_that_reach_the_limit_are_listed_in_one_line(
    model: Path, files: dict[str, str], data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A fault of encoder-decoder bases: a window that never stops."""
    assert main(["transcribe", *files.values(), "--model", str(model), "--json"]) == 0
    out, err = capsys.readouterr()
    rows = [json.loads(line) for line in out.splitlines()]
    stopped = [row["file"] for row in rows if "limit" in row.get("flags", ())]
    assert stopped == [row["file"] for row in rows if not row["finished"]] != []
    lines = [line for line in err.splitlines() if "limit of tokens" in line]
    assert len(lines) == 1 and lines[0].startswith(f"speechmtp: warning: {len(stopped)} of 3 files stopped ")
    assert all(name in lines[0] for name in stopped)
    assert main(["decode", str(data), "--model", str(model), "--out", str(tmp_path)]) == 0
    lines = [line for line in capsys.readouterr().err.splitlines() if "limit of tokens" in line]
    assert len(lines) == 1 and f"{len(stopped)} of 3 utterances" in lines[0]


def test_decode_cuts_and_batches_like_transcribe(
    model: Path, files: dict[str, str], data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = sorted(files)
    assert main(["transcribe", *(files[name] for name in names), "--model", str(model), "--json"]) == 0
    texts = [json.loads(line)["text"] for line in capsys.readouterr().out.splitlines()]
    wanted = [f"{name} {text}".strip() for name, text in zip(names, texts)]
    for batch in ("1", "3"):
        out = tmp_path / batch
        assert main(["decode", str(data), "--model", str(model), "--out", str(out), "--batch-size", batch]) == 0
        assert [" ".join(line.split()) for line in (out / "text").read_text().splitlines()] == [
            " ".join(line.split()) for line in wanted
        ]
        found = json.loads((out / "trace.json").read_text())["utterances"]
        assert found["long"]["audio_seconds"] == pytest.approx(28)
        assert found["long"]["trace"]["emitted"] == len(found["long"]["tokens"])


def test_standard_input_and_pipes_are_read_as_files_are(
    model: Path, files: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    assert main(["transcribe", files["a"], "--model", str(model)]) == 0
    text = capsys.readouterr().out
    data = Path(files["a"]).read_bytes()
    streamed = data[:4] + b"\xff" * 4 + data[8:40] + b"\xff" * 4 + data[44:]  # lengths as ffmpeg writes them to a pipe
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(streamed)))
    assert main(["transcribe", "-", "--model", str(model)]) == 0
    assert capsys.readouterr().out == text
    os.mkfifo(tmp_path / "pipe")
    writer = threading.Thread(target=(tmp_path / "pipe").write_bytes, args=(streamed,))
    writer.start()
    assert main(["transcribe", str(tmp_path / "pipe"), "--model", str(model)]) == 0
    writer.join()
    assert capsys.readouterr().out == text
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO()))
    assert main(["transcribe", "-", "--model", str(model)]) == 2
    assert capsys.readouterr().err.startswith("speechmtp: error: -: no bytes")
