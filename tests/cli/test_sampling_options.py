"""`decode` and `transcribe` with drawn tokens, and what they say of outputs that look wrong."""

import json
import subprocess
import wave
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from speechmtp.cli.main import main

HOT = ["--temperature", "4", "--top-k", "5"]  # the model is too sure to show anything at 1


class Inside:
    """A job of `decode --nj` that runs here, and at once."""

    def __init__(self, command: list[str], **_: Any) -> None:
        assert command[1:4] == ["-m", "speechmtp.cli.main", "decode"]
        self.code = main(command[3:])

    def wait(self) -> int:
        """The exit code."""
        return self.code

    def terminate(self) -> None:
        """It has ended."""


def decoded(data: Path, out: Path, *more: str) -> str:
    """The text that `decode` writes."""
    assert main(["decode", str(data), "--model", "an4", "--threads", "1", "--out", str(out), *more]) == 0
    return (out / "text").read_text()


def test_the_same_seed_is_the_same_text_however_it_is_decoded(
    spoken: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(subprocess, "Popen", Inside)
    drawn = decoded(spoken, tmp_path / "a", *HOT, "--seed", "5", "--strategy", "ar")
    assert drawn != decoded(spoken, tmp_path / "b", *HOT, "--seed", "6", "--strategy", "ar")
    assert (
        drawn != decoded(spoken, tmp_path / "c", "--strategy", "ar") == decoded(spoken, tmp_path / "d", "--seed", "5")
    )
    for name, *more in (("jobs", "--nj", "2"), ("batch", "--batch-size", "2"), ("draft", "--strategy", "verify")):
        assert decoded(spoken, tmp_path / name, *HOT, "--seed", "5", *more) == drawn, name
    settings = yaml.safe_load((tmp_path / "jobs" / "config.yaml").read_text())
    assert settings["sampling"] == {"temperature": 4.0, "top_k": 5, "seed": 5} and settings["strategy"] == "ctc"
    assert yaml.safe_load((tmp_path / "draft" / "config.yaml").read_text())["strategy"] == "verify:depth=7"
    assert "sampling" not in yaml.safe_load((tmp_path / "c" / "config.yaml").read_text())
    files = [str(spoken / f"{name}.flac") for name in ("letters", "digits")]
    capsys.readouterr()
    for more in ([], ["--batch-size", "2", "--strategy", "verify"]):
        assert main(["transcribe", "--model", "an4", *files, *HOT, "--seed", "5", *more]) == 0
        lines = [line.removeprefix(f"{spoken}/").replace(".flac:", "") for line in capsys.readouterr().out.splitlines()]
        assert sorted(lines) == drawn.splitlines()


def test_outputs_that_look_wrong_are_named_and_kept(
    spoken: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = decoded(spoken, tmp_path / "plain")
    assert "warning" not in capsys.readouterr().err
    monkeypatch.setattr("speechmtp.decoding.engine.flags_of", lambda *about: ("repetition",))
    assert decoded(spoken, tmp_path / "out") == plain
    assert "warning: 2 of 2 utterances end in a repetition: digits, letters" in capsys.readouterr().err
    trace = json.loads((tmp_path / "out" / "trace.json").read_text())
    assert trace["utterances"]["digits"]["trace"]["flags"] == ["repetition"]
    assert main(["transcribe", "--json", "--model", "an4", str(spoken / "digits.flac")]) == 0
    shown = capsys.readouterr()
    assert json.loads(shown.out)["flags"] == ["repetition"] and json.loads(shown.out)["text"] in plain
    assert f"warning: 1 of 1 files end in a repetition: {spoken / 'digits.flac'}" in shown.err


def test_silence_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    quiet = tmp_path / "quiet.wav"
    with wave.open(str(quiet), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16000)
        file.writeframes(bytes(2 * 32000))
    assert main(["transcribe", str(quiet), "--model", "an4", "--temperature", "1"]) == 0
    shown = capsys.readouterr()
    assert shown.out == "\n" and f"warning: 1 of 1 files have no text: {quiet}" in shown.err


def test_wrong_settings_are_refused_before_anything_is_loaded(tmp_path: Path, failing: Callable[..., str]) -> None:
    for command in (["transcribe", "x.wav"], ["decode", "nowhere", "--model", "none", "--out", str(tmp_path / "out")]):
        assert "--min-p 2.0: expected a number from 0 to 1" in failing([*command, "--min-p", "2"])
        assert "--repetition-penalty 0.0: expected a number above 0" in failing([*command, "--repetition-penalty", "0"])
