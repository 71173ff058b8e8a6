"""`speechmtp speak` and `voices` with a small voice: files, marks, standard input, and errors of one line."""

import io
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
from small_voice import save_small_voice

from speechmtp.cli.main import main
from speechmtp.models.locate import VOICES


@pytest.fixture(scope="module")
def voice(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(save_small_voice(tmp_path_factory.mktemp("voices") / "small"))


def test_a_text_becomes_a_file_with_marks(voice: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, marks = tmp_path / "hello.flac", tmp_path / "marks.json"
    words = ["speak", "Hello there. Good morning!", "--voice", voice, "--out", str(out), "--marks", str(marks)]
    assert main([*words, "--strategy", "verify", "--depth", "2", "--threads", "1"]) == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    audio, rate = soundfile.read(out)
    told = json.loads(marks.read_text())["words"]
    assert rate == 24000 and [one["text"] for one in told] == ["Hello", "there", "Good", "morning"]
    assert 0 < told[-1]["stop"] <= len(audio) / rate
    assert printed.out.startswith(f"{out}: {len(audio) / rate:.1f} s, 4 words, ") and "verify:depth=2" in printed.out


def test_a_file_standard_input_and_ssml_say_the_same(
    voice: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text, found = "Two words.", []
    (tmp_path / "text.txt").write_text(text)
    (tmp_path / "text.ssml").write_text(f"<speak>{text}</speak>")
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text.encode())))
    for number, given in enumerate((text, str(tmp_path / "text.txt"), str(tmp_path / "text.ssml"), "-")):
        out = tmp_path / f"{number}.wav"
        assert main(["speak", given, "--voice", voice, "--out", str(out), "--threads", "1"]) == 0
        found.append(soundfile.read(out)[0])
    assert all(np.array_equal(found[0], one) for one in found)
    assert main(["speak", text, "--voice", voice, "--out", str(out), "--seed", "1", "--threads", "1"]) == 0
    assert not np.array_equal(soundfile.read(out)[0], found[0])


def test_lines_become_files_of_a_folder(voice: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "text").write_text("a Hello.\nb Good morning.\n")
    assert main(["speak", str(tmp_path / "text"), "--lines", "--voice", voice, "--out", str(tmp_path / "wavs")]) == 0
    assert sorted(path.name for path in (tmp_path / "wavs").iterdir()) == ["a.wav", "b.wav"]
    assert "2 files" in capsys.readouterr().out


def test_what_cannot_be_read_is_silent_with_one_line(
    voice: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "none.wav"
    assert main(["speak", "你好", "--voice", voice, "--out", str(out)]) == 0
    assert len(soundfile.read(out)[0]) == 0
    [line] = capsys.readouterr().err.splitlines()
    assert "not read" in line and "你" in line


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["Hi.", "--voice", "nobody"], "nobody: no such model folder"),
        (["Hi.", "--voice", "an4"], "a recogniser, expected a voice"),
        (["Hi.", "--voice", "VOICE", "--speed", "3"], "--speed 3: expected 0.7 to 1.4"),
        (["Hi.", "--voice", "VOICE", "--out", "OUT/hi.xyz"], "extension"),
        (["Hi.", "--voice", "VOICE", "--out", "OUT/none/hi.wav"], "not writable"),
        (["Hi.", "--voice", "VOICE", "--strategy", "ctc"], "needs ctc"),
        (["Hi.", "--voice", "VOICE", "--depth", "2"], "--depth: an option of a strategy"),
        (["Hi.", "--voice", "VOICE", "--lexicon", "OUT/no.txt"], "no.txt"),
        (["[word](/wQX!/) here.", "--voice", "VOICE"], "X"),
        (["<speak>Hi <break time='x'/></speak>", "--voice", "VOICE"], "a pause of 'x'"),
        (["<speak>Hi", "--voice", "VOICE"], "ssml"),
        (["<speak><voice>Hi</voice></speak>", "--voice", "VOICE"], "voice"),
        (["Hi.", "--voice", "VOICE", "--lines"], "--lines"),
    ],
)
def test_errors_are_one_line(
    voice: str, words: list[str], expected: str, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    given = [word.replace("VOICE", voice).replace("OUT", str(tmp_path)) for word in words]
    assert main(["speak", *given]) == 2
    printed = capsys.readouterr()
    [line] = printed.err.splitlines()
    assert line.startswith("speechmtp: error: ") and expected.lower() in line.lower()
    assert printed.out == "" and not list(tmp_path.glob("*.wav"))


def test_voices_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["voices"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == list(VOICES) and all(" MB " in line for line in lines)
