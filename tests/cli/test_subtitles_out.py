"""`transcribe --output`: documents on standard output or a file each, and options that do not go together."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import tiny

from speechmtp.audio.io import write_audio
from speechmtp.cli.main import main

RATE = 16000
CLOCK = re.compile(r"(\d\d):(\d\d):(\d\d)[,.](\d{3}) --> (\d\d):(\d\d):(\d\d)[,.](\d{3})")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write_brief(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Noise of 28 and 3 seconds."""
    folder = tmp_path_factory.mktemp("audio")
    for seed, (name, seconds) in enumerate((("long", 28), ("short", 3))):
        audio = 0.1 * np.random.default_rng(seed).normal(size=seconds * RATE)
        write_audio(folder / f"{name}.wav", audio.astype(np.float32), RATE)
    return [str(folder / f"{name}.wav") for name in ("long", "short")]


def times(document: str) -> list[float]:
    found = []
    for match in CLOCK.finditer(document):
        numbers = list(map(int, match.groups()))
        found += [numbers[i] * 3600 + numbers[i + 1] * 60 + numbers[i + 2] + numbers[i + 3] / 1000 for i in (0, 4)]
    return found


def test_subtitles_of_a_file_are_printed(model: Path, files: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    texts = {}
    for form in ("srt", "vtt", "txt"):
        assert main(["transcribe", files[0], "--model", str(model), "--output", form]) == 0
        texts[form] = capsys.readouterr().out
    said = texts["txt"].split()
    for form, clock in (("srt", ","), ("vtt", ".")):
        document = texts[form]
        assert document.startswith("1\n00:00:" if form == "srt" else "WEBVTT\n\n00:00:") and f"{clock}" in document
        at = times(document)
        assert at == sorted(at) and at[0] >= 0 and at[-1] <= 28 + 1
        lines = [line for line in document.splitlines() if line and "-->" not in line and not line.isdigit()]
        assert " ".join(lines[form == "vtt" :]).split() == said
    blocks = texts["srt"].strip().split("\n\n")
    assert [block.split("\n")[0] for block in blocks] == [str(n + 1) for n in range(len(blocks))]


def test_a_file_each(model: Path, files: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for form in ("srt", "vtt", "txt", "json"):
        out = tmp_path / form
        assert main(["transcribe", *files, "--model", str(model), "--output", form, "--out", str(out)]) == 0
        assert capsys.readouterr().out == ""
        assert sorted(path.name for path in out.iterdir()) == [f"long.{form}", f"short.{form}"]
    assert main(["transcribe", *files, "--model", str(model)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [f"{name}: {(tmp_path / 'txt' / f'{Path(name).stem}.txt').read_text().strip()}" for name in files] == lines
    assert [json.loads((tmp_path / "json" / f"{Path(name).stem}.json").read_text())["file"] for name in files] == files


def test_words_in_json_and_a_cue_each(model: Path, files: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    rows = []
    for options in (["--json"], ["--output", "json"], ["--output", "json", "--words"]):
        assert main(["transcribe", files[0], "--model", str(model), *options]) == 0
        rows.append(json.loads(capsys.readouterr().out))
    assert rows[0] == rows[1] and rows[0]["text"] == rows[2]["text"]
    assert "words" not in rows[0]["segments"][0]
    words = [word for segment in rows[2]["segments"] for word in segment["words"]]
    assert [word["text"] for word in words] == rows[0]["text"].split()
    assert all(0 <= word["start"] <= word["end"] <= 28 and 0 <= word["confidence"] <= 1 for word in words)
    assert main(["transcribe", files[0], "--model", str(model), "--output", "srt", "--words"]) == 0
    assert len(times(capsys.readouterr().out)) == 2 * len(words)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--output", "srt"], "--output srt: 2 files in one document; give --out DIR"),
        (["--words"], "--words: a line of text has no times; give --output json, srt or vtt"),
        (["--output", "vtt", "--out", "README.md/x"], "--out README.md/x: Not a directory"),
    ],
)
def test_options_that_do_not_go_together(
    files: list[str], options: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["transcribe", *files, *options]) == 2
    err = capsys.readouterr().err
    assert err.startswith(f"speechmtp: error: {told}") and err.count("\n") == 1


def test_files_of_one_name(files: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = str(tmp_path / "short.flac")
    assert main(["transcribe", *files, other, "--output", "srt", "--out", str(tmp_path / "out")]) == 2
    assert f"{files[1]} and {other} would both be short.srt; rename one" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
