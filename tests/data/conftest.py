"""A small sound data directory, and the command line in process."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import pytest
from small_sets import replace_line, write_set, write_tone

from speechmtp.cli import data
from speechmtp.errors import SpeechMTPError

Run = Callable[..., tuple[int, str]]


@pytest.fixture
def good(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A sound data directory; no corpora folder is set."""
    monkeypatch.delenv("SPEECHMTP_CORPORA", raising=False)
    return write_set(tmp_path / "set")


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """`run("validate", dir)` -> (exit code, what was printed), errors as the command line shows them."""

    def call(*words: object) -> tuple[int, str]:
        parser = argparse.ArgumentParser()
        data.add_arguments(parser)
        try:
            code = data.run(parser.parse_args([str(word) for word in words]))
        except SpeechMTPError as error:
            code = 2
            print(f"speechmtp: error: {error}")
        return code, capsys.readouterr().out

    return call


@pytest.fixture
def make_set() -> Callable[[Path], Path]:
    """`write_set`, for tests that need more than one."""
    return write_set


@pytest.fixture
def tone() -> Callable[..., None]:
    """`write_tone`."""
    return write_tone


@pytest.fixture
def put() -> Callable[[Path, int, str | bytes | None], None]:
    """`replace_line`."""
    return replace_line
