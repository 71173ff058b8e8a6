"""What the tests of `compare`, `tune` and `decode` share: two spoken examples, tiny causal LMs, what an error is."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import small_lm

import speechmtp
from speechmtp.cli.main import main

EXAMPLES = Path(speechmtp.__file__).parent / "assets" / "examples"


@pytest.fixture(scope="session")
def spoken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data directory of two of the package's spoken examples."""
    folder = tmp_path_factory.mktemp("data") / "dev"
    folder.mkdir()
    for table in ("text", "utt2spk", "wav.scp"):
        lines = (EXAMPLES / table).read_text().splitlines(keepends=True)
        (folder / table).write_text("".join(x for x in lines if x.split()[0] in ("digits", "letters")))
    for name in ("digits", "letters"):
        shutil.copy(EXAMPLES / f"{name}.flac", folder)
        path = folder / "wav.scp"
        path.write_text(path.read_text().replace(f" {name}.flac", f" {folder / name}.flac"))
    return folder


@pytest.fixture(scope="session")
def text_lms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders `lm` and `draft` of one vocabulary, `other` of another one, and five texts in lines.txt."""
    folder = tmp_path_factory.mktemp("text_lms")
    small_lm.write_lm(folder / "lm")
    small_lm.write_lm(folder / "draft", "qwen3")
    small_lm.write_text(folder / "lines.txt", copies=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(small_lm, "LINES", ["zzz yyy xxx www vvv", "quite other words"])
        small_lm.write_lm(folder / "other")
    return folder


@pytest.fixture
def failing(capsys: pytest.CaptureFixture[str]) -> Callable[[list[str]], str]:
    """Runs a command that fails; its one line."""

    def run(arguments: list[str]) -> str:
        capsys.readouterr()
        assert main(arguments) == 2
        error = capsys.readouterr().err.strip()
        assert error.startswith("speechmtp: error: ") and "\n" not in error
        return error

    return run
